"""Curves of a fit."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

# what is drawn, by panel: (label, where it lies in a row of history.json)
_PANELS = (
    ("loss", (("train", ("train", "loss")), ("val", ("val", "nll")))),
    ("val/select", (("accuracy", ("val", "accuracy")), ("macro-F1", ("val", "macro_f1")), ("ECE", ("val", "ece")))),
    ("schedule", (("lr", ("lr",)),)),
)


def training_curves(history: list[dict[str, Any]], best_epoch: int, title: str) -> Figure:
    """Loss, val scores and learning rate over epochs; the epoch whose weights are kept is marked."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    figure.suptitle(title, fontsize=11)
    for axes, (name, curves) in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
        for label, path in curves:
            points = [(row["epoch"] + 1, _at(row, path)) for row in history]
            known = [(x, y) for x, y in points if y is not None]
            if known:
                axes.plot(*zip(*known, strict=True), marker=".", label=label)
        axes.axvline(best_epoch + 1, color="0.6", linestyle=":", label="kept")
        axes.set(xlabel="epoch", title=name)
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _at(row: dict[str, Any] | None, path: tuple[str, ...]) -> float | None:
    for key in path:
        if row is None:
            return None
        row = row.get(key)
    return row
