"""Training checkpoints: safetensors and JSON in one folder, replaced atomically and verified when read."""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from fer_lib.calibration.temperature import Temperature
from fer_lib.errors import BundleError
from fer_lib.faces.contract import FaceContract
from fer_lib.models.bundle import Bundle, write_bundle
from fer_lib.params.strict import first_problem
from fer_lib.storage.atomic import fresh_folder, previous, write_synced

STATE, META = "state.safetensors", "state.json"
LAST, BEFORE = "checkpoint_last", "checkpoint_before"


class CheckpointBundle(BaseModel):
    """What a checkpoint says about the bundle of its weights: arguments of ``write_bundle``, which checks the rest."""

    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=())

    name: str
    kind: str
    model: dict[str, Any] = Field(alias="model_config")  # pydantic keeps the name model_config for itself
    contract: FaceContract = Field(strict=False)
    training_prior: list[float]
    ids: dict[str, Any]
    training_data: dict[str, Any] | None = None


class CheckpointMeta(BaseModel):
    """The part of ``state.json`` that makes a bundle of a checkpoint; ``epoch``: epochs that were trained."""

    epoch: float = Field(ge=0, allow_inf_nan=False)
    bundle: CheckpointBundle


def save_checkpoint(path: Path, tensors: dict[str, torch.Tensor], meta: dict[str, Any]) -> None:
    """Write ``tensors`` and ``meta`` to the folder ``path``.  A reader gets the old or the new one, never a mixture.

    A ``checkpoint_last`` is first linked to ``checkpoint_before``, in case the new one is damaged later.
    Raises DataError when the disk is full or read-only.
    """
    content = save({k: t.detach().cpu().contiguous().clone() for k, t in tensors.items()})
    if path.name == LAST and (path / STATE).is_file() and (path / META).is_file():
        _link_files(path, path.with_name(BEFORE))
    with fresh_folder(path, may_replace=lambda p: (p / META).is_file()) as partial:
        write_synced(partial / STATE, content)
        record = {**meta, "sha256": hashlib.sha256(content).hexdigest()}
        record["checksum"] = checksum(record)
        write_synced(partial / META, json.dumps(record, indent=1).encode())


def _link_files(path: Path, target: Path) -> None:
    """Put the files of ``path`` into ``target`` as hard links, which take no space until ``path`` is replaced."""
    with fresh_folder(target) as partial:
        for name in (STATE, META):
            try:
                os.link(path / name, partial / name)
            except OSError:  # a file system without hard links
                write_synced(partial / name, (path / name).read_bytes())


def has_checkpoint(path: Path) -> bool:
    """Whether :func:`load_checkpoint` has something to read, the old folder of a killed writer included."""
    return path.is_dir() or previous(path).is_dir()


def load_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """The folder's tensors and meta; None when there is none.  BundleError when it is damaged or was changed."""
    if not path.is_dir():
        path = previous(path)
        if not path.is_dir():
            return None
    try:
        meta, content = json.loads((path / META).read_bytes()), (path / STATE).read_bytes()
        if not isinstance(meta, dict) or meta.pop("checksum", None) != checksum(meta):
            raise ValueError(f"{META} was changed after it was written")
        if hashlib.sha256(content).hexdigest() != meta.get("sha256"):
            raise ValueError(f"{STATE} is damaged: its SHA-256 differs from {META}")
        return load(content), meta
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise BundleError(f"checkpoint {path} can't be read ({error}); {_advice(path)}") from error


def checkpoint_weights(path: Path) -> tuple[dict[str, torch.Tensor], CheckpointMeta]:
    """The weights of a checkpoint for deployment (the moving average if there is one), and what it says of them.

    Raises BundleError when there is no checkpoint, when it is damaged, or when it lacks that description.
    """
    checkpoint = load_checkpoint(path)
    if checkpoint is None:
        raise BundleError(f"{path} is no checkpoint: give a folder checkpoint_last or checkpoint_epochNNN of a fit")
    tensors, meta = checkpoint
    if "bundle" not in meta:
        raise BundleError(f"checkpoint {path} does not describe its model: resume it with the same fit first")
    try:
        description = CheckpointMeta.model_validate(meta)
    except ValidationError as error:
        raise BundleError(f"{path / META} holds an invalid value: {first_problem(error)}; {_advice(path)}") from error
    prefix = "ema." if any(k.startswith("ema.") for k in tensors) else "model."
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}, description


def checkpoint_bundle(
    path: Path, out: Path, temperature: Temperature | None = None, metrics: dict[str, Any] | None = None
) -> Bundle:
    """Write the bundle of a checkpoint to ``out``.  Only the checkpoint's own folder is read.

    The bundle's ids get ``epoch``, the number (from 0) of the last epoch that was started, and ``epochs``, how many
    were trained.  ``metrics`` and ``temperature`` must belong to these weights; without them the bundle has none.
    Raises the errors of :func:`checkpoint_weights` and :func:`fer_lib.models.bundle.write_bundle`.
    """
    weights, meta = checkpoint_weights(path)
    arguments = dict(meta.bundle)
    arguments["ids"] = meta.bundle.ids | {"epoch": math.ceil(meta.epoch) - 1, "epochs": meta.epoch}
    return write_bundle(
        out, model_config=arguments.pop("model"), state_dict=weights, temperature=temperature, metrics=metrics or {},
        **arguments,
    )  # fmt: skip


def _advice(path: Path) -> str:
    """What to do about a damaged checkpoint.  Every checkpoint of a fit holds its whole state, so any can resume."""
    if path.name != LAST and path != previous(path.with_name(LAST)):
        return f"move {path} away: neither the fit nor its other checkpoints need it"
    others = ", ".join(sorted(other.name for other in path.parent.glob("checkpoint_[be]*")))
    goes_on = f", or goes on from one of {others} when you copy it to {path.with_name(LAST)}" if others else ""
    return f"move {path} away and the same command starts again{goes_on}"


def checksum(record: dict[str, Any]) -> str:
    """SHA-256 of the content of ``state.json`` without its ``checksum``."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def pack_state(
    model: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    ema: torch.nn.Module | None,
    objective: dict[str, torch.Tensor] | None = None,
) -> dict[str, torch.Tensor]:
    """Tensors of model, optimiser, moving average and objective in one flat dict."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    if ema is not None:
        tensors |= {f"ema.{k}": v for k, v in ema.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optim.{index}.{k}": torch.as_tensor(v) for k, v in state.items()}
    return tensors | {f"objective.{k}": v for k, v in (objective or {}).items()}


def unpack_state(
    tensors: dict[str, torch.Tensor],
    model: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    ema: torch.nn.Module | None,
    objective: dict[str, torch.Tensor] | None = None,
) -> None:
    """Load the tensors of :func:`pack_state`.  The optimiser's moments take the memory layout of their parameter.

    Another layout selects other vector instructions.  Their rounding differs, and the resumed run would drift.
    """
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    if ema is not None:
        ema.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("ema.")})
    for name, value in (objective or {}).items():
        value.copy_(tensors[f"objective.{name}"])
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optim."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    for parameter, moments in optimiser.state.items():
        for name, value in moments.items():
            if value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
