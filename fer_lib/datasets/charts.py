"""Bar charts of row counts by source, split and label."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fer_lib.calibration.plot_style import GREY, SERIES, themed
from fer_lib.datasets.manifest import SPLITS
from fer_lib.emotions import EMOTIONS, NUM_CLASSES

COLOURS = dict(zip(SPLITS, SERIES, strict=True))


@themed
def count_charts(frame: pd.DataFrame, title: str) -> Figure:
    """Rows by source with stacked splits, and one panel per source with rows by label and split.

    ``frame``: one row per face, with ``source``, ``split`` and ``label`` (class ids).  The label panels have separate
    scales; with several sources the first panel shows all.
    """
    sources = sorted(set(frame["source"]))
    panels = {"all sources": frame} if len(sources) > 1 else {}
    panels |= dict(iter(frame.groupby("source")))
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    top = 0.9 + 0.32 * len(sources)
    figure = Figure(figsize=(6.4 * columns + 0.8, top + 3.1 * rows))
    figure.suptitle(f"{title} (n = {len(frame):,})")
    head, body = figure.subfigures(2, 1, height_ratios=(top, 3.1 * rows))
    _by_source(head.subplots(), frame)
    grid = body.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, part) in zip(grid, panels.items(), strict=False):
        _by_label(axes, part, name)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    return figure


def _by_source(axes, frame: pd.DataFrame) -> None:
    table = pd.crosstab(frame["source"], frame["split"])
    total, start = table.sum(axis=1), 0
    for split in (split for split in SPLITS if split in table):
        rows = table[split]
        bars = axes.barh(table.index, rows, left=start, color=COLOURS[split], label=f"{split} ({rows.sum():,})")
        texts = [f"{n:,}" if n > 0.06 * total.max() else "" for n in rows]
        contrast = "white" if split == "train" else "black"
        axes.bar_label(bars, labels=texts, label_type="center", fontsize=8, color=contrast)
        start = start + rows
    axes.bar_label(axes.containers[-1], labels=[f"{n:,}" for n in total], fontsize=8, padding=3)
    axes.invert_yaxis()  # in reading order
    axes.margins(x=0.1)
    axes.set_title("rows by source and split", color=GREY, loc="left")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _by_label(axes, frame: pd.DataFrame, name: str) -> None:
    splits = [split for split in SPLITS if (frame["split"] == split).any()]
    width = 0.86 / len(splits)
    for i, split in enumerate(splits):
        rows = np.bincount(frame.loc[frame["split"] == split, "label"], minlength=NUM_CLASSES)
        at = np.arange(NUM_CLASSES) + (i - (len(splits) - 1) / 2) * width
        bars = axes.bar(at, rows, width, color=COLOURS[split])
        axes.bar_label(bars, labels=[f"{n:,}" for n in rows], fontsize=7, padding=2, rotation=90)
    axes.set_xticks(range(NUM_CLASSES), EMOTIONS, fontsize=9)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.margins(x=0.02, y=0.2)
    axes.set_title(f"{name}: rows by label (n = {len(frame):,})", color=GREY, loc="left")
