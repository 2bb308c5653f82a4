"""FER2013 (Goodfellow et al. 2013): ``fer2013.csv``, or the tree of JPEGs whose file names carry the official split."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fer_lib.emotions import EMOTIONS, class_id
from fer_lib.errors import DataError
from fer_lib.importers import existing, register
from fer_lib.importers.base import ImportBuilder
from fer_lib.importers.image_files import relative_to, walk
from fer_lib.importers.lists import whole
from fer_lib.importers.tables import table
from fer_lib.importers.votes import USAGE, Votes, judge, read_image_map, read_votes
from fer_lib.params import SourceSpec

SIDE = 48
_HEADER = ("emotion", "pixels", "Usage")
_NAMED = re.compile("|".join(USAGE))


@register("fer2013", reads=("votes", "image_map"))
def read(spec: SourceSpec, root: Path, draft: ImportBuilder) -> None:
    """``root``: the CSV, a folder with ``fer2013.csv``, or the tree ``<any>/<class>/<Usage>_*``.

    ``spec.votes`` adds FERPlus' surviving votes as soft labels (the label stays FER2013's): by row for the CSV, through
    ``spec.image_map`` for the tree.
    """
    csv_file = root if root.is_file() else root / "fer2013.csv"
    if csv_file.is_file():
        _read_csv(spec, csv_file, draft)
    else:
        _read_tree(spec, root, draft)


def _read_csv(spec: SourceSpec, path: Path, draft: ImportBuilder) -> None:
    draft.layout = "fer2013_csv"
    votes = read_votes(existing(spec.votes, spec), draft) if spec.votes else None
    judged = judge(votes.counts) if votes else None
    rows = 0
    for row, line, label, pixels, usage in pixel_rows(path, draft):
        rows = row + 1
        if votes:
            same_row(votes, row, usage, f"{path}, line {line}")
        if pixels is None:
            continue
        split = USAGE[usage]
        extras = judged.extras(row) if judged else {}
        name = f"{split}/{EMOTIONS[label]}/row{row:07d}.png"
        draft.add_pixels(pixels, name, record=f"row{row:07d}", split=split, label=label, **extras)
    if votes and rows != len(votes.usage):
        raise DataError(
            f"{votes.path} has {len(votes.usage)} rows, {path} has {rows}: they must be one and the same set"
        )


def pixel_rows(path: Path, draft: ImportBuilder) -> Iterator[tuple[int, int, int, np.ndarray | None, str]]:
    """(row from 0, line, class id, uint8 [48, 48], Usage) of ``fer2013.csv``.

    The pixels of a row that can't be used are None, its usage "" and the draft knows why.
    """
    for row, line, fields in table(path, _HEADER, draft):
        where = f"{path}, line {line} (row {row})"
        emotion, text, usage = fields or ("", "", "")
        pixels = None
        if fields is None:
            pass  # one of the draft's problems already; each line is one row or one problem
        elif usage not in USAGE:
            draft.problem("unknown Usage", f"{where}: {usage!r} (use {', '.join(USAGE)})")
        elif emotion not in set("0123456"):
            draft.problem("label out of range", f"{where}: emotion {emotion!r} is not 0..6")
        else:
            pixels = _pixels(text, where, draft)
        yield (row, line, -1, None, "") if pixels is None else (row, line, int(emotion), pixels, usage)


def _pixels(text: str, where: str, draft: ImportBuilder) -> np.ndarray | None:
    try:
        values = np.fromstring(text, np.int64, sep=" ")
    except ValueError:  # something in there is no whole number
        values = np.full(SIDE * SIDE, -1)
    if values.size == SIDE * SIDE and values.min() >= 0 and values.max() <= 255:
        return values.astype(np.uint8).reshape(SIDE, SIDE)
    words = text.split()
    if len(words) != SIDE * SIDE:
        draft.problem("wrong pixel count", f"{where}: {len(words)} pixels instead of {SIDE * SIDE} ({SIDE} x {SIDE})")
    else:
        # words by str.split, which takes separators (\x1f, no-break spaces) that are none between numbers
        wrong = next((word for word in words if whole(word, range(256)) is None), "other than a space")
        draft.problem("pixel out of range", f"{where}: {wrong!r} is not a whole number from 0 to 255")
    return None


def same_row(votes: Votes, row: int, usage: str, where: str) -> None:
    """Raise :class:`DataError` unless vote row ``row`` exists and has the usage found at ``where`` ("": a bad row)."""
    if row >= len(votes.usage):
        raise DataError(f"{where}: {votes.path} ends after {len(votes.usage)} rows; it belongs to another set")
    if usage and votes.usage[row] and usage != votes.usage[row]:
        raise DataError(f"{where}: Usage {usage}, but {votes.where(row)} says {votes.usage[row]}: rows do not match")


def _read_tree(spec: SourceSpec, root: Path, draft: ImportBuilder) -> None:
    draft.layout = "fer2013_tree"
    extras = _mapped_votes(spec, draft) if spec.votes else {}
    known = 0
    for _, folder, pictures in walk(root, draft):
        label = class_id(folder)
        if label is not None and not pictures:
            raise DataError(f"{draft.name}: the class folder {folder} under {root} holds no picture")
        for path in pictures:
            usage = _NAMED.search(path.name)
            if usage is None:
                draft.problem("no Training, PublicTest or PrivateTest in the file name", str(path))
                continue
            split = USAGE[usage.group()]
            if label is None:
                draft.exclude(split, folder)
                continue
            relative = relative_to(root, path)
            known += relative in extras
            draft.add_file(path, relative, record=relative, split=split, label=label, **extras.get(relative, {}))
    if spec.votes:
        if not known:
            raise DataError(f"{draft.name}: {spec.image_map} names no picture under {root}; check image_map and root")
        voted = sum("soft_label" in row for row in draft.rows)
        draft.notes.append(f"{known} of {len(draft.rows)} rows stand in the image_map, {voted} got a soft label")


def _mapped_votes(spec: SourceSpec, draft: ImportBuilder) -> dict[str, dict]:
    """Picture path -> manifest columns of its votes; the vote rows of one picture are added up."""
    if not spec.image_map:
        raise DataError(f"{draft.name}: votes over a picture tree need image_map, the CSV that joins rows and pictures")
    votes = read_votes(existing(spec.votes, spec), draft)
    rows_of = defaultdict(list)
    for row, picture in read_image_map(existing(spec.image_map, spec), votes, draft).items():
        rows_of[picture].append(row)
    pictures = sorted(rows_of)
    judged = judge(np.array([votes.counts[rows_of[p]].sum(0) for p in pictures], np.int64).reshape(-1, 10))
    return {picture: judged.extras(i) for i, picture in enumerate(pictures)}
