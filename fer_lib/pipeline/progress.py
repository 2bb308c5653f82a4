"""What the terminal shows while work runs: one line per running phase or command, and a table at the end."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fer_lib.storage import progress
from fer_lib.storage.json_files import try_read_json

BAR_WIDTH = 24
FIGURES = 54  # columns for "100 %  epoch 12/60  loss 2.06  val 0.41  1:02:03 left" behind the name
MIN_NAME = 12  # characters that a name keeps on a narrow terminal
LINE_SECONDS = 30.0  # between two lines of the same work when the output is no terminal


class Line:
    """One line: name, percent, what is being done, time left.  Its columns only ever widen, so they do not jump."""

    def __init__(self, name: str, read: Callable[[], dict[str, Any] | None], waiting: str):
        self.name, self.read, self.waiting = name, read, waiting
        self.record: dict[str, Any] | None = None
        self.record_time = self.last_print = time.monotonic()
        self.widths: dict[str, int] = {}

    def parts(self) -> tuple[int | None, list[str], str]:
        """(percent, parts of the text, time left), each empty where it is not known."""
        if (record := self.read() or self.record) != self.record:
            self.record, self.record_time = record, time.monotonic()
        if record is None:
            return None, [self.waiting], ""
        left = progress.seconds_left(record, time.monotonic() - self.record_time)
        clock = "" if left is None else f"{progress.format_clock(left)} left"
        return progress.percent(record), record["text"].split("  "), clock

    def padded(self, width: int, name_width: int) -> str:
        """The line for a terminal of ``width`` columns: never wider, and the name in a column of ``name_width``."""
        share, parts, left = self.parts()
        name_width = min(name_width, max(MIN_NAME, width - FIGURES))
        head = f"{shorten(self.name, name_width):<{name_width}} {'' if share is None else f'{share} %':>5}"
        cells, room = [part.ljust(self._column(part)) for part in parts], width - len(head) - bool(left) * len(left) - 4
        while len(cells) > 1 and len("  ".join(cells)) > room:  # rates go first
            rates = [index for index, cell in enumerate(cells) if cell.rstrip().endswith("/s")]
            del cells[rates[-1] if rates else -1]
        cells[0] = shorten(cells[0], max(MIN_NAME, room))
        return "  ".join([head, *cells, left])[:width].rstrip()

    def plain(self) -> str:
        """``teacher 30 %  epoch 2/6  loss 2.06  val 0.41  1:20 left``."""
        share, parts, left = self.parts()
        name = self.name if share is None else f"{self.name} {share} %"
        return "  ".join([name, *parts, *[left] * bool(left)])

    def _column(self, part: str) -> int:
        kind = re.sub(r"[\d.,/]+", "", part)  # "loss 2.06" and "loss 0.054" share a column
        self.widths[kind] = max(self.widths.get(kind, 0), len(part))
        return self.widths[kind]


def shorten(name: str, width: int) -> str:
    """``name`` in at most ``width`` characters, cut in the middle: a sweep's label ends with what differs."""
    if len(name) <= width:
        return name
    return f"{name[: (width - 1) // 2]}…{name[len(name) - width // 2 :]}"


