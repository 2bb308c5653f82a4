"""Reads an interchange CSV: re-bases paths, decodes images, computes ids, and makes a manifest with val and its roles.

A CSV has no record keys: ids of its rows are made of source, path, face and content.
"""

from __future__ import annotations

import csv
import os
import posixpath
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from fer_lib.datasets.cropping import each_image
from fer_lib.datasets.interchange import FULL, NUMBERS, SHORT, unescape_formula
from fer_lib.datasets.manifest import BOX, SPLIT_NAMES, Manifest, box_of, content_id, count_by, safe_path, sample_id
from fer_lib.datasets.splits import assign_val, assign_val_roles, excluded_from_val
from fer_lib.emotions import EMOTIONS, NUM_CLASSES, class_id
from fer_lib.errors import DataError
from fer_lib.faces.decode import decode, open_file
from fer_lib.importers.builder import MAX_LISTED, BadRecord, RecordCounts, leaves_photo
from fer_lib.importers.text_files import numbers
from fer_lib.params import CsvParams
from fer_lib.storage.atomic import fresh_file, json_text

_WINDOWS = re.compile(r"[A-Za-z]:|//")


@dataclass
class CsvRows(RecordCounts):
    """The rows of a CSV: dicts in the file's order, with a manifest's columns except ids, and ``line``, where it ends.

    ``form``: short or full; ``total``: all rows; ``rebased``: rule -> rows.
    """

    path: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    rebased: Counter = field(default_factory=Counter)
    form: str = ""
    total: int = 0


def import_csv(path: Path, root: Path, out: Path, params: CsvParams) -> Manifest:
    """Write ``out/manifest.parquet`` and ``out/import_report.json`` and return the manifest.

    Every image is decoded once.  A box that leaves its photo on a side stays as it is and is counted.  Raises
    :class:`DataError` naming file and line for more bad rows than ``params.tolerance``; nothing is written then.
    """
    path, root, out = Path(path), Path(root).absolute(), Path(out).absolute()
    table = read_rows(path, root, params.rebase)
    outside = _add_ids(table, root)
    table.check_bad(str(path), params.tolerance)
    if not table.rows:
        count = sum(names.total() for names in table.excluded.values())
        raise DataError(f"{path}: none of its {table.total} rows can be used ({count} excluded){table.bad_list()}")
    rows = pd.DataFrame(table.rows).drop(columns="line").sort_values(["source", "record"], ignore_index=True)
    frame = assign_val(rows.assign(val_role=""), params.val_fraction, params.seed)
    frame = assign_val_roles(frame, params.val_roles, params.seed)
    created = params.model_dump(mode="json") | {"csv": path.name}
    manifest = Manifest(frame, {"root": root.as_posix(), "tolerance": params.tolerance, "created": created})
    report = {
        "csv": str(path),
        "form": table.form,
        "root": str(root),
        "manifest": "manifest.parquet",
        "manifest_sha256": manifest.sha256,
        "rows_total": table.total,
        "rows_kept": len(manifest),
        "excluded": {split: dict(sorted(names.items())) for split, names in sorted(table.excluded.items())},
        "bad_rows": dict(sorted(Counter(kind for kind, _ in table.bad).items())),
        "left_out": [where for _, where in table.bad[:MAX_LISTED]],
        "rebased": {rule: table.rebased[rule] for rule in params.rebase},
        "boxes_outside": outside,
        "kept_out_of_val": len(excluded_from_val(rows)),  # contents that are in train or test already
        "moved_to_val": int((frame["split"].to_numpy() != rows["split"].to_numpy()).sum()),
        "counts": count_by(frame, "source"),
        "canonical": list(EMOTIONS),
    }
    with fresh_file(out / "import_report.json") as work:  # neither file appears without the other
        work.write_text(json_text(report), encoding="utf-8")
        return manifest.write(out / "manifest.parquet")


