"""Who validates: val carved out of train, and val divided once into its three roles.

Both are functions of (seed, content), never of the row order, and never separate two rows with the same content.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd

from fer_lib.datasets.manifest import VAL_ROLES
from fer_lib.errors import DataError


def assign_val(frame: pd.DataFrame, fraction: float, seed: int) -> pd.DataFrame:
    """A source without val rows gives ``fraction`` of its train rows, per label, by content group.

    Quota per source and label: ``round(fraction n)``, at least one where two groups exist. A content chosen in one
    source goes to val in every other source that has no val of its own, and one that is :func:`excluded_from_val`
    is never chosen: so this makes no picture sit in val and elsewhere. Rows that are val already, test rows and
    sources with their own val stay as they are. Returns a new frame.
    """
    if not 0.0 <= fraction < 1.0:
        raise DataError(f"val_fraction {fraction} must be at least 0 and below 1: training rows must remain")
    open_rows, left_out = _open_rows(frame), excluded_from_val(frame)
    if fraction == 0.0 or not open_rows.any():
        return frame.copy()
    chosen: set[str] = set()
    for _, rows in frame[open_rows].groupby("source", sort=True):
        groups = _groups(rows, seed, "val")
        for _, group in groups.groupby("label"):
            quota = max(round(fraction * group["size"].sum()), 1 if len(group) > 1 else 0)
            group = group[~group["content_id"].isin(left_out)]
            before = group["size"].cumsum() - group["size"]
            chosen.update(group.loc[before < quota, "content_id"])
    out = frame.copy()
    out.loc[open_rows & frame["content_id"].isin(chosen), "split"] = "val"
    return out


def excluded_from_val(frame: pd.DataFrame) -> set[str]:
    """Contents that :func:`assign_val` could choose but does not: they also stand in rows that stay train or test.

    These are test rows of any source, and train rows of a source that has its own val.
    """
    open_rows = _open_rows(frame)
    fixed = frame.loc[~open_rows & (frame["split"] != "val"), "content_id"]
    return set(frame.loc[open_rows, "content_id"]) & set(fixed)


def _open_rows(frame: pd.DataFrame) -> pd.Series:
    """Whether a row may become val: train rows of sources that have no val."""
    own_val = set(frame.loc[frame["split"] == "val", "source"])
    return (frame["split"] == "train") & ~frame["source"].isin(own_val)


def assign_val_roles(frame: pd.DataFrame, roles: tuple[float, float, float], seed: int) -> pd.DataFrame:
    """Divide the val rows into select, temperature and conformal by content group, stratified by label.

    Groups stand in hash order within their label; the labels are interleaved by relative rank, and the sequence is cut
    at the cumulative shares ``roles``.  So the total shares hold to one group and each label's nearly so.
    """
    if abs(sum(roles) - 1.0) > 1e-9 or min(roles) < 0.0:
        raise DataError(f"val_roles {roles} must be three shares that sum to 1")
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
    # the tiny slack keeps a middle that falls on a cut on the same side whatever the rounding of the sums
    role = np.searchsorted(np.cumsum(roles)[:2], middle + 1e-12, side="right")
    names = dict(zip(groups["content_id"], np.array(VAL_ROLES)[role], strict=True))
    out.loc[val, "val_role"] = frame.loc[val, "content_id"].map(names)
    return out


def _groups(rows: pd.DataFrame, seed: int, purpose: str) -> pd.DataFrame:
    """One line a content: content_id, size, label (the smallest id where annotators disagree), hash; in hash order."""
    groups = rows.groupby("content_id", sort=True).agg(size=("label", "size"), label=("label", "min")).reset_index()
    groups["hash"] = [hashlib.sha256(f"{purpose}:{seed}:{c}".encode()).hexdigest() for c in groups["content_id"]]
    return groups.sort_values("hash").reset_index(drop=True)
