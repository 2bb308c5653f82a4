"""FERPlus' annotator votes (Barsoum et al. 2016, arXiv:1608.01041): the vote file, and the rules that label a row."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fer_lib.datasets.manifest import safe_path
from fer_lib.emotions import EMOTIONS, class_id
from fer_lib.errors import DataError
from fer_lib.importers.builder import BadRecord, ImportBuilder
from fer_lib.importers.text_files import csv_fields, csv_rows, file_name, lines_of, whole_number
from fer_lib.storage.paths import external

USAGE = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
VOTE_COLUMNS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")
_COLUMN_OF = [[class_id(name) for name in VOTE_COLUMNS].index(i) for i in range(len(EMOTIONS))]  # by class id
_NATIVE_BOX = re.compile(r"\(" + r",\s*".join([r"([0-9]{1,6})"] * 4) + r"\)")


class Vote(NamedTuple):
    """One row of a vote file: its ten ``counts``; a bad record has the ``usage`` "" and no votes."""

    where: str
    usage: str
    image: str
    counts: list[int]


class Votes(NamedTuple):
    """The rows of the vote file at ``path``."""

    path: Path
    rows: list[Vote]


def label_votes(
    counts: Sequence[int], rule: Literal["majority", "plurality"] = "majority"
) -> tuple[str, dict[str, Any]]:
    """The label of a row of ten counts, and its manifest columns.

    The label is a class's name, or the reason why the row has none of the seven.  A single vote (a count <= 1) does
    not survive.  ``majority``: the largest surviving count is more than half of all surviving votes, over all ten
    columns.  ``plurality``: the largest raw count is unique.  The columns: the votes before the rule, the soft label
    (the surviving votes over the seven, scaled to sum 1) and the share of surviving votes outside the seven.
    """
    surviving = [n if n > 1 else 0 for n in counts]
    basis, undecided = (surviving, "no majority") if rule == "majority" else (list(counts), "tie")
    top, total = max(basis), sum(basis)
    if not total:
        label = "no votes left"
    elif 2 * top > total if rule == "majority" else basis.count(top) == 1:
        label = VOTE_COLUMNS[basis.index(top)]
    else:
        label = undecided
    columns = {}
    if any(counts):
        columns = {"votes": [float(counts[i]) for i in _COLUMN_OF], "votes_all": float(sum(counts))}
    if within := sum(surviving[i] for i in _COLUMN_OF):
        columns["soft_label"] = [surviving[i] / within for i in _COLUMN_OF]
        columns["excluded_share"] = (sum(surviving) - within) / sum(surviving)
    return label, columns


def read_votes(path: Path, builder: ImportBuilder) -> Votes:
    """The rows of ``fer2013new.csv``."""
    votes = []
    for _, where, fields in csv_rows(path, ("Usage", "Image name", *VOTE_COLUMNS), builder):
        vote = Vote(where, "", fields["Image name"] if fields else "", [0] * len(VOTE_COLUMNS))
        with builder.record(where):
            if fields:
                counts = vote_counts([fields[name] for name in VOTE_COLUMNS])
                vote = vote._replace(usage=known_usage(fields["Usage"]), counts=counts)
        votes.append(vote)
    return Votes(path, votes)


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
    image_of, unmapped = {}, {str(row): row for row in range(len(votes.rows))}
    for _, where, fields in csv_rows(external(builder.spec.image_map), ("row", "fer2013_jpg"), builder, others=True):
        if fields is None:
            continue
        row = unmapped.pop(fields["row"], None)
        if row is None:
            raise DataError(f"{where}: row {fields['row'][:80]!r} is no row of {votes.path}, or is mapped twice")
        vote = votes.rows[row]
        for column, value in (("Usage", vote.usage), ("ferplus_image", vote.image)):
            if value and fields.get(column, value) != value:
                raise DataError(f"{where}: {column} {fields[column]!r} but {vote.where} has {value!r}")
        image_of[row] = safe_path(fields["fer2013_jpg"], where)
    return image_of


def add_voted_images(images: Path, votes: Votes, builder: ImportBuilder) -> None:
    """Add the rows of ``votes`` with the image tree ``images``, joined by ``spec.image_map``."""
    image_of, unmapped = read_image_map(votes, builder), 0
    for row, vote in enumerate(votes.rows):
        if not vote.usage:  # a bad record already
            continue
        split, name = USAGE[vote.usage], f"row{row:07d}"
        label, columns = label_votes(vote.counts, builder.spec.rule)
        if row not in image_of and class_id(label) is not None:
            label, unmapped = "not in image_map", unmapped + 1
        if (label := builder.wanted(split, label)) is not None:
            with builder.record(name):
                path = images / image_of[row]
                file = f"{split}/{EMOTIONS[label]}/{name}{path.suffix}"
                builder.add_image(path, file, record=name, split=split, label=label, **columns)
    if unmapped:
        builder.warnings.append(
            f"{builder.name}: {unmapped} labelled vote rows have no line in {builder.spec.image_map}"
        )


def add_native_votes(folder: Path, split: str, builder: ImportBuilder) -> None:
    """Add the rows of a headerless ``label.csv`` and the images beside it.

    A line is ``fer0000000.png,"(0, 0, 48, 48)",4,0,...`` with left, top, right, bottom.
    """
    path = folder / "label.csv"
    for number, line in lines_of(path, "\n"):
        with builder.record(f"{path}, line {number}"):
            name, sides, *texts = csv_fields(line, 2 + len(VOTE_COLUMNS))
            image, match = folder / file_name(name), _NATIVE_BOX.fullmatch(sides)
            if match is None:
                raise BadRecord("wrong box", repr(sides))
            left, top, right, bottom = map(int, match.groups())
            label, columns = label_votes(vote_counts(texts), builder.spec.rule)
            if (label := builder.wanted(split, label)) is not None:
                box = (top, left, bottom, right)
                columns |= {"box": None if box == (0, 0, *builder.photo_size(image)) else box}
                record, file = f"{folder.name}/{number}/{name}", f"{split}/{EMOTIONS[label]}/{number}-{name}"
                builder.add_image(image, file, record=record, split=split, label=label, **columns)
