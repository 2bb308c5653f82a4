"""The bundle: everything that a prediction depends on, in one folder that verifies itself.

``bundle.json`` holds the format version, class order, model configuration, face contract, temperature, training prior
and data, ids and metrics, the SHA-256 of each other file, and a checksum of itself.  Beside it lie
``model.safetensors`` (the weights) and, once exported, ``model.onnx``; a packaged bundle may hold the ONNX file alone.
A folder is written under a temporary name and renamed, so a reader sees the whole bundle or none.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from fer_lib.calibration.bias import checked_abstention, checked_bias
from fer_lib.calibration.temperature import Temperature
from fer_lib.datasets.training_data import TrainingData, as_record
from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.errors import BundleError
from fer_lib.faces.contract import FaceContract
from fer_lib.storage.atomic import fresh_folder, previous, write_synced
from fer_lib.storage.json_files import file_sha256, plain

FORMAT_VERSION = 1
META = "bundle.json"
WEIGHTS = "model.safetensors"
ONNX = "model.onnx"


@dataclass(frozen=True)
class Bundle:
    """A verified bundle.  ``meta`` is the content of ``bundle.json``; model and session are made on first use."""

    path: Path
    meta: dict[str, Any]
    contract: FaceContract
    temperature: Temperature | None
    training_data: TrainingData | None = None  # None: an earlier version wrote it, and did not record that
    _made: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.meta["name"]

    @property
    def logit_bias(self) -> np.ndarray | None:
        """float64 [7], added to the logits after the temperature; None where the bundle has none."""
        bias = self.meta.get("logit_bias")
        return None if bias is None else np.asarray(bias, dtype=np.float64)

    @property
    def abstention(self) -> np.ndarray | None:
        """float64 [7]: a label below its class's value is "Unknown"; None where the bundle never abstains."""
        least = self.meta.get("abstention")
        return None if least is None else np.asarray(least, dtype=np.float64)

    @property
    def weights_sha256(self) -> str:
        """Hash of the float weights (names, shapes, dtypes, values), the same in every bundle derived from them."""
        return self.meta["ids"]["weights_sha256"]

    def has(self, file: str) -> bool:
        return file in self.meta["files"]

    def state_dict(self) -> dict:
        """The weights as CPU tensors; BundleError when the bundle holds only the ONNX file."""
        if not self.has(WEIGHTS):
            raise BundleError(
                f"bundle {self.path} holds no {WEIGHTS} (only {ONNX}): predict with runtime 'onnx', or use the "
                "bundle of the training run where torch weights are needed"
            )
        from safetensors.torch import load_file

        return load_file(self.path / WEIGHTS)

    def model(self):
        """The torch model in eval mode: faces float32 [N,3,S,S] -> logits [N,7] (before temperature)."""
        if "model" not in self._made:
            weights = self.state_dict()
            from fer_lib.models.classifier import build_classifier

            model = build_classifier(self.meta["model"])
            try:
                model.load_state_dict(weights, strict=True)
            except RuntimeError as error:
                raise BundleError(
                    f"{self.path / WEIGHTS} does not fit the model that {META} describes ({self.meta['model']}): "
                    f"{error}; use the fer-lab version that wrote the bundle, or train again"
                ) from error
            self._made["model"] = model.eval()
        return self._made["model"]

    def session(self):
        """onnxruntime session (CPU): ``faces`` float32 [N,3,S,S] -> ``logits`` float32 [N,7] (before temperature)."""
        if "session" not in self._made:
            if not self.has(ONNX):
                raise BundleError(
                    f"bundle {self.path} holds no {ONNX}: export it first (phase 09_export_onnx), or predict with "
                    "runtime 'torch'"
                )
            from fer_lib.onnx_session import open_session

            self._made["session"] = open_session(self.path / ONNX)
        return self._made["session"]


