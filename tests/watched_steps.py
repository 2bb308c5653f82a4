"""Every update of the steps that ``fer_lib.storage.progress`` reports, without its pause between two reports."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from fer_lib.storage import progress


@contextmanager
def watched_steps(on_update: Callable[[int, int], None] | None = None) -> Iterator[list[dict[str, Any]]]:
    """The records of the block; ``on_update(done, total)`` is called for those that count."""
    records: list[dict[str, Any]] = []

    def observe(record: dict[str, Any]) -> None:
        records.append(record)
        if on_update is not None and record["total"]:
            on_update(record["done"], record["total"])

    with mock.patch.object(progress, "INTERVAL", 0.0), progress.observed_by(observe):
        yield records


def counts(records: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """(done, total) of the records that count."""
    return [(record["done"], record["total"]) for record in records if record["total"]]
