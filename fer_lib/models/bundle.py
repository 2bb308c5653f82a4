"""The bundle: everything that a prediction depends on, in one folder that is verified when read.

:mod:`fer_lib.models.bundle_format` describes the files.  A folder is written under a temporary name and renamed, so a
reader finds a complete bundle or none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from fer_lib.calibration.temperature import Temperature
from fer_lib.datasets.provenance import TrainingData
from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.errors import BundleError
from fer_lib.faces.contract import FaceContract
from fer_lib.models.bundle_format import (
    ADVICE,
    FORMAT_VERSION,
    INPUT,
    META,
    ONNX,
    OUTPUT,
    WEIGHTS,
    BundleMeta,
    checksum,
    is_plain_name,
    read_meta,
)
from fer_lib.params.strict import first_problem
from fer_lib.storage.atomic import fresh_folder, previous, write_synced
from fer_lib.storage.json_files import file_sha256, plain


@dataclass(frozen=True)
class Bundle:
    """A verified bundle.  ``meta``: the content of ``bundle.json``.  Model and session are loaded on first use."""

    path: Path
    meta: dict[str, Any]
    contract: FaceContract
    temperature: Temperature | None
    training_data: TrainingData | None = None  # None: written by a version that did not record it
    _cache: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.meta["name"]

    @property
    def logit_bias(self) -> np.ndarray | None:
        """float64 [7], added to the logits after the temperature; None when the bundle has none."""
        bias = self.meta.get("logit_bias")
        return None if bias is None else np.asarray(bias, dtype=np.float64)

    @property
    def abstention(self) -> np.ndarray | None:
        """float64 [7]: a label whose probability is below its class's value becomes "Unknown"; None: no abstention."""
        thresholds = self.meta.get("abstention")
        return None if thresholds is None else np.asarray(thresholds, dtype=np.float64)

    @property
    def weights_sha256(self) -> str:
        """Hash of the torch weights (names, shapes, dtypes, values), the same in every bundle derived from them."""
        return self.meta["ids"]["weights_sha256"]

    @property
    def network_sha256(self) -> str:
        """Hash of what computes the logits: the torch weights, or without them the ONNX file (which may be int8)."""
        return self.weights_sha256 if self.has(WEIGHTS) else self.meta["files"][ONNX]

    def has(self, file: str) -> bool:
        """Whether the bundle holds a file of this name."""
        return file in self.meta["files"]

    def state_dict(self) -> dict:
        """The weights as CPU tensors; BundleError when the bundle holds only the ONNX file."""
        if not self.has(WEIGHTS):
            raise BundleError(
                f"bundle {self.path} holds no {WEIGHTS} (only {ONNX}): predict with runtime 'onnx', or give the "
                "bundle of the training run, which has torch weights"
            )
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(self.path / WEIGHTS)
        except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
            raise BundleError(f"{self.path / WEIGHTS} holds no tensors ({error}); {ADVICE}") from error

    def model(self):
        """The torch model in eval mode: faces float32 [N, 3, S, S] -> logits float32 [N, 7] (before temperature).

        Raises BundleError when the bundle has no torch weights, or they do not fit its model configuration.
        """
        if "model" not in self._cache:
            weights = self.state_dict()
            import torch

            from fer_lib.models.classifier import build_classifier

            try:
                with torch.device("meta"):  # without memory, so that a wrong size is found before it is asked for
                    build_classifier(self.meta["model"]).load_state_dict(weights, strict=True, assign=True)
                model = build_classifier(self.meta["model"])
                model.load_state_dict(weights, strict=True)
            except RuntimeError as error:
                raise BundleError(
                    f"{self.path / WEIGHTS} does not fit the model that {META} describes ({self.meta['model']}): "
                    f"{error}; use the fer-lab version that wrote the bundle, or train again"
                ) from error
            self._cache["model"] = model.eval()
        return self._cache["model"]

    def session(self, threads: int = 0, spin: bool = True):
        """The onnxruntime session (CPU): ``faces`` float32 [N, 3, S, S] -> ``logits`` [N, 7] (before temperature).

        Raises BundleError when the bundle has no ONNX file, or one that does not load or has other inputs or outputs.
        """
        key = f"session {threads} {spin}"
        if key not in self._cache:
            if not self.has(ONNX):
                raise BundleError(
                    f"bundle {self.path} holds no {ONNX}: export it first (phase 09_export_onnx), or predict with "
                    "runtime 'torch'"
                )
            from fer_lib.onnx_session import open_session

            try:
                session = open_session(self.path / ONNX, threads, spin)
            except Exception as error:  # the runtime's errors have no class in common
                raise BundleError(f"onnxruntime cannot load {self.path / ONNX} ({error}); {ADVICE}") from error
            size = self.contract.image_size
            inputs = [(value.name, value.shape[1:]) for value in session.get_inputs()]
            outputs = [(value.name, value.shape[1:]) for value in session.get_outputs()]
            if (inputs, outputs) != ([(INPUT, [3, size, size])], [(OUTPUT, [NUM_CLASSES])]):
                raise BundleError(
                    f"{self.path / ONNX} takes {inputs} and gives {outputs}, not {INPUT} [N, 3, {size}, {size}] and "
                    f"{OUTPUT} [N, {NUM_CLASSES}]: export the model again"
                )
            self._cache[key] = session
        return self._cache[key]


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
    cost: Mapping[str, Any] | None = None,
) -> Bundle:
    """Write a bundle folder at `path`, replacing an older bundle, and return it as read back.

    `state_dict` maps parameter names to tensors; None needs a ``model.onnx`` among `extra_files` and
    ``ids["weights_sha256"]``.  `extra_files` maps plain file names to files to copy.  Non-finite metrics are stored as
    null.  The other arguments are what :class:`BundleMeta` checks.

    Raises BundleError when an argument is invalid or `path` is a folder of something else, DataError when the disk is
    full or read-only.
    """
    path, extra = Path(path), dict(extra_files or {})
    if bad := [n for n in extra if not is_plain_name(n) or n in (META, WEIGHTS)]:
        raise BundleError(f"bundle {path}: {bad} can't be the name of an extra file; use another plain file name")
    ids = dict(ids)
    if state_dict is not None:
        from fer_lib.models.weights import tensors_sha256

        ids["weights_sha256"] = tensors_sha256(state_dict)
    elif ONNX not in extra or "weights_sha256" not in ids:
        raise BundleError(
            f"bundle {path}: without weights it needs {ONNX} and the weights_sha256 of the weights that it was "
            "exported from"
        )

    try:
        with fresh_folder(path, may_replace=_is_replaceable) as partial:
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
                    "logit_bias": _floats(logit_bias),
                    "abstention": _floats(abstention),
                    "training_prior": _floats(training_prior),
                    "training_data": training_data,
                    "cost": cost,
                    "ids": ids,
                    "metrics": dict(metrics),
                    "files": {p.name: file_sha256(p) for p in sorted(partial.iterdir())},
                }
            )
            BundleMeta.model_validate(meta)
            meta["checksum"] = checksum(meta)
            write_synced(partial / META, json.dumps(meta, indent=2, allow_nan=False).encode())
    except FileExistsError as error:
        raise BundleError(f"{path} exists and is no bundle: it is left alone; give another folder") from error
    except ValidationError as error:
        raise BundleError(f"bundle {path}: {first_problem(error)}") from error
    return read_bundle(path)


