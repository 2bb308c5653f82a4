"""FERPlus' votes (Barsoum et al. 2016, arXiv:1608.01041): reading them, and the rule that makes one label of ten."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from fer_lib.atomic import readable
from fer_lib.datasets.manifest import safe_path
from fer_lib.datasets.sources.base import Draft
from fer_lib.datasets.sources.lists import whole
from fer_lib.emotions import NUM_CLASSES, class_id
from fer_lib.errors import DataError

USAGE = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
VOTED = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")
_HEADER = ("Usage", "Image name", *VOTED)
_ORDER = np.array([class_id(name) for name in VOTED[:NUM_CLASSES]])  # vote column -> class id


@dataclass(frozen=True)
class Votes:
    """A vote file, row by row: ``usage`` and ``names`` as written, ``counts`` int64 [N, 10], ``lines`` in the file."""

    path: Path
    usage: list[str]
    names: list[str]
    counts: np.ndarray
    lines: list[int]

    def where(self, row: int) -> str:
        return f"{self.path}, line {self.lines[row]} (row {row})"


@dataclass(frozen=True)
class Judged:
    """``label`` int64 [N] (-1: excluded for ``reason``), ``soft`` float64 [N, 7] (NaN rows where no vote survives) and
    ``excluded_share`` float64 [N], the part of the surviving votes outside the seven classes; ``cast`` float64 [N, 7]
    and ``cast_all`` float64 [N]: the votes as they were given, for the seven and in all."""

    label: np.ndarray
    reason: list[str]
    soft: np.ndarray
    excluded_share: np.ndarray
    cast: np.ndarray
    cast_all: np.ndarray

    def extras(self, row: int) -> dict:
        """The manifest columns of a row's votes: those that were cast, and what the rule left of them.

        No column where nobody voted, no soft label where no vote for the seven survives.
        """
        if self.cast_all[row] == 0:
            return {}
        columns = {"votes": self.cast[row].tolist(), "votes_all": float(self.cast_all[row])}
        if np.isnan(self.soft[row, 0]):
            return columns
        return columns | {"soft_label": self.soft[row].tolist(), "excluded_share": float(self.excluded_share[row])}


def judge(counts: np.ndarray, rule: Literal["majority", "plurality"] = "majority") -> Judged:
    """Labels and soft labels of ``counts`` int [N, 10].

    A vote that stands alone (a count <= 1) does not survive.  ``majority`` keeps a row when its largest surviving count
    is more than half of all that survive, over all ten columns, and is one of the seven; ``plurality`` when its largest
    raw count has no equal and is one of the seven.  The soft label is the surviving votes over the seven, summing to 1.
    """
    counts = np.asarray(counts, np.int64)
    surviving = np.where(counts <= 1, 0, counts)
    basis = surviving if rule == "majority" else counts
    top, total = basis.max(1, initial=0), basis.sum(1)
    winner = basis.argmax(1)
    decided = 2 * top > total if rule == "majority" else (basis == top[:, None]).sum(1) == 1
    undecided = "no majority" if rule == "majority" else "tie"
    kept = decided & (total > 0) & (winner < NUM_CLASSES)
    reason = [
        "" if k else "no votes left" if t == 0 else VOTED[w] if d else undecided
        for k, t, d, w in zip(kept, total, decided, winner, strict=True)
    ]
    label = np.where(kept, _ORDER[np.minimum(winner, NUM_CLASSES - 1)], -1)
    within = surviving[:, :NUM_CLASSES].sum(1)
    soft = np.full((len(counts), NUM_CLASSES), np.nan)
    has = within > 0
    soft[np.ix_(has, _ORDER)] = surviving[has, :NUM_CLASSES] / within[has, None]
    left = surviving.sum(1)
    share = np.divide(left - within, left, out=np.full(len(counts), np.nan), where=left > 0)
    cast = np.zeros((len(counts), NUM_CLASSES))
    cast[:, _ORDER] = counts[:, :NUM_CLASSES]
    return Judged(label, reason, soft, share, cast, counts.sum(1).astype(np.float64))


def read_votes(path: Path, draft: Draft) -> Votes:
    """``fer2013new.csv``; a row that can't be read is a problem of the draft and keeps its place with zero votes."""
    usage, names, counts, lines = [], [], [], []
    for line, fields in table(path, _HEADER):
        if len(fields) != len(_HEADER):
            draft.problem("wrong field count", f"{path}, line {line}: {len(fields)} fields instead of {len(_HEADER)}")
            fields = ["", "", *["0"] * len(VOTED)]
        elif fields[0] not in USAGE:
            draft.problem("unknown Usage", f"{path}, line {line}: {fields[0]!r} (use {', '.join(USAGE)})")
            fields = ["", fields[1], *["0"] * len(VOTED)]
        usage.append(fields[0])
        names.append(fields[1])
        counts.append(vote_counts(fields[2:], f"{path}, line {line}", draft))
        lines.append(line)
    return Votes(path, usage, names, np.array(counts, np.int64).reshape(-1, len(VOTED)), lines)


def vote_counts(fields: list[str], where: str, draft: Draft) -> list[int]:
    """Ten counts; anything but whole numbers from 0 to 1000 is a problem of the draft and counts as no vote."""
    try:
        counts = [int(text) for text in fields]
    except ValueError:
        counts = [-1]
    if min(counts) < 0 or max(counts) > 1000:
        draft.problem("votes are no counts", f"{where}: {','.join(fields)}")
        return [0] * len(VOTED)
    return counts


def read_image_map(path: Path, votes: Votes) -> dict[int, str]:
    """Vote row -> picture, relative to the picture tree, from a CSV with the columns ``row`` and ``fer2013_jpg``.

    Where it has ``Usage`` or ``ferplus_image`` these must agree with the votes: a map of another file is an error.
    """
    found: dict[int, str] = {}
    checks = (("Usage", votes.usage), ("ferplus_image", votes.names))
    with readable(path), open(path, newline="", encoding="utf-8-sig") as handle:
        reader = csv.DictReader(handle)
        try:
            if not {"row", "fer2013_jpg"} <= set(reader.fieldnames or ()):
                raise DataError(f"{path}: its header {reader.fieldnames} lacks row or fer2013_jpg")
            for entry in reader:
                where = f"{path}, line {reader.line_num}"
                text = entry["row"] or ""
                row = whole(text, range(len(votes.usage)))
                if row is None or row in found:
                    raise DataError(f"{where}: row {text[:80]!r} is no row of {votes.path}, or stands there twice")
                for column, expected in checks:
                    if entry.get(column, expected[row]) != expected[row]:
                        raise DataError(
                            f"{where}: {column} {entry[column]!r} but {votes.where(row)} has {expected[row]!r}"
                        )
                found[row] = safe_path(entry["fer2013_jpg"] or "", where)
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path}, after line {reader.line_num}: not a readable CSV ({error})") from error
    return found


def table(path: Path, header: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields in the order of ``header``) of a CSV whose columns are exactly those, in any order."""
    with readable(path), open(path, newline="", encoding="utf-8-sig") as handle:
        reader = csv.reader(handle)
        try:
            found = [name.strip() for name in next(reader, [])]
            if sorted(found) != sorted(header):
                raise DataError(f"{path}, line 1: header {','.join(found)[:200]!r} should be {','.join(header)}")
            order = [found.index(name) for name in header]
            for fields in reader:
                if not fields:
                    continue
                whole = len(fields) == len(header)
                yield reader.line_num, [fields[i].strip() for i in order] if whole else fields
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path}, after line {reader.line_num}: not a readable CSV ({error})") from error
