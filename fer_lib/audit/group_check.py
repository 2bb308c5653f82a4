"""Warnings about groups that may be chains (A is like B and B like C, but not A like C).

Every image of a large group is compared with the group's central image.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd

from fer_lib.audit.alignment import align
from fer_lib.audit.near_duplicate_search import VERSIONS, Candidates

LARGE = 10  # images in a group from which it is checked
MOST = 50  # groups, the largest ones
COMPARED = 100  # images of each group, evenly picked
UNLIKE = 0.8  # similarity to the central image below which an image is another one, or a very different crop
COLUMNS = ("group", "pictures", "middle", "compared", "unlike", "least")


def large_groups(thumbs: np.ndarray, group: np.ndarray, pairs: pd.DataFrame) -> pd.DataFrame:
    """One row (COLUMNS) for each group of LARGE images or more, the largest first.

    ``thumbs`` uint8 [N, 2, SIDE, SIDE] of distinct images, ``group`` int [N], and the ``pairs`` (first, second,
    similarity) that joined them.  ``middle``: the image with the most similarity in its pairs; ``unlike``: how many of
    the ``compared`` have a similarity below UNLIKE to it; ``least``: the smallest similarity.
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
        similarity = _similarity_to(thumbs, middle, others)
        unlike = int((similarity < UNLIKE).sum())
        lines.append((int(number), len(members), int(middle), len(others), unlike, float(similarity.min())))
    return pd.DataFrame(lines, columns=COLUMNS)


def warning(line: dict) -> str | None:
    """The warning for a row of :func:`large_groups` (``middle``: a sample id) if most images are unlike the middle."""
    if 2 * line["unlike"] <= line["compared"]:
        return None
    return (
        f"group {line['group']} ({line['pictures']:,} images, {line['middle']} in the middle) may be a chain: "
        f"{line['unlike']} of {line['compared']} are little like the middle one (the least {line['least']:.2f}). "
        "Look at its images, and raise similarity if they are not all one"
    )


def _similarity_to(thumbs: np.ndarray, middle: int, others: np.ndarray) -> np.ndarray:
    """float32 [M]: the similarity of each other image to the middle one, the best over all versions of either."""
    version, mirrored = (x.ravel() for x in np.meshgrid(np.arange(len(VERSIONS)), [False, True]))
    n, starts = len(others), len(version)
    pairs = Candidates(
        first=np.full(n * starts, middle), second=np.repeat(others, starts), cosine=np.zeros(n * starts, np.float32),
        version=np.tile(version, n), mirrored=np.tile(mirrored, n), query_is_first=np.ones(n * starts, bool),
    )  # fmt: skip
    both = pairs, replace(pairs, query_is_first=~pairs.query_is_first)
    return np.max([align(thumbs, side).similarity.reshape(n, starts).max(axis=1) for side in both], axis=0)
