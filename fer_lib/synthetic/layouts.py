"""Writers of the native raw layouts, one for each source that can be drawn with ``root: embedded``.

A writer takes an empty folder, the records in order and a random generator.  It sets each record's ``record``, the key
under which an import knows it (``row0000000`` in a CSV, else an image's path or name, ``photo#face``), and ``extra``,
what else the layout stores about it.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.synthetic.noise_injection import Record

Records = list[Record]
USAGE = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}
COMPOUND = {3: (1, 2), 4: (3, 4, 5, 6), 2: (7, 8), 0: (9, 10), 1: (11,)}
"""RAF-DB's compound numbers that are mapped onto each class id."""
_VOTE_COLUMNS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")
_VOTE_OF = (4, 5, 6, 1, 3, 2, 0, 7)  # vote column of each class id, contempt last
_CONFUSED_WITH = ((5, 6), (0, 4), (5, 4), (6, 5), (6, 2), (2, 6), (4, 0), (6, 3))  # other votes on weak expressions
_RAFML = ("Surprise", "Fear", "Disgust", "Happy", "Sad", "Angry")


def encode(image: np.ndarray, suffix: str) -> bytes:
    """uint8 RGB or gray as a file's bytes; JPEG at quality 95."""
    colours = image[..., ::-1] if image.ndim == 3 else image
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if suffix == ".jpg" else []
    return cv2.imencode(suffix, np.ascontiguousarray(colours), options)[1].tobytes()


def gray(image: np.ndarray) -> np.ndarray:
    """uint8 RGB [H, W, 3] to [H, W]."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def save(root: Path, relative: str, image: np.ndarray) -> str:
    """Write ``image`` to ``root/relative`` in the format of its suffix; returns ``relative``."""
    path = root / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(image, path.suffix))
    return relative


def write_rows(path: Path, rows, header: tuple[str, ...] | None = None) -> None:
    """A CSV with Unix line ends."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows] if header else rows)


def fer2013_csv(root: Path, records: Records, rng: np.random.Generator) -> None:
    """``fer2013.csv``: emotion, 2304 gray values, Usage; a record is its row, counted from 0."""
    rows = []
    for i, r in enumerate(records):
        r.record = f"row{i:07d}"
        rows.append((r.written, " ".join(map(str, gray(r.image).ravel().tolist())), USAGE[r.split]))
    write_rows(root / "fer2013.csv", rows, ("emotion", "pixels", "Usage"))


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
        r.votes = vote(r, rng)
        rows.append((USAGE[r.split], "" if r.votes[9] == 10 else f"fer{i:07d}.png", *r.votes))
    write_rows(root / "fer2013new.csv", rows, ("Usage", "Image name", *_VOTE_COLUMNS))


def tree(root: Path, records: Records, rng: np.random.Generator) -> None:
    """``{train,val,test}/<alias>/*.jpg`` in colour, the class names spelt as datasets spell them."""
    names = ("anger", "disgust", "fear", "happiness", "sad", "suprise", "neutral")
    for i, r in enumerate(records):
        r.record = save(root, f"{r.split}/{names[r.written]}/image{i:07d}.jpg", r.image)


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


@dataclass(frozen=True)
class Layout:
    """How a layout is written, its face size in pixels, its splits with their shares ("": it stores none), the source
    that reads it, Contempt's share, whether the size is fixed, and the class ids that it has."""

    write: Callable[[Path, Records, np.random.Generator], None]
    size: int
    splits: Mapping[str, float]
    source: str
    contempt: float = 0.0
    fixed_size: bool = False
    classes: tuple[int, ...] = tuple(range(NUM_CLASSES))


THREE_SPLITS = {"train": 0.8, "val": 0.1, "test": 0.1}
_TWO_SPLITS = {"train": 0.8, "test": 0.2}
NO_SPLITS = {"": 1.0}
LAYOUTS: dict[str, Layout] = {
    "fer2013_csv": Layout(fer2013_csv, 48, THREE_SPLITS, "fer2013", fixed_size=True),
    "ferplus": Layout(ferplus, 48, THREE_SPLITS, "ferplus", fixed_size=True),
    "tree": Layout(tree, 48, THREE_SPLITS, "tree"),
    "affectnet_yolo": Layout(affectnet_yolo, 96, THREE_SPLITS, "affectnet_yolo_format", contempt=0.06),
    "rafdb_basic": Layout(rafdb_basic, 100, _TWO_SPLITS, "rafdb_basic"),
    "rafdb_compound": Layout(
        rafdb_compound, 100, _TWO_SPLITS, "rafdb_compound_mapped", classes=tuple(sorted(COMPOUND))
    ),
    "rafml": Layout(rafml, 100, _TWO_SPLITS, "rafml_argmax", classes=tuple(range(6))),
    "expw": Layout(expw, 80, NO_SPLITS, "expw_full"),
    "ckplus": Layout(ckplus, 48, NO_SPLITS, "ckplus", contempt=0.05, classes=tuple(range(6))),
    "jaffe": Layout(jaffe, 64, NO_SPLITS, "jaffe"),
}
