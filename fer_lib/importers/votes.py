"""FERPlus' votes (Barsoum et al. 2016, arXiv:1608.01041): reading them, and the rule that makes one label of ten."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from fer_lib.datasets.manifest import safe_path
from fer_lib.emotions import NUM_CLASSES, class_id
from fer_lib.errors import DataError
from fer_lib.importers.base import ImportBuilder
from fer_lib.importers.lists import whole
from fer_lib.importers.tables import header_of, table

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


def read_votes(path: Path, draft: ImportBuilder) -> Votes:
    """``fer2013new.csv``; a row that can't be read is a problem of the draft and keeps its place, with usage ""."""
    usage, names, counts, lines = [], [], [], []
    for row, line, fields in table(path, _HEADER, draft):
        part, name, *texts = fields or ("", "", *["0"] * len(VOTED))
        where = f"{path}, line {line} (row {row})"
        cast = vote_counts(texts, where, draft)
        if fields and cast and part not in USAGE:
            draft.problem("unknown Usage", f"{where}: {part!r} (use {', '.join(USAGE)})")
        usage.append(part if cast and part in USAGE else "")
        names.append(name)
        counts.append(cast if cast and usage[-1] else [0] * len(VOTED))
        lines.append(line)
    return Votes(path, usage, names, np.array(counts, np.int64).reshape(-1, len(VOTED)), lines)


def vote_counts(fields: list[str], where: str, draft: ImportBuilder) -> list[int] | None:
    """Ten counts; None and a problem of the draft for anything but whole numbers from 0 to 1000."""
    counts = [whole(text.strip(), range(1001)) for text in fields]
    if None not in counts:
        return counts
    draft.problem("votes are no counts", f"{where}: {','.join(fields)}")
    return None


def read_image_map(path: Path, votes: Votes, draft: ImportBuilder) -> dict[int, str]:
    """Vote row -> picture, relative to the picture tree, from a CSV with the columns ``row`` and ``fer2013_jpg``.

    Where it has ``Usage`` or ``ferplus_image`` these must agree with the votes: a map of another file is an error.  A
    line that can't be read is a problem of the draft.
    """
    found: dict[int, str] = {}
    columns = header_of(path)
    if not {"row", "fer2013_jpg"} <= set(columns):
        raise DataError(f"{path}: its header {columns} lacks row or fer2013_jpg")
    checks = [pair for pair in (("Usage", votes.usage), ("ferplus_image", votes.names)) if pair[0] in columns]
    for _, line, fields in table(path, tuple(columns), draft):
        if fields is None:
            continue
        entry, where = dict(zip(columns, fields, strict=True)), f"{path}, line {line}"
        row = whole(entry["row"], range(len(votes.usage)))
        if row is None or row in found:
            raise DataError(f"{where}: row {entry['row'][:80]!r} is no row of {votes.path}, or stands there twice")
        for column, expected in checks:
            if expected[row] and entry[column] != expected[row]:  # "": that vote row is a problem already
                raise DataError(f"{where}: {column} {entry[column]!r} but {votes.where(row)} has {expected[row]!r}")
        found[row] = safe_path(entry["fer2013_jpg"], where)
    return found
