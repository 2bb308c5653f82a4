"""Progress of long work: code opens a step and updates it; one observer of the process writes or shows the steps.

    with step("packing faces", total=2840, unit="faces") as packing:
        packing.update(1200)

Without an observer this costs nothing.  Steps may be nested: the outermost with a total gives percent and time left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

INTERVAL = 0.25  # seconds between two calls of the observer
MEASURED = 1.0  # seconds of work before its rate means something

UNCOUNTED = dict.fromkeys(("text", "done", "total", "first", "seconds", "age"))

T = TypeVar("T")
_steps: list[Step] = []  # open steps of this process, outermost first
_relayed: dict[str, Any] | None = None  # the record of another process that works for this one
_observer: Callable[[dict[str, Any]], None] | None = None
_last_call = 0.0
_is_late = False  # whether the observer has not seen the last change


@dataclass(eq=False)
class Step:
    """Work on ``total`` things (None: unknown), of which ``done`` are done.

    ``unit`` names the things in the rate; "" shows no rate.  ``text`` replaces ``name`` and count, ``rate`` replaces
    the measured rate, and ``figures`` (name -> number) follow the text.
    """

    name: str
    total: int | None = None
    unit: str = ""
    done: int = 0  # a resumed step begins with what earlier attempts did, which its rate leaves out
    text: str = ""
    rate: float | None = None
    figures: dict[str, float] = field(default_factory=dict)
    was_observed: bool = False

    def __post_init__(self):
        self.first, self.start = self.done, time.monotonic()
        self.updated = self.start

    def update(self, done: int, total: int | None = None, **changes: Any) -> None:
        """Set ``done`` and other fields.  May be called for every row."""
        if done != self.done:
            self.done, self.updated = done, time.monotonic()
        self.total = self.total if total is None else total
        for name, value in changes.items():
            setattr(self, name, value)
        _observe()

    def parts(self) -> list[str]:
        """``["packing faces 1,200/2,840", "850 faces/s"]``."""
        count = f"{self.done:,}/{self.total:,}" if self.total else f"{self.done:,}" if self.done else ""
        parts = [self.text or f"{self.name} {count}".rstrip()]
        parts += [f"{name} {format_figure(value)}" for name, value in self.figures.items()]
        seconds, rate = self.updated - self.start, self.rate
        if rate is None and seconds >= MEASURED:
            rate = (self.done - self.first) / seconds
        return parts + ([f"{format_rate(rate)} {self.unit}/s"] if self.unit and rate else [])


@contextmanager
def step(name: str, total: int | None = None, unit: str = "", done: int = 0, text: str = "") -> Iterator[Step]:
    """Open a step for the block.  Also for work that cannot be counted: ``with step("loading model"):``."""
    opened = Step(name, total, unit, done, text)
    _steps.append(opened)
    _observe(force=len(_steps) == 1)
    try:
        yield opened
    finally:
        if _is_late and len(_steps) == 1:
            _observe(force=True)  # the last state must be seen
        if opened in _steps:
            _steps.remove(opened)
        _observe(force=opened.was_observed)  # an ended inner step must not stay on the screen


def each(name: str, items: Collection[T]) -> Iterator[T]:
    """The items, while a step shows ``name 2/9`` for the second of nine; a single item opens no step."""
    if len(items) == 1:
        yield from items
        return
    with step(name, total=len(items), text=f"{name} 1/{len(items)}") as counter:
        for number, item in enumerate(items):
            counter.update(number, text=f"{name} {number + 1}/{len(items)}")
            yield item


@contextmanager
def observed_by(observer: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Call ``observer`` with the :func:`record` of the open steps during the block, once per ``INTERVAL`` seconds."""
    global _observer
    before, _observer = _observer, observer
    _steps.clear()  # in a notebook, the traceback of a failed cell may keep its steps open
    try:
        yield
    finally:
        _observer = before


def relay(record: dict[str, Any] | None) -> None:
    """Show the :func:`record` of another process behind the steps of this one, until the next call; None: nothing."""
    global _relayed
    _relayed = record
    _observe()


def record() -> dict[str, Any]:
    """The open steps as ``progress.json`` has them.

    ``text``: their parts, joined by two spaces.  ``done``, ``total`` and ``first`` (``done`` at the start) of the
    outermost step with a total, else null; ``seconds`` from its start to its last update, ``age`` since then.
    """
    counted = next((s for s in _steps if s.total), None)
    parts = [part for opened in _steps for part in opened.parts()] + ([_relayed["text"]] if _relayed else [])
    text = "  ".join(parts)
    if counted is None:
        return (_relayed or UNCOUNTED) | {"text": text}
    times = {"seconds": counted.updated - counted.start, "age": time.monotonic() - counted.updated}
    times = {name: round(value, 3) for name, value in times.items()}
    return {"text": text, "done": counted.done, "total": counted.total, "first": counted.first, **times}


def _observe(force: bool = False) -> None:
    global _last_call, _is_late
    if _observer is None or not (_steps or _relayed):
        return
    _is_late = not (force or time.monotonic() - _last_call >= INTERVAL)
    if _is_late:
        return
    _last_call = time.monotonic()
    for opened in list(_steps):
        opened.was_observed = True
    _observer(record())


def percent(record: dict[str, Any]) -> int | None:
    """Whole percent that are done; None when the total is unknown."""
    return 100 * record["done"] // record["total"] if record.get("total") else None


def seconds_left(record: dict[str, Any], waited: float = 0.0) -> float | None:
    """Estimate from the rate of this attempt; None when it is not known yet or the estimate has run out.

    ``waited``: seconds since the record was made.
    """
    if percent(record) is None or record["done"] == record["first"] or record["seconds"] < MEASURED:
        return None
    rate = (record["done"] - record["first"]) / record["seconds"]
    left = (record["total"] - record["done"]) / rate - record["age"] - waited
    return left if left >= 0.5 else None


def format_figure(value: float) -> str:
    """Two decimals, so that a column keeps its width; small values keep two digits."""
    return f"{value:.2f}" if abs(value) >= 0.1 or not value else f"{value:.2g}"


def format_rate(rate: float) -> str:
    """``850`` or ``1,200``; below 10 with one decimal."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"


def format_clock(seconds: float) -> str:
    """``1:20`` or ``2:05:00``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
