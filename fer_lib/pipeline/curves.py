"""The plot of a sweep: scores against the first varied parameter, one line per setting of the others."""

from __future__ import annotations

from typing import Any

from fer_lib.calibration.plot_style import themed
from fer_lib.params.strict import parse
from fer_lib.pipeline.comparison import RANKED_BY, Row


@themed
def plot_scores(title: str, groups: list[list[Row]]):
    """A matplotlib figure with one panel per group of rows that are ranked together; None without scores.

    Filled markers: ``val macro-F1``.  Hollow markers: macro-F1 of each evaluation, which does not affect the ranking.
    """
    from matplotlib.figure import Figure

    groups = [group for group in groups if group[0]["rank"] is not None]
    if not groups:
        return None
    figure = Figure(figsize=(min(24.0, 1.5 + 6.5 * len(groups)), 4.6))
    figure.suptitle(title)
    for axes, group in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        _panel(axes, group, titled=len(groups) > 1)
    return figure


def _panel(axes, group: list[Row], titled: bool) -> None:
    group = sorted((row for row in group if row["rank"] is not None), key=lambda row: row["combination"])
    name = next(iter(group[0]["values"]))
    texts = list(dict.fromkeys(row["values"][name] for row in group))
    numbers = [parse(text) for text in texts]
    numeric = all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in numbers)
    positions: dict[str, Any] = dict(zip(texts, numbers if numeric else range(len(texts)), strict=True))
    lines: dict[str, list[Row]] = {}
    for row in group:
        others = [f"{key}={value}" for key, value in row["values"].items() if key != name]
        lines.setdefault(", ".join([row["phase"], *others]), []).append(row)
    for colour, (label, line) in enumerate(lines.items()):
        line.sort(key=lambda row: positions[row["values"][name]])
        style = {"color": f"C{colour % 4}", "marker": "osD^vP"[colour % 6]}
        _line(axes, line, positions, name, RANKED_BY, f"{label}: {RANKED_BY}", **style)
        for measure in dict.fromkeys(key for row in line for key in row["scores"]):
            if measure.endswith("macro-F1") and measure != RANKED_BY:
                of = f"{label}: {measure}"
                hollow = {"markerfacecolor": "white", "linestyle": "--", "linewidth": 1}
                _line(axes, line, positions, name, measure, of, **style, **hollow)
    axes.set_xticks(list(positions.values()), list(positions))
    axes.set_xlabel(name)
    axes.set_ylabel("macro-F1")
    if titled:
        axes.set_title(f"val on {group[0]['evalset_id']}", fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(loc="best")


def _line(axes, line: list[Row], positions: dict[str, Any], name: str, measure: str, label: str, **style: Any) -> None:
    points = [(positions[row["values"][name]], row["scores"][measure]) for row in line if measure in row["scores"]]
    axes.plot(*zip(*points, strict=True), label=label, **style)
