"""The picture of a sweep: the score over the first varied parameter, a line for each setting of the others."""

from __future__ import annotations

from typing import Any

from fer_lib.params.strict import parse
from fer_lib.pipeline.comparison import RANKED_BY, Row


def figure(title: str, groups: list[list[Row]]):
    """A matplotlib figure, a panel for each group of rows that are ranked together; None when nothing was scored.

    Full marks: ``val macro-F1``; hollow ones: macro-F1 of each evaluation, which nothing is chosen by.
    """
    from matplotlib.figure import Figure

    groups = [group for group in groups if group[0]["rank"] is not None]
    if not groups:
        return None
    drawn = Figure(figsize=(min(24.0, 1.5 + 6.5 * len(groups)), 4.6), layout="constrained")
    drawn.suptitle(title, fontsize=12)
    for axes, group in zip(drawn.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        _panel(axes, group, apart=len(groups) > 1)
    return drawn


def _panel(axes, group: list[Row], apart: bool) -> None:
    group = sorted((row for row in group if row["rank"] is not None), key=lambda row: row["combination"])
    name = next(iter(group[0]["values"]))
    written = list(dict.fromkeys(row["values"][name] for row in group))
    numbers = [parse(text) for text in written]
    numeric = all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in numbers)
    places: dict[str, Any] = dict(zip(written, numbers if numeric else range(len(written)), strict=True))
    lines: dict[str, list[Row]] = {}
    for row in group:
        others = [f"{key}={value}" for key, value in row["values"].items() if key != name]
        lines.setdefault(", ".join([row["phase"], *others]), []).append(row)
    for colour, (label, line) in enumerate(lines.items()):
        line.sort(key=lambda row: places[row["values"][name]])
        _line(axes, line, places, name, RANKED_BY, f"{label}: {RANKED_BY}", color=f"C{colour % 10}", marker="o")
        for measure in dict.fromkeys(key for row in line for key in row["scores"]):
            if measure.endswith("macro-F1") and measure != RANKED_BY:
                of = f"{label}: {measure}"
                hollow = {"marker": "o", "markerfacecolor": "white", "linestyle": "--", "linewidth": 1}
                _line(axes, line, places, name, measure, of, color=f"C{colour % 10}", **hollow)
    axes.set_xticks(list(places.values()), list(places))
    axes.set_xlabel(name)
    axes.set_ylabel("macro-F1")
    if apart:
        axes.set_title(f"val on {group[0]['evalset_id']}", fontsize=8)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="best")


def _line(axes, line: list[Row], places: dict[str, Any], name: str, measure: str, label: str, **style: Any) -> None:
    points = [(places[row["values"][name]], row["scores"][measure]) for row in line if measure in row["scores"]]
    axes.plot(*zip(*points, strict=True), label=label, **style)
