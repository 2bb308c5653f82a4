"""The one training loop: steps, evaluation on val, checkpoints, the best bundle.  It yields events and logs nowhere.

Everything random is a function of (seed, step, sample), dropout included, so a run that was killed and resumed ends
with the weights of an unbroken one.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3

from fer_lib.datasets.batches import Batch, train_batches
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.models.classifier import NORMS, FerClassifier, trainable_parameters
from fer_lib.params import FitParams
from fer_lib.storage.atomic import write_json
from fer_lib.training.checkpoint import BEFORE, pack_state, save_checkpoint
from fer_lib.training.data import FitData, loader_threads
from fer_lib.training.distributed import SingleProcess
from fer_lib.training.progress import Progress, collapse, history_row, running
from fer_lib.training.resume import fit_key, numerics, resume
from fer_lib.training.schedule import learning_rate
from fer_lib.training.step import Objective, Stepper, diverged
from fer_lib.training.validate import validate, write_best

TELL_EVERY = 2.0  # seconds between two ``step`` events


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
    training_data: dict[str, Any] | None = None,
    team: SingleProcess,
    tune: str = "all",
    norms: str = "trained",
) -> Iterator[dict[str, Any]]:
    """Train ``model``; yields ``start``, ``step`` (every few seconds), ``note``, ``epoch`` ... and ``end`` events.

    Leaves ``best/`` (a bundle: macro-F1 on val/select, temperature on val/temperature; with the record of what was
    seen, where ``out`` holds one), ``checkpoint_last``, the numbered checkpoints and ``history.json`` in ``out``.  A
    ``checkpoint_last`` of the same parameters is resumed.  ``norms``: whose running statistics move.  In a team every
    process runs this, and the first one alone evaluates and writes.  ``training_data`` goes into the bundles.
    Raises FerError on a loss that is not finite, on a checkpoint of other parameters and on too few rows for a step.
    """
    steps = min(data.sampler.steps_per_epoch, p.max_train_batches or math.inf)
    total, warmup = steps * p.epochs, round(p.warmup_epochs * steps)
    _check_rows(data, p)
    model.to(team.device, memory_format=torch.channels_last)
    wanted = set(trainable_parameters(model, tune))
    for parameter_name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter_name in wanted)
    # fused: one pass over memory in place of a dozen, a step of ResNet-18 at 48 pixels takes 3 % less for it
    rates = dict(lr=p.lr, weight_decay=p.weight_decay, filter_bias_and_bn=True, fused=True)
    optimiser = create_optimizer_v2(model, opt="adamw", **rates)
    ema = ModelEmaV3(model, decay=p.ema_decay, use_warmup=True) if p.ema_decay else None
    key, means = fit_key(p, ids), numerics(p, team)
    state, other = resume(out, key, means, model, optimiser, ema)
    stepper = Stepper(model, objective, optimiser, p, team)
    stepper.loss_sum, stepper.loss_n = state.loss_sum, state.loss_n
    main = team.rank == 0
    if main:
        write_json(out / "history.json", state.history)  # a writer that was killed may have left an epoch too many
    saved = told = time.monotonic()  # from here, so that a slow log of the start delays no checkpoint
    yield {
        "event": "start", "resumed_at_step": state.step, "epochs_done": len(state.history), "total_steps": total,
        "steps_per_epoch": steps, "warmup_steps": warmup,
    }  # fmt: skip
    for message in [*other, *_of_no_effect(p, data, warmup, total)]:
        yield {"event": "note", "level": "warning", "message": message}
    workers = loader_threads(p, team.device)
    seen = data.seen_before(state.step, steps)
    deployed = ema.module if ema is not None else model
    described = dict(
        name=name, kind=kind, model_config=model.config, contract=data.contract, training_prior=data.prior, ids=ids,
        training_data=training_data,
    )  # fmt: skip
    validation = math.inf  # seconds that the last one took

    def rate(step: int) -> float:
        return learning_rate(step, total_steps=total, warmup_steps=warmup, peak=p.lr, floor=min(p.min_lr, p.lr))

    def checkpoint(folder: str, metrics: dict[str, Any] | None = None) -> None:
        if not main:
            return
        whose = described | {"contract": data.contract.model_dump(mode="json")}
        meta = {"fit_key": key, "numerics": means, "epoch": state.step / steps, "metrics": metrics}
        meta |= {"bundle": whose, **state.__dict__}
        tensors = pack_state(model, optimiser, ema and ema.module)
        if not all(t.isfinite().all() for t in tensors.values()):  # of a finite loss, gradients may still not be
            raise diverged("a weight became infinite or not a number", state.step / steps, p)
        save_checkpoint(out / folder, tensors, meta)

    for epoch in range(len(state.history), p.epochs):  # one may have been stepped through and not yet evaluated
        started = time.monotonic()
        model.train()
        _freeze_norms(model, tune, norms)
        first = epoch * data.sampler.steps_per_epoch  # an epoch may be cut short by max_train_batches
        span = first + state.step - epoch * steps, first + steps
        sharing = dict(share=(team.rank, team.size), empty=_memory(team.device))
        with closing(train_batches(data.train, data.sampler, p.augment, *span, workers, **sharing)) as batches:
            for batch in _timed(batches, state):
                for group in optimiser.param_groups:
                    group["lr"] = rate(state.step)
                stepper(batch, state.step, state.step / steps)
                state.step += 1
                if ema is not None:
                    ema.update(model, step=state.step)
                seen[batch.step_rows] = True
                now = time.monotonic()
                if now - saved > 60 * p.checkpoint_minutes and state.step % steps:
                    state.epoch_seconds += now - started
                    started = saved = now
                    _take_losses(state, stepper)
                    checkpoint("checkpoint_last")
                if now - told > TELL_EVERY:
                    told = now
                    yield running(state, stepper, steps, total, state.epoch_seconds + now - started)
        _take_losses(state, stepper)
        state.epoch_seconds += time.monotonic() - started
        row = history_row(epoch, state, steps, rate(state.step - 1), seen, objective, p, team.device)
        numbered = (epoch + 1) % p.checkpoint_every == 0
        if main and (numbered or (epoch + 1) % p.eval_every == 0 or epoch + 1 == p.epochs):
            began = time.monotonic()
            if began - saved + validation > 60 * p.checkpoint_minutes:  # steps are not to be lost to a long validation
                checkpoint("checkpoint_last")
            row["val"], row["calibration"], best = validate(deployed, data, p, team.device, state.step / steps)
            row["val"] |= {k: ids[k] for k in ("evalset_id", "protocol_id")}
            if best["metrics"]["val_select"]["macro_f1"] > state.best:
                state.best, state.best_epoch = best["metrics"]["val_select"]["macro_f1"], epoch
                write_best(out, deployed, described, best, epoch)
            validation = time.monotonic() - began
        if warning := collapse(state.history, row):
            row["timing"]["warning"] = warning
        state.history.append(row)
        state.total_seconds += state.epoch_seconds
        state.loss_sum = stepper.loss_sum = state.epoch_seconds = state.wait_seconds = 0.0
        state.loss_n = stepper.loss_n = 0
        if main:
            write_json(out / "history.json", state.history)
        if numbered:  # before checkpoint_last, so that a kill between the two repeats the epoch and writes both
            checkpoint(f"checkpoint_epoch{epoch + 1:03d}", row["val"])
        checkpoint("checkpoint_last", row["val"])
        team.wait()
        saved = time.monotonic()
        yield {"event": "epoch", **row}
    if main:
        shutil.rmtree(out / BEFORE, ignore_errors=True)  # nothing is left to lose by a damaged checkpoint_last
    yield {"event": "end", "best_epoch": state.best_epoch, "best_macro_f1": state.best, "seconds": state.total_seconds}


def _check_rows(data: FitData, p: FitParams) -> None:
    rows, parts = len(data.sampler.rows(0)[0]), p.accum_steps * p.processes
    if rows < 2 * parts:
        raise DataError(
            f"a step has {rows} training rows for {parts} micro-batches (accum_steps x processes), and batch norm "
            "needs 2 in each: add rows, or lower accum_steps or processes"
        )


def _memory(device: torch.device):
    """Where pictures wait for their device: pinned for CUDA, which then copies them while it computes."""

    def empty(shape: tuple[int, ...]) -> np.ndarray:
        return torch.empty(shape, pin_memory=device.type == "cuda").numpy()

    return empty


def _timed(batches: Iterator[Batch], state: Progress) -> Iterator[Batch]:
    """The batches, with the time that they kept the loop waiting."""
    while True:
        asked = time.monotonic()
        batch = next(batches, None)
        state.wait_seconds += time.monotonic() - asked
        if batch is None:
            return
        yield batch


def _take_losses(state: Progress, stepper: Stepper) -> None:
    stepper.look()
    state.loss_sum, state.loss_n = stepper.loss_sum, stepper.loss_n


def _freeze_norms(model: FerClassifier, tune: str, norms: str) -> None:
    """Whose running statistics move: all norms' (``update``), none's (``frozen``), or only those of norms whose weights
    are trained (``trained``), so that frozen layers keep theirs."""
    if norms == "frozen":
        for module in model.modules():
            if isinstance(module, NORMS):
                module.eval()
    if tune == "all" or norms != "trained":
        return
    for module in model.backbone.modules():
        own = list(module.parameters(recurse=False))
        if own and not any(q.requires_grad for q in own):
            module.eval()


def _of_no_effect(p: FitParams, data: FitData, warmup: int, total: int) -> list[str]:
    """What was asked for and can't come about, and what the rows can't teach."""
    found = []
    if absent := [e for e, n in zip(EMOTIONS, data.class_counts, strict=True) if n == 0]:
        found.append(
            f"no training row is {' or '.join(absent)}: a model of these rows never learns to say so; add a source "
            "that has such faces, or look at include_sources and exclude_sources"
        )
    if warmup >= total:
        found.append(
            f"warmup_epochs {p.warmup_epochs:g} of {p.epochs} epochs: lr {p.lr:g} is never reached; set it lower"
        )
    if p.soft_label_weight and not data.rows_with_votes:
        found.append(
            f"soft_label_weight {p.soft_label_weight:g}: no training row has annotators' votes, so labels alone are "
            "learned from; import a set that has votes (FERPlus), or set it to 0"
        )
    return found
