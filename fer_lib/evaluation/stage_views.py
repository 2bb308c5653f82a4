"""Views of two models: of ``stages.json``, each child beside its parent, and of ``gates.json``, before and after."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fer_lib.calibration.plot_style import ABOVE_LINES, BLUE, FAINT, GREY, RED, themed
from fer_lib.storage.text import duration


def verdict(difference: dict[str, float]) -> str:
    """``better``, ``worse`` or within chance, by the interval of a difference whose larger ``value`` is better."""
    if difference["lo"] > 0:
        return "better"
    if difference["hi"] < 0:
        return "worse"
    if difference["value"] == 0:
        return "no different"
    return f"{'higher' if difference['value'] > 0 else 'lower'}, by no more than chance explains"


def stage_sentences(stage: dict[str, Any]) -> list[str]:
    """Sentences about one child and its parent: scores, single classes, cost and unknown settings."""
    parent, child, scores = stage["parent"], stage["child"], stage["scores"]["all"]
    gain, test = scores["difference"], scores["mcnemar"]
    macro = gain["macro_f1"]
    lines = [
        f"`{child}`, trained on from `{parent}`, is {verdict(macro)}: macro-F1 {scores['parent']['macro_f1']:.4f} → "
        f"{scores['child']['macro_f1']:.4f} ({signed(macro)}) on the same {scores['n_used']:,} rows; accuracy "
        f"{scores['parent']['accuracy']:.4f} → {scores['child']['accuracy']:.4f} ({signed(gain['accuracy'])}), "
        f"{test['only_after']:,} rows gained and {test['only_before']:,} lost, McNemar p = {test['p']:.2g}."
    ]
    for word, sign in (("higher", 1), ("lower", -1)):
        classes = [
            f"{name[3:]} ({100 * d['value']:+.1f})"
            for name, d in gain.items()
            if name.startswith("f1/") and (d["lo"] > 0 if sign > 0 else d["hi"] < 0)
        ]
        if classes:
            lines.append(f"F1 in points is {word}, beyond chance, for {', '.join(classes)}.")
    lines.append(_cost_sentence(stage["cost"]))
    if not all(stage["settings_known"]):
        lines.append(
            "Other differences between their trainings are not known: a model came without its alignmentreport.json."
        )
    return lines


def _cost_sentence(cost: dict[str, Any]) -> str:
    parts = []
    before, after = cost["parent"], cost["child"]
    if after["train_seconds"] is not None:
        first = f" after {duration(before['train_seconds'])}" if before["train_seconds"] is not None else ""
        pace = f"{after['epochs']} epoch{'s' * (after['epochs'] > 1)} at {after['images_per_sec']:,.0f} images/s"
        parts.append(f"{duration(after['train_seconds'])} of training{first} ({pace})")
    if before["latency_ms"] and after["latency_ms"]:
        old, new = before["latency_ms"]["p50"], after["latency_ms"]["p50"]
        sizes = dict.fromkeys(str(side["image_size"]) for side in (before, after))
        parts.append(
            f"{new / old:.2g} times the time for a face ({old:.1f} → {new:.1f} ms on one CPU thread, at "
            f"{' → '.join(sizes)} px)"
        )
    return f"It cost {' and '.join(parts)}." if parts else "Its cost is not known: no history lies beside it."


def signed(difference: dict[str, float]) -> str:
    return f"{difference['value']:+.4f}, 95 % {difference['lo']:+.4f} to {difference['hi']:+.4f}"


def stages_table(report: dict[str, Any] | None) -> pd.DataFrame:
    """One line per child and score on all rows: parent's, child's, difference and interval; then one per cost."""
    lines = []
    for stage in report["stages"] if report else []:
        scores, who = stage["scores"]["all"], {"parent": stage["parent"], "child": stage["child"]}
        before, after, gain = scores["parent"], scores["child"], scores["difference"]
        pairs = [("accuracy", before["accuracy"], after["accuracy"], gain["accuracy"])]
        pairs += [("macro-F1", before["macro_f1"], after["macro_f1"], gain["macro_f1"])]
        for name in before["per_class_f1"]:
            pairs.append((f"F1 {name}", before["per_class_f1"][name], after["per_class_f1"][name], gain[f"f1/{name}"]))
        pairs += [("NLL", before["nll"], after["nll"], gain["nll"]), ("ECE", before["ece"], after["ece"], {})]
        scaled = before["scaled"], after["scaled"]
        pairs += [(f"{n.upper()}, scaled", scaled[0][n], scaled[1][n], {}) for n in ("nll", "ece")]
        for what, old, new, d in pairs:
            ends = {"low": d.get("lo"), "high": d.get("hi")}
            lines.append(who | {"what": what, "before": old, "after": new, "difference": new - old, **ends})
        for what, (old, new) in _cost_pairs(stage["cost"]).items():
            known = None not in (old, new)
            lines.append(who | {"what": what, "before": old, "after": new, "difference": new - old if known else None})
    return pd.DataFrame(lines)


def changed_table(report: dict[str, Any] | None) -> pd.DataFrame:
    """One line per child and training setting that differs from its parent's."""
    return pd.DataFrame(
        [
            {"parent": stage["parent"], "child": stage["child"], "setting": key, "before": str(old), "after": str(new)}
            for stage in (report["stages"] if report else [])
            for key, (old, new) in stage["changed"].items()
        ]
    )


