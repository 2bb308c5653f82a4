"""Training curves of a fit."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

# the curves of each panel: (label, key path in a row of history.json)
_PANELS = (
    ("loss", (("train", ("train", "loss")), ("val", ("val", "nll")))),
    ("val/select", (("accuracy", ("val", "accuracy")), ("macro-F1", ("val", "macro_f1")), ("ECE", ("val", "ece")))),
    ("schedule", (("lr", ("lr",)),)),
)


def training_curves(history: list[dict[str, Any]], best_epoch: int, title: str) -> Figure:
    """Loss, val scores and learning rate over epochs, with a line at the best epoch."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    figure.suptitle(title, fontsize=11)
    for axes, (name, curves) in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
        for label, path in curves:
            values = [(row["epoch"] + 1, _value_at(row, path)) for row in history]
            points = [(x, y) for x, y in values if y is not None]
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", label=label)
        axes.axvline(best_epoch + 1, color="0.6", linestyle=":", label="best epoch")
        axes.set(xlabel="epoch", title=name)
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _value_at(row: dict[str, Any] | None, path: tuple[str, ...]) -> float | None:
    for key in path:
        if row is None:
            return None
        row = row.get(key)
    return row
