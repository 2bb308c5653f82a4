"""Terminal output while phases run: a bar, one line per phase, and a table at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from fer_lib.storage.json_files import try_read_json


class _Live(ProgressColumn):
    """The progress line of a running phase, read from ``progress.json``."""

    def render(self, task) -> Text:
        folder = task.fields.get("folder")
        progress = try_read_json(folder / "progress.json") if folder else None
        return Text(progress["text"] if progress else "", style="dim")


class PhaseBar:
    """A bar for all phases and a line per running phase; without a terminal, a line per finished phase."""

    def __init__(self, console, name: str, total: int):
        self.console, self.name, self.total, self.finished = console, name, total, 0
        self.lines: dict[int, Any] = {}
        self.reported: set[Path] = set()
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(bar_width=24),
                   TextColumn("{task.fields[count]}"), TimeElapsedColumn(), _Live())  # fmt: skip
        options = {"console": console, "transient": True, "refresh_per_second": 4}
        self.progress = Progress(*columns, **options, disable=not console.is_terminal)

    def __enter__(self) -> PhaseBar:
        self.progress.start()
        self.overall = self.progress.add_task(self.name, total=self.total, folder=None, count=f"0/{self.total}")
        return self

    def __exit__(self, *error) -> None:
        self.progress.stop()

    def start(self, result) -> None:
        """Add a line for a phase that starts."""
        line = self.progress.add_task(f"  {_title(result)}", total=None, folder=result.folder, count="")
        self.lines[id(result)] = line

    def finish(self, result) -> None:
        """Replace the line of a phase that has ended by its status."""
        self.progress.remove_task(self.lines.pop(id(result)))
        self._advance(result, f"{result.status} ({result.seconds:.1f} s)")

    def skip(self, result) -> None:
        """Count a phase that did not have to run; printed once when combinations of a sweep share it."""
        self._advance(result, "" if result.folder in self.reported else result.status)

    def stop(self, error: Exception, running: int) -> None:
        """Print why no more phases start while others still run."""
        if running:
            message = f"{error}\nno more phases start; waiting for {running} running phase{'s' * (running > 1)}"
            self.console.print(message, style="red", markup=False, highlight=False)

    def _advance(self, result, status: str) -> None:
        self.finished += 1
        self.reported.add(result.folder)
        self.progress.update(self.overall, completed=self.finished, count=f"{self.finished}/{self.total}")
        if status:
            message = f"[{self.finished}/{self.total}] {_title(result)}: {status}"
            self.console.print(message, markup=False, highlight=False)


def _title(result) -> str:
    return f"{result.phase.name} ({result.label})" if result.label else result.phase.name


def format_value(value: Any) -> str:
    """A headline value for people."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def result_table(name: str, results: list) -> Table:
    """A table of phase, status, seconds and headline."""
    table = Table(title=name, title_justify="left")
    for column, options in (("phase", {}), ("status", {}), ("seconds", {"justify": "right"}), ("headline", {})):
        table.add_column(column, **options)
    for result in results:
        headline = ", ".join(f"{key} {format_value(value)}" for key, value in result.headline.items())
        table.add_row(result.phase.name, result.status, f"{result.seconds:.1f}", headline)
    return table
