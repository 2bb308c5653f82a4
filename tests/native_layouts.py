"""Raw layouts that only tests draw; ``fer_lib.synthetic.layouts`` has the others.

Importing this module adds them to ``LAYOUTS``, so that ``write_raw`` knows them.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
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
    fer2013_csv,
    gray,
    save,
)
from fer_lib.synthetic.noise_injection import Record

COMPOUND = {3: (1, 2), 4: (3, 4, 5, 6), 2: (7, 8), 0: (9, 10), 1: (11,)}
"""RAF-DB's compound numbers that are mapped onto each class id."""
_VOTE_COLUMNS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")
_VOTE_OF = (4, 5, 6, 1, 3, 2, 0, 7)  # vote column of each class id, contempt last
_CONFUSED_WITH = ((5, 6), (0, 4), (5, 4), (6, 5), (6, 2), (2, 6), (4, 0), (6, 3))  # other votes on weak expressions
_RAFML = ("Surprise", "Fear", "Disgust", "Happy", "Sad", "Angry")


def write_rows(path: Path, rows, header: tuple[str, ...] | None = None) -> None:
    """A CSV with Unix line ends."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows] if header else rows)


def vote(r: Record, rng: np.random.Generator) -> list[int]:
    """Ten annotator votes on ``r`` in FERPlus' column order; weak expressions divide them, 1 % are no face (NF)."""
    share = np.full(10, 0.004)
    if rng.random() < 0.01:
        share[9] = 10.0
    else:
        clear = 0.55 + 0.43 * (r.strength if r.true != EMOTIONS.index("Neutral") else 0.75)
        share[_VOTE_OF[r.true]] = clear
        for other, part in zip(_CONFUSED_WITH[r.true], (0.6, 0.25), strict=True):
            share[_VOTE_OF[other]] += (1 - clear) * part
        share[7] += (1 - clear) * 0.08
        share[8] += (1 - clear) * 0.12 if rng.random() > 0.02 else 2.0
    return rng.multinomial(10, share / share.sum()).tolist()


def ferplus(root: Path, records: Records, rng: np.random.Generator) -> None:
    """``fer2013.csv`` and, row by row beside it, ``fer2013new.csv``; a row with ten NF votes has no image name.

    Votes follow the true class, not the label that ``fer2013.csv`` has.
    """
    fer2013_csv(root, records, rng)
    rows = []
    for i, r in enumerate(records):
        r.extra["votes"] = vote(r, rng)
        rows.append((USAGE[r.split], "" if r.extra["votes"][9] == 10 else f"fer{i:07d}.png", *r.extra["votes"]))
    write_rows(root / "fer2013new.csv", rows, ("Usage", "Image name", *_VOTE_COLUMNS))


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
            r.extra["votes"] = vote(r, rng)
            save(root, f"{folder}/{name}", gray(r.image))
            r.record = f"{folder}/{len(rows) + 1}/{name}"
            rows.append((name, f"(0, 0, {r.image.shape[1]}, {r.image.shape[0]})", *r.extra["votes"]))
        write_rows(root / folder / "label.csv", rows)


