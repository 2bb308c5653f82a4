"""Records of a drawn dataset, and the faults injected into them: copies, leaks across splits, wrong labels."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np

from fer_lib.emotions import EMOTIONS, NUM_CLASSES

CONTEMPT = NUM_CLASSES
"""An eighth expression (a one-sided smile), for layouts with a class that an import must exclude and count."""

CONFUSIONS = np.array(
    [
        [0.00, 0.11, 0.62, 0.03, 0.17, 0.05, 0.02],
        [0.83, 0.00, 0.11, 0.00, 0.03, 0.03, 0.00],
        [0.21, 0.03, 0.00, 0.02, 0.13, 0.61, 0.00],
        [0.12, 0.01, 0.11, 0.00, 0.06, 0.29, 0.41],
        [0.19, 0.05, 0.59, 0.01, 0.00, 0.01, 0.15],
        [0.12, 0.00, 0.65, 0.15, 0.05, 0.00, 0.03],
        [0.21, 0.01, 0.23, 0.07, 0.45, 0.03, 0.00],
    ]
)
"""Shares of each class (column) among the wrong labels of one true class (row): FER2013's labels against the majority
of FERPlus' ten annotators, counted over the 30,000 images that have one, rounded."""


@dataclass
class Record:
    """One drawn face, and its record in a raw dataset.

    ``image`` uint8 RGB [S, S, 3]; ``split`` train, val, test or "" (the layout stores none); ``true`` and ``written``
    class ids 0..6 or CONTEMPT; ``strength`` and ``units`` (action units) in [0, 1].  The layout's writer sets
    ``record``, the layout's own name of this face, and in ``extra`` what else the layout stores (box, confidence).
    """

    image: np.ndarray
    split: str
    identity: int
    true: int
    written: int
    strength: float
    units: dict[str, float]
    copy_of: Record | None = field(default=None, repr=False)
    record: str = ""
    extra: dict = field(default_factory=dict)


def apportion(n: int, shares: np.ndarray) -> np.ndarray:
    """``n`` times ``shares`` (sum 1) as whole numbers that sum to ``n``, each at least one: int64."""
    counts = np.maximum(np.floor(n * shares).astype(np.int64), 1)
    while (left := n - counts.sum()) != 0:
        short = n * shares - counts
        if left > 0:
            counts[np.argmax(short)] += 1
        else:
            counts[np.argmin(np.where(counts > 1, short, np.inf))] -= 1
    return counts


def inject_noise(
    records: list[Record],
    rng: np.random.Generator,
    duplicates: int,
    leaks: int,
    label_noise: float,
    classes: tuple[int, ...] = tuple(range(NUM_CLASSES)),
    noise_shape: str = "symmetric",
) -> list[Record]:
    """``records`` and copies of them in random order within each split, then wrong labels on a share of all of them.

    ``duplicates`` copies stay in their original's split; ``leaks`` copies of train faces go to the other splits in
    turn.  A wrong label is one of ``classes``: each as likely (``noise_shape`` symmetric) or by :data:`CONFUSIONS`
    (confusions).  The last face of a class in a split keeps its label, so a tiny dataset may get fewer wrong ones.
    """
    blocks: dict[str, list[Record]] = {}
    for r in records:
        blocks.setdefault(r.split, []).append(r)
    copies = [(records[i], records[i].split) for i in rng.choice(len(records), duplicates, replace=False).tolist()]
    if leaks:
        train, others = blocks["train"], [split for split in ("test", "val") if split in blocks]
        leaking = rng.choice(len(train), leaks, replace=False).tolist()
        copies += [(train[i], others[k % len(others)]) for k, i in enumerate(leaking)]
    for original, split in copies:
        blocks[split].append(replace(original, split=split, copy_of=original, extra={}))
    mixed = [block[i] for block in blocks.values() for i in rng.permutation(len(block)).tolist()]
    _mislabel(mixed, rng, round(label_noise * len(mixed)), classes, noise_shape)
    return mixed


def _mislabel(
    records: list[Record], rng: np.random.Generator, wanted: int, classes: tuple[int, ...], noise_shape: str
) -> None:
    left = Counter((r.split, r.written) for r in records)
    for i in rng.permutation(len(records)).tolist():
        r = records[i]
        if wanted and r.true != CONTEMPT and left[r.split, r.true] > 1:
            left[r.split, r.true] -= 1
            if noise_shape == "confusions":
                shares = CONFUSIONS[r.true, list(classes)]
                r.written = int(rng.choice(classes, p=shares / shares.sum()))
            else:
                r.written = classes[(classes.index(r.true) + int(rng.integers(1, len(classes)))) % len(classes)]
            left[r.split, r.written] += 1
            wanted -= 1


def truth(r: Record) -> dict:
    """The entry of a written record in truth.json; ``duplicate_of`` and ``leak_of``: the original's ``record``."""
    names = (*EMOTIONS, "Contempt")
    original = r.copy_of.record if r.copy_of else None
    within = r.copy_of is not None and r.copy_of.split == r.split
    return {
        "record": r.record,
        "split": r.split,
        "identity": r.identity,
        "true": names[r.true],
        "written": names[r.written],
        "noisy": r.true != r.written,
        "strength": round(r.strength, 4),
        "units": {name: round(value, 4) for name, value in sorted(r.units.items()) if value > 0},
        "duplicate_of": original if within else None,
        "leak_of": None if within else original,
    } | r.extra
