"""The one training loop: steps, evaluation on val, checkpoints, the best bundle.  It yields events and logs nowhere.

Everything random is a function of (seed, step, sample), dropout included, so a run that was killed and resumed ends
with the weights of an unbroken one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3

from fer_lib.atomic import write_json
from fer_lib.calibration import scaling, scores
from fer_lib.datasets.batches import Batch, train_batches
from fer_lib.datasets.seen import SEEN
from fer_lib.deploy.bundle import write_bundle
from fer_lib.errors import FerError
from fer_lib.models.classifier import FerClassifier, trainable_parameters
from fer_lib.models.inference import predict_logits
from fer_lib.params import FitParams
from fer_lib.training.checkpoint import load_checkpoint, pack_state, save_checkpoint, unpack_state
from fer_lib.training.data import FitData
from fer_lib.training.schedule import learning_rate

log = logging.getLogger(__name__)


class Objective(Protocol):
    """What a phase adds to the loop: its loss, and the figures it wants in the history."""

    def loss(self, model: FerClassifier, images: torch.Tensor, batch: Batch, epoch: float) -> torch.Tensor:
        """Loss of each sample, float32 [B]; ``epoch`` is fractional."""

    def figures(self, epoch: float) -> dict[str, float]:
        """Figures of the epoch's ``train`` section (margin, for one)."""


@dataclass
class Progress:
    step: int = 0
    best: float = -1.0
    best_epoch: int = -1
    history: list[dict[str, Any]] = field(default_factory=list)
    loss_sum: float = 0.0  # over the samples of the running epoch
    loss_n: int = 0
    epoch_seconds: float = 0.0
    total_seconds: float = 0.0


