"""``best.onnx`` and ``last.onnx`` of a finished fit, each proved against the weights that it was made of."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

from fer_lib.atomic import fresh_file, write_json
from fer_lib.deploy.bundle import Bundle, read_bundle
from fer_lib.deploy.onnx import export_onnx, parity
from fer_lib.errors import FerError
from fer_lib.training.checkpoint import checkpoint_bundle

TOLERANCE = 1e-4  # of logits, relative to the largest one (or absolute, where all are below 1)


def export_fit(folder: Path, which: Literal["none", "best", "both"]) -> dict[str, Any]:
    """Write ``best.onnx``, with "both" also ``last.onnx`` (of ``checkpoint_last``), and ``onnxparity.json`` there.

    Returns the content of ``onnxparity.json``: by file the keys of :func:`fer_lib.deploy.onnx.parity` and the
    ``weights_sha256`` and ``epoch`` that it holds.  Nothing is written for "none".
    Raises FerError when the model does not export, or the file's logits differ from torch's.
    """
    if which == "none":
        return {}
    best = read_bundle(folder / "best")
    report = {"best.onnx": export_proved(best, folder / "best.onnx")}
    if which == "both":
        with tempfile.TemporaryDirectory(prefix="fer-onnx-") as work:
            last = checkpoint_bundle(folder / "checkpoint_last", Path(work) / "last")
            if last.weights_sha256 == best.weights_sha256:
                with fresh_file(folder / "last.onnx") as file:
                    shutil.copyfile(folder / "best.onnx", file)
                report["last.onnx"] = report["best.onnx"] | {"epoch": last.meta["ids"]["epoch"]}
            else:
                report["last.onnx"] = export_proved(last, folder / "last.onnx")
    write_json(folder / "onnxparity.json", report)
    return report


def export_proved(bundle: Bundle, out: Path, opset: int = 18) -> dict[str, Any]:
    """Write the bundle's ONNX file where it agrees with torch; :func:`fer_lib.deploy.onnx.parity` and what it holds."""
    with fresh_file(out) as file:  # an error within leaves what was there before
        export_onnx(bundle, file, opset)
        found = parity(bundle, file, n=8)
        limit = TOLERANCE * max(1.0, found["max_abs_logit"])
        if not found["max_abs_diff"] <= limit:
            raise FerError(
                f"{out}: logits differ from torch by {found['max_abs_diff']:.3g}, above {limit:.3g}: no file is "
                "kept; set onnx: none and export with another opset (fer onnx --opset)"
            )
    return found | {"weights_sha256": bundle.weights_sha256, "epoch": bundle.meta["ids"].get("epoch")}
