"""Plots of a scored session: labels over time, F1 per class, and the trade-off of the smoothing grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fer_lib.calibration.plot_style import BLUE, FAINT, RED, themed
from fer_lib.emotions import EMOTIONS
from fer_lib.live.colours import COLOURS, rgb, text_colour
from fer_lib.live.score import Segment, raw_labels
from fer_lib.live.session_files import Frames

_NAMED = 0.04  # share of the session from which an interval of one label is wide enough for its name


@themed
def timeline(frames: Frames, truth: np.ndarray, shown: np.ndarray, runs: list[Segment], title: str) -> Figure:
    """Three bands over time (truth, raw, smoothed; grey: no label) and the maximum probability of each frame.

    ``truth``, ``shown`` int8 [T].  Scored segments are underlined in the truth band.
    """
    figure = Figure(figsize=(11.0, 4.6))
    figure.suptitle(title)
    bands, under = figure.subplots(2, 1, sharex=True, height_ratios=(1.7, 1))
    time = frames.time_sec
    edges = np.append(time, 2 * time[-1] - time[-2] if len(time) > 1 else time[-1] + 1 / 30)
    colours = ListedColormap([FAINT, *COLOURS])
    for row, labels in enumerate((truth, raw_labels(frames), shown)):
        cells = np.maximum(labels, -1)[None].astype(int) + 1
        bands.pcolormesh(edges, [2.1 - row, 2.9 - row], cells, cmap=colours, vmin=0, vmax=len(COLOURS), rasterized=True)
        _write_names(bands, edges, labels, 2.5 - row)
    for segment in runs:
        if len(segment.scored):
            span = time[[segment.scored[0], segment.scored[-1]]]
            bands.plot(span, [2.04, 2.04], color="black", linewidth=2.5, solid_capstyle="butt")
    bands.set_yticks([2.5, 1.5, 0.5], ["truth\n(underlined: counts)", "raw", "smoothed"])
    bands.set_ylim(0, 3)
    bands.tick_params(left=False)
    present = sorted({int(k) for labels in (truth, raw_labels(frames), shown) for k in np.unique(labels) if k >= 0})
    handles = [Patch(color=COLOURS[k], label=EMOTIONS[k]) for k in present] + [Patch(color=FAINT, label="none")]
    bands.legend(handles=handles, ncols=len(handles), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    under.plot(time, frames.probs.max(axis=1), color=BLUE, linewidth=0.9)
    under.set_ylim(0, 1.02)
    under.set_ylabel("largest probability\nof the frame")
    under.set_xlabel("seconds")
    for axes in (bands, under):
        axes.set_xlim(edges[0], edges[-1])
    return figure


def _write_names(axes, edges: np.ndarray, labels: np.ndarray, y: float) -> None:
    """The class in each wide interval of one label, which the colours alone do not show in grey."""
    changes = np.flatnonzero(np.diff(labels)) + 1
    for first, end in zip([0, *changes], [*changes, len(labels)], strict=True):
        label, left, right = int(labels[first]), edges[first], edges[end]
        if label >= 0 and right - left >= _NAMED * (edges[-1] - edges[0]):
            colour = tuple(value / 255 for value in text_colour(rgb(COLOURS[label])))
            axes.text((left + right) / 2, y, EMOTIONS[label], ha="center", va="center", fontsize=7.5, color=colour)


@themed
def per_class(result: dict[str, Any], title: str) -> Figure:
    """Raw and smoothed F1 of each class that was scored or shown.  ``result``: from :func:`score.score`."""
    names = [n for n in EMOTIONS if result["raw"]["support"][n] or result["smoothed"]["per_class_f1"][n]]
    figure = Figure(figsize=(8.0, 4.2))
    figure.suptitle(title)
    axes, places = figure.subplots(), np.arange(len(names))
    for offset, (kind, colour) in zip((-0.2, 0.2), (("raw", FAINT), ("smoothed", BLUE)), strict=True):
        values = [result[kind]["per_class_f1"][n] for n in names]
        bars = axes.bar(places + offset, values, 0.38, color=colour, edgecolor="black", linewidth=0.6, label=kind)
        axes.bar_label(bars, fmt="%.2f", fontsize=9, padding=2)
    axes.set_xticks(places, [f"{n}\n{result['raw']['support'][n]:,} frames" for n in names])
    axes.set_ylim(0, 1.12)
    axes.set_ylabel("F1")
    axes.legend(loc="lower center", ncols=2, bbox_to_anchor=(0.5, 1.0))
    return figure


@themed
def tradeoff(table: pd.DataFrame, current: pd.Series | None, better: pd.Series | None, title: str) -> Figure:
    """Accuracy against flips per minute of every setting of a grid, the Pareto front, and the ``current`` setting."""
    figure = Figure(figsize=(8.6, 5.4))
    figure.suptitle(title)
    axes = figure.subplots()
    dots = axes.scatter(
        table["flips_per_min"], table["accuracy"], c=table["coverage"], cmap="viridis_r", s=9, alpha=0.55, linewidths=0,
        rasterized=True,
    )  # fmt: skip
    figure.colorbar(dots, ax=axes, label="coverage (share of frames with a label)")
    best = table[table["on_front"]].sort_values("flips_per_min")
    axes.step(best["flips_per_min"], best["accuracy"], where="post", color=RED, linewidth=1.4, label="front")
    for row, marker, name in ((current, "o", "these settings"), (better, "*", "no more flips, more accurate")):
        if row is not None:
            values = "a {ema_alpha:g}, margin {hysteresis_delta:g}, vote {vote_min_count:g} of {vote_window:g}"
            label = f"{name}: {values.format(**row.to_dict())}"
            axes.plot(row["flips_per_min"], row["accuracy"], marker, color="black", markersize=9, mfc="white",
                      mew=1.6, linestyle="none", label=label)  # fmt: skip
    axes.set_xlabel("flips per minute of labelled time")
    axes.set_ylabel("accuracy (frames without a label count as wrong)")
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right")
    return figure
