"""The training loop: steps, validation, checkpoints and the best bundle.  It yields events and does not log.

Every random draw, dropout included, is a function of (seed, step, sample).  A run that was killed and resumed therefore
ends with the weights of an unbroken run.
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
from timm.optim import create_optimizer_v2, param_groups_weight_decay
from timm.utils import ModelEmaV3

from fer_lib.datasets.batches import Batch, train_batches
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.models.classifier import NORMS, FerClassifier, trainable_parameters
from fer_lib.params import FitParams
from fer_lib.storage.atomic import write_json
from fer_lib.training.checkpoint import BEFORE, LAST, pack_state, save_checkpoint
from fer_lib.training.distributed import SingleProcess
from fer_lib.training.fit_inputs import FitData, loader_threads
from fer_lib.training.nested import BlockUpdates, PrototypeObjective
from fer_lib.training.progress import Progress, history_row, idle_warnings, slow_epoch_warning, step_event
from fer_lib.training.resume_check import fit_key, numerics, resume
from fer_lib.training.step import Objective, Stepper, divergence_error
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
    context: SingleProcess,
    tune: str = "all",
    norms: str = "trained",
) -> Iterator[dict[str, Any]]:
    """Train ``model``; yields ``start``, ``step`` (every few seconds), ``note``, ``epoch`` ... and ``end`` events.

    Writes to ``out``: ``best/`` (the bundle with the highest macro-F1 on val/select, its temperature fitted on
    val/temperature, and the exposure record of ``out``, if any), ``checkpoint_last``, the numbered checkpoints and
    ``history.json``.  A ``checkpoint_last`` of the same parameters is resumed.

    ``training_data`` goes into the bundles.  ``norms``: whose running statistics are updated.  Every process of
    ``context`` runs this; only rank 0 validates and writes.
    Raises FerError when the loss is not finite, when the checkpoint belongs to other parameters, or when a step has too
    few rows.
    """
    steps = min(data.sampler.steps_per_epoch, p.max_train_batches or math.inf)
    total, warmup = steps * p.epochs, round(p.warmup_epochs * steps)
    _check_rows(data, p)
    model.to(context.device, memory_format=torch.channels_last)
    trainable = set(trainable_parameters(model, tune))
    for parameter_name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter_name in trainable)
    options = dict(lr=p.lr, weight_decay=p.weight_decay, filter_bias_and_bn=True)
    if p.optimizer == "sgd":  # timm's has Nesterov momentum; a fused one needs a gradient of each weight at step 1
        options["momentum"] = p.momentum
    else:  # fused: one pass over memory instead of a dozen; a step of ResNet-18 at 48 pixels takes 3 % less time
        options["fused"] = True
    optimiser = create_optimizer_v2(model, opt=p.optimizer, **options)
    updates = BlockUpdates(model, optimiser, p) if p.nested.kind == "blocks" else None
    training_state = objective.state | (updates.state if updates else {})
    if isinstance(objective, PrototypeObjective):
        for group in param_groups_weight_decay(objective.prototypes, p.weight_decay):
            optimiser.add_param_group(group)
    ema = ModelEmaV3(model, decay=p.ema_decay, use_warmup=True) if p.ema_decay else None
    key, current_numerics = fit_key(p, ids), numerics(p, context)
    state, warnings = resume(out, key, current_numerics, model, optimiser, ema, training_state)
    stepper = Stepper(model, objective, optimiser, p, context, updates, state)
    main = context.is_main_process
    if main:
        write_json(out / "history.json", state.history)  # a killed writer may have left one epoch more
    last_save = last_event = time.monotonic()  # before the first yield: a slow consumer delays no checkpoint
    yield {
        "event": "start", "resumed_at_step": state.step, "epochs_done": len(state.history), "total_steps": total,
        "steps_per_epoch": steps, "warmup_steps": warmup,
    }  # fmt: skip
    idle = [message for row in state.history for message in idle_warnings(p, row)]  # a resumed fit repeats these
    for message in [*warnings, *_setting_warnings(p, data, warmup, total), *idle]:
        yield {"event": "note", "level": "warning", "message": message}
    workers = loader_threads(p, context.device)
    coverage = data.coverage(state.step, steps)
    deployed = ema.module if ema is not None else model
    fields = dict(
        name=name, kind=kind, model_config=model.config, contract=data.contract, training_prior=data.prior, ids=ids,
        training_data=training_data,
    )  # fmt: skip
    validation_seconds = math.inf  # of the last validation
    pinned = context.device.type == "cuda"  # a GPU copies pinned memory while it computes

    def empty(shape: tuple[int, ...]) -> np.ndarray:
        return torch.empty(shape, pin_memory=pinned).numpy()

    def rate(step: int) -> float:
        return learning_rate(step, total_steps=total, warmup_steps=warmup, peak=p.lr, floor=min(p.min_lr, p.lr))

    def checkpoint(folder: str, metrics: dict[str, Any] | None = None) -> None:
        if not main:
            return
        bundle = fields | {"contract": data.contract.model_dump(mode="json")}
        meta = {"fit_key": key, "numerics": current_numerics, "epoch": state.step / steps, "metrics": metrics}
        meta |= {"bundle": bundle, **state.__dict__}
        tensors = pack_state(model, optimiser, ema and ema.module, training_state)
        if not all(t.isfinite().all() for t in tensors.values()):  # a finite loss can have gradients that are not
            raise divergence_error("a weight became infinite or not a number", state.step / steps, p)
        save_checkpoint(out / folder, tensors, meta)

    for epoch in range(len(state.history), p.epochs):  # a resumed epoch may have all its steps and no validation yet
        start = time.monotonic()
        model.train()
        _freeze_norms(model, tune, norms)
        first = epoch * data.sampler.steps_per_epoch  # max_train_batches may end an epoch early
        span = first + state.step - epoch * steps, first + steps
        options = dict(share=(context.process_index, context.num_processes), empty=empty)
        with closing(train_batches(data.train, data.sampler, p.augment, *span, workers, **options)) as batches:
            for batch in _count_waits(batches, state):
                for group in optimiser.param_groups:
                    group["lr"] = rate(state.step) * group.get("lr_scale", 1.0)
                stepper(batch, state.step, state.step / steps)
                state.step += 1
                if ema is not None:
                    ema.update(model, step=state.step)
                coverage[batch.step_rows] = True
                now = time.monotonic()
                if now - last_save > 60 * p.checkpoint_minutes and state.step % steps:
                    state.epoch_seconds += now - start
                    start = last_save = now
                    stepper.collect_losses()
                    checkpoint(LAST)
                if now - last_event > TELL_EVERY:
                    last_event = now
                    yield step_event(state, steps, total, state.epoch_seconds + now - start)
        stepper.collect_losses()
        state.epoch_seconds += time.monotonic() - start
        row = history_row(epoch, state, steps, rate(state.step - 1), coverage, objective, p, context.device)
        if updates is not None:
            row["train"] |= updates.figures(state.step - steps, state.step)
        numbered = (epoch + 1) % p.checkpoint_every == 0
        if main and (numbered or (epoch + 1) % p.eval_every == 0 or epoch + 1 == p.epochs):
            start = time.monotonic()
            if start - last_save + validation_seconds > 60 * p.checkpoint_minutes:  # a kill must not lose these steps
                checkpoint(LAST)
            row["val"], row["calibration"], best = validate(deployed, data, p, context.device, state.step / steps)
            row["val"] |= {k: ids[k] for k in ("evalset_id", "protocol_id")}
            if best["metrics"]["val_select"]["macro_f1"] > state.best:
                state.best, state.best_epoch = best["metrics"]["val_select"]["macro_f1"], epoch
                write_best(out, deployed, fields, best, epoch)
            validation_seconds = time.monotonic() - start
        if warning := slow_epoch_warning(state.history, row):
            row["timing"]["warning"] = warning
        state.history.append(row)
        state.total_seconds += state.epoch_seconds
        state.loss_sum = state.epoch_seconds = state.wait_seconds = 0.0
        state.loss_n = 0
        if main:
            write_json(out / "history.json", state.history)
        if numbered:  # before checkpoint_last: after a kill between the two, the resumed run writes both
            checkpoint(f"checkpoint_epoch{epoch + 1:03d}", row["val"])
        checkpoint(LAST, row["val"])
        context.wait_for_everyone()
        last_save = time.monotonic()
        yield {"event": "epoch", **row}
        for message in idle_warnings(p, row):
            yield {"event": "note", "level": "warning", "message": message}
    if main:
        shutil.rmtree(out / BEFORE, ignore_errors=True)  # a finished fit no longer needs it
    yield {"event": "end", "best_epoch": state.best_epoch, "best_macro_f1": state.best, "seconds": state.total_seconds}


def learning_rate(step: int, *, total_steps: int, warmup_steps: int, peak: float, floor: float) -> float:
    """Linear warm-up to ``peak`` over ``warmup_steps``, then a cosine to ``floor`` at the last of ``total_steps``."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    span = max(1, total_steps - 1 - warmup_steps)
    progress = min(1.0, (step - warmup_steps) / span)
    return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def _check_rows(data: FitData, p: FitParams) -> None:
    rows, parts = len(data.sampler.rows(0)[0]), p.accum_steps * p.processes
    if rows < 2 * parts:
        raise DataError(
            f"a step has {rows} training rows for {parts} micro-batches (accum_steps x processes), and batch norm "
            "needs 2 in each: add rows, or lower accum_steps or processes"
        )


