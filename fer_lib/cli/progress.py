"""What a person sees while phases run: a bar, a line a phase, a table at the end."""

from __future__ import annotations

import json
import time
from typing import Any

from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text


class _Live(ProgressColumn):
    """The newest line of the running phase (``progress.json``, which the notebook writes once an epoch)."""

    def render(self, task) -> Text:
        folder = task.fields.get("folder")
        try:
            text = json.loads((folder / "progress.json").read_text(encoding="utf-8"))["text"] if folder else ""
        except (OSError, ValueError, KeyError):  # not written yet: there is nothing to show
            text = ""
        return Text(text, style="dim")


class PhaseBar:
    """A progress bar over phases; where the output is no terminal, only the line that each phase ends with."""

    def __init__(self, console, total: int):
        self.console, self.total, self.number = console, total, 0
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24),
                   TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn(), _Live())  # fmt: skip
        options = {"console": console, "transient": True, "refresh_per_second": 4}
        self.progress = Progress(*columns, **options, disable=not console.is_terminal)

    def __enter__(self) -> PhaseBar:
        self.progress.start()
        self.task = self.progress.add_task("", total=self.total, folder=None)
        return self

    def __exit__(self, *error) -> None:
        self.progress.stop()

    def begin(self, outcome) -> None:
        """A phase begins."""
        self.began = time.time()
        self.number += 1
        self.progress.update(self.task, description=outcome.phase.name, folder=outcome.folder)

    def end(self, outcome) -> None:
        """It ended, one way or another."""
        self.progress.update(self.task, advance=1, folder=None)
        line = f"[{self.number}/{self.total}] {outcome.phase.name}: {outcome.status} ({time.time() - self.began:.1f} s)"
        self.console.print(line, markup=False, highlight=False)


def shown(value: Any) -> str:
    """A headline value as a person reads it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def outcome_table(name: str, outcomes: list) -> Table:
    """Phase, status, seconds, headline."""
    table = Table(title=name, title_justify="left")
    for column, options in (("phase", {}), ("status", {}), ("seconds", {"justify": "right"}), ("headline", {})):
        table.add_column(column, **options)
    for outcome in outcomes:
        headline = ", ".join(f"{key} {shown(value)}" for key, value in outcome.headline.items())
        table.add_row(outcome.phase.name, outcome.status, f"{outcome.seconds:.1f}", headline)
    return table
