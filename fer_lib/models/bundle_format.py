"""The bundle's file format: names, checksum, and the verification of a folder.

``bundle.json`` holds the format version, class order, model configuration, face contract, temperature, training prior
and data, ids and metrics, the SHA-256 of each other file, and a checksum of itself.  The other files are
``model.safetensors`` (the weights) and, after an export, ``model.onnx``; a packaged bundle may have only the latter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fer_lib.calibration.conformal import ConformalSets
from fer_lib.calibration.temperature import BOUNDS, Temperature
from fer_lib.calibration.uncertainty import EnergyLimit
from fer_lib.datasets.provenance import TrainingData
from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.errors import BundleError
from fer_lib.faces.contract import FaceContract
from fer_lib.params.base import BackboneArgs
from fer_lib.params.strict import first_problem
from fer_lib.storage.json_files import file_sha256

FORMAT_VERSION = 1
META = "bundle.json"
WEIGHTS = "model.safetensors"
ONNX = "model.onnx"
INPUT, OUTPUT = "faces", "logits"  # of the ONNX file
ADVICE = (
    "copy the bundle again from its source, use the fer-lab that wrote it, or run the phase that wrote it with --fresh"
)


Share = Annotated[float, Field(ge=0, le=1)]
Seven = Field(min_length=NUM_CLASSES, max_length=NUM_CLASSES)


class _Section(BaseModel):
    """Values from a file, taken as they are: a text is no number, and no number is NaN or infinite."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, protected_namespaces=())


class ModelSection(_Section):
    """The arguments of :class:`fer_lib.models.classifier.FerClassifier`, within what a training can make."""

    model_config = ConfigDict(extra="forbid")

    backbone: Annotated[str, Field(min_length=1, max_length=200)]
    image_size: Annotated[int, Field(ge=8, le=2048)]
    embed_dim: Annotated[int, Field(ge=1, le=8192)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    head: Literal["cosine", "linear"]
    s: Annotated[float, Field(gt=0, le=1000)]
    backbone_args: BackboneArgs = {}
    blocks: Annotated[int, Field(ge=0, le=8)] = 0  # residual blocks; absent when there are none


class Ids(_Section):
    """Ids of data and runs; those of every bundle are named here."""

    model_config = ConfigDict(extra="allow")

    weights_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Spent(_Section):
    """A training's cost: see :mod:`fer_lib.models.cost`."""

    seconds: Annotated[float, Field(ge=0)]
    epochs: Annotated[int, Field(ge=0)]
    images: Annotated[int, Field(ge=0)]


class Cost(_Section):
    """``cumulative`` is None where the cost of an ancestor is not recorded."""

    own: Spent
    cumulative: Spent | None
    ancestors: dict[str, Spent | None]


class BundleMeta(_Section):
    """The content of ``bundle.json``; ``training_data`` and the five after it may be absent."""

    name: Annotated[str, Field(min_length=1, max_length=1000)]
    kind: str
    created: str
    model: ModelSection
    face_contract: Annotated[FaceContract, Field(strict=False)]  # JSON has lists for its tuples
    temperature: Temperature | None
    training_prior: Annotated[list[Share], Seven]
    training_data: TrainingData | None = None
    logit_bias: Annotated[list[float], Seven] | None = None
    abstention: Annotated[list[Share], Seven] | None = None
    conformal: ConformalSets | None = None
    energy_limit: EnergyLimit | None = None
    cost: Cost | None = None
    ids: Ids
    metrics: dict[str, Any]
    files: dict[str, str]

    @model_validator(mode="after")
    def _consistent(self):
        if not self.name.isprintable():
            raise ValueError("name holds signs that a terminal would act on")
        for rows, scores in self.metrics.items():
            for key in ("macro_f1", "accuracy", "ece") if isinstance(scores, dict) else ():  # shown beside the model
                if not isinstance(scores.get(key), (int, float, NoneType)):
                    raise ValueError(f"{key} of metrics.{rows} is no number")
        if abs(sum(self.training_prior) - 1) > 1e-6:
            raise ValueError(f"training_prior must be {NUM_CLASSES} shares that sum to 1, not {self.training_prior}")
        if self.temperature and not all(BOUNDS[0] <= t <= BOUNDS[1] for t in self.temperature.values()):
            raise ValueError(f"a temperature must be between {BOUNDS[0]:g} and {BOUNDS[1]:g}")
        if self.conformal and self.conformal.per_class and len(self.conformal.thresholds) != NUM_CLASSES:
            raise ValueError(f"conformal has {len(self.conformal.thresholds)} thresholds, not {NUM_CLASSES}")
        if self.model.image_size != self.face_contract.image_size:
            raise ValueError(f"the model takes {self.model.image_size} pixels, the face contract gives "
                             f"{self.face_contract.image_size}")  # fmt: skip
        if not self.files.keys() & {WEIGHTS, ONNX}:
            raise ValueError(f"files has neither {WEIGHTS} nor {ONNX}")
        return self


def read_meta(path: Path) -> tuple[dict[str, Any], BundleMeta]:
    """The content of ``bundle.json`` in the folder ``path``, after its checks, as written and as validated.

    Checked are the format version, the class order, its own checksum, every value and the hash of every file.
    Raises BundleError, with the file and the next step, when a check fails.
    """
    file = path / META
    if not file.is_file():
        raise BundleError(f"{path} is no bundle: {META} is missing; give a folder that a fit or export phase wrote")
    try:
        meta = json.loads(file.read_bytes())
        if not isinstance(meta, dict) or meta.get("format_version") != FORMAT_VERSION:
            raise ValueError(f"its format_version is not {FORMAT_VERSION}")
        if meta.get("classes") != list(EMOTIONS):
            raise ValueError(f"its class order {meta.get('classes')} is not {list(EMOTIONS)}")
        if meta.get("checksum") != checksum(meta):
            raise ValueError("it was changed after it was written (checksum differs)")
        validated = BundleMeta.model_validate(meta)
        for name, expected in validated.files.items():
            if not is_plain_name(name):
                raise ValueError(f"it lists {name!r}, which is no plain file name")
            if not (path / name).is_file():
                raise ValueError(f"{name} is missing")
            if (digest := file_sha256(path / name)) != expected:
                raise ValueError(f"{name} is damaged or was changed: SHA-256 {digest[:12]}..., not {expected[:12]}...")
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{file}: {first_problem(error)}; {ADVICE}") from error
    return meta, validated


def checksum(meta: Mapping[str, Any]) -> str:
    """SHA-256 of the content of ``bundle.json`` without its ``checksum``."""
    body = {k: v for k, v in meta.items() if k != "checksum"}
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def is_plain_name(name: str) -> bool:
    """Whether ``name`` is a file name that stays in its folder: no separator, drive or leading dot."""
    return bool(name) and not name.startswith(".") and not any(c in name for c in "/\\:\0")
