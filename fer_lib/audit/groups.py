"""Groups of rows with one image, warnings about groups that may be chains, and the rows that a manifest keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from fer_lib.audit.alignment import align, transforms
from fer_lib.audit.hashes import SIDE, Hashes
from fer_lib.audit.near_duplicate_search import LEAST, VERSIONS, Candidates, candidates
from fer_lib.datasets.duplicate_records import components, equal_rows
from fer_lib.datasets.manifest import SPLITS

RULES = {
    "none": "every row stays",
    "within": "in each split one row of a group stays",
    "across": "the rows of a group stay in the last split that it reaches (test, else val, else train), so that what "
    "is evaluated is whole and nothing of it was trained on",
    "all": "one row of a group stays, in the last split that it reaches (test, else val, else train)",
}
WHICH_ONE = (
    "where one row is to stay, it is one with the label that most rows of the group carry, of those the one with the "
    "most pixels, of those the one with the smallest sample_id"
)
_PAIR_COLUMNS = ("first", "second", "similarity", "mirrored", "turned_degrees", "scaled")
LARGE = 10  # images in a group from which it is checked
MOST = 50  # groups, the largest ones
COMPARED = 100  # images of each group, evenly picked
UNLIKE = 0.8  # similarity to the central image below which an image is another one, or a very different crop
LARGE_COLUMNS = ("group", "pictures", "middle", "compared", "unlike", "least")


@dataclass(frozen=True)
class Duplicates:
    """The groups of a manifest's rows, in their order.

    ``exact`` and ``group`` int64 [N]: rows with one number are exact duplicates, or also near-duplicates.  ``pairs``:
    the near-duplicates by row number, the most similar first (similarity, mirrored, turned_degrees, scaled: the
    alignment of one to the other).  ``large``: see :func:`large_groups`; ``middle`` is a row number.
    ``blank`` counts the distinct images without structure, which only ``exact`` can compare.
    """

    exact: np.ndarray
    group: np.ndarray
    pairs: pd.DataFrame
    large: pd.DataFrame
    blank: int = 0


def find_duplicates(frame: pd.DataFrame, hashes: Hashes, near: bool, similarity: float, seed: int = 1337) -> Duplicates:
    """The :class:`Duplicates` of ``frame`` (N rows, as hashed) by content and pixels, and when ``near`` by similarity.

    The groups and their numbers do not depend on the order of the rows.
    """
    ids = (frame[name].to_numpy(str) for name in ("sample_id", "content_id"))
    order = np.lexsort((*ids, hashes.pixels[:, 1], hashes.pixels[:, 0]))
    position, n = np.argsort(order), len(order)  # position: of each row in that order
    content, pixels = frame["content_id"].to_numpy(str)[order], hashes.pixels[order]
    equal = [equal_rows(np.unique(x, axis=0, return_inverse=True)[1].ravel()) for x in (content, pixels)]
    exact = components(n, equal)
    if not near or n < 2:
        none = (pd.DataFrame(columns=columns) for columns in (_PAIR_COLUMNS, LARGE_COLUMNS))
        return Duplicates(exact[position], exact[position], *none)
    row = order[np.unique(exact, return_index=True)[1]]  # one row for each group, whose number is its rank
    thumbs = hashes.thumbs[row]

    close = candidates(thumbs, LEAST, seed)
    likeness, matrix = align(thumbs, close)
    near_rows = np.flatnonzero(likeness >= similarity)
    near_rows = near_rows[np.lexsort((close.second[near_rows], close.first[near_rows], -likeness[near_rows]))]
    columns = (close.first, close.second, likeness, *transforms(matrix))
    pairs = pd.DataFrame({name: values[near_rows] for name, values in zip(_PAIR_COLUMNS, columns, strict=True)})
    group = components(len(row), [(pairs["first"].to_numpy(), pairs["second"].to_numpy())])
    large = large_groups(thumbs, group, pairs)
    large["middle"] = row[large["middle"].to_numpy(int)]
    pairs = pairs.assign(first=row[pairs["first"]], second=row[pairs["second"]])
    return Duplicates(exact[position], group[exact][position], pairs, large, _blank(thumbs))


def _blank(thumbs: np.ndarray, chunk: int = 4096) -> int:
    """How many have no structure.  In chunks, since the float64 of the deviations takes eight times the memory."""
    parts = (thumbs[start : start + chunk, 0].reshape(-1, SIDE * SIDE) for start in range(0, len(thumbs), chunk))
    return sum(int((part.std(axis=1) < 1.0).sum()) for part in parts)


def large_groups(thumbs: np.ndarray, group: np.ndarray, pairs: pd.DataFrame) -> pd.DataFrame:
    """One row (LARGE_COLUMNS) for each group of LARGE images or more, the largest first.

    Such a group may be a chain (A is like B and B like C, but not A like C), so its images are compared with its
    central one.  ``thumbs`` uint8 [N, 2, SIDE, SIDE] of distinct images, ``group`` int [N], and the ``pairs`` (first,
    second, similarity) that joined them.  ``middle``: the image with the most similarity in its pairs; ``unlike``: how
    many of the ``compared`` have a similarity below UNLIKE to it; ``least``: the smallest similarity.
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
    return pd.DataFrame(lines, columns=LARGE_COLUMNS)


def chain_warning(line: dict) -> str | None:
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
    return np.max([align(thumbs, side)[0].reshape(n, starts).max(axis=1) for side in both], axis=0)


def rows_to_keep(frame: pd.DataFrame, group: np.ndarray, area: np.ndarray, remove: str) -> np.ndarray:
    """bool [N]: the rows that the rule ``remove`` (a key of RULES) keeps, selected by :data:`WHICH_ONE`."""
    rows = frame[["label", "sample_id"]].assign(group=group, area=area, rank=frame["split"].map(SPLITS.index))
    keep = np.ones(len(rows), bool)
    if remove in ("across", "all"):
        keep &= (rows["rank"] == rows.groupby("group")["rank"].transform("max")).to_numpy()
    if remove in ("within", "all"):
        rows["votes"] = rows.groupby(["group", "label"])["label"].transform("size")
        best = rows.sort_values(["votes", "area", "sample_id"], ascending=[False, False, True])
        keep &= rows.index.isin(best.drop_duplicates(["group", "rank"]).index)
    return keep


def leaking_rows(frame: pd.DataFrame, group: np.ndarray, split: str) -> np.ndarray:
    """bool [N]: the rows of ``split`` whose group also has a train row."""
    return (frame["split"] == split).to_numpy() & np.isin(group, group[(frame["split"] == "train").to_numpy()])
