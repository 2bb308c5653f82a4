"""Views of a checkpoint sweep: table, curves, reliability diagrams of the chosen checkpoint, and a summary."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from fer_lib.calibration import plots
from fer_lib.calibration.plot_style import GREY, themed
from fer_lib.emotions import EMOTIONS

_PARTS = (("raw", "-", None), ("calibrated", "--", "white"))  # line style, marker face
_MARKERS = "osD^vP"  # of the fits
_PANELS = (("macro_f1", "macro-F1"), ("ece", "ECE"))


def sweep_table(result: dict[str, Any]) -> pd.DataFrame:
    """One line per checkpoint; lines of one ``evalset`` are comparable, ``protocol`` adds preprocessing and view."""
    lines = []
    for index, entry in enumerate(result["checkpoints"]):
        raw, calibrated, temperature = entry["raw"], entry["calibrated"], entry["temperature"]
        lines.append(
            {
                "fit": entry["fit"], "checkpoint": entry["checkpoint"], "epochs": entry["epochs"],
                "chosen": "*" if index == result["chosen"]["index"] else "", "accuracy": raw["accuracy"],
                "macro-F1": raw["macro_f1"], "macro-F1 cal.": calibrated["macro_f1"], "NLL": raw["nll"],
                "NLL cal.": calibrated["nll"], "ECE": raw["ece"], "ECE cal.": calibrated["ece"],
                "T": temperature["global_temperature"] or "by class",
                **{emotion: raw["per_class_f1"][emotion] for emotion in EMOTIONS},
                "n": entry["n_used"], "evalset": entry["evalset_id"], "protocol": entry["protocol_id"],
            }
        )  # fmt: skip
    return pd.DataFrame(lines)


@themed
def sweep_curves(result: dict[str, Any]) -> Figure:
    """Macro-F1 and ECE on val/select by epochs: one marker per fit, calibrated hollow, the chosen starred."""
    chosen = result["chosen"]
    figure = Figure(figsize=(12, 5.2))
    panels = figure.subplots(1, len(_PANELS))
    fits = list(dict.fromkeys(entry["fit"] for entry in result["checkpoints"]))
    for axes, (key, name) in zip(panels, _PANELS, strict=True):
        for number, fit in enumerate(fits):
            own = sorted((e for e in result["checkpoints"] if e["fit"] == fit), key=lambda e: e["epochs"])
            style = {"color": f"C{number}", "marker": _MARKERS[number % len(_MARKERS)], "markersize": 7}
            for part, line, face in _PARTS:
                points = [(entry["epochs"], entry[part][key]) for entry in own]
                options = style | ({"markerfacecolor": face} if face else {})
                axes.plot(*zip(*points, strict=True), linestyle=line, label=f"{fit}, {part}", **options)
        value = chosen[result["select_by"]][key]
        axes.plot(
            chosen["epochs"], value, "*", markersize=18, markerfacecolor="none", markeredgecolor="black",
            label=f"chosen: {value:.4f}",
        )  # fmt: skip
        axes.set(xlabel="epochs trained", title=name)
        axes.xaxis.get_major_locator().set_params(integer=True)
    panels[0].axhspan(*chosen["interval"], color=GREY, alpha=0.12, linewidth=0, label="95 % interval of the chosen")
    for axes in panels:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3)
    view = {"none": "single view", "flip": "flip average"}[result["view"]]
    figure.suptitle(f"val/select, {view}, n = {result['n_used']:,}, evalset {result['evalset_id']}")
    return figure


def chosen_reliability(result: dict[str, Any]) -> Figure:
    """Reliability diagrams of the chosen checkpoint before and after its temperature, under the sweep's view."""
    chosen = result["chosen"]
    report = chosen["views"][result["view"]]
    panels = {
        "raw": (report["reliability_raw"], report["ece_raw"]),
        "calibrated": (report["reliability_scaled"], report["ece_scaled"]),
    }
    return plots.reliability_panels(panels, f"{chosen['fit']}, {chosen['checkpoint']}: val/select")


def sweep_summary(result: dict[str, Any]) -> list[str]:
    """The chosen checkpoint, its scores and its caveats, one sentence each."""
    chosen, part = result["chosen"], result["select_by"]
    low, high = chosen["interval"]
    lines = [
        f"{chosen['fit']}, {chosen['checkpoint']} (epochs: {chosen['epochs']:g}): {part} macro-F1 "
        f"{chosen[part]['macro_f1']:.4f} [{low:.4f}, {high:.4f}], accuracy {chosen[part]['accuracy']:.4f}, ECE "
        f"{chosen['raw']['ece']:.4f} raw and {chosen['calibrated']['ece']:.4f} calibrated, on {result['n_used']:,} of "
        f"{result['n_expected']:,} rows ({result['evalset_id']})."
    ]
    if chosen["as_good"]:
        lines.append(f"{chosen['as_good']} others lie in its 95 % interval too: the choice among them is within noise.")
    if result["differences"]:
        lines.append(f"The fits see other pixels of the same rows: {'. '.join(result['differences'])}.")
    if leaked := result["leaks"]["twins_in_train"]:
        lines.append(f"{leaked:,} of these rows are known to be in train too.")
    for fit, rows in result["leaks"]["learned_elsewhere"].items():
        lines.append(f"{fit} learned from {rows:,} of these rows elsewhere, as allowed.")
    if unrecorded := result["leaks"]["unrecorded"]:
        lines.append(f"The training images of {', '.join(unrecorded)} are not known.")
    return lines
