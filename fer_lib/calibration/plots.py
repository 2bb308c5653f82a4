"""The images that go with the scores: matplotlib figures without pyplot's global state, readable at 100 dpi."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fer_lib.calibration.intervals import ece_null
from fer_lib.calibration.metrics import BINS, class_names, ece, reliability_table
from fer_lib.errors import DataError

DPI = 100
_BLUE, _RED, _GREY = "#3b6fb6", "#c44e52", "#6b6b6b"


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def _bare(axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def reliability_diagram(probs, y, title: str, bins: int = BINS) -> Figure:
    """Accuracy per confidence bin with its gap to the diagonal, and how many rows each bin holds.

    ``probs`` [N, K], ``y`` int [N].  The line under the title has the ECE beside what a calibrated model would score on
    these rows (mean and 95 % quantile of 200 redraws).
    """
    table, null = reliability_table(probs, y, bins), ece_null(probs, resamples=200, bins=bins)
    figure = _figure(6.0, 6.6)
    figure.suptitle(title, fontsize=13)
    top, under = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
    _reliability(top, under, table, ece(probs, y, bins), null["mean"], null["q95"])
    return figure


def reliability_panels(panels: dict[str, tuple[dict, dict]], title: str) -> Figure:
    """Reliability diagrams side by side, out of what a report stored: ``{panel title: (table, ece)}``.

    ``table`` is a :func:`metrics.reliability_table` (lists, empty bins None or NaN), ``ece`` its {value, null_mean,
    null_q95}.  DataError when a table holds no rows.
    """
    figure = _figure(5.6 * len(panels), 6.6)
    figure.suptitle(title, fontsize=13)
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
    top.bar(left, acc, width, align="edge", color=_BLUE, edgecolor="white", label="accuracy")
    top.bar(
        left, confidence - acc, width, bottom=acc, align="edge", color=_RED, alpha=0.35, hatch="//", edgecolor=_RED,
        linewidth=0, label="gap to mean confidence",
    )  # fmt: skip
    top.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1.2, label="perfect calibration")
    top.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    top.legend(loc="upper left", frameon=True, framealpha=0.85, edgecolor="none", fontsize=9)
    top.set_title(
        f"{head}ECE {error:.4f}   (calibrated model: {null_mean:.4f}, 95 % below {null_q95:.4f})   n = {n:,}",
        fontsize=9.5, color=_GREY,
    )  # fmt: skip
    under.bar(left, table["count"][filled], width, align="edge", color=_GREY, edgecolor="white")
    mean_confidence, mean_acc = ((values * table["count"][filled]).sum() / n for values in (confidence, acc))
    under.axvline(mean_confidence, color=_RED, linewidth=1.4, label=f"mean confidence {mean_confidence:.3f}")
    under.axvline(mean_acc, color=_BLUE, linewidth=1.4, linestyle="--", label=f"accuracy {mean_acc:.3f}")
    under.set(xlabel="confidence", ylabel="rows")
    under.yaxis.set_major_formatter("{x:,.0f}")
    under.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    under.legend(loc="upper left", frameon=False, fontsize=9)
    for axes in (top, under):
        _bare(axes)


def confusion_matrix(cm, title: str) -> Figure:
    """Counts [K, K] (row = true class) with each row's percentages, which also give the colour."""
    cm = np.asarray(cm)
    if cm.ndim != 2 or cm.shape[0] != cm.shape[1] or cm.shape[0] < 2:
        raise DataError(f"a confusion matrix of shape {cm.shape} can't be drawn: pass counts [K, K], K >= 2")
    totals = cm.sum(axis=1)
    share = np.divide(cm, totals[:, None], out=np.zeros(cm.shape), where=totals[:, None] > 0)
    names = class_names(len(cm))
    figure = _figure(7.4, 6.8)
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(*cm.shape):
        axes.text(
            j, i, f"{cm[i, j]:,}\n{100 * share[i, j]:.1f} %" if totals[i] else "-", ha="center", va="center",
            fontsize=9, color="white" if share[i, j] > 0.55 else "black",
        )  # fmt: skip
    axes.set_xticks(range(len(cm)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(cm)), [f"{name}\n(n = {total:,})" for name, total in zip(names, totals, strict=True)])
    axes.set(xlabel="predicted", ylabel="true", title=title)
    figure.colorbar(image, ax=axes, shrink=0.75, label="share of the true class")
    return figure


def per_class_bars(per_class_f1: dict[str, float], title: str) -> Figure:
    """One bar per class with its F1 (0..1), and their mean as a line."""
    if not per_class_f1:
        raise DataError("no classes to draw: pass {name: f1}")
    names, values = list(per_class_f1), list(per_class_f1.values())
    figure = _figure(6.8, 4.2)
    axes = figure.subplots()
    axes.bar_label(axes.bar(names, values, color=_BLUE), fmt="%.3f", fontsize=9, padding=2)
    mean = float(np.mean(values))
    axes.axhline(mean, color=_RED, linestyle="--", linewidth=1.2, label=f"macro-F1 {mean:.3f}")
    axes.set(ylim=(0, 1.08), ylabel="F1", title=title)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), frameon=False, fontsize=9)
    _bare(axes)
    return figure