def fit(
    model: FerClassifier,
    objective: Objective,
    data: FitData,
    p: FitParams,
    out: Path,
    *,
    kind: str,
    name: str,
    ids: dict[str, Any],
    device: torch.device,
    tune: str = "all",
) -> Iterator[dict[str, Any]]:
    """Train ``model``; yields ``start``, ``note``, ``epoch`` ... and ``end`` events.

    Leaves ``best/`` (a bundle: macro-F1 on val/select, temperature on val/temperature; with the record of what was
    seen, where ``out`` holds one), ``checkpoint_last``, the numbered checkpoints and ``history.json`` in ``out``.  A
    ``checkpoint_last`` of the same parameters is resumed.
    Raises FerError on a loss that is not finite and on a checkpoint of other parameters.
    """
    steps = min(data.sampler.steps_per_epoch, p.max_train_batches or math.inf)
    total, warmup = steps * p.epochs, round(p.warmup_epochs * steps)
    model.to(device, memory_format=torch.channels_last)
    wanted = set(trainable_parameters(model, tune))
    for parameter_name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter_name in wanted)
    optimiser = create_optimizer_v2(model, opt="adamw", lr=p.lr, weight_decay=p.weight_decay, filter_bias_and_bn=True)
    ema = ModelEmaV3(model, decay=p.ema_decay, use_warmup=True) if p.ema_decay else None
    fit_key = _fit_key(p, ids)
    state = _resume(out, fit_key, model, optimiser, ema)
    write_json(out / "history.json", state.history)  # a writer that was killed may have left an epoch too many
    yield {
        "event": "start", "resumed_at_step": state.step, "total_steps": total, "steps_per_epoch": steps,
        "warmup_steps": warmup,
    }  # fmt: skip
    seen = data.seen_before(state.step, steps)
    deployed = ema.module if ema is not None else model
    saved = time.monotonic()

    def checkpoint(folder: str, metrics: dict[str, Any] | None = None) -> None:
        meta = {"fit_key": fit_key, "epoch": state.step / steps, "metrics": metrics, **state.__dict__}
        save_checkpoint(out / folder, pack_state(model, optimiser, ema and ema.module), meta)

    for epoch in range(state.step // steps, p.epochs):
        started = time.monotonic()
        model.train()
        _freeze_norms(model, tune)
        span = _span(data, epoch, steps, state.step)
        with closing(train_batches(data.train, data.sampler, p.augment, *span, p.workers)) as batches:
            for batch in batches:
                lr = learning_rate(
                    state.step, total_steps=total, warmup_steps=warmup, peak=p.lr, floor=min(p.min_lr, p.lr)
                )
                for group in optimiser.param_groups:
                    group["lr"] = lr
                torch.manual_seed(_step_seed(p.seed, state.step))
                loss = _step(model, objective, batch, optimiser, p, state.step / steps, device)
                state.loss_sum += loss * len(batch.rows)
                state.loss_n += len(batch.rows)
                state.step += 1
                if ema is not None:
                    ema.update(model, step=state.step)
                seen[batch.rows] = True
                if time.monotonic() - saved > 60 * p.checkpoint_minutes and state.step % steps:
                    now = time.monotonic()
                    state.epoch_seconds += now - started
                    started = saved = now
                    checkpoint("checkpoint_last")
        state.epoch_seconds += time.monotonic() - started
        row = _row(epoch, state, lr, seen, objective, p)
        numbered = (epoch + 1) % p.checkpoint_every == 0
        if numbered or (epoch + 1) % p.eval_every == 0 or epoch + 1 == p.epochs:
            row["val"], row["calibration"], best = _validate(deployed, data, p, device)
            if best["metrics"]["val_select"]["macro_f1"] > state.best:
                state.best, state.best_epoch = best["metrics"]["val_select"]["macro_f1"], epoch
                _write_best(out, deployed, data, best, epoch, kind=kind, name=name, ids=ids)
        state.history.append(row)
        state.total_seconds += state.epoch_seconds
        state.loss_sum, state.loss_n, state.epoch_seconds = 0.0, 0, 0.0
        write_json(out / "history.json", state.history)
        if numbered:  # before checkpoint_last, so that a kill between the two repeats the epoch and writes both
            checkpoint(f"checkpoint_epoch{epoch + 1:03d}", row["val"])
        checkpoint("checkpoint_last", row["val"])
        saved = time.monotonic()
        yield {"event": "epoch", **row}
    yield {"event": "end", "best_epoch": state.best_epoch, "best_macro_f1": state.best, "seconds": state.total_seconds}


def _span(data: FitData, epoch: int, steps: int, done: int) -> tuple[int, int]:
    """The sampler's step numbers of what is left of an epoch (an epoch may be cut short by max_train_batches)."""
    first = epoch * data.sampler.steps_per_epoch
    return first + max(0, done - epoch * steps), first + steps


def _step(model, objective, batch, optimiser, p: FitParams, epoch: float, device) -> float:
    """One optimiser step over the batch, in ``accum_steps`` parts; the mean loss."""
    optimiser.zero_grad(set_to_none=True)
    mean = 0.0
    for first in range(min(p.accum_steps, len(batch.rows))):
        # every k-th row, for a balanced batch stands class by class and each part feeds BatchNorm by itself
        part = slice(first, None, p.accum_steps)
        piece = Batch(batch.rows[part], batch.images[part], batch.labels[part])
        images = torch.from_numpy(piece.images).to(device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16) if p.precision == "bf16" else nullcontext():
            loss = objective.loss(model, images, piece, epoch).sum() / len(batch.rows)
        loss.backward()
        mean += float(loss.detach())
    if not math.isfinite(mean):
        raise FerError(
            f"the loss became {mean} in epoch {epoch:.2f}: lower lr (now {p.lr}), set clip_grad to 1, or use precision "
            "fp32; nothing of this step was kept, and the same parameters would come to it again"
        )
    if p.clip_grad:
        torch.nn.utils.clip_grad_norm_(model.parameters(), p.clip_grad)
    optimiser.step()
    return mean


def _row(
    epoch: int, state: Progress, lr: float, seen: np.ndarray, objective: Objective, p: FitParams
) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "train": {"loss": state.loss_sum / state.loss_n, "coverage": float(seen.mean()), **objective.figures(epoch)},
        "val": None,
        "calibration": {"mode": p.calibration, "temperature": None},
        "lr": lr,
        "timing": {
            "epoch_sec": state.epoch_seconds,
            "total_sec": state.total_seconds + state.epoch_seconds,
            "images_per_sec": state.loss_n / max(state.epoch_seconds, 1e-9),
        },
    }


