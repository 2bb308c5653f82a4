"""Figures of scores: reliability diagrams, confusion matrices, F1 per class, and scores of several sets of rows.

seaborn is imported where it draws, because its import takes more than a second.
"""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from fer_lib.calibration.intervals import ece_null
from fer_lib.calibration.metrics import BINS, class_names, ece, reliability_table
from fer_lib.calibration.plot_style import ABOVE_LINES, BLUE, FAINT, GREY, RED, themed
from fer_lib.errors import DataError

MARKERS = "osD^vP*X"  # they tell series apart where colours repeat or are printed in grey


@themed
def reliability_diagram(probs, y, title: str, bins: int = BINS) -> Figure:
    """Accuracy per confidence bin with its gap to the diagonal, and how many rows each bin holds.

    ``probs`` [N, K], ``y`` int [N].  The line under the title has the ECE beside what a calibrated model would score on
    these rows (mean and 95 % quantile of 200 redraws).
    """
    table, null = reliability_table(probs, y, bins), ece_null(probs, resamples=200, bins=bins)
    figure = Figure(figsize=(6.0, 6.6))
    figure.suptitle(title)
    top, under = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
    _reliability(top, under, table, ece(probs, y, bins), null["mean"], null["q95"])
    return figure


@themed
def reliability_panels(panels: dict[str, tuple[dict, dict]], title: str) -> Figure:
    """Reliability diagrams side by side, out of what a report stored: ``{panel title: (table, ece)}``.

    ``table`` is a :func:`metrics.reliability_table` (lists, empty bins None or NaN), ``ece`` its {value, null_mean,
    null_q95}.  DataError when a table holds no rows.
    """
    figure = Figure(figsize=(5.6 * len(panels), 6.6))
    figure.suptitle(title)
    axes = figure.subplots(2, len(panels), sharex=True, sharey="row", height_ratios=(3.2, 1), squeeze=False)
    for top, under, (name, (table, error)) in zip(*axes, panels.items(), strict=True):
        table = {key: np.asarray(values, dtype=np.float64) for key, values in table.items()}
        if not table["count"].sum():
            raise DataError(f"the reliability table of {name!r} holds no rows: evaluate the model again")
        _reliability(top, under, table, error["value"], error["null_mean"], error["null_q95"], f"{name}\n")
    return figure


def _reliability(top, under, table: dict, error: float, null_mean: float, null_q95: float, head: str = "") -> None:
    filled = table["count"] > 0
    left, width = table["lower"][filled], 1.0 / len(table["count"])
    confidence, acc, n = table["confidence"][filled], table["accuracy"][filled], int(table["count"].sum())
    top.bar(left, acc, width, align="edge", color=BLUE, alpha=0.5, edgecolor="white", label="accuracy")
    top.bar(
        left, confidence - acc, width, bottom=acc, align="edge", facecolor="none", hatch="///", edgecolor=RED,
        linewidth=1, label="gap to mean confidence",
    )  # fmt: skip
    top.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2, label="perfect calibration")
    top.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    top.legend(loc="upper left", frameon=True, framealpha=0.85, edgecolor="none", fontsize=9)
    top.set_title(
        f"{head}ECE {error:.4f}   (calibrated model: {null_mean:.4f}, 95 % below {null_q95:.4f})   n = {n:,}",
        fontsize=9.5, color=GREY,
    )  # fmt: skip
    under.bar(left, table["count"][filled], width, align="edge", color=FAINT, edgecolor="white")
    mean_confidence, mean_acc = ((values * table["count"][filled]).sum() / n for values in (confidence, acc))
    under.axvline(mean_confidence, color=RED, linewidth=1.4, label=f"mean confidence {mean_confidence:.3f}")
    under.axvline(mean_acc, color=BLUE, linewidth=1.4, linestyle="--", label=f"accuracy {mean_acc:.3f}")
    under.set(xlabel="confidence", ylabel="rows")
    under.yaxis.set_major_formatter("{x:,.0f}")
    under.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    under.legend(loc="upper center", bbox_to_anchor=(0.5, -0.45), ncols=2)


