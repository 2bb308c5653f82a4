"""Resuming a fit: the key that its checkpoint must match, and a warning about settings that change the rounding."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from fer_lib.errors import BundleError, FerError
from fer_lib.params import FitParams
from fer_lib.training.checkpoint import LAST, load_checkpoint, unpack_state
from fer_lib.training.distributed import SingleProcess
from fer_lib.training.progress import Progress
from fer_lib.training.step import precision


def fit_key(p: FitParams, ids: dict[str, Any]) -> str:
    """A hash (16 hex) of every parameter that the result depends on and of the inputs' ids.

    ``FitParams.RUNTIME_FIELDS`` are left out: they change only the rounding, and :func:`resume` warns about them.
    """
    fields = p.model_dump(
        mode="json", exclude={"output_dir", "name", "onnx", *p.RUNTIME_FIELDS, *p.unused_fields(p.model_dump())}
    )
    fields |= {"manifest": "", "softlabels": "", "init_from": "", "pretrained": ""}  # the ids identify their content
    fields["ids"] = {k: v for k, v in ids.items() if k != "run_id"}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def numerics(p: FitParams, context: SingleProcess) -> dict[str, Any]:
    """What the rounding of the weights depends on, beside the parameters of :func:`fit_key`."""
    on_cpu = context.device.type == "cpu"
    return {
        "device": context.device.type,
        "capability": torch.backends.cpu.get_cpu_capability() if on_cpu else torch.version.cuda,
        "torch": torch.__version__,
        "threads": torch.get_num_threads() if on_cpu else None,
        "precision": precision(p, context.device),
        "optimiser": "fused AdamW" if p.optimizer == "adamw" else "SGD",
    }


def resume(
    out: Path, key: str, current_numerics: dict[str, Any], model, optimiser, ema, objective=None
) -> tuple[Progress, list[str]]:
    """Load ``checkpoint_last`` into model, optimiser, moving average and the objective's state.

    Returns its progress and warnings.

    Without a checkpoint the progress is that of a new fit.  Raises FerError when the checkpoint's key is not ``key``,
    BundleError when its values or tensors are not those of this fit.
    """
    checkpoint = load_checkpoint(out / LAST)
    if checkpoint is None:
        return Progress(), []
    tensors, meta = checkpoint
    if meta.get("fit_key") != key:
        raise FerError(
            f"{out / LAST} belongs to other parameters or data: give this run another output_dir, or delete that folder"
        )
    try:
        unpack_state(tensors, model, optimiser, ema and ema.module, objective)
        progress = TypeAdapter(Progress).validate_python({k: meta[k] for k in Progress.__dataclass_fields__})
        earlier = {"optimiser": "AdamW, operation by operation"} | meta["numerics"]  # absent from the first versions
    except (KeyError, TypeError, ValueError, RuntimeError, ValidationError) as error:
        raise BundleError(
            f"{out / LAST} is not a state of this fit ({str(error).splitlines()[0]}): delete that folder, and the same "
            "command starts again"
        ) from error
    changes = [f"{k} {earlier.get(k)} -> {v}" for k, v in current_numerics.items() if earlier.get(k) != v]
    warning = f"resumed with other numerics ({', '.join(changes)}): the last bits will differ from an unbroken run's"
    return progress, [warning] if changes else []
