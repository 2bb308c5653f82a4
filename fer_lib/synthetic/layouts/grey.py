"""FER2013 and FERPlus: grey faces of 48 pixels, in a CSV, a tree or beside a vote file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fer_lib.emotions import EMOTIONS
from fer_lib.synthetic.layouts.writing import Records, grey, save, write_rows
from fer_lib.synthetic.noise_injection import Record

_USAGE = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}
_VOTE_COLUMNS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")
_VOTE_OF = (4, 5, 6, 1, 3, 2, 0, 7)  # vote column of each class id, contempt last
# Where the votes of a weakly shown expression stray to, by class id.
_MISTAKEN = ((5, 6), (0, 4), (5, 4), (6, 5), (6, 2), (2, 6), (4, 0), (6, 3))


def fer2013_csv(root: Path, records: Records, rng: np.random.Generator) -> None:
    """``fer2013.csv``: emotion, 2304 grey values, Usage; a record is its row, counted from 0."""
    rows = []
    for i, r in enumerate(records):
        r.record = f"row{i:07d}"
        rows.append((r.written, " ".join(map(str, grey(r.image).ravel().tolist())), _USAGE[r.split]))
    write_rows(root / "fer2013.csv", ("emotion", "pixels", "Usage"), rows)


def fer2013_tree(root: Path, records: Records, rng: np.random.Generator) -> None:
    """``train/<class>/Training_N.jpg``, ``test/<class>/{PublicTest,PrivateTest}_N.jpg``: the name tells the split."""
    numbers = rng.permutation(10**6)[: len(records)] + 10**6
    for r, number in zip(records, numbers.tolist(), strict=True):
        part = "train" if r.split == "train" else "test"
        name = f"{part}/{EMOTIONS[r.written].lower()}/{_USAGE[r.split]}_{number}.jpg"
        r.record = save(root, name, grey(r.image))


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
    write_rows(root / "fer2013new.csv", ("Usage", "Image name", *_VOTE_COLUMNS), rows)


def ferplus_native(root: Path, records: Records, rng: np.random.Generator) -> None:
    """``FER2013{Train,Valid,Test}/label.csv`` (no header: name, quoted box, ten votes) with the PNG files beside it."""
    for split, folder in (("train", "FER2013Train"), ("val", "FER2013Valid"), ("test", "FER2013Test")):
        rows = []
        for i, r in enumerate(records):
            if r.split != split:
                continue
            name = f"fer{i:07d}.png"
            r.votes = vote(r, rng)
            save(root, f"{folder}/{name}", grey(r.image))
            r.record = f"{folder}/{len(rows) + 1}/{name}"
            rows.append((name, f"(0, 0, {r.image.shape[1]}, {r.image.shape[0]})", *r.votes))
        write_rows(root / folder / "label.csv", None, rows)