class Display:
    """Lines that a terminal redraws; other outputs get a line of text per line and ``LINE_SECONDS``."""

    indent = 0

    def __init__(self, console: Console):
        self.console = console
        self.lines: dict[int, Line] = {}
        self._end = threading.Event()

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            # stdout is a result that may be piped: while the display is on stderr, it stays as it is
            self._live = Live(console=self.console, get_renderable=self._render, transient=True, refresh_per_second=4,
                              redirect_stdout=not self.console.stderr)  # fmt: skip
            self._live.start()
        else:
            self._thread = threading.Thread(target=self._print_lines, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        if self.console.is_terminal:
            self._live.stop()
        else:
            self._end.set()
            self._thread.join()

    def print(self, message: str, **options: Any) -> None:
        """Print a line that stays, above those that are redrawn."""
        self.console.print(message, markup=False, highlight=False, soft_wrap=not self.console.is_terminal, **options)

    def _render(self) -> Group:
        width = self.console.width - self.indent
        lines = list(self.lines.values())
        longest = max((len(line.name) for line in lines), default=0)
        rows = [Text(" " * self.indent + line.padded(width, longest), no_wrap=True) for line in lines]
        return Group(*self._head(), *rows)

    def _head(self) -> list[Text]:
        return []

    def _print_lines(self) -> None:
        while not self._end.wait(min(1.0, LINE_SECONDS)):
            for line in list(self.lines.values()):
                if time.monotonic() - line.last_print >= LINE_SECONDS:
                    line.last_print = time.monotonic()
                    self.print(line.plain())


@contextmanager
def show_progress(name: str) -> Iterator[None]:
    """Show the steps of this process on stderr while the block runs."""
    last: dict[str, Any] = {}
    with Display(Console(stderr=True)) as display, progress.observed_by(last.update):
        display.lines[0] = Line(name, lambda: dict(last) or None, "starting")
        yield


class PhaseBar(Display):
    """A bar for all phases and a line per running phase; without a terminal, a line when a phase starts and ends."""

    indent = 2

    def __init__(self, console: Console, name: str, total: int):
        super().__init__(console)
        self.name, self.total, self.finished, self.began = name, total, 0, time.monotonic()
        self.reported: set[Path] = set()

    def start(self, task) -> None:
        """Add a line for a phase that starts."""
        title, folder = _title(task), task.folder
        earlier = _time_written(folder)  # what an interrupted attempt left says nothing about this one

        def read() -> dict[str, Any] | None:
            return try_read_json(folder / "progress.json") if _time_written(folder) != earlier else None

        self.lines[id(task)] = Line(title, read, "starting kernel")
        if not self.console.is_terminal:
            self.print(f"{title}: starting")

    def finish(self, task) -> None:
        """Replace the line of a phase that has ended by its status."""
        del self.lines[id(task)]
        self._advance(task, f"{task.status} ({task.seconds:.1f} s)")

    def skip(self, task) -> None:
        """Count a phase that did not have to run; printed once when combinations of a sweep share it."""
        self._advance(task, "" if task.folder in self.reported else task.status)

    def stop(self, error: Exception, running: int) -> None:
        """Print why no more phases start while others still run."""
        if running:
            message = f"{error}\nno more phases start; waiting for {running} running phase{'s' * (running > 1)}"
            self.print(message, style="red")

    def _advance(self, task, status: str) -> None:
        self.finished += 1
        self.reported.add(task.folder)
        if status:
            self.print(f"[{self.finished}/{self.total}] {_title(task)}: {status}")

    def _head(self) -> list[Text]:
        filled = BAR_WIDTH * self.finished // max(1, self.total)
        count, clock = f"{self.finished}/{self.total}", progress.format_clock(time.monotonic() - self.began)
        bar = Text("━" * filled, style="green") + Text("━" * (BAR_WIDTH - filled), style="bright_black")
        name = shorten(self.name, self.console.width - BAR_WIDTH - len(count) - len(clock) - 6)
        return [Text(f"{name} ", no_wrap=True) + bar + Text(f"  {count}  {clock}")]


def _time_written(folder: Path) -> int | None:
    try:
        return (folder / "progress.json").stat().st_mtime_ns
    except OSError:
        return None


def _title(task) -> str:
    return f"{task.phase.name} ({task.label})" if task.label else task.phase.name


def format_value(value: Any) -> str:
    """A headline value for people."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def result_table(name: str, tasks: list) -> Table:
    """A table of phase, status, seconds and headline."""
    table = Table(title=name, title_justify="left")
    for column, options in (("phase", {}), ("status", {}), ("seconds", {"justify": "right"}), ("headline", {})):
        table.add_column(column, **options)
    for task in tasks:
        headline = ", ".join(f"{key} {format_value(value)}" for key, value in task.headline.items())
        table.add_row(task.phase.name, task.status, f"{task.seconds:.1f}", headline)
    return table