def read_rows(path: Path, root: Path, rebase: Sequence[str] = ()) -> CsvRows:
    """Parse and re-base a CSV of either form (columns by name, in any order) without opening its images.

    Labels are ids 0..6 or names and aliases; names of no class are excluded and counted.  ``rebase``: ``OLD=NEW``; the
    longest matching OLD applies.  Raises :class:`DataError` for a file that is not an interchange CSV.
    """
    table, root, lines = CsvRows(Path(path)), Path(root).absolute(), {}
    rules = _rules(rebase, root)
    with open(path, newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream, strict=True)
        try:
            reader.fieldnames = names = [name.strip() for name in reader.fieldnames or ()]
            if sorted(names) not in (sorted(SHORT), sorted(FULL)):
                raise DataError(
                    f"{path}, line 1: the columns {', '.join(names) or '(none)'} are not those of an interchange CSV: "
                    f"it has {','.join(SHORT)}, or these and {','.join(FULL[4:])}"
                )
            table.form = "short" if len(names) == len(SHORT) else "full"
            for cells in reader:
                table.total += 1
                with table.record(f"line {reader.line_num}"):
                    if None in cells or None in cells.values():
                        raise BadRecord("wrong field count", f"not {len(names)} fields")
                    row = _row({name: unescape_formula(text) for name, text in cells.items()}, root, rules, table)
                    if row is None:
                        continue
                    first = lines.setdefault((row["source"], row["record"]), reader.line_num)
                    if first != reader.line_num:
                        raise BadRecord(
                            "row stands twice", f"{row['record']!r} of {row['source']!r} is line {first}'s too"
                        )
                    table.rows.append(row | {"line": reader.line_num})
        except csv.Error as error:
            line = reader.reader.line_num
            raise DataError(f"{path}, line {line}: not valid CSV ({error}); write the file again") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8") from error
    return table


def _row(cells: dict[str, str], root: Path, rules: Sequence, table: CsvRows) -> dict[str, Any] | None:
    """One row; None when it is excluded, which ``table`` counts.  BadRecord for an unusable one."""
    split = SPLIT_NAMES.get(cells["split"].strip().lower())
    if split is None:
        raise BadRecord("unknown split", f"split {cells['split']!r} (use train, val, test)")
    if not cells["source"].strip():
        raise BadRecord("no source", "every row names its source")
    relative = _relative(cells["image_path"], root, rules, table.rebased)
    row, face = {"image_path": relative, "split": split, "source": cells["source"]}, None
    if table.form == "full":
        row |= {name: cells[name] or None for name in ("orig_image", "face_id")}
        for name in NUMBERS:
            row[name] = numbers([cells[name]], "not a number")[0] if cells[name].strip() else None
        box = [row[side] for side in BOX]
        if None in box and box != [None] * len(BOX):
            raise BadRecord("bad box", f"a box has four sides or none, not {box}")
        face = row["face_id"] or (None if None in box else ",".join(map(repr, box)))
    if (label := _label(cells["label"].strip())) is None:
        table.excluded[split][cells["label"].strip()] += 1
        return None
    return row | {"label": label, "record": f"{relative}#{face}" if face else relative}


def _label(text: str) -> int | None:
    """A class id; None for the name of another class.  BadRecord for a number out of range and for nothing."""
    try:
        number = float(text or "nan")
    except ValueError:
        return class_id(text)
    if number not in range(NUM_CLASSES):
        raise BadRecord("label out of range", f"label {text!r} is not 0..{NUM_CLASSES - 1}")
    return int(number)


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
    """``written`` relative to ``root``; BadRecord when it is not below it."""
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
    try:
        return safe_path(path.removeprefix(f"{top}/"), "its path")
    except DataError as error:
        reason = f"image_path {written!r} is not below {top}: give --rebase OLD=NEW or --root"
        raise BadRecord("path outside the root", reason) from error


def _add_ids(table: CsvRows, root: Path) -> int:
    """Add ids to the rows and drop those without a usable image; returns how many boxes leave their photo."""
    frame = pd.DataFrame({"image_path": [row["image_path"] for row in table.rows]})
    rows_of = frame.groupby("image_path").indices

    def read(path: str) -> None:
        file, rows = root / path, [table.rows[number] for number in rows_of[path]]
        try:
            with open_file(file) as stream:
                data = stream.read()
            size = decode(data).shape[:2]
        except (OSError, DataError) as error:
            kind = "missing picture" if isinstance(error, FileNotFoundError) else "undecodable picture"
            for row in rows:
                row["problem"] = BadRecord(kind, f"{file}: {getattr(error, 'strerror', error)}")
            return
        for row in rows:
            box = box_of(row)
            try:
                row["leaves_photo"] = box is not None and leaves_photo(box, size)
            except BadRecord as error:
                row["problem"] = BadRecord(error.kind, f"{file}: {error.reason}")
            row["content_id"] = content_id(data, box)
            row["sample_id"] = sample_id(row["source"], row["record"], row["content_id"])

    each_image(frame, read, "reading images")
    for row in table.rows:
        with table.record(f"line {row['line']}"):
            if "problem" in row:
                raise row["problem"]
    table.rows = [row for row in table.rows if "problem" not in row]
    return sum(row.pop("leaves_photo") for row in table.rows)
