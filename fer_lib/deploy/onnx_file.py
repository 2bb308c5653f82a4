"""The ONNX file of a model: export with a dynamic batch, kept when it equals torch; the files of a finished fit."""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fer_lib.deploy.onnx_parity import parity
from fer_lib.errors import FerError, disk_trouble
from fer_lib.faces.contract import Box
from fer_lib.models.bundle import Bundle, read_bundle
from fer_lib.models.bundle_format import INPUT, OUTPUT
from fer_lib.storage.atomic import fresh_file, write_json
from fer_lib.storage.progress import step
from fer_lib.training.checkpoint import checkpoint_bundle

TOLERANCE = 1e-4  # of logits, relative to the largest one, or absolute where all are below 1


class ExportError(FerError):
    """A model does not export to ONNX, or onnxruntime does not compute what torch computes."""


def export_verified(
    bundle: Bundle,
    out: Path,
    opset: int = 18,
    n: int = 8,
    images: Sequence[np.ndarray] | None = None,
    boxes: Sequence[Box | None] | None = None,
    tolerance: float | None = None,
) -> dict[str, Any]:
    """Write the bundle's ONNX file to ``out`` if its logits agree with torch; return what :func:`parity` returns.

    ``tolerance``: the largest absolute difference of logits; None: :data:`TOLERANCE`.  ``n``, ``images`` and ``boxes``
    are the inputs of :func:`parity`.  A failed export leaves the file at ``out`` as it was.
    Raises ExportError when the model does not export, or onnxruntime does not load or reproduce it; BundleError without
    torch weights; DataError when the disk refuses.
    """
    with fresh_file(out) as file:
        with step("exporting to ONNX"):
            export_onnx(bundle, file, opset)
        try:
            with step("comparing ONNX with torch"):
                report = parity(bundle, file, n, images, boxes)
        except Exception as error:  # onnxruntime's errors have no common base
            if disk_trouble(error) or isinstance(error, FerError):
                raise
            raise ExportError(
                f"{out}: onnxruntime does not run it ({root_cause(error)}): no file is kept; try another opset"
            ) from error
        limit = TOLERANCE * max(1.0, report["max_abs_logit"]) if tolerance is None else tolerance
        if not report["max_abs_diff"] <= limit:
            hint = "" if tolerance is None else ", or raise parity_tolerance knowingly"
            raise ExportError(
                f"{out}: logits differ from torch by {report['max_abs_diff']:.3g}, above the tolerance {limit:.3g} "
                f"(logits reach {report['max_abs_logit']:.3g}): no file is kept; try another opset{hint}"
            )
    return report


def export_onnx(bundle: Bundle, out_path: Path | str, opset: int = 18) -> Path:
    """Write the bundle's torch model as one ONNX file, not compared with torch, and return its path.

    Input ``faces`` float32 [N,3,S,S] with any N >= 1, output ``logits`` float32 [N,7] before temperature.  The
    exporter's stack traces, which name local folders, are removed.
    Raises BundleError without torch weights, ExportError when the exporter or the ONNX checker refuses the model,
    OSError when the disk refuses.
    """
    import onnx
    import torch

    model, size = bundle.model(), bundle.contract.image_size
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # opset conversion and exporter internals; parity decides
            program = torch.onnx.export(
                model,
                (torch.zeros(2, 3, size, size),),  # a batch of 1 would become a constant
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                opset_version=opset,
                external_data=False,
                verbose=False,
            )
        proto = _stripped(program.model_proto)
        onnx.checker.check_model(proto)
    except Exception as error:  # the exporter passes on any error of the code it traces
        if disk_trouble(error):
            raise
        raise ExportError(
            f"{bundle.name} ({bundle.meta['model']['backbone']}) does not export to ONNX opset {opset}: "
            f"{root_cause(error)}; try another opset or backbone"
        ) from error
    finally:
        quiet.setLevel(level)
    onnx.save(proto, out_path)
    return Path(out_path)


def root_cause(error: BaseException) -> str:
    """The first error of the chain, as one line; the exporter wraps it in a page of text."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def export_fit(folder: Path, which: Literal["none", "best", "both"]) -> dict[str, Any]:
    """Write ``best.onnx``, with "both" also ``last.onnx`` (of ``checkpoint_last``), and ``onnxparity.json``.

    Returns the content of ``onnxparity.json``: per file what :func:`parity` returns and its
    ``weights_sha256`` and ``epoch``.  "none" writes nothing.  An export failure does not fail the fit: the file is left
    out, and its entry has ``error`` instead of the figures.
    Raises DataError when the disk refuses, BundleError when the weights are damaged.
    """
    if which == "none":
        return {}
    best = read_bundle(folder / "best")
    report = {"best.onnx": _export_or_error(best, folder / "best.onnx", folder / "best")}
    if which == "both":
        with tempfile.TemporaryDirectory(prefix="fer-onnx-") as work:
            last = checkpoint_bundle(folder / "checkpoint_last", Path(work) / "last")
            if last.weights_sha256 == best.weights_sha256 and "error" not in report["best.onnx"]:
                with fresh_file(folder / "last.onnx") as file:
                    shutil.copyfile(folder / "best.onnx", file)
                report["last.onnx"] = report["best.onnx"] | weights_ids(last)
            else:
                report["last.onnx"] = _export_or_error(last, folder / "last.onnx", folder / "checkpoint_last")
    write_json(folder / "onnxparity.json", report)
    return report


def _export_or_error(bundle: Bundle, out: Path, source: Path) -> dict[str, Any]:
    """The report of the exported file, or its ``error``; ``source``: the folder to name to ``fer onnx``."""
    try:
        return export_verified(bundle, out) | weights_ids(bundle)
    except ExportError as error:
        out.unlink(missing_ok=True)  # the file of an earlier attempt
        later = f"The weights are kept; write the file later with: fer onnx {source} {out} --opset 20"
        return {"error": f"{error}. {later}"} | weights_ids(bundle)


def weights_ids(bundle: Bundle) -> dict[str, Any]:
    """``weights_sha256`` and ``epoch`` for the entry of an exported file."""
    return {"weights_sha256": bundle.weights_sha256, "epoch": bundle.meta["ids"].get("epoch")}


def _stripped(proto):
    """The model without doc strings, node metadata and intermediate shapes, which name local files."""
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""
    del proto.graph.value_info[:], proto.graph.metadata_props[:], proto.metadata_props[:], proto.functions[:]
    proto.graph.doc_string = proto.doc_string = ""
    return proto