def _cost_pairs(cost: dict[str, Any]) -> dict[str, tuple[float | None, float | None]]:
    """Cost name with its unit -> (parent's, child's); None where unknown."""

    def both(read) -> tuple[float | None, float | None]:
        return read(cost["parent"]), read(cost["child"])

    return {
        "training, s": both(lambda c: c["train_seconds"]),
        "training, ms an image": both(lambda c: 1e3 / c["images_per_sec"] if c["images_per_sec"] else None),
        "parameters": both(lambda c: c["parameters"]),
        "GFLOPs a face": both(lambda c: c["gflops"]),
        "ms a face, one CPU thread": both(lambda c: c["latency_ms"] and c["latency_ms"]["p50"]),
    }


@themed
def draw_stages(report: dict[str, Any] | None) -> Figure | None:
    """One row of plots per child: differences with 95 % intervals, and costs as multiples of the parent's."""
    if report is None:
        return None
    stages = report["stages"]
    figure = Figure(figsize=(11, 3.8 * len(stages)))
    for stage, (left, right) in zip(stages, figure.subplots(len(stages), 2, squeeze=False), strict=True):
        scores = stage["scores"]["all"]
        gain = {n.replace("f1/", "F1 "): d for n, d in scores["difference"].items() if n != "nll"}
        gain["macro-F1"] = gain.pop("macro_f1")
        draw_differences(left, gain)
        left.set_xlabel(f"child minus parent, 95 % interval, n = {scores['n_used']:,}")
        left.set_title(f"{stage['parent']} → {stage['child']}")
        _draw_cost_pairs(right, stage)
    return figure


@themed
def before_after(result: dict[str, Any]) -> Figure:
    """One row per offline gate of a ``gates.json``: each class's F1 of both models, its change with interval."""
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


def draw_differences(axes, differences: dict[str, dict[str, float]]) -> None:
    """One line per name with its {value, lo, hi}; a filled marker where the interval leaves out 0."""
    for place, d in enumerate(differences.values()):
        colour = BLUE if d["lo"] > 0 else RED if d["hi"] < 0 else GREY
        fill = "white" if colour == GREY else colour
        axes.plot([d["lo"], d["hi"]], [place, place], color=colour, linewidth=2)
        axes.plot(d["value"], place, "o", color=colour, markerfacecolor=fill, markersize=7)
    axes.axvline(0, color=GREY, linestyle="--", linewidth=1)
    axes.set_yticks(range(len(differences)), list(differences))
    axes.invert_yaxis()


def _draw_cost_pairs(axes, stage: dict[str, Any]) -> None:
    known = {name: new / old for name, (old, new) in _cost_pairs(stage["cost"]).items() if old and new}
    bars = axes.barh(list(known), list(known.values()), color=BLUE)
    axes.bar_label(bars, labels=[f"{ratio:.2f} x" for ratio in known.values()], fontsize=9, **ABOVE_LINES)
    axes.axvline(1, color=GREY, linestyle="--", linewidth=1)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set(xlabel="times the parent's", title="cost")
