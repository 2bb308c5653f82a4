"""FERPlus' annotator votes (Barsoum et al. 2016, arXiv:1608.01041): the vote file, and the rules that label a row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from fer_lib.datasets.manifest import safe_path
from fer_lib.emotions import NUM_CLASSES, class_id
from fer_lib.errors import DataError
from fer_lib.importers.builder import BadRecord, ImportBuilder
from fer_lib.importers.text_files import csv_rows, whole_number
from fer_lib.storage.paths import external

USAGE = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
VOTE_COLUMNS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")
_CLASS_IDS = np.array([class_id(name) for name in VOTE_COLUMNS[:NUM_CLASSES]])  # vote column -> class id


@dataclass(frozen=True)
class Votes:
    """A vote file by row: ``usage`` ("" for a bad record) and ``names`` as written, ``counts`` int64 [N, 10]."""

    path: Path
    usage: list[str]
    names: list[str]
    counts: np.ndarray
    places: list[str]

    def check_row(self, row: int, usage: str, where: str) -> None:
        """Raise :class:`DataError` unless ``row`` exists and has this usage; "" is the usage of a bad record."""
        if row >= len(self.usage):
            raise DataError(f"{where}: {self.path} ends after {len(self.usage)} rows; it belongs to another set")
        if usage and self.usage[row] and usage != self.usage[row]:
            raise DataError(f"{where}: Usage {usage}, but {self.places[row]} says {self.usage[row]}: rows do not match")

    def check_length(self, rows: int, path: Path) -> None:
        """Raise :class:`DataError` unless there are as many votes as rows in ``path``."""
        if rows != len(self.usage):
            raise DataError(f"{self.path} has {len(self.usage)} rows, {path} has {rows}: use the files of one dataset")


@dataclass(frozen=True)
class VoteLabels:
    """Labels of N rows of votes.

    ``label`` int64 [N], -1 for a row that is excluded for ``reason``; ``columns``: each row's manifest columns of votes
    before the rule, soft label and share of surviving votes outside the seven classes.
    """

    label: np.ndarray
    reason: list[str]
    columns: list[dict]


def label_votes(counts: np.ndarray, rule: Literal["majority", "plurality"] = "majority") -> VoteLabels:
    """Labels and soft labels of ``counts`` int [N, 10].

    A single vote (a count <= 1) does not survive.  ``majority`` labels a row when its largest surviving count is more
    than half of all surviving votes, over all ten columns, and is one of the seven; ``plurality`` when its largest raw
    count is unique and one of the seven.  The soft label is the surviving votes over the seven, scaled to sum 1.
    """
    counts = np.asarray(counts, np.int64).reshape(-1, len(VOTE_COLUMNS))
    surviving = np.where(counts <= 1, 0, counts)
    basis = surviving if rule == "majority" else counts
    top, total, winner = basis.max(1), basis.sum(1), basis.argmax(1)
    decided = 2 * top > total if rule == "majority" else (basis == top[:, None]).sum(1) == 1
    undecided = "no majority" if rule == "majority" else "tie"
    labelled = decided & (total > 0) & (winner < NUM_CLASSES)
    reason = [
        "" if has_label else "no votes left" if n == 0 else VOTE_COLUMNS[column] if is_decided else undecided
        for has_label, n, is_decided, column in zip(labelled, total, decided, winner, strict=True)
    ]
    label = np.where(labelled, _CLASS_IDS[np.minimum(winner, NUM_CLASSES - 1)], -1)
    cast, soft = np.zeros((2, len(counts), NUM_CLASSES))
    cast[:, _CLASS_IDS], soft[:, _CLASS_IDS] = counts[:, :NUM_CLASSES], surviving[:, :NUM_CLASSES]
    columns = []
    for votes, n, targets, within, total in zip(cast, counts.sum(1), soft, soft.sum(1), surviving.sum(1), strict=True):
        columns.append({"votes": votes.tolist(), "votes_all": float(n)} if n else {})
        if within:
            columns[-1] |= {
                "soft_label": (targets / within).tolist(),
                "excluded_share": float((total - within) / total),
            }
    return VoteLabels(label, reason, columns)


def read_votes(path: Path, builder: ImportBuilder) -> Votes:
    """``fer2013new.csv``; a bad record keeps its row, with usage "" and no votes."""
    usages, names, counts, places = [], [], [], []
    for _, where, fields in csv_rows(path, ("Usage", "Image name", *VOTE_COLUMNS), builder):
        usage, votes = "", [0] * len(VOTE_COLUMNS)
        with builder.record(where):
            if fields is not None:
                row_votes = vote_counts([fields[name] for name in VOTE_COLUMNS])
                usage, votes = known_usage(fields["Usage"]), row_votes
        usages.append(usage)
        names.append(fields["Image name"] if fields else "")
        counts.append(votes)
        places.append(where)
    return Votes(path, usages, names, np.array(counts, np.int64).reshape(-1, len(VOTE_COLUMNS)), places)


def known_usage(text: str) -> str:
    """``text``; BadRecord unless it is one of FER2013's usages."""
    if text not in USAGE:
        raise BadRecord("unknown Usage", f"{text!r} (use {', '.join(USAGE)})")
    return text


def vote_counts(texts: list[str]) -> list[int]:
    """Ten counts; BadRecord for anything but whole numbers from 0 to 1000."""
    return [whole_number(text.strip(), range(1001), "votes are no counts") for text in texts]


def read_image_map(votes: Votes, builder: ImportBuilder) -> dict[int, str]:
    """Vote row -> image below the image tree, from ``spec.image_map``: a CSV with the columns row and fer2013_jpg.

    The columns Usage and ferplus_image must agree with the votes where the CSV has them: a map of other votes raises
    :class:`DataError`.
    """
    if not builder.spec.image_map:
        raise DataError(f"{builder.name}: votes over an image tree need image_map, the CSV that joins rows and images")
    image_of, unmapped = {}, {str(row): row for row in range(len(votes.usage))}
    known = {"Usage": votes.usage, "ferplus_image": votes.names}
    for _, where, fields in csv_rows(external(builder.spec.image_map), ("row", "fer2013_jpg"), builder, others=True):
        if fields is None:
            continue
        row = unmapped.pop(fields["row"], None)
        if row is None:
            raise DataError(f"{where}: row {fields['row'][:80]!r} is no row of {votes.path}, or is mapped twice")
        for column, values in known.items():
            if values[row] and fields.get(column, values[row]) != values[row]:
                raise DataError(f"{where}: {column} {fields[column]!r} but {votes.places[row]} has {values[row]!r}")
        image_of[row] = safe_path(fields["fer2013_jpg"], where)
    return image_of
