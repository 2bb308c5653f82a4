"""Interchange CSVs: write a manifest for other tools, and read rows back.

The short form has ``image_path,label,split,source``; the full form adds ``confidence,orig_image,face_id`` and the box.
A CSV has no record keys: ids of its rows are made of source, path, face and content.
"""

from __future__ import annotations

import csv
import math
import os
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fer_lib.datasets.manifest import BOX, SPLIT_NAMES, Manifest, safe_path
from fer_lib.emotions import NUM_CLASSES, class_id
from fer_lib.errors import DataError
from fer_lib.params import CsvParams
from fer_lib.storage.atomic import fresh_file

SHORT = ("image_path", "label", "split", "source")
NUMBERS = ("confidence", "bbox_top", "bbox_left", "bbox_right", "bbox_bottom")
FULL = (*SHORT, "confidence", "orig_image", "face_id", *NUMBERS[1:])
SHOWN = 10  # how many bad rows an error lists
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_QUOTED = re.compile(r"'+[=+\-@\t\r]")
_WINDOWS = re.compile(r"[A-Za-z]:|//")


def write_csv(manifest: Manifest, path: Path, form: Literal["short", "full"] = "full") -> Path:
    """Write the manifest's rows in their order, labels as class ids, atomically.

    A text that a spreadsheet would run as a formula (it begins with = + - @, tab or return) gets a leading ', which
    :func:`read_rows` removes.  Numbers stay numbers.  Raises :class:`DataError` when the short form would lose boxes.
    """
    frame, path = manifest.frame, Path(path)
    if form == "short" and BOX[0] in frame:
        raise DataError(f"{path}: rows with a box need the full form: the short one has no columns for it")
    cells = frame.reindex(columns=SHORT if form == "short" else FULL)
    for name in cells.columns.difference(("label", *NUMBERS)):
        cells[name] = cells[name].map(escape_formula, na_action="ignore")
    with fresh_file(path) as work:
        cells.to_csv(work, index=False, lineterminator="\r\n")  # RFC 4180; a lone return in a cell is then quoted
    return path


def unwritten_columns(manifest: Manifest, form: Literal["short", "full"] = "full") -> list[str]:
    """The columns with values that the CSV has no place for."""
    written = {"sample_id", "content_id", "record", *(SHORT if form == "short" else FULL)}  # ids are made again
    rest = manifest.frame.drop(columns=[c for c in manifest.frame if c in written])
    filled = rest.replace("", None).notna().any()
    return sorted(filled.index[filled])


def escape_formula(text: str) -> str:
    """``text`` with a leading ' where a spreadsheet would run it or :func:`unescape_formula` would remove one."""
    return f"'{text}" if _FORMULA.match(text) else text


def unescape_formula(text: str) -> str:
    """The inverse of :func:`escape_formula`."""
    return text[1:] if _QUOTED.match(text) else text


@dataclass
class CsvRows:
    """The rows of a CSV, and counts of what was left out.

    ``rows``: dicts in the file's order, with a manifest's columns except ids, and ``line``.  ``bad``: (kind, "line n:
    problem").  ``excluded``: split -> label name -> rows of no class.  ``rebased``: rule -> rows.
    """

    path: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)
    excluded: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))
    rebased: Counter = field(default_factory=Counter)
    form: str = ""
    total: int = 0

    def problem(self, kind: str, line: int, text: str) -> None:
        """Count an unusable row."""
        self.bad.append((kind, f"line {line}: {text}"))

    def check(self, tolerance: int) -> None:
        """:class:`DataError` with the first ten bad rows when more than ``tolerance`` are bad, or when none is good."""
        shown = "".join(f"\n  {self.path.name}, {where} ({kind})" for kind, where in self.bad[:SHOWN])
        more = f"\n  and {len(self.bad) - SHOWN} more" if len(self.bad) > SHOWN else ""
        if len(self.bad) > tolerance:
            raise DataError(
                f"{self.path}: {len(self.bad)} bad rows of {self.total}, tolerance {tolerance}:{shown}{more}\n"
                "repair them, or set tolerance to go on without them (they are counted in the report)"
            )
        if not self.rows:
            left_out = sum(sum(names.values()) for names in self.excluded.values())
            raise DataError(f"{self.path}: none of its {self.total} rows can be used ({left_out} excluded){shown}")


def read_rows(path: Path, root: Path, rebase: Sequence[str] = ()) -> CsvRows:
    """Parse and re-base a CSV of either form (columns by name, in any order) without opening its images.

    Labels are ids 0..6 or names and aliases; names of no class are excluded and counted.  ``rebase``: ``OLD=NEW``; the
    longest matching OLD applies.  Raises :class:`DataError` for a file that is not an interchange CSV.
    """
    table, root = CsvRows(Path(path)), Path(root).absolute()
    rules = _rules(rebase, root)
    lines: dict[tuple[str, str], int] = {}
    for line, header, fields in _lines(table):
        table.total += 1
        if len(fields) != len(header):
            table.problem("wrong field count", line, f"{len(fields)} fields instead of {len(header)}")
            continue
        row = _row(dict(zip(header, fields, strict=True)), line, root, rules, table)
        if row is None:
            continue
        first = lines.setdefault((row["source"], row["record"]), line)
        if first != line:
            table.problem("row stands twice", line, f"{row['record']!r} of {row['source']!r} is line {first}'s too")
            continue
        table.rows.append(row)
    return table


