"""Assign the val split, out of train, and divide it into its three roles.

Both depend on (seed, content), not on the row order, and keep rows of equal content together.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd

from fer_lib.datasets.manifest import VAL_ROLES
from fer_lib.errors import DataError


def assign_val(frame: pd.DataFrame, fraction: float, seed: int) -> pd.DataFrame:
    """A new frame in which each source without val rows has ``fraction`` of its train rows in val, by content group.

    The quota per source and label is ``round(fraction n)``, at least one where two groups exist.  A content selected in
    one source is in val in every other source without val rows.  Contents of :func:`excluded_from_val` are never
    selected, so no content is put in val and elsewhere.  Test rows and sources with val rows do not change.  Raises
    DataError for a fraction outside [0, 1).
    """
    if not 0.0 <= fraction < 1.0:
        raise DataError(f"val_fraction {fraction} must be at least 0 and below 1: training rows must remain")
    open_rows, excluded = _open_rows(frame), excluded_from_val(frame)
    if fraction == 0.0 or not open_rows.any():
        return frame.copy()
    selected: set[str] = set()
    for _, rows in frame[open_rows].groupby("source", sort=True):
        groups = _groups(rows, seed, "val")
        for _, group in groups.groupby("label"):
            quota = max(round(fraction * group["size"].sum()), 1 if len(group) > 1 else 0)
            group = group[~group["content_id"].isin(excluded)]
            before = group["size"].cumsum() - group["size"]
            selected.update(group.loc[before < quota, "content_id"])
    out = frame.copy()
    out.loc[open_rows & frame["content_id"].isin(selected), "split"] = "val"
    return out


def excluded_from_val(frame: pd.DataFrame) -> set[str]:
    """Contents that :func:`assign_val` does not select because they are also in rows that stay train or test.

    These are test rows of any source, and train rows of a source with val rows.
    """
    open_rows = _open_rows(frame)
    fixed = frame.loc[~open_rows & (frame["split"] != "val"), "content_id"]
    return set(frame.loc[open_rows, "content_id"]) & set(fixed)


def _open_rows(frame: pd.DataFrame) -> pd.Series:
    """Whether a row may become val: train rows of sources that have no val."""
    own_val = set(frame.loc[frame["split"] == "val", "source"])
    return (frame["split"] == "train") & ~frame["source"].isin(own_val)


def assign_val_roles(frame: pd.DataFrame, roles: tuple[float, float, float], seed: int) -> pd.DataFrame:
    """A new frame whose val rows are select, temperature or conformal, by content group, stratified by label.

    Groups are in hash order within their label; labels are interleaved by relative rank, and the sequence is cut at the
    cumulative shares ``roles``, which sum to 1.  The total shares are exact to one group, each label's approximately.
    """
    out = frame.copy()
    out["val_role"] = ""
    val = frame["split"] == "val"
    if not val.any():
        return out
    groups = _groups(frame[val], seed, "role")
    total = groups.groupby("label")["size"].transform("sum")
    within = groups.groupby("label")["size"].cumsum() - groups["size"] / 2
    groups = groups.assign(rank=within / total).sort_values(["rank", "hash"])
    middle = (groups["size"].cumsum() - groups["size"] / 2).to_numpy() / groups["size"].sum()
    # the slack keeps a middle that falls on a cut on the same side whatever the rounding of the sums
    role = np.searchsorted(np.cumsum(roles)[:2], middle + 1e-12, side="right")
    names = dict(zip(groups["content_id"], np.array(VAL_ROLES)[role], strict=True))
    out.loc[val, "val_role"] = frame.loc[val, "content_id"].map(names)
    return out


def _groups(rows: pd.DataFrame, seed: int, purpose: str) -> pd.DataFrame:
    """One line per content, in hash order: content_id, size, label (the smallest id where they differ), hash."""
    groups = rows.groupby("content_id", sort=True).agg(size=("label", "size"), label=("label", "min")).reset_index()
    groups["hash"] = [hashlib.sha256(f"{purpose}:{seed}:{c}".encode()).hexdigest() for c in groups["content_id"]]
    return groups.sort_values("hash").reset_index(drop=True)
