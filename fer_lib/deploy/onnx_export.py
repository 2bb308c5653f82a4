"""ONNX export with a dynamic batch, verification against torch, and compact files with int8 weights."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fer_lib.errors import FerError, disk_trouble
from fer_lib.faces.contract import Box
from fer_lib.models.bundle import ONNX, Bundle, derive_bundle
from fer_lib.onnx_session import open_session
from fer_lib.storage.atomic import fresh_file
from fer_lib.storage.progress import step

INPUT, OUTPUT = "faces", "logits"
TOLERANCE = 1e-4  # of logits, relative to the largest one, or absolute where all are below 1
MIN_COMPACT_SIZE = 1024  # smaller weights stay float32: they save no space and would only lose precision


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


def export_bundle(
    bundle: Bundle, folder: Path, metrics: Mapping[str, Any] | None = None, **options: Any
) -> tuple[Bundle, dict[str, Any]]:
    """Copy ``bundle`` to ``folder`` with a verified ``model.onnx`` and more ``metrics``; also the parity report.

    ``options`` are those of :func:`export_verified`.  Nothing is written to ``folder`` when the export fails.
    """
    file = folder.with_name(f".{folder.name}.onnx")
    try:
        report = export_verified(bundle, file, **options)
        return derive_bundle(bundle, folder, metrics=metrics, extra_files={ONNX: file}), report
    finally:
        file.unlink(missing_ok=True)


def export_onnx(bundle: Bundle, out_path: Path | str, opset: int = 18) -> Path:
    """Write the bundle's torch model as one ONNX file and return its path.

    Input ``faces`` float32 [N,3,S,S] with any N >= 1, output ``logits`` float32 [N,7] before temperature.  The
    exporter's stack traces, which name local folders, are removed.
    Raises BundleError without torch weights, ExportError when the exporter or the ONNX checker refuses the model,
    DataError when the disk refuses.
    """
    import onnx
    import torch

    out_path = Path(out_path)
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
    return _save(proto, out_path)


def root_cause(error: BaseException) -> str:
    """The first error of the chain, as one line; the exporter wraps it in a page of text."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def parity(
    bundle: Bundle,
    onnx_path: Path | str,
    n: int = 64,
    images: Sequence[np.ndarray] | None = None,
    boxes: Sequence[Box | None] | None = None,
) -> dict[str, Any]:
    """Compare the ONNX file with the torch model on `n` random inputs and on faces in `images` (uint8 RGB), if any.

    Returns the keys of ``onnxparity.json``: max_abs_diff (of logits), providers, opset, n (all inputs), n_real
    (`images`), max_abs_logit, label_agreement (share).  Batches of 1 and of more than 1 are run.
    """
    import onnx
    import torch

    size = bundle.contract.image_size
    faces = np.random.default_rng(0).standard_normal((n, 3, size, size), dtype=np.float32)
    if images:
        items = [(image, box, None) for image, box in zip(images, boxes or [None] * len(images), strict=True)]
        faces = np.concatenate([faces, bundle.contract.batch(items)])
    session, model = open_session(onnx_path), bundle.model()
    onnx_logits, torch_logits = [], []
    for chunk in np.split(faces, [1, *range(33, len(faces), 32)]):
        if len(chunk):
            onnx_logits.append(session.run([OUTPUT], {INPUT: chunk})[0])
            with torch.no_grad():
                torch_logits.append(model(torch.from_numpy(chunk)).numpy())
    actual, expected = (np.concatenate(logits).astype(np.float64) for logits in (onnx_logits, torch_logits))
    return {
        "max_abs_diff": float(np.abs(actual - expected).max()),
        "providers": session.get_providers(),
        "opset": next(o.version for o in onnx.load(onnx_path).opset_import if o.domain in ("", "ai.onnx")),
        "n": len(faces),
        "n_real": len(images or ()),
        "max_abs_logit": float(np.abs(expected).max()),
        "label_agreement": float((actual.argmax(1) == expected.argmax(1)).mean()),
    }


def compact(onnx_path: Path | str, out_path: Path | str) -> Path:
    """Store large Conv, Gemm and MatMul weights as int8 with one scale per output channel; arithmetic stays float32.

    q = round(w / scale_c) in [-127, 127] with scale_c = max|w_c| / 127.  A DequantizeLinear node restores w, so a
    weight's error is at most scale_c / 2.  A file of mostly such weights shrinks to a quarter.
    Raises FerError when no weight is large enough.
    """
    import onnx
    from onnx import helper, numpy_helper

    proto = onnx.load(onnx_path)
    tensors = {t.name: t for t in proto.graph.initializer}
    axes = _channel_axes(proto.graph.node, tensors)
    nodes, compacted = [], []
    for name, axis in axes.items():
        weight = numpy_helper.to_array(tensors[name])
        others = tuple(i for i in range(weight.ndim) if i != axis)
        scale = np.abs(weight).max(axis=others) / np.float32(127)
        scale[scale == 0] = 1.0
        shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
        quantised = np.clip(np.rint(weight / scale.reshape(shape)), -127, 127).astype(np.int8)
        compacted += [
            numpy_helper.from_array(quantised, f"{name}_int8"),
            numpy_helper.from_array(scale.astype(np.float32), f"{name}_scale"),
        ]
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_int8", f"{name}_scale"], [name], axis=axis))
    if not nodes:
        raise FerError(f"{onnx_path}: no weight of {MIN_COMPACT_SIZE} values or more to compact; keep it as it is")
    unchanged = [t for t in proto.graph.initializer if t.name not in axes]
    nodes += proto.graph.node
    del proto.graph.initializer[:], proto.graph.node[:]
    proto.graph.initializer.extend(unchanged + compacted)
    proto.graph.node.extend(nodes)
    onnx.checker.check_model(proto)
    return _save(proto, Path(out_path))


def _channel_axes(nodes, tensors) -> dict[str, int]:
    """Output-channel axis of each large float32 weight; without weights that have another use or two different axes."""
    import onnx

    axes: dict[str, int] = {}
    refused = set()
    for node in nodes:
        for position, name in enumerate(node.input):
            tensor = tensors.get(name)
            if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < MIN_COMPACT_SIZE:
                continue
            axis = _channel_axis(node, len(tensor.dims)) if position == 1 else None
            if axis is None or axes.setdefault(name, axis) != axis:
                refused.add(name)
    return {name: axis for name, axis in axes.items() if name not in refused}


def _channel_axis(node, rank: int) -> int | None:
    attributes = {a.name: a for a in node.attribute}
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if "transB" in attributes and attributes["transB"].i else 1
    if node.op_type == "MatMul" and rank >= 2:
        return rank - 1
    return None


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


def _save(proto, path: Path) -> Path:
    with fresh_file(path) as file:
        file.write_bytes(proto.SerializeToString())
    return path
