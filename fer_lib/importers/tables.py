"""CSV files of one record a line: a stray quote spoils its own line and none after it."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from fer_lib.errors import DataError
from fer_lib.importers.base import ImportBuilder
from fer_lib.storage.atomic import readable


def csv_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, text) of each line that is not blank; lines end with a line feed.

    Raises :class:`DataError` for a file that is no UTF-8 text.
    """
    number = 0
    try:
        with readable(path), open(path, newline="\n", encoding="utf-8-sig") as handle:
            for number, line in enumerate(handle, 1):
                if line.strip():
                    yield number, line
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, after line {number}: not a readable CSV ({error}): fetch it again") from error


def fields_of(line: str, count: int, where: str, draft: ImportBuilder) -> list[str] | None:
    """The ``count`` fields of a line, stripped; None, the problem counted, when it has others or a quote left open."""
    try:
        fields = next(csv.reader([line], strict=True))
    except csv.Error as error:
        draft.problem("unreadable CSV line", f"{where}: {error}")
        return None
    if len(fields) != count:
        draft.problem("wrong field count", f"{where}: {len(fields)} fields instead of {count}")
        return None
    return [field.strip() for field in fields]


def header_of(path: Path) -> list[str]:
    """The column names in the first line; [] of an empty file."""
    try:
        return next(([name.strip() for name in next(csv.reader([line]))] for _, line in csv_lines(path)), [])
    except csv.Error as error:
        raise DataError(f"{path}, line 1: header: not a readable CSV ({error}): fetch it again") from error


def table(path: Path, header: tuple[str, ...], draft: ImportBuilder) -> Iterator[tuple[int, int, list[str] | None]]:
    """(row from 0, line, fields in the order of ``header``) of a CSV whose columns are exactly those, in any order.

    The fields of a line that can't be read are None and the draft knows why; the rows after it keep their numbers.
    """
    found = header_of(path)
    if sorted(found) != sorted(header):
        raise DataError(f"{path}, line 1: header {','.join(found)[:200]!r} should be {','.join(header)}")
    order = [found.index(name) for name in header]
    lines = csv_lines(path)
    next(lines)
    for row, (line, text) in enumerate(lines):
        fields = fields_of(text, len(header), f"{path}, line {line} (row {row})", draft)
        yield row, line, fields and [fields[i] for i in order]
