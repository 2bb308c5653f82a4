"""The bundle as an MLflow model: ``mlflow.pyfunc.load_model("models:/NAME@ALIAS").predict(images)``.

Each row is one face image (the whole image is the face): a uint8 RGB array [H,W,3], encoded image bytes, or, for
callers that can only send JSON to a served model, base64 text of such bytes or nested lists of integers 0..255.  MLflow
has no type for "array or bytes", so its signature shows the input as ``any`` and this module checks each row itself.
"""

from __future__ import annotations

import base64
import logging
from importlib import metadata
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types.schema import AnyType, ColSpec, DataType, Schema
from packaging.requirements import Requirement
from packaging.version import Version

from fer_lib.datasets.provenance import not_for_photos
from fer_lib.deploy.predict import check_image, open_predictor
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.faces.decode import decode

ARTIFACT = "bundle"
CODE = Path(__file__).with_name("pyfunc_entry.py")
INPUT_NOTE = "one face a row: uint8 RGB array [H,W,3], encoded image bytes, base64 of them, or nested lists of 0..255"

_log = logging.getLogger(__name__)
_hints = logging.getLogger("mlflow")
_level = _hints.level
_hints.setLevel(logging.ERROR)  # defining the class warns that a union is shown as "any", which is intended


class FerModel(mlflow.pyfunc.PythonModel):
    """Probabilities of a registered bundle or ensemble; needs no tracking store once its files are there."""

    def load_context(self, context) -> None:
        self.predictor = open_predictor(Path(context.artifacts[ARTIFACT]))
        level = logging.WARNING if not_for_photos(self.predictor.bundle.training_data) else logging.INFO
        _log.log(level, "model: %s", self.predictor.describe())

    def predict(self, context, model_input: list[bytes | str | list[list[list[int]]]], params=None) -> pd.DataFrame:
        """Rows of images to float64 [N,7], the columns named by class.  Raises DataError naming the row."""
        images = [_image(row, f"row {i}") for i, row in enumerate(model_input)]
        return pd.DataFrame(self.predictor.probs(images), columns=list(EMOTIONS))


_hints.setLevel(_level)


def signature() -> ModelSignature:
    """Input: one column of any of INPUT_NOTE; output: seven float64 columns, the classes in order."""
    made = ModelSignature(
        inputs=Schema([ColSpec(AnyType())]), outputs=Schema([ColSpec(DataType.double, name) for name in EMOTIONS])
    )
    # Marks the input as described by predict's type hint: without it MLflow puts the list into a DataFrame first, which
    # images do not fit.
    made._is_signature_from_type_hint = True
    return made


def requirements() -> list[str]:
    """What fer-lab needs, pinned to the versions installed here; fer-lab itself must be installed beside them.

    A build's local part (torch's ``+cpu``) is left out: no package index has it.
    """
    needed = [Requirement(line) for line in metadata.requires("fer-lab") or []]
    return [f"{r.name}=={Version(metadata.version(r.name)).public}" for r in needed if r.marker is None]


def _image(row, what: str) -> np.ndarray:
    try:
        if isinstance(row, str):  # never a path
            row = base64.b64decode("".join(row.split()), validate=True)
        if isinstance(row, (bytes, bytearray, memoryview)):
            return decode(bytes(row))
        if isinstance(row, list):
            values = np.asarray(row)
            if values.dtype.kind not in "iu" or values.size == 0 or values.min() < 0 or values.max() > 255:
                raise ValueError(f"nested lists must hold integers 0..255 as [H][W][3], got {values.dtype}")
            row = values.astype(np.uint8)
    except (DataError, ValueError) as error:
        raise DataError(f"{what}: {error}; give {INPUT_NOTE}") from error
    check_image(row, what)
    return row
