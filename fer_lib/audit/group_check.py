"""Groups that may be chains: A is like B and B like C, but is A like C?  Large groups are held against their middle."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd

from fer_lib.audit.alignment import align
from fer_lib.audit.search import VERSIONS, Candidates

LARGE = 10  # pictures in a group from which it is looked at
MOST = 50  # groups, the largest ones, and
COMPARED = 100  # pictures of each, evenly picked
UNLIKE = 0.8  # similarity to the middle below which a picture is hardly the same one, or cut quite differently
COLUMNS = ("group", "pictures", "middle", "compared", "unlike", "least")


def large_groups(thumbs: np.ndarray, group: np.ndarray, pairs: pd.DataFrame) -> pd.DataFrame:
    """A line (COLUMNS) for each group of LARGE pictures or more, the largest first.

    ``thumbs`` uint8 [N, 2, SIDE, SIDE] of distinct pictures, ``group`` int [N] and ``pairs`` (first, second,
    similarity) what joined them.  ``middle``: the picture with the most similarity in its pairs; ``unlike``: how many
    of the ``compared`` are less than UNLIKE like it, laid over it directly; ``least``: the least similarity.
    """
    sizes, weight, lines = np.bincount(group), np.zeros(len(group)), []
    for end in ("first", "second"):
        np.add.at(weight, pairs[end].to_numpy(int), pairs["similarity"].to_numpy(float))
    by_size = np.argsort(-sizes, kind="stable")[:MOST]
    for number in by_size[sizes[by_size] >= LARGE]:
        members = np.flatnonzero(group == number)
        middle = members[np.argmax(weight[members])]
        others = members[members != middle]
        others = others[:: math.ceil(len(others) / COMPARED)]
        similarity = _directly(thumbs, middle, others)
        unlike = int((similarity < UNLIKE).sum())
        lines.append((int(number), len(members), int(middle), len(others), unlike, float(similarity.min())))
    return pd.DataFrame(lines, columns=COLUMNS)


def warning(line: dict) -> str | None:
    """What to say of a line of :func:`large_groups` (``middle`` a sample id): a chain when most are unlike it."""
    if 2 * line["unlike"] <= line["compared"]:
        return None
    return (
        f"group {line['group']} ({line['pictures']:,} pictures, {line['middle']} in the middle) may be a chain: "
        f"{line['unlike']} of {line['compared']} are little like the middle one (the least {line['least']:.2f}). "
        "Look at its pictures, and raise similarity if they are not all one"
    )


def _directly(thumbs: np.ndarray, middle: int, others: np.ndarray) -> np.ndarray:
    """float32 [M]: how like each other picture is to the middle, laid over it from every version of the latter."""
    version, mirrored = (x.ravel() for x in np.meshgrid(np.arange(len(VERSIONS)), [False, True]))
    n, starts = len(others), len(version)
    pairs = Candidates(
        first=np.full(n * starts, middle), second=np.repeat(others, starts), cosine=np.zeros(n * starts, np.float32),
        version=np.tile(version, n), mirrored=np.tile(mirrored, n), asker=np.ones(n * starts, bool),
    )  # fmt: skip
    both = pairs, replace(pairs, asker=~pairs.asker)
    return np.max([align(thumbs, side).similarity.reshape(n, starts).max(axis=1) for side in both], axis=0)
