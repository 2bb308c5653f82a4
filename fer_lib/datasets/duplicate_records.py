"""Near-duplicates that a manifest records: ``meta["twins"]``, kept when rows are removed, and the column ``group``.

``twins`` maps the sample id of a val or test row to the content ids of its near-duplicates in earlier splits: in train
for a val row, in train or val for a test row.  Exact duplicates are not listed: they share the row's
content id.  ``group`` names the rows that show one image by the smallest content id among them; it is null for a row
without duplicates.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from fer_lib.datasets.manifest import SPLITS, Manifest

Twins = dict[str, list[str]]


def group_counts(frame: pd.DataFrame, group: np.ndarray | pd.Series) -> dict[str, int]:
    """The number of groups of more than one row, and of those that span splits, sources and labels."""
    groups = frame.groupby(group)
    sizes, several = groups.size(), (groups[["split", "source", "label"]].nunique() > 1).sum()
    return {
        "groups": int((sizes > 1).sum()),
        "rows": int(sizes[sizes > 1].sum()),
        "across_splits": int(several["split"]),
        "across_sources": int(several["source"]),
        "conflicting_labels": int(several["label"]),
        "largest": int(sizes[sizes > 1].max()) if (sizes > 1).any() else 0,
    }


def earlier_duplicates(frame: pd.DataFrame, group: np.ndarray) -> Twins:
    """The twins of each val and test row of ``frame``; ``group`` int [N]: equal numbers show one image."""
    rows = frame[["sample_id", "content_id"]].assign(group=group, rank=frame["split"].map(SPLITS.index))
    rows = rows[rows.groupby("group")["rank"].transform("nunique") > 1]
    pairs = rows.merge(rows, on="group", suffixes=("", "_other"))
    pairs = pairs[(pairs["rank_other"] < pairs["rank"]) & (pairs["content_id_other"] != pairs["content_id"])]
    return {name: sorted(set(contents)) for name, contents in pairs.groupby("sample_id")["content_id_other"]}


def unite_twins(*parts: Manifest | Twins) -> Twins:
    """The union of the twins of manifests or mappings, by sample id."""
    united: dict[str, set[str]] = {}
    for part in parts:
        for name, contents in (part.meta.get("twins", {}) if isinstance(part, Manifest) else part).items():
            united.setdefault(name, set()).update(contents)
    return {name: sorted(contents) for name, contents in sorted(united.items())}


def twins_of(twins: Twins, sample_ids: Iterable[str]) -> Twins:
    """The entries of some rows."""
    wanted = set(sample_ids)
    return {name: contents for name, contents in twins.items() if name in wanted}


def group_names(frame: pd.DataFrame, group: np.ndarray) -> pd.Series:
    """The ``group`` column of ``frame``; ``group`` int [N]: equal numbers show one image.

    The groups that ``frame`` already has are joined with these.
    """
    name = frame["content_id"].groupby(group).transform("min").where(np.bincount(group)[group] > 1)
    if "group" not in frame:
        return name
    row = pd.Series(np.tile(np.arange(len(frame)), 2))
    return join_groups(row, pd.concat([name, frame["group"]], ignore_index=True)).iloc[: len(frame)]


def components(n: int, links: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """int64 [n]: the connected component of each of n rows, numbered by their first member.

    ``links``: pairs of int arrays, the two ends of each link.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    a, b = (np.concatenate(side) for side in zip(*links, strict=True))
    _, number = connected_components(coo_array((np.ones(len(a), np.int8), (a, b)), shape=(n, n)), directed=False)
    return pd.factorize(number)[0].astype(np.int64)


def equal_rows(number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The links of each row with the next one that has the same ``number``, int [N]."""
    order = np.argsort(number, kind="stable")
    same = number[order][1:] == number[order][:-1]
    return order[:-1][same], order[1:][same]


def join_groups(row: pd.Series, group: pd.Series) -> pd.Series:
    """One group per line: the smallest of all groups that are linked by lines with the same ``row``."""
    names = pd.factorize(group)[0]
    names = np.where(names < 0, len(names) + np.arange(len(names)), names)  # a null group links no lines
    number = components(len(row), [equal_rows(pd.factorize(row)[0]), equal_rows(names)])
    return group.groupby(number).transform("min")
