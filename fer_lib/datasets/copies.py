"""What a manifest remembers of near copies: ``meta["twins"]``, which outlives the rows that were taken out.

``twins`` maps the sample id of an evaluated row to the content ids that an audit held for the same picture and that
stood in an earlier split: in train for a val row, in train or val for a test row.  The row's own content is not among
them, since identical content is found by the content id itself.
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
