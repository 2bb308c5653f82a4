"""FERPlus (Barsoum et al. 2016): vote rows over FER2013's pictures, the native folders, or a class tree."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.importers import existing, register, tree
from fer_lib.importers.base import ImportBuilder
from fer_lib.importers.fer2013 import pixel_rows, same_row
from fer_lib.importers.lists import plain, whole
from fer_lib.importers.photos import photo_size, sides, usable
from fer_lib.importers.tables import csv_lines, fields_of
from fer_lib.importers.votes import USAGE, VOTED, Judged, Votes, judge, read_image_map, read_votes, vote_counts
from fer_lib.params import SourceSpec

NATIVE = {"FER2013Train": "train", "FER2013Valid": "val", "FER2013Test": "test"}


@register("ferplus", reads=("images", "image_map", "rule"))
def read(spec: SourceSpec, root: Path, draft: ImportBuilder) -> None:
    """The first of these that is there:

    1. ``fer2013new.csv`` (``root`` or in it) with the pictures ``spec.images``, blank: ``fer2013.csv`` beside it; a
       picture tree is joined by ``spec.image_map``;
    2. ``[data/]FER2013{Train,Valid,Test}/label.csv`` with the PNGs beside it;
    3. a tree ``<split>/<class>/*``, whose folders are the labels.
    """
    votes = root if root.is_file() else root / "fer2013new.csv"
    images = existing(spec.images, spec) if spec.images else votes.parent / "fer2013.csv"
    native = [f for n in NATIVE for f in (root / n, root / "data" / n) if (f / "label.csv").is_file()]
    if votes.is_file() and images.exists():
        _read_joined(spec, votes, images, draft)
    elif any(next(folder.glob("*.png"), None) for folder in native):
        _read_native(spec, native, draft)
    elif votes.is_file() or native:
        raise DataError(
            f"{draft.name}: {root} holds votes but no pictures: set images to FER2013's fer2013.csv, or to its picture "
            "tree together with image_map"
        )
    else:
        tree.read(spec, root, draft)


def _read_joined(spec: SourceSpec, path: Path, images: Path, draft: ImportBuilder) -> None:
    votes = read_votes(path, draft)
    judged = judge(votes.counts, spec.rule)
    draft.layout = "ferplus_csv"
    if images.is_dir() and not (images / "fer2013.csv").is_file():
        draft.layout = "ferplus_tree_map"
        _add_from_tree(spec, votes, judged, images, draft)
        return
    images = images / "fer2013.csv" if images.is_dir() else images
    rows = 0
    for row, line, _, pixels, usage in pixel_rows(images, draft):
        rows = row + 1
        same_row(votes, row, usage, f"{images}, line {line}")
        name = _place(votes, judged, row, draft, ".png") if pixels is not None else None
        if name:
            draft.add_pixels(pixels, name, **_columns(votes, judged, row))
    if rows != len(votes.usage):
        raise DataError(f"{path} has {len(votes.usage)} rows, {images} has {rows}: they must be one and the same set")


def _add_from_tree(spec: SourceSpec, votes: Votes, judged: Judged, images: Path, draft: ImportBuilder) -> None:
    if not spec.image_map:
        raise DataError(f"{draft.name}: votes over a picture tree need image_map, the CSV that joins rows and pictures")
    picture_of = read_image_map(existing(spec.image_map, spec), votes, draft)
    unmapped = 0
    for row in range(len(votes.usage)):
        picture = picture_of.get(row)
        if judged.label[row] >= 0 and picture is None:
            draft.exclude(USAGE[votes.usage[row]], "not in image_map")
            unmapped += 1
            continue
        name = _place(votes, judged, row, draft, Path(picture or "").suffix)
        if name:
            draft.add_file(images / picture, name, **_columns(votes, judged, row))
    if unmapped:
        draft.warnings.append(f"{draft.name}: {unmapped} labelled vote rows stand in no line of {spec.image_map}")


def _place(votes: Votes, judged: Judged, row: int, draft: ImportBuilder, suffix: str) -> str | None:
    """Where the picture of a kept row goes; None for a row without a label, which is counted under its reason."""
    if not votes.usage[row]:
        return None  # already one of the draft's problems
    split = USAGE[votes.usage[row]]
    if judged.label[row] < 0:
        draft.exclude(split, judged.reason[row])
        return None
    return f"{split}/{EMOTIONS[judged.label[row]]}/row{row:07d}{suffix}"


def _columns(votes: Votes, judged: Judged, row: int) -> dict:
    return {
        "record": f"row{row:07d}",
        "split": USAGE[votes.usage[row]],
        "label": int(judged.label[row]),
        **judged.extras(row),
    }


def _read_native(spec: SourceSpec, folders: list[Path], draft: ImportBuilder) -> None:
    draft.layout = "ferplus_native"
    for folder in folders:
        split = NATIVE[folder.name]
        rows = list(_native_rows(folder / "label.csv", draft))
        judged = judge(np.array([counts for *_, counts in rows], np.int64).reshape(-1, len(VOTED)), spec.rule)
        for i, (line, name, box, _) in enumerate(rows):
            label = int(judged.label[i])
            if label < 0:
                draft.exclude(split, judged.reason[i])
                continue
            record, where = f"{folder.name}/{line}/{name}", f"{folder / 'label.csv'}, line {line}"
            data = draft.read(folder / name, record)
            size = photo_size(data, where, draft) if data is not None else None
            if size is None or not usable(box, size, where, draft):
                continue
            more = judged.extras(i) | ({} if box == (0, 0, *size) else sides(box))
            relative = f"{split}/{EMOTIONS[label]}/{line}-{name}"
            draft.add_file(folder / name, relative, record=record, split=split, label=label, **more)


def _native_rows(path: Path, draft: ImportBuilder):
    """(line, file name, box, ten counts) of a headerless ``label.csv``: ``fer0000000.png,"(0, 0, 48, 48)",4,0,...``.

    The box comes as top, left, bottom, right.
    """
    for line, text in csv_lines(path):
        where = f"{path}, line {line}"
        fields = fields_of(text, 2 + len(VOTED), where, draft)
        if fields is None or not plain(fields[0], where, draft):
            continue
        edges = [whole(side.strip(), range(10**6)) for side in fields[1].strip("()").split(",")]
        if len(edges) != 4 or None in edges:
            draft.problem("wrong box", f"{where}: {fields[1]!r}")
        elif counts := vote_counts(fields[2:], where, draft):
            left, top, right, bottom = edges  # FERPlus' order
            yield line, fields[0], (top, left, bottom, right), counts