def _lines(table: CsvRows) -> Iterator[tuple[int, tuple[str, ...], list[str]]]:
    """(first line, header, fields) of every record, without blank lines."""
    path = table.path
    with open(path, newline="", encoding="utf-8-sig") as stream:
        reader = csv.reader(stream, strict=True)
        try:
            header = tuple(name.strip() for name in next(reader, ()))
            if sorted(header) not in (sorted(SHORT), sorted(FULL)):
                raise DataError(
                    f"{path}, line 1: the columns {', '.join(header) or '(none)'} are not those of an interchange CSV: "
                    f"it has {','.join(SHORT)}, or these and {','.join(FULL[4:])}"
                )
            table.form = "short" if len(header) == len(SHORT) else "full"
            before = reader.line_num
            for fields in reader:
                if fields:
                    yield before + 1, header, fields
                before = reader.line_num
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: not valid CSV ({error}); write the file again") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8") from error


def _row(cells: dict[str, str], line: int, root: Path, rules: Sequence, table: CsvRows) -> dict[str, Any] | None:
    """One row, or None when it is bad or excluded, which ``table`` counts."""
    cells = {name: unescape_formula(value) for name, value in cells.items()}
    split = SPLIT_NAMES.get(cells["split"].strip().lower())
    if split is None:
        return table.problem("unknown split", line, f"split {cells['split']!r} (use train, val, test)")
    if not cells["source"].strip():
        return table.problem("no source", line, "every row names its source")
    try:
        relative = _relative(cells["image_path"], root, rules, table.rebased)
    except DataError as error:
        return table.problem("path outside the root", line, str(error))
    row = {"line": line, "image_path": relative, "split": split, "source": cells["source"]}
    for name in NUMBERS if table.form == "full" else ():
        if (value := _number(cells[name])) is not None and math.isnan(value):
            return table.problem("not a number", line, f"{name} {cells[name]!r}")
        row[name] = value
    if table.form == "full":
        row |= {name: cells[name] or None for name in ("orig_image", "face_id")}
        if problem := _box_problem([row[side] for side in BOX]):
            return table.problem("bad box", line, problem)
    label = _label(cells["label"])
    if label is None:
        return table.problem("label out of range", line, f"label {cells['label']!r} is not 0..{NUM_CLASSES - 1}")
    if label < 0:
        table.excluded[split][cells["label"].strip()] += 1
        return None
    box = row.get(BOX[0]) is not None
    face = row.get("face_id") or (",".join(repr(row[side]) for side in BOX) if box else "")
    return row | {"label": label, "record": f"{relative}#{face}" if face else relative}


def _label(text: str) -> int | None:
    """A class id; -1 for the name of no class; None for a number out of range or nothing."""
    number = _number(text)
    if not text.strip() or (number is not None and not math.isnan(number)):
        return int(number) if number in range(NUM_CLASSES) else None
    label = class_id(text)
    return -1 if label is None else label


def _number(text: str) -> float | None:
    """The number in a cell, None for a blank one, NaN for anything else (infinities too)."""
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _box_problem(box: Sequence[float | None]) -> str:
    text = ", ".join(f"{side} {value}" for side, value in zip(BOX, box, strict=True))
    if box.count(None) in range(1, len(BOX)):
        return f"a box has four sides or none: {text}"
    top, left, bottom, right = box
    return "" if top is None or (bottom > top and right > left) else f"empty box: {text}"


def _rules(rebase: Sequence[str], root: Path) -> list[tuple[str, bool, str, str]]:
    """(OLD with forward slashes, whether case matters, absolute NEW, the rule as written), the longest OLD first."""
    rules = []
    for rule in CsvParams(rebase=list(rebase)).rebase:
        old, _, new = rule.partition("=")
        old = old.replace("\\", "/").rstrip("/")
        target = posixpath.normpath(Path(root, os.path.expanduser(new)).absolute().as_posix())
        rules.append((old, not _WINDOWS.match(old), target.rstrip("/"), rule))
    return sorted(rules, key=lambda rule: -len(rule[0]))


def _relative(written: str, root: Path, rules: Sequence[tuple[str, bool, str, str]], rebased: Counter) -> str:
    """``written`` relative to ``root``; :class:`DataError` when it is not below it."""
    path = written.replace("\\", "/")
    for old, exact, new, rule in rules:
        begins = path[: len(old)] == old if exact else path[: len(old)].lower() == old.lower()
        if begins and path[len(old) : len(old) + 1] in ("", "/"):
            path = new + path[len(old) :]
            rebased[rule] += 1
            break
    if path != written or path.startswith(("/", "./")) or path[1:2] == ":":
        path = posixpath.normpath(path)
    top = posixpath.normpath(root.as_posix()).rstrip("/")
    if path.startswith("/") or path[1:2] == ":":
        if not path.startswith(f"{top}/"):
            raise DataError(f"image_path {written!r} is absolute and not below {top}: give --rebase OLD=NEW or --root")
        path = path[len(top) + 1 :]
    return safe_path(path, "its path")
