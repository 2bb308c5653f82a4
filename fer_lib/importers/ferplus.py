"""FERPlus (Barsoum et al. 2016): vote rows over FER2013's images, the native folders, or a class tree.

The first of these that exists is read:

1. ``fer2013new.csv`` (``root`` or in it) with the images ``images``, by default ``fer2013.csv`` beside it; an image
   tree is joined by ``image_map``;
2. ``[data/]FER2013{Train,Valid,Test}/label.csv`` with the PNGs beside it;
3. a tree ``<split>/<class>/*``, whose folders are the labels.
"""

from __future__ import annotations

from pathlib import Path

from fer_lib.datasets.manifest import BOX
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.importers import tree
from fer_lib.importers.builder import BadRecord, ImportBuilder, Source
from fer_lib.importers.fer2013 import add_pixels, pixel_rows
from fer_lib.importers.text_files import csv_fields, file_name, lines_of, whole_number
from fer_lib.importers.votes import (
    USAGE,
    VOTE_COLUMNS,
    VoteLabels,
    Votes,
    label_votes,
    read_image_map,
    read_votes,
    vote_counts,
)
from fer_lib.storage.paths import external

NATIVE = {"FER2013Train": "train", "FER2013Valid": "val", "FER2013Test": "test"}


def read(builder: ImportBuilder) -> None:
    root, images = builder.root, builder.spec.images
    file = root if root.is_file() else root / "fer2013new.csv"
    images = external(images) if images else file.parent / "fer2013.csv"
    native = [f for name in NATIVE for f in (root / name, root / "data" / name) if (f / "label.csv").is_file()]
    if file.is_file() and images.exists():
        read_joined(file, images, builder)
    elif any(next(folder.glob("*.png"), None) for folder in native):
        builder.layout = "ferplus_native"
        for folder in native:
            read_native(folder, builder)
    elif file.is_file() or native:
        raise DataError(
            f"{builder.name}: {root} holds votes but no images: set images to FER2013's fer2013.csv, or to its image "
            "tree together with image_map"
        )
    else:
        builder.layout = "tree"
        tree.read(builder)


def read_joined(path: Path, images: Path, builder: ImportBuilder) -> None:
    """Rows of a vote file over the pixels of ``fer2013.csv``, or over an image tree and its map."""
    votes = read_votes(path, builder)
    labels = label_votes(votes.counts, builder.spec.rule)
    if images.is_dir() and not (images / "fer2013.csv").is_file():
        builder.layout = "ferplus_tree_map"
        add_mapped(votes, labels, images, builder)
        return
    builder.layout = "ferplus_csv"
    images = images / "fer2013.csv" if images.is_dir() else images
    for row, _, pixels, _ in pixel_rows(images, votes, builder, labels):
        if columns := row_columns(votes, labels, row, ".png", builder):
            add_pixels(builder, pixels, **columns)


def add_mapped(votes: Votes, labels: VoteLabels, images: Path, builder: ImportBuilder) -> None:
    image_of = read_image_map(votes, builder)
    unmapped = 0
    for row in range(len(votes.usage)):
        if labels.label[row] >= 0 and row not in image_of:
            builder.exclude(USAGE[votes.usage[row]], "not in image_map")
            unmapped += 1
        elif columns := row_columns(votes, labels, row, Path(image_of.get(row, "")).suffix, builder):
            with builder.record(columns["record"]):
                builder.add_file(images / image_of[row], **columns)
    if unmapped:
        builder.warnings.append(
            f"{builder.name}: {unmapped} labelled vote rows have no line in {builder.spec.image_map}"
        )


def row_columns(votes: Votes, labels: VoteLabels, row: int, suffix: str, builder: ImportBuilder) -> dict | None:
    """File and columns of a labelled row; None for a bad record, and for a row that its votes exclude."""
    if not votes.usage[row]:
        return None
    split, label, name = USAGE[votes.usage[row]], int(labels.label[row]), f"row{row:07d}"
    if label < 0:
        builder.exclude(split, labels.reason[row])
        return None
    columns = {"relative": f"{split}/{EMOTIONS[label]}/{name}{suffix}", "record": name, "split": split, "label": label}
    return columns | labels.columns[row]


def read_native(folder: Path, builder: ImportBuilder) -> None:
    """Rows of a headerless ``label.csv``: ``fer0000000.png,"(0, 0, 48, 48)",4,0,...`` with left, top, right, bottom."""
    rows, split = [], NATIVE[folder.name]
    for number, line in lines_of(folder / "label.csv", "\n"):
        where = f"{folder / 'label.csv'}, line {number}"
        with builder.record(where):
            name, sides, *votes = csv_fields(line, 2 + len(VOTE_COLUMNS))
            file_name(name)
            box = [whole_number(side.strip(), range(10**6), "wrong box") for side in sides.strip("()").split(",")]
            if len(box) != len(BOX):
                raise BadRecord("wrong box", repr(sides))
            left, top, right, bottom = box
            rows.append((number, where, name, (top, left, bottom, right), vote_counts(votes)))
    labels = label_votes([votes for *_, votes in rows], builder.spec.rule)
    for i, (number, where, name, box, _) in enumerate(rows):
        label = int(labels.label[i])
        if label < 0:
            builder.exclude(split, labels.reason[i])
            continue
        if builder.skip(split, label):
            continue
        with builder.record(where):
            is_whole = box == (0, 0, *builder.photo_size(folder / name))
            columns = labels.columns[i] | {"split": split, "label": label, "record": f"{folder.name}/{number}/{name}"}
            file = f"{split}/{EMOTIONS[label]}/{number}-{name}"
            builder.add_file(folder / name, file, box=None if is_whole else box, **columns)


DECLARATIONS = {"ferplus": Source(read, ("images", "image_map", "rule"))}
