"""Groups of rows with one image, and the rows of them that a manifest keeps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fer_lib.audit import group_check
from fer_lib.audit.alignment import align
from fer_lib.audit.hashes import SIDE, Hashes
from fer_lib.audit.near_duplicate_search import LEAST, candidates
from fer_lib.datasets.manifest import SPLITS
from fer_lib.emotions import NUM_CLASSES

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


@dataclass(frozen=True)
class Duplicates:
    """The groups of a manifest's rows, in their order.

    ``exact`` and ``group`` int64 [N]: rows with one number are exact duplicates, or also near-duplicates.  ``pairs``:
    the near-duplicates by row number, the most similar first (similarity, mirrored, turned_degrees, scaled: the
    alignment of one to the other).  ``large``: see ``group_check.large_groups``; ``middle`` is a row number.
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
    position = np.argsort(order)  # of each row in that order
    ordered = _find_ordered(
        frame["content_id"].to_numpy(str)[order], hashes.pixels[order], hashes.thumbs, order, near, similarity, seed,
    )  # fmt: skip
    pairs = ordered.pairs.assign(**{end: order[ordered.pairs[end].to_numpy(int)] for end in ("first", "second")})
    large = ordered.large.assign(middle=order[ordered.large["middle"].to_numpy(int)])
    return Duplicates(ordered.exact[position], ordered.group[position], pairs, large, ordered.blank)


def _find_ordered(content, pixels, thumbs, order, near: bool, similarity: float, seed: int) -> Duplicates:
    """:func:`find_duplicates` for rows in their order; ``thumbs`` [N] are in the frame's order, to save a copy."""
    n = len(order)
    exact = _components(n, [_links(np.unique(x, axis=0, return_inverse=True)[1].ravel()) for x in (content, pixels)])
    if not near or n < 2:
        return Duplicates(exact, exact, pd.DataFrame(columns=_PAIR_COLUMNS), pd.DataFrame(columns=group_check.COLUMNS))
    _, first_row = np.unique(exact, return_index=True)  # one row for each group, whose number is its rank
    thumbs = thumbs[order[first_row]]

    close = candidates(thumbs, LEAST, seed)
    aligned = align(thumbs, close)
    near_rows = np.flatnonzero(aligned.similarity >= similarity)
    near_rows = near_rows[np.lexsort((close.second[near_rows], close.first[near_rows], -aligned.similarity[near_rows]))]
    columns = (close.first, close.second, aligned.similarity, aligned.mirrored, aligned.degrees, aligned.scale)
    pairs = pd.DataFrame({name: values[near_rows] for name, values in zip(_PAIR_COLUMNS, columns, strict=True)})
    group = _components(len(first_row), [(pairs["first"].to_numpy(), pairs["second"].to_numpy())])
    large = group_check.large_groups(thumbs, group, pairs)
    large["middle"] = first_row[large["middle"].to_numpy(int)]
    pairs = pairs.assign(first=first_row[pairs["first"]], second=first_row[pairs["second"]])
    return Duplicates(exact, group[exact], pairs, large, _blank(thumbs))


def _blank(thumbs: np.ndarray, chunk: int = 4096) -> int:
    """How many have no structure.  In chunks, since the float64 of the deviations takes eight times the memory."""
    parts = (thumbs[start : start + chunk, 0].reshape(-1, SIDE * SIDE) for start in range(0, len(thumbs), chunk))
    return sum(int((part.std(axis=1) < 1.0).sum()) for part in parts)


def _links(number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row with the next one that has the same number."""
    order = np.argsort(number, kind="stable")
    same = number[order][1:] == number[order][:-1]
    return order[:-1][same], order[1:][same]


def _components(n: int, links: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """int64 [n]: the connected component of each of n nodes, numbered by their first member."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    a, b = (np.concatenate(side) for side in zip(*links, strict=True))
    _, number = connected_components(coo_matrix((np.ones(len(a), np.int8), (a, b)), shape=(n, n)), directed=False)
    _, first = np.unique(number, return_index=True)
    return np.argsort(np.argsort(first))[number].astype(np.int64)


def rows_to_keep(frame: pd.DataFrame, group: np.ndarray, area: np.ndarray, remove: str) -> np.ndarray:
    """bool [N]: the rows that the rule ``remove`` (a key of RULES) keeps, selected by :data:`WHICH_ONE`."""
    n, keep = len(frame), np.ones(len(frame), bool)
    rank = frame["split"].map({name: i for i, name in enumerate(SPLITS)}).to_numpy(np.int64)
    if remove in ("across", "all"):
        last = np.zeros(group.max(initial=-1) + 1, np.int64)
        np.maximum.at(last, group, rank)
        keep &= rank == last[group]
    if remove in ("within", "all"):
        votes = np.zeros((group.max(initial=-1) + 1, NUM_CLASSES), np.int64)
        labels = frame["label"].to_numpy(np.int64)
        np.add.at(votes, (group, labels), 1)
        by_id = np.argsort(np.argsort(frame["sample_id"].to_numpy(str), kind="stable"))
        order = np.lexsort((by_id, -area, -votes[group, labels], rank, group))
        key = group[order] * len(SPLITS) + rank[order]
        first = np.ones(n, bool)
        first[1:] = key[1:] != key[:-1]
        keep[order[~first]] = False
    return keep


def leaking_rows(frame: pd.DataFrame, group: np.ndarray, split: str, other: str = "train") -> np.ndarray:
    """bool [N]: the rows of ``split`` whose group also has a row in ``other``."""
    in_other = np.zeros(group.max(initial=-1) + 1, bool)
    in_other[group[(frame["split"] == other).to_numpy()]] = True
    return (frame["split"] == split).to_numpy() & in_other[group]
