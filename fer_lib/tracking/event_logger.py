"""Writes training events to a run: MLflow metrics, the progress that the terminal shows, warnings as a tag."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fer_lib.storage.json_files import read_json
from fer_lib.storage.paths import below, home
from fer_lib.storage.progress import Step, step
from fer_lib.tracking.records import epoch_line, numbers

LIVE_SECONDS = 30.0  # between two MLflow writes during an epoch


class EventLogger:
    """Writes the events of one fit to ``run`` (a :class:`runs.PhaseRun`); ``echo`` prints them too."""

    def __init__(self, run, echo: bool = True):
        self.run, self.echo = run, echo
        self.epochs: int | None = None
        self.fit: Step | None = None  # the step that the terminal shows, open while the fit runs
        self.val: dict[str, float] = {}  # macro-F1 of the last validation
        self.last_live = time.monotonic()  # time of the last MLflow write during an epoch

    def follow(self, events: Iterable[dict[str, Any]]) -> dict[str, Any]:
        """Consume the events, with one MLflow call per epoch, close their source and return the last event.

        Events by name:
            start: ``total_steps``, ``steps_per_epoch``.  ``starting_weights.json`` becomes tags ``fer.weights.*``.
                When ``resumed_at_step`` is not 0, the first ``epochs_done`` rows of ``history.json`` are logged.
            step: ``epoch`` (a fraction), ``step``, ``loss``, ``images_per_sec``.
            epoch: ``epoch`` and nested numbers; ``timing.warning`` is treated as a warning note.
            note: ``message``; ``level="warning"`` also sets a tag of the run.
            end: nested numbers, logged without a step.
        """
        handlers = {name: getattr(self, f"_{name}") for name in ("start", "step", "epoch", "note", "end")}
        last: dict[str, Any] = {}
        with ExitStack() as self._steps:
            try:
                for last in events:
                    handlers[last["event"]](last)
            finally:
                if hasattr(events, "close"):  # stop the fit when logging has failed
                    events.close()
        return last

    def _start(self, event: dict[str, Any]) -> None:
        self.steps_per_epoch = max(1, event.get("steps_per_epoch", 1))
        self.epochs = event.get("total_steps", 0) // self.steps_per_epoch or None
        weights = self.run.output_dir / "starting_weights.json"
        if weights.is_file():  # logged at the start, so that a killed run has the tags too
            record = {k: v for k, v in read_json(weights).items() if k != "training_data"}
            if Path(record["origin"]).is_absolute():  # so that a checkout can be moved
                record["origin"] = below(Path(record["origin"]), home())
            record |= {k: v for k, v in record.pop("provenance", {}).items() if k != "origin"}
            self.run.tags(**{f"fer.weights.{k.removeprefix('weights_')}": v for k, v in record.items()})
        if event.get("resumed_at_step"):  # this MLflow run is new: log the epochs before the interruption
            echo, self.echo = self.echo, False
            for row in read_json(self.run.output_dir / "history.json"):
                if row["epoch"] < event["epochs_done"]:
                    self._epoch(row)
            self.echo = echo
        resumed = event.get("resumed_at_step", 0)
        epoch = resumed / self.steps_per_epoch
        opened = step("epoch", event.get("total_steps"), "images", resumed, self._position(epoch))
        self.fit = self._steps.enter_context(opened)
        self._show(epoch, resumed)

    def _show(self, epoch: float, done: int, loss: float | None = None, rate: float | None = None) -> None:
        """Show the position of the fit: ``epoch`` (a fraction) and ``done`` steps."""
        if self.fit is None:
            return
        figures = {} if loss is None else {"loss": loss}
        self.run.progress_fields = {"epoch": epoch, "epochs": self.epochs}
        self.fit.update(done, text=self._position(epoch), rate=rate, figures=figures | self.val)

    def _position(self, epoch: float) -> str:
        number = int(epoch) + 1 if self.epochs is None else min(int(epoch) + 1, self.epochs)
        return f"epoch {number}/{self.epochs or '?'}"

    def _step(self, event: dict[str, Any]) -> None:
        values = {key: event[key] for key in ("loss", "images_per_sec") if key in event}
        self._show(event["epoch"], event["step"], values.get("loss"), values.get("images_per_sec"))
        if values and time.monotonic() - self.last_live > LIVE_SECONDS:
            self.last_live = time.monotonic()
            self.run.metrics({"live": values}, step=event["step"])

    def _epoch(self, row: dict[str, Any]) -> None:
        values = numbers({key: value for key, value in row.items() if key not in ("event", "epoch")})
        self.run.metrics(values, step=int(row["epoch"]))
        if "val/macro_f1" in values:
            self.val = {"val": values["val/macro_f1"]}
        if self.fit is not None:
            done = (int(row["epoch"]) + 1) * self.steps_per_epoch
            self._show(row["epoch"], done, values.get("train/loss"), values.get("timing/images_per_sec"))
        if self.echo:
            print(epoch_line(int(row["epoch"]), self.epochs, values), flush=True)
        if warning := row.get("timing", {}).get("warning"):
            self._note({"message": warning, "level": "warning"})

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("level") == "warning":
            self.run.warn(event["message"], self.echo)
        elif self.echo:
            print(event["message"], flush=True)

    def _end(self, event: dict[str, Any]) -> None:
        self.run.metrics({key: value for key, value in event.items() if key != "event"})