def write_bundle(
    path: Path | str,
    *,
    name: str,
    kind: str,
    model_config: Mapping[str, Any],
    state_dict: Mapping[str, Any] | None,
    contract: FaceContract,
    temperature: Temperature | None,
    training_prior: list[float],
    ids: Mapping[str, Any],
    metrics: Mapping[str, Any],
    extra_files: Mapping[str, Path] | None = None,
    logit_bias: Sequence[float] | None = None,
    abstention: Sequence[float] | None = None,
    training_data: Mapping[str, Any] | None = None,
) -> Bundle:
    """Write a bundle folder at `path`, replacing one that is there, and return it as read back.

    `state_dict` maps parameter names to tensors; None needs a ``model.onnx`` among `extra_files` and
    ``ids["weights_sha256"]``.  `training_prior` holds 7 shares that sum to 1.  `extra_files` maps plain file names to
    files to copy.  Non-finite metrics are stored as null.  `logit_bias`: 7 numbers, added before the softmax;
    `abstention`: 7 shares, below which a class's label is "Unknown".
    `training_data`: a :class:`TrainingData` as a mapping.
    Raises BundleError when the pieces make no bundle, DataError when the disk refuses.
    """
    path, extra = Path(path), dict(extra_files or {})
    prior = [float(p) for p in training_prior]
    if len(prior) != NUM_CLASSES or not math.isclose(sum(prior), 1.0, abs_tol=1e-6) or min(prior) < 0:
        raise BundleError(f"bundle {path}: training_prior must be {NUM_CLASSES} shares that sum to 1, got {prior}")
    if bad := [n for n in extra if not _plain_name(n) or n in (META, WEIGHTS)]:
        raise BundleError(f"bundle {path}: {bad} can't be the name of an extra file; use a plain file name of its own")
    bias = None if logit_bias is None else checked_bias(list(logit_bias)).tolist()
    least = None if abstention is None else checked_abstention(list(abstention)).tolist()
    ids = dict(ids)
    if state_dict is not None:
        from fer_lib.models.weights import tensors_sha256

        ids["weights_sha256"] = tensors_sha256(state_dict)
    elif ONNX not in extra or "weights_sha256" not in ids:
        raise BundleError(f"bundle {path}: without weights it needs {ONNX} and the weights_sha256 that it came from")

    try:
        with fresh_folder(path, may_replace=_is_ours) as partial:
            if state_dict is not None:
                from safetensors.torch import save

                write_synced(
                    partial / WEIGHTS, save({k: v.detach().cpu().contiguous().clone() for k, v in state_dict.items()})
                )
            for file, source in extra.items():
                write_synced(partial / file, Path(source).read_bytes())
            meta = plain(
                {
                    "format_version": FORMAT_VERSION,
                    "name": name,
                    "kind": kind,
                    "created": datetime.now(UTC).isoformat(timespec="seconds"),
                    "model": dict(model_config),
                    "classes": list(EMOTIONS),
                    "face_contract": contract.model_dump(),
                    "temperature": None if temperature is None else temperature.model_dump(),
                    "logit_bias": bias,
                    "abstention": least,
                    "training_prior": prior,
                    "training_data": None if training_data is None else dict(training_data),
                    "ids": ids,
                    "metrics": dict(metrics),
                    "files": {p.name: file_sha256(p) for p in sorted(partial.iterdir())},
                }
            )
            meta["checksum"] = _checksum(meta)
            write_synced(partial / META, json.dumps(meta, indent=2, allow_nan=False).encode())
    except FileExistsError as error:
        raise BundleError(f"{path} exists and is no bundle: it is left alone; give another folder") from error
    return read_bundle(path)


def derive_bundle(
    bundle: Bundle,
    path: Path | str,
    *,
    name: str = "",
    temperature: Temperature | None = None,
    ids: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    extra_files: Mapping[str, Path] | None = None,
    weights: bool = True,
    logit_bias: Sequence[float] | None = None,
    abstention: Sequence[float] | None = None,
) -> Bundle:
    """A copy of `bundle` at `path` with added ids, metrics and files; what else is not given stays as it is.

    ``weights=False`` leaves the safetensors out (a packaged bundle).  Raises what :func:`write_bundle` raises.
    """
    kept = {f: bundle.path / f for f in bundle.meta["files"] if f != WEIGHTS}
    return write_bundle(
        path,
        name=name or bundle.name,
        kind=bundle.meta["kind"],
        model_config=bundle.meta["model"],
        state_dict=bundle.state_dict() if weights and bundle.has(WEIGHTS) else None,
        contract=bundle.contract,
        temperature=bundle.temperature if temperature is None else temperature,
        training_prior=bundle.meta["training_prior"],
        ids={**bundle.meta["ids"], **(ids or {})},
        metrics={**bundle.meta["metrics"], **(metrics or {})},
        extra_files={**kept, **(extra_files or {})},
        logit_bias=bundle.meta.get("logit_bias") if logit_bias is None else logit_bias,
        abstention=bundle.meta.get("abstention") if abstention is None else abstention,
        training_data=bundle.meta.get("training_data"),
    )


