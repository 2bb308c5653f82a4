"""The student that ships inside the package, so that prediction works right after the install."""

from __future__ import annotations

from pathlib import Path

from fer_lib.errors import FerError
from fer_lib.models.bundle import META, Bundle, read_bundle

FOLDER = Path(__file__).with_name("packaged_model")  # bundle.json, model.onnx, MODEL_CARD.md


def packaged_bundle() -> Bundle:
    """The packaged bundle (ONNX only).  FerError when this installation ships none, BundleError when it is damaged."""
    if not (FOLDER / META).is_file():
        raise FerError(
            f"this installation ships no packaged model ({FOLDER / META} is missing): install a release of fer-lab, or "
            "train and register one with `fer run params/quickstart.yaml`"
        )
    return read_bundle(FOLDER)
