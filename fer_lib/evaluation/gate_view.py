"""The figure of a ``gates.json``: base and candidate before and after adaptation, class by class."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fer_lib.calibration.plot_style import BLUE, FAINT, themed
from fer_lib.evaluation.stage_views import draw_differences


@themed
def before_after(result: dict[str, Any]) -> Figure:
    """One row per offline gate: each class's F1 of base and candidate, and the change with its paired 95 % interval."""
    import seaborn

    gates = [gate for gate in result["gates"] if gate["gate"] == "offline"]
    figure = Figure(figsize=(11, 3.8 * len(gates)))
    figure.suptitle(f"Before and after: base {result['base']['name']}, candidate {result['candidate']['name']}")
    for gate, (left, right) in zip(gates, figure.subplots(len(gates), 2, squeeze=False), strict=True):
        classes = gate["per_class_f1"]
        values = [score[model] for model in ("base", "candidate") for score in classes.values()]
        models = np.repeat(["base", "candidate"], len(classes))
        seaborn.barplot(
            x=[*classes] * 2, y=values, hue=models, palette=[FAINT, BLUE], saturation=1, edgecolor="black", ax=left
        )
        left.set(ylim=(0, 1.02), ylabel="F1")
        left.set_title(f"suite {gate['suite']}, n = {gate['n_used']:,}", loc="left")
        left.tick_params(axis="x", rotation=30)
        left.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
        changes = {name: score["change"] for name, score in classes.items()}
        changes |= {"macro-F1": gate["scores"]["macro_f1"]["change"]}
        draw_differences(right, changes)
        right.set_xlabel("candidate minus base, 95 % interval")
    return figure