def _validate(model, data: FitData, p: FitParams, device) -> tuple[dict, dict, dict]:
    """Scores on val/select; a temperature from val/temperature; what the best bundle would carry."""
    logits = predict_logits(model, data.val, p.batch_size, device, max_batches=p.max_val_batches)
    roles, labels = data.val_roles[: len(logits)], data.val.manifest.labels[: len(logits)]
    select, held = roles == "select", roles == "temperature"
    raw = scores.summary(logits[select], labels[select])
    if held.any():
        temperature = scaling.fit(logits[held], labels[held], mode=p.calibration, allow_bound=True)
    else:
        temperature = scaling.Temperature(mode="none", note="no val/temperature rows were evaluated")
    scaled = scores.summary(temperature.apply(logits[select]), labels[select])
    val = {k: raw[k] for k in ("accuracy", "macro_f1", "per_class_f1", "nll", "ece")}
    known = {"mode": temperature.mode, "temperature": temperature.global_temperature or temperature.temperature_vector}
    metrics = {
        "val_select": {**raw, "n_expected": data.n_select, "n_used": int(select.sum())},
        "val_select_scaled": scaled,
    }
    return val, known, {"metrics": metrics, "temperature": temperature}


def _write_best(out: Path, model, data: FitData, best: dict, epoch: int, *, kind: str, name: str, ids: dict) -> None:
    write_bundle(
        out / "best", name=name, kind=kind, model_config=model.config, state_dict=model.state_dict(),
        contract=data.contract, temperature=best["temperature"], training_prior=data.prior,
        ids={**ids, "epoch": epoch}, metrics=best["metrics"],
        extra_files={SEEN: out / SEEN} if (out / SEEN).is_file() else None,
    )  # fmt: skip


def _freeze_norms(model: FerClassifier, tune: str) -> None:
    """Frozen layers keep their running statistics: only norms whose weights are trained stay in training mode."""
    if tune == "all":
        return
    for module in model.backbone.modules():
        own = list(module.parameters(recurse=False))
        if own and not any(q.requires_grad for q in own):
            module.eval()


def _fit_key(p: FitParams, ids: dict[str, Any]) -> str:
    """What a checkpoint must agree on to be resumed: every parameter that changes the weights, and the inputs' ids."""
    fields = p.model_dump(
        mode="json", exclude={"output_dir", "name", "device", "threads", "checkpoint_minutes", "pack", "workers"}
    )
    fields |= {"manifest": "", "softlabels": "", "init_from": ""}  # folders: what they hold is in the ids
    fields["ids"] = {k: v for k, v in ids.items() if k != "run_id"}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def _step_seed(seed: int, step: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{step}".encode(), digest_size=7).digest())


def _resume(out: Path, fit_key: str, model, optimiser, ema) -> Progress:
    found = load_checkpoint(out / "checkpoint_last")
    if found is None:
        return Progress()
    tensors, meta = found
    if meta.pop("fit_key") != fit_key:
        raise FerError(
            f"{out / 'checkpoint_last'} belongs to other parameters or data: give this run another output_dir, or "
            "delete that folder"
        )
    unpack_state(tensors, model, optimiser, ema and ema.module)
    log.info("resumed at step %d", meta["step"])
    return Progress(**{k: meta[k] for k in Progress.__dataclass_fields__})