@themed
def confusion_matrix(cm, title: str) -> Figure:
    """Counts [K, K] (row = true class) with each row's percentages, which also give the colour."""
    import seaborn

    cm = np.asarray(cm)
    if cm.ndim != 2 or cm.shape[0] != cm.shape[1] or cm.shape[0] < 2:
        raise DataError(f"a confusion matrix of shape {cm.shape} can't be drawn: pass counts [K, K], K >= 2")
    totals, names = cm.sum(axis=1), class_names(len(cm))
    share = np.divide(cm, totals[:, None], out=np.zeros(cm.shape), where=totals[:, None] > 0)
    cells = [[f"{n:,}\n{100 * s:.1f} %" for n, s in zip(*row, strict=True)] for row in zip(cm, share, strict=True)]
    cells = np.where(totals[:, None] > 0, cells, "-")
    figure = Figure(figsize=(7.4, 6.8))
    axes = figure.subplots()
    seaborn.heatmap(
        share, vmin=0, vmax=1, cmap="Blues", annot=cells, fmt="", annot_kws={"fontsize": 9}, square=True, ax=axes,
        linewidths=0.5, linecolor="white", cbar_kws={"shrink": 0.75, "label": "share of the true class"},
    )  # fmt: skip
    axes.set_xticks(axes.get_xticks(), names, rotation=30, ha="right")
    labels = [f"{name}\n(n = {total:,})" for name, total in zip(names, totals, strict=True)]
    axes.set_yticks(axes.get_yticks(), labels, rotation=0)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    return figure


@themed
def per_class_bars(per_class_f1: dict[str, float], title: str) -> Figure:
    """One bar per class with its F1 (0..1), and their mean as a line."""
    import seaborn

    if not per_class_f1:
        raise DataError("no classes to draw: pass {name: f1}")
    names, values = list(per_class_f1), list(per_class_f1.values())
    figure = Figure(figsize=(6.8, 4.2))
    axes = figure.subplots()
    seaborn.barplot(x=names, y=values, color=BLUE, saturation=1, ax=axes)
    axes.bar_label(axes.containers[0], fmt="%.3f", fontsize=9, **ABOVE_LINES)
    mean = float(np.mean(values))
    axes.axhline(mean, color=RED, linestyle="--", linewidth=1.2, label=f"macro-F1 {mean:.3f}")
    axes.set(ylim=(0, 1.08), ylabel="F1", title=title)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1))
    return figure


@themed
def score_matrix(scores: dict[str, dict[str, float]], outlined: set[tuple[str, str]], title: str, label: str) -> Figure:
    """A score (0..1) for each pair of names, ``{row: {column: score}}``; the pairs ``outlined`` have a frame.

    A pair without a score is left blank.  DataError without any score.
    """
    import seaborn

    columns = list(dict.fromkeys(name for row in scores.values() for name in row))
    if not columns:
        raise DataError("no scores to draw: pass {row: {column: score}}")
    values = np.asarray([[row.get(name, np.nan) for name in columns] for row in scores.values()], np.float64)
    figure = Figure(figsize=(3.4 + 1.1 * len(columns), 1.8 + 0.5 * len(scores)))
    axes = figure.subplots()
    seaborn.heatmap(
        values, vmin=0, vmax=1, cmap="Blues", annot=True, fmt=".3f", annot_kws={"fontsize": 9}, ax=axes,
        linewidths=0.5, linecolor="white", cbar_kws={"label": label},
    )  # fmt: skip
    for row, column in outlined:
        corner = columns.index(column), list(scores).index(row)
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=RED, linewidth=2, clip_on=False))
    axes.set_xticks(axes.get_xticks(), columns, rotation=30, ha="right")
    axes.set_yticks(axes.get_yticks(), list(scores), rotation=0)
    axes.set(title=title)
    return figure


@themed
def score_intervals(scores: dict[str, dict[str, dict[str, tuple[float, float, float]]]], title: str) -> Figure:
    """Scores with their 95 % intervals: ``{score name: {series: {row: (value, low, high)}}}``, one panel per score."""
    rows = list(dict.fromkeys(row for panel in scores.values() for series in panel.values() for row in series))
    count = max(len(panel) for panel in scores.values())
    figure = Figure(figsize=(5.4 * len(scores), 1.6 + len(rows) * (0.25 + 0.14 * count)))
    figure.suptitle(title)
    panels = figure.subplots(1, len(scores), sharey=True, squeeze=False)[0]
    for axes, (score, panel) in zip(panels, scores.items(), strict=True):
        for number, (name, series) in enumerate(panel.items()):
            places = [rows.index(row) + (number - (count - 1) / 2) * 0.7 / count for row in series]
            value, low, high = np.asarray(list(series.values()), np.float64).T
            (points,) = axes.plot(value, places, MARKERS[number % len(MARKERS)], markersize=5, label=name)
            axes.hlines(places, low, high, color=points.get_color(), linewidth=1.4)
        axes.set(xlim=(0, 1), xlabel=f"{score}, 95 % interval")
    panels[0].set_yticks(range(len(rows)), rows)
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(4, count))
    return figure
