"""What a checkpoint must agree on to be resumed, and what is told when it goes on by other means."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import torch

from fer_lib.errors import FerError
from fer_lib.params import FitParams
from fer_lib.training.checkpoint import load_checkpoint, unpack_state
from fer_lib.training.distributed import SingleProcess
from fer_lib.training.progress import Progress
from fer_lib.training.step import precision

log = logging.getLogger(__name__)


def fit_key(p: FitParams, ids: dict[str, Any]) -> str:
    """What a checkpoint must agree on to be resumed: every parameter that the result depends on, and the inputs' ids.

    ``FitParams.RUNTIME_FIELDS`` are left out: they change no more than the rounding, and a resume reports them.
    """
    fields = p.model_dump(
        mode="json", exclude={"output_dir", "name", "onnx", *p.RUNTIME_FIELDS, *p.unused_fields(p.model_dump())}
    )
    fields |= {"manifest": "", "softlabels": "", "init_from": "", "pretrained": ""}  # what they hold is in the ids
    fields["ids"] = {k: v for k, v in ids.items() if k != "run_id"}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def numerics(p: FitParams, team: SingleProcess) -> dict[str, Any]:
    """What decides the last bits of the weights beside the parameters."""
    capability = torch.backends.cpu.get_cpu_capability() if team.device.type == "cpu" else torch.version.cuda
    return {
        "device": team.device.type,
        "capability": capability,
        "torch": torch.__version__,
        "threads": torch.get_num_threads() if team.device.type == "cpu" else None,
        "precision": precision(p, team.device),
        "optimiser": "fused AdamW",
    }


def resume(out: Path, key: str, means: dict[str, Any], model, optimiser, ema) -> tuple[Progress, list[str]]:
    """Where ``checkpoint_last`` stands, and what there is to say of it."""
    found = load_checkpoint(out / "checkpoint_last")
    if found is None:
        return Progress(), []
    tensors, meta = found
    if meta.pop("fit_key") != key:
        raise FerError(
            f"{out / 'checkpoint_last'} belongs to other parameters or data: give this run another output_dir, or "
            "delete that folder"
        )
    unpack_state(tensors, model, optimiser, ema and ema.module)
    log.info("resumed at step %d", meta["step"])
    before = {"optimiser": "AdamW, operation by operation"} | meta["numerics"]  # the first checkpoints did not name it
    differing = [f"{k} {before[k]} -> {v}" for k, v in means.items() if before[k] != v]
    said = f"resumed by other means ({', '.join(differing)}): the last bits will not be those of an unbroken run"
    return Progress(**{k: meta[k] for k in Progress.__dataclass_fields__}), [said] if differing else []