def affectnet_yolo(root: Path, records: Records, rng: np.random.Generator) -> None:
    """``data.yaml``, ``{train,valid,test}/{images,labels}``: eight classes with Contempt, stems recur across splits."""
    names = ("Anger", "Contempt", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise")
    number = (0, 2, 3, 4, 6, 7, 5, 1)  # of EMOTIONS, then Contempt, among the names
    for split in ("train", "val", "test"):
        folder = "valid" if split == "val" else split
        (root / folder / "labels").mkdir(parents=True, exist_ok=True)
        for i, r in enumerate(x for x in records if x.split == split):
            r.record = save(root, f"{folder}/images/image{i:07d}.jpg", r.image)
            (root / folder / "labels" / f"image{i:07d}.txt").write_text(f"{number[r.written]} 0.499 0.499 0.999 0.999")
    listed = "\n".join(f'    "{n}",' for n in names)
    paths = 'data: "./YOLO_format"\n\ntrain: "./train/images"\nval: "./valid/images"\ntest: "./test/images"\n'
    (root / "data.yaml").write_text(f"{paths}\nnc: {len(names)}\n\nnames:\n  [\n{listed}\n  ]\n")


def _raf_list(root: Path, records: Records, digits: dict[str, int], number_of: Callable[[Record], int]) -> None:
    """RAF-DB's list and aligned images; every eighth image exists as an original only.  A record is its name."""
    lines = []
    for split, width in digits.items():
        for i, r in enumerate((r for r in records if r.split == split), 1):
            stem = f"{split}_{i:0{width}d}"
            save(root, f"Image/original/{stem}.jpg" if i % 8 == 0 else f"Image/aligned/{stem}_aligned.jpg", r.image)
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
    distributions, flags = [], []
    for i, r in enumerate(records, 1):
        r.record = f"{i:04d}.jpg"
        save(root, f"Image/aligned/{i:04d}_aligned.jpg", r.image)
        shares = rng.multinomial(94, np.full(6, 1 / 6)) / 200  # none above 0.47, and 0.53 for the label's own
        shares[_RAFML.index(EMOTIONS[r.written])] += 0.53
        r.extra["distribution"] = dict(zip(_RAFML, shares.round(4).tolist(), strict=True))
        distributions.append(" ".join((r.record, *(f"{share:.4f}" for share in shares))))
        flags.append(f"{r.record} {int(r.split == 'test')}")
    (root / "EmoLabel").mkdir()
    (root / "EmoLabel" / "distribution.txt").write_text("\n".join(distributions) + "\n")
    (root / "EmoLabel" / "partition_label.txt").write_text("\n".join(flags) + "\n")


def ckplus(root: Path, records: Records, rng: np.random.Generator) -> None:
    """``<class>/S010_004_00000017.png``, gray: person, session and frame in the name; Contempt is a folder too."""
    names = ("anger", "disgust", "fear", "happy", "sadness", "surprise", "neutral", "contempt")
    for i, r in enumerate(records):
        r.extra["subject"] = f"S{r.identity % 1000:03d}"
        name = f"{names[r.written]}/{r.extra['subject']}_{1 + r.written:03d}_{i:08d}.png"
        r.record = save(root, name, gray(r.image))


def jaffe(root: Path, records: Records, rng: np.random.Generator) -> None:
    """``KA.AN1.39.tiff`` in one folder, gray: person, expression and its number, running number."""
    codes = ("AN", "DI", "FE", "HA", "SA", "SU", "NE")
    for i, r in enumerate(records, 1):
        first, second = divmod(r.identity % 26**2, 26)
        r.extra["subject"] = chr(65 + first) + chr(65 + second)
        r.record = save(root, f"{r.extra['subject']}.{codes[r.written]}{1 + i % 4}.{i}.tiff", gray(r.image))


def jaffe_folders(root: Path, records: Records, rng: np.random.Generator) -> None:
    """The files of ``jaffe`` in class folders."""
    jaffe(root, records, rng)
    for r in records:
        folder = root / EMOTIONS[r.written].upper()
        folder.mkdir(exist_ok=True)
        (root / r.record).rename(folder / r.record)
        r.record = f"{folder.name}/{r.record}"


TWO_SPLITS = {"train": 0.8, "test": 0.2}
LAYOUTS |= {
    "ferplus": Layout(ferplus, 48, THREE_SPLITS, fixed_size=True),
    "affectnet_yolo": Layout(affectnet_yolo, 96, THREE_SPLITS, contempt=0.06),
    "rafdb_basic": Layout(rafdb_basic, 100, TWO_SPLITS),
    "rafdb_compound": Layout(rafdb_compound, 100, TWO_SPLITS, classes=tuple(sorted(COMPOUND))),
    "rafml": Layout(rafml, 100, TWO_SPLITS, classes=tuple(range(6))),
    "ckplus": Layout(ckplus, 48, NO_SPLITS, contempt=0.05, classes=tuple(range(6))),
    "jaffe": Layout(jaffe, 64, NO_SPLITS),
    "fer2013_tree": Layout(fer2013_tree, 48, THREE_SPLITS),
    "ferplus_native": Layout(ferplus_native, 48, THREE_SPLITS),
    "jaffe_folders": Layout(jaffe_folders, 64, NO_SPLITS),
}
SOURCES = {  # layout -> the source that reads it
    "fer2013_csv": "fer2013",
    "fer2013_tree": "fer2013",
    "ferplus": "ferplus",
    "ferplus_native": "ferplus",
    "tree": "tree",
    "affectnet_yolo": "affectnet_yolo_format",
    "rafdb_basic": "rafdb_basic",
    "rafdb_compound": "rafdb_compound_mapped",
    "rafml": "rafml_argmax",
    "expw": "expw_full",
    "ckplus": "ckplus",
    "jaffe": "jaffe",
    "jaffe_folders": "jaffe",
}
