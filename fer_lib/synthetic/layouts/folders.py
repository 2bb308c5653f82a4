"""Layouts in which a picture's folder, or its own name, is its label."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fer_lib.emotions import EMOTIONS
from fer_lib.synthetic.layouts.writing import Records, grey, save


def tree(root: Path, records: Records, rng: np.random.Generator) -> None:
    """``{train,val,test}/<alias>/*.jpg`` in colour, the classes spelt as a dataset would."""
    names = ("anger", "disgust", "fear", "happiness", "sad", "suprise", "neutral")
    for i, r in enumerate(records):
        r.record = save(root, f"{r.split}/{names[r.written]}/image{i:07d}.jpg", r.image)


def ckplus(root: Path, records: Records, rng: np.random.Generator) -> None:
    """``<class>/S010_004_00000017.png``, grey: person, session and frame in the name; Contempt is a folder too."""
    names = ("anger", "disgust", "fear", "happy", "sadness", "surprise", "neutral", "contempt")
    for i, r in enumerate(records):
        r.extra["subject"] = f"S{r.identity % 1000:03d}"
        name = f"{names[r.written]}/{r.extra['subject']}_{1 + r.written:03d}_{i:08d}.png"
        r.record = save(root, name, grey(r.image))


def jaffe(root: Path, records: Records, rng: np.random.Generator) -> None:
    """``KA.AN1.39.tiff`` in one folder, grey: person, expression and its number, running number."""
    codes = ("AN", "DI", "FE", "HA", "SA", "SU", "NE")
    for i, r in enumerate(records, 1):
        first, second = divmod(r.identity % 26**2, 26)
        r.extra["subject"] = chr(65 + first) + chr(65 + second)
        r.record = save(root, f"{r.extra['subject']}.{codes[r.written]}{1 + i % 4}.{i}.tiff", grey(r.image))


def jaffe_folders(root: Path, records: Records, rng: np.random.Generator) -> None:
    """The same files in class folders."""
    jaffe(root, records, rng)
    for r in records:
        folder = root / EMOTIONS[r.written].upper()
        folder.mkdir(exist_ok=True)
        (root / r.record).rename(folder / r.record)
        r.record = f"{folder.name}/{r.record}"
