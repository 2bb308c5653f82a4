"""FER2013 (Goodfellow et al. 2013): ``fer2013.csv``, or the tree of JPEGs whose names carry the official split.

``votes`` adds FERPlus' surviving votes as soft labels (the label stays FER2013's): by row for the CSV, through
``image_map`` for the tree ``<any>/<class>/<Usage>_*``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from fer_lib.datasets.manifest import content_id
from fer_lib.emotions import EMOTIONS, NUM_CLASSES, class_id
from fer_lib.errors import DataError
from fer_lib.importers.builder import BadRecord, ImportBuilder, Source
from fer_lib.importers.image_files import split_class_folders
from fer_lib.importers.text_files import csv_rows, whole_number
from fer_lib.importers.votes import USAGE, VoteLabels, Votes, known_usage, label_votes, read_image_map, read_votes
from fer_lib.storage.paths import external

SIDE = 48
USAGE_IN_NAME = re.compile("|".join(USAGE))


def read(builder: ImportBuilder) -> None:
    file = builder.root if builder.root.is_file() else builder.root / "fer2013.csv"
    votes = read_votes(external(builder.spec.votes), builder) if builder.spec.votes else None
    if file.is_file():
        read_csv(file, votes, builder)
    else:
        read_tree(votes, builder)


def read_csv(path: Path, votes: Votes | None, builder: ImportBuilder) -> None:
    builder.layout = "fer2013_csv"
    labels = label_votes(votes.counts) if votes else None
    for row, label, pixels, split in pixel_rows(path, votes, builder):
        name = f"row{row:07d}"
        columns = labels.columns[row] if labels else {}
        file = f"{split}/{EMOTIONS[label]}/{name}.png"
        add_pixels(builder, pixels, relative=file, record=name, split=split, label=label, **columns)


def add_pixels(builder: ImportBuilder, pixels: np.ndarray, **columns) -> None:
    """Add a row of gray pixels uint8 [48, 48] as a lossless PNG."""
    png = cv2.imencode(".png", pixels)[1].tobytes()
    builder.add_bytes(png, content=content_id(pixels.tobytes()), **columns)


def pixel_rows(
    path: Path, votes: Votes | None, builder: ImportBuilder, labels: VoteLabels | None = None
) -> Iterator[tuple[int, int, np.ndarray, str]]:
    """(row from 0, class id, uint8 [48, 48], split) of the usable rows of ``fer2013.csv``.

    The class is that of ``labels``, -1 for none, where the votes label the rows.  The pixels of a row that the
    builder's limit leaves out are not parsed.  Raises :class:`DataError` when ``votes`` are those of other rows.
    """
    rows = 0
    for row, where, fields in csv_rows(path, ("emotion", "pixels", "Usage"), builder):
        rows, usage, pixels = row + 1, "", None
        with builder.record(where):
            if fields is not None:
                split, label = checked_class(fields)
                if labels is not None and row < len(labels.label):
                    label = int(labels.label[row])
                if label < 0 or not builder.skip(split, label):
                    pixels = checked_pixels(fields["pixels"])
                usage = fields["Usage"]
        if votes:
            votes.check_row(row, usage, where)
        if pixels is not None:
            yield row, label, pixels, split
    if votes:
        votes.check_length(rows, path)


def checked_class(fields: dict[str, str]) -> tuple[str, int]:
    """(split, class id) of a row of ``fer2013.csv``; BadRecord for a wrong usage or label."""
    return USAGE[known_usage(fields["Usage"])], whole_number(fields["emotion"], range(NUM_CLASSES))


def checked_pixels(text: str) -> np.ndarray:
    """The pixels uint8 [48, 48] written in a row of ``fer2013.csv``; BadRecord for a wrong one."""
    try:
        values = np.fromstring(text, np.int64, sep=" ")
    except ValueError:  # a word that is no whole number
        values = np.empty(0)
    if values.size == SIDE * SIDE and values.min() >= 0 and values.max() <= 255:
        return values.astype(np.uint8).reshape(SIDE, SIDE)
    words = text.split()
    if len(words) != SIDE * SIDE:
        raise BadRecord("wrong pixel count", f"{len(words)} pixels instead of {SIDE * SIDE} ({SIDE} x {SIDE})")
    for word in words:
        whole_number(word, range(256), "pixel out of range")
    # str.split takes separators (\x1f, no-break spaces) that NumPy does not
    raise BadRecord("pixel out of range", "something other than a space is between two pixels")


def read_tree(votes: Votes | None, builder: ImportBuilder) -> None:
    builder.layout = "fer2013_tree"
    columns = vote_columns(votes, builder) if votes else {}
    for folder, _, images in split_class_folders(builder):
        label = class_id(folder.name)
        if label is not None and not images:
            raise DataError(f"{builder.name}: the class folder {folder} holds no image: remove it")
        for path in images:
            with builder.record():
                if (usage := USAGE_IN_NAME.search(path.name)) is None:
                    raise BadRecord("no Training, PublicTest or PrivateTest in the file name", str(path))
                split, name = USAGE[usage.group()], path.relative_to(builder.root).as_posix()
                if label is None:
                    builder.exclude(split, folder.name)
                else:
                    builder.add_file(path, name, record=name, split=split, label=label, **columns.get(name, {}))
    if votes:
        mapped = sum(row["record"] in columns for row in builder.rows)
        soft = sum("soft_label" in row for row in builder.rows)
        if not mapped:
            raise DataError(f"{builder.name}: {builder.spec.image_map} names no image under {builder.root}; check both")
        builder.notes.append(f"{mapped} of {len(builder.rows)} rows are in the image_map, {soft} got a soft label")


def vote_columns(votes: Votes, builder: ImportBuilder) -> dict[str, dict]:
    """Image path -> manifest columns of its votes; the vote rows of one image are added up."""
    rows_of = defaultdict(list)
    for row, image in read_image_map(votes, builder).items():
        rows_of[image].append(row)
    labels = label_votes(np.array([votes.counts[rows].sum(0) for rows in rows_of.values()]))
    return dict(zip(rows_of, labels.columns, strict=True))


DECLARATIONS = {"fer2013": Source(read, ("votes", "image_map"))}