def _count_waits(batches: Iterator[Batch], state: Progress) -> Iterator[Batch]:
    """The batches; the time that the loop waits for them is added to ``state.wait_seconds``."""
    while True:
        start = time.monotonic()
        batch = next(batches, None)
        state.wait_seconds += time.monotonic() - start
        if batch is None:
            return
        yield batch


def _freeze_norms(model: FerClassifier, tune: str, norms: str) -> None:
    """Put the norms whose running statistics must not change into eval mode.

    ``norms``: ``update`` lets all norms change, ``frozen`` none, ``trained`` those of the backbone whose weights are
    trained and those behind the backbone.
    """
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


def _setting_warnings(p: FitParams, data: FitData, warmup: int, total: int) -> list[str]:
    """Warnings about settings without effect and about classes without training rows."""
    warnings = []
    if absent := [e for e, n in zip(EMOTIONS, data.class_counts, strict=True) if n == 0]:
        warnings.append(
            f"no training row has the label {' or '.join(absent)}: the model can't learn to predict it; add a source "
            "with such faces, or check include_sources and exclude_sources"
        )
    if warmup >= total:
        warnings.append(
            f"warmup_epochs {p.warmup_epochs:g} of {p.epochs} epochs: lr {p.lr:g} is never reached; set it lower"
        )
    if p.balance_sources and len(sources := np.unique(data.sampler.sources)) == 1:
        warnings.append(f"balance_sources: all training rows are of {sources[0]}, so there is nothing to balance")
    if p.soft_label_weight and not data.rows_with_votes:
        warnings.append(
            f"soft_label_weight {p.soft_label_weight:g}: no training row has annotator votes, so the targets are the "
            "labels alone; import a data set with votes (FERPlus), or set it to 0"
        )
    return warnings
