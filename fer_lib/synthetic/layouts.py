"""Writers of native raw layouts, whose faces are drawn for the quickstart, the benchmarks and the tests.

A writer takes an empty folder, the records in order and a random generator.  It sets each record's ``record``, the key
under which an import knows it (``row0000000`` in a CSV, else an image's path or name, ``photo#face``), and ``extra``,
what else the layout stores about it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from fer_lib.emotions import NUM_CLASSES
from fer_lib.synthetic.noise_injection import Record

Records = list[Record]
USAGE = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}


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


def fer2013_csv(root: Path, records: Records, rng: np.random.Generator) -> None:
    """``fer2013.csv``: emotion, 2304 gray values, Usage; a record is its row, counted from 0."""
    rows = []
    for i, r in enumerate(records):
        r.record = f"row{i:07d}"
        rows.append((r.written, " ".join(map(str, gray(r.image).ravel().tolist())), USAGE[r.split]))
    table = pd.DataFrame(rows, columns=["emotion", "pixels", "Usage"])
    table.to_csv(root / "fer2013.csv", index=False, lineterminator="\n")


def tree(root: Path, records: Records, rng: np.random.Generator) -> None:
    """``{train,val,test}/<alias>/*.jpg`` in colour, the class names spelt as datasets spell them."""
    names = ("anger", "disgust", "fear", "happiness", "sad", "suprise", "neutral")
    for i, r in enumerate(records):
        r.record = save(root, f"{r.split}/{names[r.written]}/image{i:07d}.jpg", r.image)


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


@dataclass(frozen=True)
class Layout:
    """How a layout is written, its face size in pixels, its splits with their shares ("": it stores none), Contempt's
    share, whether the size is fixed, and the class ids that it has."""

    write: Callable[[Path, Records, np.random.Generator], None]
    size: int
    splits: Mapping[str, float]
    contempt: float = 0.0
    fixed_size: bool = False
    classes: tuple[int, ...] = tuple(range(NUM_CLASSES))


THREE_SPLITS = {"train": 0.8, "val": 0.1, "test": 0.1}
NO_SPLITS = {"": 1.0}
LAYOUTS: dict[str, Layout] = {
    "fer2013_csv": Layout(fer2013_csv, 48, THREE_SPLITS, fixed_size=True),
    "tree": Layout(tree, 48, THREE_SPLITS),
    "expw": Layout(expw, 80, NO_SPLITS),
}
