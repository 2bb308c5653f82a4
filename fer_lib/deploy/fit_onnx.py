"""``best.onnx`` and ``last.onnx`` of a finished fit, each proved against the weights that it was made of."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

from fer_lib.deploy.onnx import ExportError, export_onnx, parity, said
from fer_lib.errors import FerError, disk_trouble
from fer_lib.models.bundle import Bundle, read_bundle
from fer_lib.storage.atomic import fresh_file, write_json
from fer_lib.training.checkpoint import checkpoint_bundle

TOLERANCE = 1e-4  # of logits, relative to the largest one (or absolute, where all are below 1)


def export_fit(folder: Path, which: Literal["none", "best", "both"]) -> dict[str, Any]:
    """Write ``best.onnx``, with "both" also ``last.onnx`` (of ``checkpoint_last``), and ``onnxparity.json`` there.

    Returns the content of ``onnxparity.json``: by file the keys of :func:`fer_lib.deploy.onnx.parity` and the
    ``weights_sha256`` and ``epoch`` that it holds.  Nothing is written for "none".  No training is lost to a model that
    does not export, or whose file answers otherwise than torch does: the file is left out, and its entry has ``error``,
    what happened and what to do, in place of the figures.
    Raises DataError when the disk refuses, BundleError when the weights are damaged.
    """
    if which == "none":
        return {}
    best = read_bundle(folder / "best")
    report = {"best.onnx": _tried(best, folder / "best.onnx", folder / "best")}
    if which == "both":
        with tempfile.TemporaryDirectory(prefix="fer-onnx-") as work:
            last = checkpoint_bundle(folder / "checkpoint_last", Path(work) / "last")
            if last.weights_sha256 == best.weights_sha256 and "error" not in report["best.onnx"]:
                with fresh_file(folder / "last.onnx") as file:
                    shutil.copyfile(folder / "best.onnx", file)
                report["last.onnx"] = report["best.onnx"] | {"epoch": last.meta["ids"]["epoch"]}
            else:
                report["last.onnx"] = _tried(last, folder / "last.onnx", folder / "checkpoint_last")
    write_json(folder / "onnxparity.json", report)
    return report


def not_written(report: dict[str, Any]) -> dict[str, str]:
    """Of :func:`export_fit`'s report: file -> why it was not written, with the command that writes it later."""
    return {file: f"{file} was not written: {found['error']}" for file, found in report.items() if "error" in found}


def _tried(bundle: Bundle, out: Path, source: Path) -> dict[str, Any]:
    """:func:`export_proved`, or ``error`` in its place; ``source``: the folder that ``fer onnx`` is to be given."""
    try:
        return export_proved(bundle, out)
    except ExportError as error:
        out.unlink(missing_ok=True)  # of an earlier attempt
        later = f"The weights are kept; write the file later with: fer onnx {source} {out} --opset 20"
        return {"error": f"{error}. {later}"} | _whose(bundle)


def export_proved(bundle: Bundle, out: Path, opset: int = 18) -> dict[str, Any]:
    """Write the bundle's ONNX file where it agrees with torch; :func:`fer_lib.deploy.onnx.parity` and what it holds.

    Raises ExportError when the model does not export, or onnxruntime does not run it as torch does; DataError for the
    disk.
    """
    with fresh_file(out) as file:  # an error within leaves what was there before
        export_onnx(bundle, file, opset)
        try:
            found = parity(bundle, file, n=8)
        except Exception as error:  # onnxruntime's errors have no common base
            if disk_trouble(error) or isinstance(error, FerError):
                raise
            raise ExportError(f"{out}: onnxruntime does not run it ({said(error)}): no file is kept; try another "
                              "opset") from error  # fmt: skip
        limit = TOLERANCE * max(1.0, found["max_abs_logit"])
        if not found["max_abs_diff"] <= limit:
            raise ExportError(
                f"{out}: logits differ from torch by {found['max_abs_diff']:.3g}, above {limit:.3g}: no file is kept; "
                "try another opset"
            )
    return found | _whose(bundle)


def _whose(bundle: Bundle) -> dict[str, Any]:
    return {"weights_sha256": bundle.weights_sha256, "epoch": bundle.meta["ids"].get("epoch")}
