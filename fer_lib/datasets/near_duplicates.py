"""What a manifest remembers of near copies: ``meta["twins"]``, which outlives rows that were taken out, and a column.

``twins`` maps the sample id of an evaluated row to the content ids that an audit held for the same picture and that
stood in an earlier split: in train for a val row, in train or val for a test row.  The row's own content is not among
them, since identical content is found by the content id itself.  The column ``group`` names the rows that are one
picture, by the smallest content id among them; it is null where a row has no copy.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from fer_lib.datasets.manifest import SPLITS, Manifest

Twins = dict[str, list[str]]


def earlier_copies(frame: pd.DataFrame, group: np.ndarray) -> Twins:
    """The twins of each val and test row of ``frame``; ``group`` int [N]: rows with one number are one picture."""
    rows = frame[["sample_id", "content_id"]].assign(group=group, rank=frame["split"].map(SPLITS.index))
    rows = rows[rows.groupby("group")["rank"].transform("nunique") > 1]
    pairs = rows.merge(rows, on="group", suffixes=("", "_other"))
    pairs = pairs[(pairs["rank_other"] < pairs["rank"]) & (pairs["content_id_other"] != pairs["content_id"])]
    return {name: sorted(set(contents)) for name, contents in pairs.groupby("sample_id")["content_id_other"]}


def united_twins(*parts: Manifest | Twins) -> Twins:
    """The twins that any of some manifests (or mappings) remembers, by sample id."""
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
    """The ``group`` column of ``frame``, where rows with one number in ``group`` (int [N]) are one picture.

    Groups that ``frame`` has already are joined with these.
    """
    name = frame["content_id"].groupby(group).transform("min").where(np.bincount(group)[group] > 1)
    if "group" not in frame:
        return name
    row = pd.Series(np.tile(np.arange(len(frame)), 2))
    return joined_groups(row, pd.concat([name, frame["group"]], ignore_index=True)).iloc[: len(frame)]


def joined_groups(row: pd.Series, group: pd.Series) -> pd.Series:
    """One group for each row, where lines of one ``row`` may name several: the smallest that leads to any of them."""
    while True:
        smallest = group.groupby(row).transform("min")
        joined = smallest.groupby(group).transform("min").fillna(smallest)
        if joined.equals(group):
            return group
        group = joined
