"""Raw layouts that only tests draw: a second native layout of sources whose first is in ``fer_lib.synthetic.layouts``.

Importing this module adds them to ``LAYOUTS``, so that ``write_raw`` knows them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fer_lib.emotions import EMOTIONS
from fer_lib.synthetic.layouts import (
    LAYOUTS,
    NO_SPLITS,
    THREE_SPLITS,
    USAGE,
    Layout,
    Records,
    gray,
    jaffe,
    save,
    vote,
    write_rows,
)


def fer2013_tree(root: Path, records: Records, rng: np.random.Generator) -> None:
    """``train/<class>/Training_N.jpg``, ``test/<class>/{PublicTest,PrivateTest}_N.jpg``: the name tells the split."""
    numbers = rng.permutation(10**6)[: len(records)] + 10**6
    for r, number in zip(records, numbers.tolist(), strict=True):
        part = "train" if r.split == "train" else "test"
        name = f"{part}/{EMOTIONS[r.written].lower()}/{USAGE[r.split]}_{number}.jpg"
        r.record = save(root, name, gray(r.image))


def ferplus_native(root: Path, records: Records, rng: np.random.Generator) -> None:
    """``FER2013{Train,Valid,Test}/label.csv`` (no header: name, quoted box, ten votes) with the PNG files beside it."""
    for split, folder in (("train", "FER2013Train"), ("val", "FER2013Valid"), ("test", "FER2013Test")):
        (root / folder).mkdir()
        rows = []
        for i, r in enumerate(records):
            if r.split != split:
                continue
            name = f"fer{i:07d}.png"
            r.votes = vote(r, rng)
            save(root, f"{folder}/{name}", gray(r.image))
            r.record = f"{folder}/{len(rows) + 1}/{name}"
            rows.append((name, f"(0, 0, {r.image.shape[1]}, {r.image.shape[0]})", *r.votes))
        write_rows(root / folder / "label.csv", rows)


def jaffe_folders(root: Path, records: Records, rng: np.random.Generator) -> None:
    """The files of ``jaffe`` in class folders."""
    jaffe(root, records, rng)
    for r in records:
        folder = root / EMOTIONS[r.written].upper()
        folder.mkdir(exist_ok=True)
        (root / r.record).rename(folder / r.record)
        r.record = f"{folder.name}/{r.record}"


LAYOUTS |= {
    "fer2013_tree": Layout(fer2013_tree, 48, THREE_SPLITS, "fer2013"),
    "ferplus_native": Layout(ferplus_native, 48, THREE_SPLITS, "ferplus"),
    "jaffe_folders": Layout(jaffe_folders, 64, NO_SPLITS, "jaffe"),
}
