"""Figures of an audit: sheets of duplicates and label errors, groups that sources and splits share, the noise matrix.

seaborn is imported where it draws, because its import takes more than a second.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fer_lib.audit.label_errors import LabelAudit
from fer_lib.audit.manifest_audit import Audit
from fer_lib.calibration.plot_style import themed
from fer_lib.datasets.sheets import face_grid
from fer_lib.emotions import EMOTIONS

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
    numbers, weakest, lines = _numbers(audit, which), _least_similarity(audit), []
    for number in numbers[:shown]:
        rows = audit.rows[audit.rows["group"] == number]
        label = f"{rows['kind'].iloc[0]}, {len(rows)}" + (f"\n{weakest[number]:.3f}" if number in weakest else "")
        lines.append((label, audit.manifest.frame.loc[rows.index[:WIDEST]]))
    text = audit.rows[["split", "source", "label"]].to_dict("index")
    title = f"{SHEETS[which]} ({len(lines)} of {len(numbers)})"
    return face_grid(audit.manifest, lines, title, lambda row: _caption(text[row.name]), size)


def _caption(row: dict[str, Any]) -> str:
    return f"{row['split']} {row['label']}\n{row['source'][:18]}"


def _least_similarity(audit: Audit) -> pd.Series:
    """The least similarity of the pairs of each group that has pairs, by group number, ascending."""
    group = audit.pairs["first"].map(audit.rows.set_index("sample_id")["group"])
    return audit.pairs["similarity"].groupby(group).min().sort_values(kind="stable")


def _numbers(audit: Audit, which: str) -> list[int]:
    rows = audit.rows
    if which == "least_alike":
        return _least_similarity(audit).index.astype(int).tolist()
    column = {"conflicts": "label", "across_splits": "split", "across_sources": "source"}[which]
    values = rows.groupby("group")[column].nunique()
    return values[values > 1].index.tolist()


@themed
def shared_groups(audit: Audit) -> Figure:
    """Source by source and split by split: the number of groups with rows in both (diagonal: two or more within)."""
    import seaborn

    parts = [("sources", audit.summary["sources"]), ("splits", audit.summary["splits"])]
    sides = [max(2.4, 0.8 * len(part["names"]) + 1.4) for _, part in parts]
    figure = Figure(figsize=(sum(sides) + 1.6, max(sides) + 0.6))
    figure.suptitle(f"Groups of duplicates that both have (of {audit.summary['rows']:,} rows)")
    for axes, (name, part) in zip(figure.subplots(1, 2, width_ratios=sides), parts, strict=True):
        depth, names = np.log1p(part["groups"]), part["names"]
        seaborn.heatmap(
            depth, vmin=0, vmax=max(1.0, 1.3 * depth.max()), cmap="Blues", annot=np.asarray(part["groups"]), fmt=",",
            annot_kws={"fontsize": 9}, cbar=False, square=True, yticklabels=names, ax=axes,
        )  # fmt: skip
        axes.set_title(f"by {name}")
        axes.set_xticks(axes.get_xticks(), names, rotation=35, ha="right")
        axes.tick_params(length=0, labelsize=9)
        axes.tick_params(axis="y", rotation=0)
    return figure


@themed
def noise_matrix(report: LabelAudit) -> Figure:
    """The expected rows by given label and true label.  The diagonal has no colour, so label errors stand out."""
    import seaborn

    noise = report.errors.refined
    totals = noise.sum(axis=1, keepdims=True)
    share = np.divide(noise, totals, out=np.zeros_like(noise), where=totals > 0)
    wrong = np.where(np.eye(len(EMOTIONS), dtype=bool), 0.0, share)
    cells = [
        [f"{n:,.0f}\n{100 * s:.1f} %" for n, s in zip(*row, strict=True)] for row in zip(noise, share, strict=True)
    ]
    given = [f"{e}\n(n = {n:,.0f})" for e, n in zip(EMOTIONS, totals[:, 0], strict=True)]
    figure = Figure(figsize=(7.4, 6.4))
    axes = figure.subplots()
    seaborn.heatmap(
        wrong, vmin=0, vmax=max(wrong.max(), 1e-9), cmap="Reds", annot=np.array(cells), fmt="",
        annot_kws={"fontsize": 8.5}, square=True, yticklabels=given, ax=axes,
        cbar_kws={"shrink": 0.75, "label": "share of the given label's rows that is wrong"},
    )  # fmt: skip
    axes.set_xticks(axes.get_xticks(), EMOTIONS, rotation=30, ha="right")
    axes.tick_params(axis="y", rotation=0)
    joint, refined = (100 * report.summary["noise_share"][name] for name in ("confident_joint", "refined"))
    title = f"{len(report.ranked):,} labels: {refined:.1f} % wrong, {joint:.1f} % by the confident joint"
    axes.set(xlabel="true label, as estimated", ylabel="given label", title=title)
    return figure


def label_error_sheet(report: LabelAudit, shown: int = 48, columns: int = 8) -> Figure:
    """The ``shown`` faces at the top of the list, with the given label, the suggested one and the error probability."""
    top = report.ranked.head(shown)
    frame = report.manifest.frame.set_index("sample_id", drop=False).loc[top["sample_id"]]
    captions = {
        row.sample_id: f"{row.given} > {row.suggested}\n{row.wrongness:.3f} ({row.split})" for row in top.itertuples()
    }
    lines = [
        (f"{first + 1} to {min(first + columns, len(frame))}", frame.iloc[first : first + columns])
        for first in range(0, len(frame), columns)
    ]
    title = "Labels that look wrong: given > suggested, and the probability of an error"
    return face_grid(report.manifest, lines, title, lambda row: captions[row["sample_id"]])
