"""Training events into a run: MLflow's curves, the line that ``fer run`` shows, warnings as a tag."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from fer_lib.storage.json_files import read_json
from fer_lib.tracking.records import epoch_line, numbers, write_progress

LIVE_SECONDS = 30.0  # between two figures of a running epoch in MLflow


class EventLogger:
    """Writes the events of one fit into ``run`` (a :class:`fer_lib.tracking.runs.PhaseRun`); ``echo``: prints them."""

    def __init__(self, run, echo: bool = True):
        self.run, self.echo = run, echo
        self.epochs: int | None = None
        self.told = time.monotonic()  # when figures of a running epoch last went to MLflow

    def follow(self, events: Iterable[dict[str, Any]]) -> dict[str, Any]:
        """Consume the events (one call to MLflow an epoch) and return the last one; then their source is closed.

        ``start`` (``total_steps``, ``steps_per_epoch``; the folder's ``starting_weights.json`` becomes tags
        ``fer.weights.*``; ``resumed_at_step``: when it is not 0, the first ``epochs_done`` rows of the folder's
        ``history.json`` are written), ``step`` (how far an epoch is), ``epoch``
        (``epoch`` and nested numbers; ``timing.warning``: a note), ``note`` (``message``; ``level="warning"`` also
        becomes a tag of the run), ``end`` (nested numbers, written without a step).
        """
        take = {"start": self._start, "step": self._step, "epoch": self._epoch, "note": self._note, "end": self._end}
        last: dict[str, Any] = {}
        try:
            for last in events:
                take[last["event"]](last)
        finally:
            if hasattr(events, "close"):  # a fit whose log failed must not train on unseen
                events.close()
        return last

    def _start(self, event: dict[str, Any]) -> None:
        self.epochs = event.get("total_steps", 0) // max(1, event.get("steps_per_epoch", 1)) or None
        began = self.run.output_dir / "starting_weights.json"
        if began.is_file():  # now, so that a run that is killed says too what it began from
            origin = {k: v for k, v in read_json(began).items() if k != "training_data"}
            self.run.tags(**{f"fer.weights.{k.removeprefix('weights_')}": v for k, v in origin.items()})
        if event.get("resumed_at_step"):  # this run is a new one: give it the epochs before the interruption
            echo, self.echo = self.echo, False
            for row in read_json(self.run.output_dir / "history.json"):
                if row["epoch"] < event["epochs_done"]:
                    self._epoch(row)
            self.echo = echo

    def _step(self, event: dict[str, Any]) -> None:
        shown = {key: event[key] for key in ("loss", "images_per_sec") if key in event}
        figures = "  ".join(f"{key} {value:.4g}" for key, value in shown.items())
        line = f"epoch {event['epoch']:.2f} of {self.epochs or '?'}  {figures}"
        write_progress(self.run.output_dir, epoch=event["epoch"], epochs=self.epochs, text=line)
        if shown and time.monotonic() - self.told > LIVE_SECONDS:
            self.told = time.monotonic()
            self.run.metrics({"live": shown}, step=event["step"])

    def _epoch(self, row: dict[str, Any]) -> None:
        values = numbers({key: value for key, value in row.items() if key not in ("event", "epoch")})
        self.run.metrics(values, step=int(row["epoch"]))
        line = epoch_line(int(row["epoch"]), self.epochs, values)
        write_progress(self.run.output_dir, epoch=row["epoch"], epochs=self.epochs, text=line)
        if self.echo:
            print(line, flush=True)
        if warning := row.get("timing", {}).get("warning"):
            self._note({"message": warning, "level": "warning"})

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("level") == "warning":
            self.run.warn(event["message"], self.echo)
        elif self.echo:
            print(event["message"], flush=True)

    def _end(self, event: dict[str, Any]) -> None:
        self.run.metrics({key: value for key, value in event.items() if key != "event"})