def bundle_folder(path: Path | str) -> Path:
    """``path`` itself, or in a phase's folder its ``best`` (fit) or ``bundle`` (checkpoints, export).

    Raises BundleError where none of them holds a bundle.
    """
    for found in (folder := Path(path), folder / "best", folder / "bundle"):
        if (found / META).is_file() or (previous(found) / META).is_file():
            return found
    raise BundleError(
        f"{folder} holds no bundle ({META}): give a bundle folder, a fit, checkpoints or export phase folder, "
        "models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID/PATH or packaged"
    )


def read_bundle(path: Path | str) -> Bundle:
    """Open a bundle folder, checking format version, class order, its own checksum and the hash of every file.

    Raises BundleError, naming the file and the next step, when anything is missing or differs.
    """
    path = Path(path)
    if not path.exists() and previous(path).is_dir():
        path = previous(path)  # a writer was killed between its two renames: the old bundle is still whole
    file = path / META
    try:
        meta = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise BundleError(
            f"{path} is no bundle: {META} is missing; give a folder that a fit or export phase wrote"
        ) from error
    except (ValueError, NotADirectoryError) as error:
        raise BundleError(f"{file} is not readable JSON ({error}); {_REDO}") from error
    version = meta.get("format_version") if isinstance(meta, dict) else None
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{file} has format_version {version!r}, this fer-lab reads {FORMAT_VERSION}: use the version that wrote "
            "it, or export the model again"
        )
    if meta.get("classes") != list(EMOTIONS):
        raise BundleError(
            f"{file}: class order {meta.get('classes')} is not {list(EMOTIONS)}; the model must be trained again"
        )
    if meta.get("checksum") != _checksum(meta):
        raise BundleError(f"{file} was changed after it was written (checksum differs); {_REDO}")
    files = meta["files"]
    if not (WEIGHTS in files or ONNX in files):
        raise BundleError(f"{file} lists neither {WEIGHTS} nor {ONNX}; {_REDO}")
    for name, expected in files.items():
        if not _plain_name(name):
            raise BundleError(f"{file} lists {name!r}, which is no plain file name; {_REDO}")
        if not (path / name).is_file():
            raise BundleError(f"{path / name} is missing; {_REDO}")
        if (found := file_sha256(path / name)) != expected:
            raise BundleError(
                f"{path / name} is damaged or was changed: SHA-256 {found[:12]}..., {META} says {expected[:12]}...; "
                f"{_REDO}"
            )
    try:
        contract = FaceContract.model_validate(meta["face_contract"])
        temperature = None if meta["temperature"] is None else Temperature.model_validate(meta["temperature"])
        learned = as_record(meta.get("training_data"))
    except ValidationError as error:
        raise BundleError(f"{file} holds values that can't be read here: {error}; {_REDO}") from error
    return Bundle(path.resolve(), meta, contract, temperature, learned)


_REDO = "copy the bundle again from its source, or run the phase that wrote it with --fresh"


def _is_ours(path: Path) -> bool:
    return path.is_dir() and ((path / META).exists() or not any(path.iterdir()))


def _plain_name(name: str) -> bool:
    return bool(name) and name not in (".", "..") and not name.startswith(".") and not any(c in name for c in "/\\:\0")


def _checksum(meta: Mapping[str, Any]) -> str:
    body = {k: v for k, v in meta.items() if k != "checksum"}
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
