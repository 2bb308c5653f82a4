"""Layouts with their labels in lists beside the pictures: AffectNet for YOLO, the RAF sets, ExpW."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from fer_lib.emotions import EMOTIONS
from fer_lib.synthetic.layouts.writing import Records, save

# RAF-DB's compound numbers that are mapped onto each class id
COMPOUND = {3: (1, 2), 4: (3, 4, 5, 6), 2: (7, 8), 0: (9, 10), 1: (11,)}
_RAFML = ("Surprise", "Fear", "Disgust", "Happy", "Sad", "Angry")


def affectnet_yolo(root: Path, records: Records, rng: np.random.Generator) -> None:
    """``data.yaml``, ``{train,valid,test}/{images,labels}``: eight classes with Contempt, stems recur across splits."""
    names = ("Anger", "Contempt", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise")
    number = (0, 2, 3, 4, 6, 7, 5, 1)  # where EMOTIONS, then Contempt, stand among the names
    for split in ("train", "val", "test"):
        folder = "valid" if split == "val" else split
        (root / folder / "labels").mkdir(parents=True, exist_ok=True)
        for i, r in enumerate(x for x in records if x.split == split):
            r.record = save(root, f"{folder}/images/image{i:07d}.jpg", r.image)
            (root / folder / "labels" / f"image{i:07d}.txt").write_text(f"{number[r.written]} 0.499 0.499 0.999 0.999")
    listed = "\n".join(f'    "{n}",' for n in names)
    paths = 'data: "./YOLO_format"\n\ntrain: "./train/images"\nval: "./valid/images"\ntest: "./test/images"\n'
    (root / "data.yaml").write_text(f"{paths}\nnc: {len(names)}\n\nnames:\n  [\n{listed}\n  ]\n")


def _raf_list(root: Path, records: Records, digits: dict[str, int], number_of) -> None:
    """RAF-DB's list and aligned pictures; every eighth picture is there as an original only.  A record is its name."""
    lines = []
    for split, width in digits.items():
        for i, r in enumerate((r for r in records if r.split == split), 1):
            stem = f"{split}_{i:0{width}d}"
            where = f"Image/original/{stem}.jpg" if i % 8 == 0 else f"Image/aligned/{stem}_aligned.jpg"
            save(root, where, r.image)
            r.record = f"{stem}.jpg"
            lines.append(f"{r.record} {number_of(r)}")
    (root / "EmoLabel").mkdir(exist_ok=True)
    (root / "EmoLabel" / "list_patition_label.txt").write_text("\n".join(lines))


def rafdb_basic(root: Path, records: Records, rng: np.random.Generator) -> None:
    """``EmoLabel/list_patition_label.txt`` and ``Image/{aligned,original}``; RAF-DB has train and test only."""
    number = (6, 3, 2, 4, 5, 1, 7)
    _raf_list(root, records, {"train": 5, "test": 4}, lambda r: number[r.written])


def rafdb_compound(root: Path, records: Records, rng: np.random.Generator) -> None:
    """The same list with the numbers 1..11 of the compound set, and four digits in every name."""
    _raf_list(root, records, {"train": 4, "test": 4}, lambda r: rng.choice(COMPOUND[r.written]))


def rafml(root: Path, records: Records, rng: np.random.Generator) -> None:
    """``EmoLabel/distribution.txt`` (name, six shares) and ``partition_label.txt`` (name, 1 = test)."""
    shares_of, flags = [], []
    for i, r in enumerate(records, 1):
        r.record = f"{i:04d}.jpg"
        save(root, f"Image/aligned/{i:04d}_aligned.jpg", r.image)
        parts = rng.multinomial(94, np.full(6, 1 / 6)) / 200  # none above 0.47, and 0.53 for the label's own
        parts[_RAFML.index(EMOTIONS[r.written])] += 0.53
        r.extra["distribution"] = dict(zip(_RAFML, parts.round(4).tolist(), strict=True))
        shares_of.append(" ".join((r.record, *(f"{part:.4f}" for part in parts))))
        flags.append(f"{r.record} {int(r.split == 'test')}")
    (root / "EmoLabel").mkdir()
    (root / "EmoLabel" / "distribution.txt").write_text("\n".join(shares_of) + "\n")
    (root / "EmoLabel" / "partition_label.txt").write_text("\n".join(flags) + "\n")


def expw(root: Path, records: Records, rng: np.random.Generator) -> None:
    """``origin/*.jpg``, one to four faces each; ``label.lst``: photo face top left right bottom confidence label.

    ``extra`` has the confidence and the box top, left, bottom, right.
    """
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
            confidence = f"{20 + 80 * rng.random():.4f}"
            r.extra = {"confidence": float(confidence), "box": [top, left, top + size, left + size]}
            lines.append(f"{name} {i} {top} {left} {left + size} {top + size} {confidence} {r.written}")
        if photo % 40 == 1:  # as in the original, a few boxes leave their photo by a pixel
            canvas = canvas[:, : left + size - 1]
        save(root, f"origin/{name}", canvas)
    (root / "label.lst").write_text("\n".join(lines) + "\n")
