"""A training state on disk: safetensors and JSON in one folder that is replaced atomically and verified when read."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from fer_lib.calibration.temperature import Temperature
from fer_lib.errors import BundleError
from fer_lib.faces.contract import FaceContract
from fer_lib.models.bundle import Bundle, write_bundle
from fer_lib.storage.atomic import explained, fresh_folder, previous, write_synced

STATE, META = "state.safetensors", "state.json"
LAST, BEFORE = "checkpoint_last", "checkpoint_before"


def save_checkpoint(path: Path, tensors: dict[str, torch.Tensor], meta: dict[str, Any]) -> None:
    """Write ``tensors`` and ``meta`` to the folder ``path``; a reader sees the old or the new one, never a mixture.

    The ``checkpoint_last`` that is replaced stays as ``checkpoint_before``, should the new one be damaged later.
    """
    content = save({k: t.detach().cpu().contiguous().clone() for k, t in tensors.items()})
    if path.name == LAST and (path / STATE).is_file() and (path / META).is_file():
        _keep(path, path.with_name(BEFORE))
    with fresh_folder(path, may_replace=lambda p: (p / META).is_file()) as partial:
        write_synced(partial / STATE, content)
        record = {**meta, "sha256": hashlib.sha256(content).hexdigest()}
        record["checksum"] = _checksum(record)
        write_synced(partial / META, json.dumps(record, indent=1).encode())


def _keep(path: Path, kept: Path) -> None:
    """The files of ``path`` in ``kept`` too, as links: that takes no room until ``path`` is replaced."""
    with fresh_folder(kept) as partial:
        for name in (STATE, META):
            try:
                os.link(path / name, partial / name)
            except OSError:  # a disk without links
                with explained(kept), open(path / name, "rb") as old, open(partial / name, "wb") as new:
                    shutil.copyfileobj(old, new)
                    new.flush()
                    os.fsync(new.fileno())


def has_checkpoint(path: Path) -> bool:
    """Whether :func:`load_checkpoint` would find one, be it the old one of a writer that was killed."""
    return path.is_dir() or previous(path).is_dir()


def load_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """The folder's tensors and meta, or None when there is none.  BundleError when it is truncated or was changed."""
    if not path.is_dir():
        path = previous(path)
        if not path.is_dir():
            return None
    try:
        return _read(path)
    except BundleError as error:
        raise BundleError(f"{error}; {_advice(path)}") from error


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    try:
        meta = json.loads((path / META).read_bytes())
        content = (path / STATE).read_bytes()
    except (OSError, ValueError) as error:
        raise BundleError(f"checkpoint {path} can't be read ({error})") from error
    if not isinstance(meta, dict) or meta.pop("checksum", None) != _checksum(meta):
        raise BundleError(f"checkpoint {path / META} was changed after it was written")
    if hashlib.sha256(content).hexdigest() != meta["sha256"]:
        raise BundleError(f"checkpoint {path / STATE} is damaged (its SHA-256 differs from {META})")
    return load(content), meta


def checkpoint_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The weights of a checkpoint that would be deployed (the moving average, where one is kept), and its meta.

    ``meta["bundle"]`` tells what they are: name, kind, model_config, contract, training_prior, ids.
    Raises BundleError when there is none, when it is damaged, or when it does not say what it is.
    """
    found = load_checkpoint(path)
    if found is None:
        raise BundleError(f"{path} is no checkpoint: give a folder checkpoint_last or checkpoint_epochNNN of a fit")
    tensors, meta = found
    if "bundle" not in meta:
        raise BundleError(f"checkpoint {path} does not say which model it is of: take it further with the same fit")
    prefix = "ema." if any(k.startswith("ema.") for k in tensors) else "model."
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}, meta


def checkpoint_bundle(
    path: Path, out: Path, temperature: Temperature | None = None, metrics: dict[str, Any] | None = None
) -> Bundle:
    """A bundle at ``out`` of a checkpoint alone; nothing of the fit's folder is needed.

    Its ids have ``epoch``, the number (from 0) of the last epoch begun, and ``epochs``, how many were trained.

    ``metrics`` and ``temperature`` must be of these very weights; without them the bundle has none.
    Raises what :func:`checkpoint_weights` and :func:`fer_lib.models.bundle.write_bundle` raise.
    """
    weights, meta = checkpoint_weights(path)
    described = meta["bundle"]
    return write_bundle(
        out, **described | {
            "contract": FaceContract.model_validate(described["contract"]),
            "ids": {**described["ids"], "epoch": math.ceil(meta["epoch"]) - 1, "epochs": meta["epoch"]},
        }, state_dict=weights, temperature=temperature, metrics=metrics or {},
    )  # fmt: skip


def _advice(path: Path) -> str:
    """What to do about a checkpoint that is not whole; any other of the fit holds all that ``checkpoint_last`` does."""
    if path.name != LAST and path != previous(path.with_name(LAST)):
        return f"move {path} away: neither the fit nor its other checkpoints need it"
    again = f"move {path} away and the same command starts again"
    others = [path.with_name(BEFORE), *path.parent.glob("checkpoint_epoch*")]
    steps = {other: step for other in others if (step := _step(other)) is not None}
    if not steps:
        return again
    newest = max(steps, key=steps.get)
    return f"{again}, or goes on from step {steps[newest]} when you copy {newest} to {path.with_name(LAST)}"


def _step(path: Path) -> int | None:
    """Where the checkpoint stands; None when it is none, or damaged."""
    try:
        return _read(path)[1]["step"]
    except BundleError:
        return None


def _checksum(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def pack_state(
    model: torch.nn.Module, optimiser: torch.optim.Optimizer, ema: torch.nn.Module | None
) -> dict[str, torch.Tensor]:
    """Model, optimiser and EMA tensors under one flat naming."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    if ema is not None:
        tensors |= {f"ema.{k}": v for k, v in ema.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optim.{index}.{k}": torch.as_tensor(v) for k, v in state.items()}
    return tensors


def unpack_state(
    tensors: dict[str, torch.Tensor],
    model: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    ema: torch.nn.Module | None,
) -> None:
    """Put what :func:`pack_state` collected back, each tensor in its parameter's own memory layout.

    Another layout would take other vector instructions, whose rounding differs, and the resumed run would drift.
    """
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    if ema is not None:
        ema.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("ema.")})
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