def derive_bundle(
    bundle: Bundle,
    path: Path | str,
    *,
    ids: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    extra_files: Mapping[str, Path] | None = None,
    weights: bool = True,
    **changes: Any,
) -> Bundle:
    """A copy of `bundle` at `path` with added ids, metrics and files.

    `changes`: other arguments of :func:`write_bundle`; None stands for the bundle's own.  ``weights=False`` omits the
    torch weights (a packaged bundle).  Raises the errors of :func:`write_bundle`.
    """
    meta = bundle.meta
    options = ("name", "kind", "training_prior", "training_data", "logit_bias", "abstention", "cost")
    own = {key: meta.get(key) for key in options}
    return write_bundle(
        path,
        **own | {"temperature": bundle.temperature} | {k: v for k, v in changes.items() if v is not None},
        model_config=meta["model"],
        state_dict=bundle.state_dict() if weights and bundle.has(WEIGHTS) else None,
        contract=bundle.contract,
        ids=meta["ids"] | dict(ids or {}),
        metrics=meta["metrics"] | dict(metrics or {}),
        extra_files={f: bundle.path / f for f in meta["files"] if f != WEIGHTS} | dict(extra_files or {}),
    )


def bundle_folder(path: Path | str) -> Path:
    """``path`` itself, or in the folder of a phase its ``best`` (fit) or ``bundle`` (checkpoints, export).

    Raises BundleError when none of them holds a bundle.
    """
    for candidate in (folder := Path(path), folder / "best", folder / "bundle"):
        if (candidate / META).is_file() or (previous(candidate) / META).is_file():
            return candidate
    raise BundleError(
        f"{folder} holds no bundle ({META}): give a bundle folder, a fit, checkpoints or export phase folder, "
        "models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID/PATH or packaged"
    )


def read_bundle(path: Path | str) -> Bundle:
    """Read a bundle folder and verify format version, class order, checksum and the hash of every file.

    Raises BundleError, with the file and the next step, when a file is missing, damaged or of another version.
    """
    path = Path(path)
    if not path.exists() and previous(path).is_dir():
        path = previous(path)  # a writer was killed between its two renames: the old bundle is complete
    meta, valid = read_meta(path)
    return Bundle(path.resolve(), meta, valid.face_contract, valid.temperature, valid.training_data)


def _is_replaceable(path: Path) -> bool:
    return path.is_dir() and ((path / META).exists() or not any(path.iterdir()))


def _floats(values: Sequence[float] | None) -> list[float] | None:
    return None if values is None else [float(value) for value in values]
