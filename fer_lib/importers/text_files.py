"""Reads label files: lists of white-space separated words, and CSV files of one record per line.

A damaged line spoils no other line: a quote that is left open ends with its line.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fer_lib.errors import DataError
from fer_lib.importers.builder import BadRecord, ImportBuilder

_MAX_NAME_BYTES = 240  # disks take 255; "_aligned" and the like must fit


def lines_of(path: Path, newline: str | None = None) -> Iterator[tuple[int, str]]:
    """(number from 1, text) of each line that is not blank; :class:`DataError` for a file that is no UTF-8 text."""
    number = 0
    try:
        with open(path, newline=newline, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, after line {number}: not UTF-8 text ({error}): download it again") from error


def word_lines(
    path: Path, count: int, builder: ImportBuilder, kind: str = "wrong field count"
) -> Iterator[tuple[str, list[str]]]:
    """(place, words) of each line with ``count`` words; other lines but blank ones are bad records of ``kind``."""
    for number, line in lines_of(path):
        words, where = line.split(), f"{path}, line {number}"
        if len(words) == count:
            yield where, words
        else:
            builder.add_bad(kind, f"{where}: {len(words)} fields instead of {count}")


def csv_fields(line: str, count: int) -> list[str]:
    """The ``count`` fields of a CSV line, stripped; BadRecord for another number and for an open quote."""
    try:
        fields = next(csv.reader([line], strict=True))
    except csv.Error as error:
        raise BadRecord("unreadable CSV line", str(error)) from error
    if len(fields) != count:
        raise BadRecord("wrong field count", f"{len(fields)} fields instead of {count}")
    return [field.strip() for field in fields]


def csv_rows(
    path: Path, required: Iterable[str], builder: ImportBuilder, others: bool = False
) -> Iterator[tuple[int, str, dict[str, str] | None]]:
    """(row from 0, place, column -> field) of a CSV file with these columns in any order, and no ``others``.

    An unreadable line is a bad record: it comes with None, so the rows after it keep their numbers.
    """
    lines, required = lines_of(path, "\n"), tuple(required)
    try:
        columns = [name.strip() for name in next(csv.reader([next(lines, (1, ""))[1]]), [])]
    except csv.Error as error:
        raise DataError(f"{path}, line 1: the header is not readable as CSV ({error}): download it again") from error
    if set(required) - set(columns) or (len(columns) > len(required) and not others):
        raise DataError(f"{path}, line 1: header {','.join(columns)[:200]!r} should be {','.join(required)}")
    for row, (number, line) in enumerate(lines):
        fields, where = None, f"{path}, line {number} (row {row})"
        with builder.record(where):
            fields = dict(zip(columns, csv_fields(line, len(columns)), strict=True))
        yield row, where, fields


def file_name(text: str) -> str:
    """``text``; BadRecord unless it is the name of a file and nothing else (no folder, no hidden file)."""
    valid = text != "" and not set(text) & set("/\\:\0") and not text.startswith(".")
    if not valid or len(text.encode("utf-8", "surrogatepass")) > _MAX_NAME_BYTES:
        raise BadRecord("wrong file name", repr(text[:100]))
    return text


def whole_number(text: str, within: range, kind: str = "label out of range") -> int:
    """A whole number of ``within``; BadRecord of ``kind`` for anything else."""
    if text.isascii() and text.isdecimal() and len(text) < 10 and int(text) in within:
        return int(text)
    raise BadRecord(kind, f"{text[:80]!r} is not a whole number {within[0]}..{within[-1]}")


def numbers(texts: Sequence[str], kind: str) -> list[float]:
    """Finite numbers; BadRecord of ``kind`` for other texts, also ``0_3`` and non-ASCII digits, which Python reads."""
    try:
        values = [float(text if text.isascii() and "_" not in text else "") for text in texts]
    except ValueError:
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise BadRecord(kind, f"{' '.join(texts)!r}: finite numbers are expected")
    return values
