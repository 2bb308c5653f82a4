"""What a person sees while phases run: a bar, a line a phase, a table at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text


class _Live(ProgressColumn):
    """The newest line of a running phase (``progress.json``, which the notebook writes as it goes)."""

    def render(self, task) -> Text:
        folder = task.fields.get("folder")
        try:
            text = json.loads((folder / "progress.json").read_text(encoding="utf-8"))["text"] if folder else ""
        except (OSError, ValueError, KeyError):  # not written yet: there is nothing to show
            text = ""
        return Text(text, style="dim")


class PhaseBar:
    """A bar over all phases and below it a line for each that runs; no terminal: the line that each phase ends with."""

    def __init__(self, console, name: str, total: int):
        self.console, self.name, self.total, self.ended = console, name, total, 0
        self.lines: dict[int, Any] = {}
        self.said: set[Path] = set()
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(bar_width=24),
                   TextColumn("{task.fields[count]}"), TimeElapsedColumn(), _Live())  # fmt: skip
        options = {"console": console, "transient": True, "refresh_per_second": 4}
        self.progress = Progress(*columns, **options, disable=not console.is_terminal)

    def __enter__(self) -> PhaseBar:
        self.progress.start()
        self.whole = self.progress.add_task(self.name, total=self.total, folder=None, count=f"0/{self.total}")
        return self

    def __exit__(self, *error) -> None:
        self.progress.stop()

    def begin(self, outcome) -> None:
        """A phase begins."""
        line = self.progress.add_task(f"  {_title(outcome)}", total=None, folder=outcome.folder, count="")
        self.lines[id(outcome)] = line

    def end(self, outcome) -> None:
        """It ended, one way or another."""
        self.progress.remove_task(self.lines.pop(id(outcome)))
        self._count(outcome, f"{outcome.status} ({outcome.seconds:.1f} s)")

    def settled(self, outcome) -> None:
        """It did not have to run: said once, also when several combinations of a sweep share it."""
        self._count(outcome, "" if outcome.folder in self.said else outcome.status)

    def refused(self, error: Exception, running: int) -> None:
        """Nothing more begins: said at once where phases that run already go on for a while."""
        if running:
            said = f"{error}\nnothing more is begun; waiting for {running} running phase{'s' * (running > 1)}"
            self.console.print(said, style="red", markup=False, highlight=False)

    def _count(self, outcome, what: str) -> None:
        self.ended += 1
        self.said.add(outcome.folder)
        self.progress.update(self.whole, completed=self.ended, count=f"{self.ended}/{self.total}")
        if what:
            said = f"[{self.ended}/{self.total}] {_title(outcome)}: {what}"
            self.console.print(said, markup=False, highlight=False)


def _title(outcome) -> str:
    return f"{outcome.phase.name} ({outcome.label})" if outcome.label else outcome.phase.name


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
