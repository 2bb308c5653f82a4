"""Writers of the native raw layouts, so that importers meet drawn faces exactly as they meet the real datasets.

A writer takes an empty folder, the records in order and a random generator, and fills in each record's ``record``:
the key under which an import knows it (``row0000000`` in a CSV, ``folder/line/picture`` in a label.csv, a picture's
relative path, ``photo#face``).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from fer_lib.datasets.planting import Record
from fer_lib.emotions import EMOTIONS

Records = list[Record]
_USAGE = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}
_VOTE_COLUMNS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")
_VOTE_OF = (4, 5, 6, 1, 3, 2, 0, 7)  # vote column of each class id, contempt last
# Where the votes of a weakly shown expression stray to, by class id.
_MISTAKEN = ((5, 6), (0, 4), (5, 4), (6, 5), (6, 2), (2, 6), (4, 0), (6, 3))


def _encode(image: np.ndarray, suffix: str) -> bytes:
    colours = image[..., ::-1] if image.ndim == 3 else image
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if suffix == ".jpg" else []
    return cv2.imencode(suffix, np.ascontiguousarray(colours), options)[1].tobytes()


def _grey(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def _save(root: Path, relative: str, image: np.ndarray) -> str:
    path = root / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_encode(image, path.suffix))
    return relative


def _write_rows(path: Path, header: tuple[str, ...] | None, rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if header:
            writer.writerow(header)
        writer.writerows(rows)


def fer2013_csv(root: Path, records: Records, rng: np.random.Generator) -> None:
    """``fer2013.csv``: emotion, 2304 grey values, Usage; a record is its row, counted from 0."""
    rows = []
    for i, r in enumerate(records):
        r.record = f"row{i:07d}"
        rows.append((r.written, " ".join(map(str, _grey(r.image).ravel().tolist())), _USAGE[r.split]))
    _write_rows(root / "fer2013.csv", ("emotion", "pixels", "Usage"), rows)


def fer2013_tree(root: Path, records: Records, rng: np.random.Generator) -> None:
    """``train/<class>/Training_N.jpg``, ``test/<class>/{PublicTest,PrivateTest}_N.jpg``: the name tells the split."""
    numbers = rng.permutation(10**6)[: len(records)] + 10**6
    for r, number in zip(records, numbers.tolist(), strict=True):
        part = "train" if r.split == "train" else "test"
        name = f"{part}/{EMOTIONS[r.written].lower()}/{_USAGE[r.split]}_{number}.jpg"
        r.record = _save(root, name, _grey(r.image))


def vote(r: Record, rng: np.random.Generator) -> list[int]:
    """Ten annotators' votes on ``r`` in FERPlus' column order; weak faces divide them, 1 % show no face to them."""
    share = np.full(10, 0.004)
    if rng.random() < 0.01:
        share[9] = 10.0
    else:
        clear = 0.55 + 0.43 * (r.strength if r.true != EMOTIONS.index("Neutral") else 0.75)
        share[_VOTE_OF[r.true]] = clear
        for other, part in zip(_MISTAKEN[r.true], (0.6, 0.25), strict=True):
            share[_VOTE_OF[other]] += (1 - clear) * part
        share[7] += (1 - clear) * 0.08
        share[8] += (1 - clear) * 0.12 if rng.random() > 0.02 else 2.0
    return rng.multinomial(10, share / share.sum()).tolist()


def ferplus(root: Path, records: Records, rng: np.random.Generator) -> None:
    """``fer2013.csv`` and, row by row beside it, ``fer2013new.csv``; ten NF votes: no image name.

    Votes follow the true class, whatever wrong label ``fer2013.csv`` was given.
    """
    fer2013_csv(root, records, rng)
    rows = []
    for i, r in enumerate(records):
        r.votes = vote(r, rng)
        rows.append((_USAGE[r.split], "" if r.votes[9] == 10 else f"fer{i:07d}.png", *r.votes))
    _write_rows(root / "fer2013new.csv", ("Usage", "Image name", *_VOTE_COLUMNS), rows)


def ferplus_native(root: Path, records: Records, rng: np.random.Generator) -> None:
    """``FER2013{Train,Valid,Test}/label.csv`` (no header: name, quoted box, ten votes) with the PNG files beside it."""
    for split, folder in (("train", "FER2013Train"), ("val", "FER2013Valid"), ("test", "FER2013Test")):
        rows = []
        for i, r in enumerate(records):
            if r.split != split:
                continue
            name = f"fer{i:07d}.png"
            r.votes = vote(r, rng)
            _save(root, f"{folder}/{name}", _grey(r.image))
            r.record = f"{folder}/{len(rows) + 1}/{name}"
            rows.append((name, f"(0, 0, {r.image.shape[1]}, {r.image.shape[0]})", *r.votes))
        _write_rows(root / folder / "label.csv", None, rows)


def tree(root: Path, records: Records, rng: np.random.Generator) -> None:
    """``{train,val,test}/<alias>/*.jpg`` in colour, the classes spelt as a dataset would."""
    names = ("anger", "disgust", "fear", "happiness", "sad", "suprise", "neutral")
    for i, r in enumerate(records):
        r.record = _save(root, f"{r.split}/{names[r.written]}/image{i:07d}.jpg", r.image)


def affectnet_yolo(root: Path, records: Records, rng: np.random.Generator) -> None:
    """``data.yaml``, ``{train,valid,test}/{images,labels}``: eight classes with Contempt, stems recur across splits."""
    names = ("Anger", "Contempt", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise")
    number = (0, 2, 3, 4, 6, 7, 5, 1)  # where EMOTIONS, then Contempt, stand among the names
    for split in ("train", "val", "test"):
        folder = "valid" if split == "val" else split
        (root / folder / "labels").mkdir(parents=True, exist_ok=True)
        for i, r in enumerate(x for x in records if x.split == split):
            r.record = _save(root, f"{folder}/images/image{i:07d}.jpg", r.image)
            (root / folder / "labels" / f"image{i:07d}.txt").write_text(f"{number[r.written]} 0.499 0.499 0.999 0.999")
    listed = "\n".join(f'    "{n}",' for n in names)
    paths = 'data: "./YOLO_format"\n\ntrain: "./train/images"\nval: "./valid/images"\ntest: "./test/images"\n'
    (root / "data.yaml").write_text(f"{paths}\nnc: {len(names)}\n\nnames:\n  [\n{listed}\n  ]\n")


def rafdb_basic(root: Path, records: Records, rng: np.random.Generator) -> None:
    """``EmoLabel/list_patition_label.txt`` and ``Image/aligned/*_aligned.jpg``; RAF-DB has train and test only."""
    number = (6, 3, 2, 4, 5, 1, 7)
    lines = []
    for split, digits in (("train", 5), ("test", 4)):
        for i, r in enumerate((r for r in records if r.split == split), 1):
            stem = f"{split}_{i:0{digits}d}"
            r.record = _save(root, f"Image/aligned/{stem}_aligned.jpg", r.image)
            lines.append(f"{stem}.jpg {number[r.written]}")
    (root / "EmoLabel").mkdir()
    (root / "EmoLabel" / "list_patition_label.txt").write_text("\n".join(lines))


def expw(root: Path, records: Records, rng: np.random.Generator) -> None:
    """``origin/*.jpg``, one to four faces each; ``label.lst``: photo face top left right bottom confidence label."""
    lines, start, photo = [], 0, 0
    while start < len(records):
        group = records[start : start + int(rng.choice((1, 1, 2, 2, 3, 4)))]
        start += len(group)
        name = f"drawn_people_{photo}.jpg"
        photo += 1
        side = max(r.image.shape[0] for r in group)
        gap = side // 3
        canvas = (rng.uniform(60, 180, (2, 3, 1)) + rng.uniform(-30, 30, (2, 3, 3))).astype(np.uint8)
        canvas = cv2.resize(canvas, (gap + len(group) * (side + gap), side + 3 * gap), interpolation=cv2.INTER_CUBIC)
        for i, r in enumerate(group):
            size, left = r.image.shape[0], gap + i * (side + gap)
            top = int(rng.integers(gap // 2, 2 * gap))
            canvas[top : top + size, left : left + size] = r.image
            r.record = f"{name}#{i}"
            confidence = 20 + 80 * rng.random()
            lines.append(f"{name} {i} {top} {left} {left + size} {top + size} {confidence:.4f} {r.written}")
        _save(root, f"origin/{name}", canvas)
    (root / "label.lst").write_text("\n".join(lines) + "\n")


@dataclass(frozen=True)
class Layout:
    """How a layout is written, its face size in pixels, the splits it stores with their shares, Contempt's share."""

    write: Callable[[Path, Records, np.random.Generator], None]
    size: int
    splits: Mapping[str, float]
    contempt: float = 0.0
    fixed_size: bool = False


_SPLITS = {"train": 0.8, "val": 0.1, "test": 0.1}
LAYOUTS: dict[str, Layout] = {
    "fer2013_csv": Layout(fer2013_csv, 48, _SPLITS, fixed_size=True),
    "fer2013_tree": Layout(fer2013_tree, 48, _SPLITS),
    "ferplus": Layout(ferplus, 48, _SPLITS, fixed_size=True),
    "ferplus_native": Layout(ferplus_native, 48, _SPLITS),
    "tree": Layout(tree, 48, _SPLITS),
    "affectnet_yolo": Layout(affectnet_yolo, 96, _SPLITS, contempt=0.06),
    "rafdb_basic": Layout(rafdb_basic, 100, {"train": 0.8, "test": 0.2}),
    "expw": Layout(expw, 80, {"": 1.0}),
}
