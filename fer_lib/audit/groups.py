"""Which rows are one picture, and which of them a manifest keeps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fer_lib.audit import group_check
from fer_lib.audit.alignment import align
from fer_lib.audit.hashes import SIDE, Hashes
from fer_lib.audit.search import LEAST, candidates
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

    ``exact`` and ``group`` int64 [N]: rows with one number are one picture, identically, or also nearly; ``pairs``: the
    near pairs by row number, most alike first (similarity, mirrored, turned_degrees, scaled: how one lies over the
    other); ``large``: see ``chains.large_groups``, ``middle`` a row number.  ``blank`` counts the distinct pictures
    without structure, which only :attr:`exact` can compare.
    """

    exact: np.ndarray
    group: np.ndarray
    pairs: pd.DataFrame
    large: pd.DataFrame
    blank: int = 0


def find(frame: pd.DataFrame, hashes: Hashes, near: bool, similarity: float, seed: int = 1337, progress=None):
    """Group the rows of ``frame`` (N lines, as hashed) by content and pixels, and when ``near`` by similarity.

    A function of the set of rows: whatever their order, the same are found and numbered alike.
    ``progress(done, total)`` counts in the share of two searches over N rows.
    """
    ids = (frame[name].to_numpy(str) for name in ("sample_id", "content_id"))
    order = np.lexsort((*ids, hashes.pixels[:, 1], hashes.pixels[:, 0]))
    there = np.argsort(order)  # where each row stands in that order
    found = _found(
        frame["content_id"].to_numpy(str)[order], hashes.pixels[order], hashes.thumbs, order, near, similarity, seed,
        progress,
    )  # fmt: skip
    pairs = found.pairs.assign(**{end: order[found.pairs[end].to_numpy(int)] for end in ("first", "second")})
    large = found.large.assign(middle=order[found.large["middle"].to_numpy(int)])
    return Duplicates(found.exact[there], found.group[there], pairs, large, found.blank)


def _found(content, pixels, thumbs, order, near: bool, similarity: float, seed: int, progress) -> Duplicates:
    """:func:`find` of rows that are in their order, but for ``thumbs`` [N], which lie as ``order`` says."""
    n = len(order)
    exact = _joined(n, [_links(np.unique(ids, axis=0, return_inverse=True)[1].ravel()) for ids in (content, pixels)])
    if not near or n < 2:
        return Duplicates(exact, exact, pd.DataFrame(columns=_PAIR_COLUMNS), pd.DataFrame(columns=group_check.COLUMNS))
    _, first_row = np.unique(exact, return_index=True)  # one row stands for its group, whose number is its rank
    thumbs = thumbs[order[first_row]]

    def report(part: int):
        return None if progress is None else lambda done, total: progress(part * n + n * done // max(total, 1), 2 * n)

    found = candidates(thumbs, LEAST, seed, report(0))
    laid = align(thumbs, found, report(1))
    kept = np.flatnonzero(laid.similarity >= similarity)
    kept = kept[np.lexsort((found.second[kept], found.first[kept], -laid.similarity[kept]))]
    columns = (found.first, found.second, laid.similarity, laid.mirrored, laid.turned, laid.scaled)
    pairs = pd.DataFrame({name: values[kept] for name, values in zip(_PAIR_COLUMNS, columns, strict=True)})
    group = _joined(len(first_row), [(pairs["first"].to_numpy(), pairs["second"].to_numpy())])
    large = group_check.large_groups(thumbs, group, pairs)
    large["middle"] = first_row[large["middle"].to_numpy(int)]
    pairs = pairs.assign(first=first_row[pairs["first"]], second=first_row[pairs["second"]])
    return Duplicates(exact, group[exact], pairs, large, _blank(thumbs))


def _blank(thumbs: np.ndarray, chunk: int = 4096) -> int:
    """How many have no structure; in chunks, since deviations are taken in float64, eight times what uint8 takes."""
    parts = (thumbs[start : start + chunk, 0].reshape(-1, SIDE * SIDE) for start in range(0, len(thumbs), chunk))
    return sum(int((part.std(axis=1) < 1.0).sum()) for part in parts)


def _links(number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row with the next one of the same number."""
    order = np.argsort(number, kind="stable")
    same = number[order][1:] == number[order][:-1]
    return order[:-1][same], order[1:][same]


def _joined(n: int, links: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """int64 [n]: the connected component of each of n things, numbered by their first member."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    a, b = (np.concatenate(side) for side in zip(*links, strict=True))
    _, number = connected_components(coo_matrix((np.ones(len(a), np.int8), (a, b)), shape=(n, n)), directed=False)
    _, first = np.unique(number, return_index=True)
    return np.argsort(np.argsort(first))[number].astype(np.int64)


def survivors(frame: pd.DataFrame, group: np.ndarray, area: np.ndarray, remove: str) -> np.ndarray:
    """bool [N]: which rows stay under the rule ``remove`` (a key of RULES), chosen by :data:`WHICH_ONE`."""
    n, stays = len(frame), np.ones(len(frame), bool)
    rank = frame["split"].map({name: i for i, name in enumerate(SPLITS)}).to_numpy(np.int64)
    if remove in ("across", "all"):
        last = np.zeros(group.max(initial=-1) + 1, np.int64)
        np.maximum.at(last, group, rank)
        stays &= rank == last[group]
    if remove in ("within", "all"):
        votes = np.zeros((group.max(initial=-1) + 1, NUM_CLASSES), np.int64)
        labels = frame["label"].to_numpy(np.int64)
        np.add.at(votes, (group, labels), 1)
        by_id = np.argsort(np.argsort(frame["sample_id"].to_numpy(str), kind="stable"))
        order = np.lexsort((by_id, -area, -votes[group, labels], rank, group))
        key = group[order] * len(SPLITS) + rank[order]
        first = np.ones(n, bool)
        first[1:] = key[1:] != key[:-1]
        stays[order[~first]] = False
    return stays


def leaked(frame: pd.DataFrame, group: np.ndarray, split: str, other: str = "train") -> np.ndarray:
    """bool [N]: the rows of ``split`` whose group also has a row in ``other``."""
    there = np.zeros(group.max(initial=-1) + 1, bool)
    there[group[(frame["split"] == other).to_numpy()]] = True
    return (frame["split"] == split).to_numpy() & there[group]
