"""Figures of an audit: contact sheets of groups, and how many groups sources and splits share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fer_lib.audit.report import Audit
from fer_lib.calibration.plot_style import themed
from fer_lib.datasets.sheets import face_grid

SHEETS = {
    "conflicts": "Groups with different labels",
    "across_splits": "Groups across splits",
    "across_sources": "Groups across sources",
    "least_alike": "Near-duplicates, the least similar first",
}
WIDEST = 8  # faces shown of one group


def sheet_names(audit: Audit) -> list[str]:
    """The sheets (keys of SHEETS) that have groups."""
    return [name for name in SHEETS if len(_numbers(audit, name))]


def group_sheet(audit: Audit, which: str, shown: int = 24, size: int = 96) -> Figure:
    """One line per group, at most ``shown`` of them and eight faces each, with split, source and label under each face.

    ``which``: one of :func:`sheet_names`.  Raises DataError when there is no such group.
    """
    numbers = _numbers(audit, which)
    lines = []
    for number in numbers[:shown]:
        rows = audit.rows[audit.rows["group"] == number]
        shown_rows = audit.manifest.frame.loc[rows.index[:WIDEST]]
        similarity = _similarity(audit, rows)
        label = f"{rows['kind'].iloc[0]}, {len(rows)}" + (f"\n{similarity:.3f}" if similarity else "")
        lines.append((label, shown_rows))
    text = audit.rows[["split", "source", "label"]].to_dict("index")
    title = f"{SHEETS[which]} ({len(lines)} of {len(numbers)})"
    return face_grid(audit.manifest, lines, title, lambda row: _caption(text[row.name]), size)


def _caption(row: dict[str, Any]) -> str:
    return f"{row['split']} {row['label']}\n{row['source'][:18]}"


def _similarity(audit: Audit, rows: pd.DataFrame) -> float | None:
    """The least similarity of the pairs of a group; None for exact duplicates."""
    ids = set(rows["sample_id"])
    inside = audit.pairs[audit.pairs["first"].isin(ids)]
    return float(inside["similarity"].min()) if len(inside) else None


def _numbers(audit: Audit, which: str) -> list[int]:
    rows = audit.rows
    if which == "least_alike":
        group_of = rows.set_index("sample_id")["group"]
        weakest = audit.pairs.assign(group=audit.pairs["first"].map(group_of)).groupby("group")["similarity"].min()
        return weakest.sort_values(kind="stable").index.astype(int).tolist()
    column = {"conflicts": "label", "across_splits": "split", "across_sources": "source"}[which]
    values = rows.groupby("group")[column].nunique()
    return values[values > 1].index.tolist()


@themed
def matrices(audit: Audit) -> Figure:
    """Source by source and split by split: the number of groups with rows in both (diagonal: two or more within)."""
    parts = [("sources", audit.summary["sources"]), ("splits", audit.summary["splits"])]
    sides = [max(2.4, 0.8 * len(part["names"]) + 1.4) for _, part in parts]
    figure = Figure(figsize=(sum(sides) + 1.6, max(sides) + 0.6))
    figure.suptitle(f"Groups of duplicates that both have (of {audit.summary['rows']:,} rows)")
    for axes, (name, part) in zip(figure.subplots(1, 2, width_ratios=sides), parts, strict=True):
        counts = np.asarray(part["groups"])
        depth = np.log1p(counts) / max(1.0, 1.3 * np.log1p(counts.max(initial=0)))
        axes.imshow(depth, cmap="Blues", vmin=0, vmax=1)
        for (i, j), n in np.ndenumerate(counts):
            colour = "white" if depth[i, j] > 0.55 else "black"
            axes.text(j, i, f"{n:,}", ha="center", va="center", fontsize=9, color=colour)
        axes.set_xticks(range(len(counts)), part["names"], rotation=35, ha="right", fontsize=9)
        axes.set_yticks(range(len(counts)), part["names"], fontsize=9)
        axes.set_title(f"by {name}")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return figure
