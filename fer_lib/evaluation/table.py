"""Tables and arrays of an evaluation and of gates, for notebooks and pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fer_lib.calibration import metrics
from fer_lib.calibration.intervals import chance_level
from fer_lib.calibration.temperature import Temperature
from fer_lib.calibration.votes import THIRDS


def results_table(result: dict[str, Any], part: str = "views") -> pd.DataFrame:
    """One line per model, view and set of rows, with the ids that say which lines are comparable.

    ``part``: ``views`` has all rows and those that do not leak, ``by_source`` the rows of each source.  Lines of one
    ``evalset`` were measured on the same rows; ``protocol`` adds preprocessing and view.  ``macro-F1`` is the mean over
    the ``classes`` that have rows, with its interval; ``chance`` is the accuracy of guessing among these.
    """
    lines = []
    for name, view, rows, report in _reports(result, part):
        ece, scaled = report["ece_raw"], report["ece_scaled"]
        low, high = report["macro_f1_present_interval"]
        lines.append(
            {
                "model": name, "view": view, "source" if part == "by_source" else "rows": rows, "n": report["n_used"],
                "leaked": report["leaked"], "classes": len(report["classes_present"]),
                "chance": chance_level(report["raw"]), "accuracy": report["raw"]["accuracy"],
                "macro-F1": report["raw"]["macro_f1_present"], "F1 low": low, "F1 high": high,
                "minority-F1": report["raw"]["minority_f1"], "ECE": ece["value"], "ECE scaled": scaled["value"],
                "scaled low": scaled["lo"], "scaled high": scaled["hi"], "null": scaled["null_mean"],
                "T": report["temperature"]["global_temperature"],
                "evalset": report["evalset_id"], "protocol": report["protocol_id"],
            }
        )  # fmt: skip
    return pd.DataFrame(lines)


def _reports(result: dict[str, Any], *parts: str) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """(model, view, set of rows, report) of these parts of each model."""
    for name, model in result["models"].items():
        for part in parts:
            for view, sets in model[part].items():
                for rows, report in sets.items():
                    yield name, view, rows, report


def per_class_table(result: dict[str, Any]) -> pd.DataFrame:
    """One line per model, source and class that has rows there: F1 and recall with intervals, on the single view."""
    return pd.DataFrame(
        [
            {
                "model": name, "source": source, "class": emotion, "n": own["n"],
                "F1": own["f1"], "F1 low": own["f1_interval"][0], "F1 high": own["f1_interval"][1],
                "recall": own["recall"],
                "recall low": own["recall_interval"][0], "recall high": own["recall_interval"][1],
            }
            for name, view, source, report in _reports(result, "by_source") if view == "none"
            for emotion, own in report["per_class"].items()
        ]
    )  # fmt: skip


def transfer_scores(result: dict[str, Any]) -> tuple[dict[str, dict[str, float]], set[tuple[str, str]]]:
    """Macro-F1 over present classes of each model on each source, single view: ``{model ← its sources: {source: F1}}``.

    Also the (model, source) pairs where the model was trained on the source.
    """
    scores, in_domain = {}, set()
    for name, model in result["models"].items():
        row = f"{name} ← {', '.join(model['trained_on'] or ['unknown'])}"
        scores[row] = {s: report["raw"]["macro_f1_present"] for s, report in model["by_source"]["none"].items()}
        in_domain |= {(row, source) for source in scores[row] if source in (model["trained_on"] or ())}
    return scores, in_domain


def source_intervals(result: dict[str, Any]) -> dict[str, dict[str, dict[str, tuple[float, float, float]]]]:
    """``{score: {model: {source (n): (value, low, high)}}}`` of accuracy and macro-F1, single view."""
    scores: dict[str, Any] = {"accuracy": {}, "macro-F1": {}}
    for name, view, source, report in _reports(result, "by_source"):
        if view == "none":
            row, raw = f"{source} (n = {report['n_used']:,})", report["raw"]
            macro = raw["macro_f1_present"], *report["macro_f1_present_interval"]
            scores["accuracy"].setdefault(name, {})[row] = raw["accuracy"], *report["accuracy_interval"]
            scores["macro-F1"].setdefault(name, {})[row] = macro
    return scores


def prior_table(result: dict[str, Any]) -> pd.DataFrame:
    """One line per model, view and set of rows: what a prior correction changes; empty where none was asked for."""
    lines = []
    for name, view, rows, report in _reports(result, "views", "by_source"):
        if (own := report.get("prior_correction")) is None:
            continue
        before, after, change = report["scaled"], own["corrected"], own["difference"]
        line = {"model": name, "view": view, "rows": rows, "n": report["n_used"]}
        for what, key in (("accuracy", "accuracy"), ("macro-F1", "macro_f1_present"), ("NLL", "nll")):
            line |= {what: before[key], f"{what} change": change[key]["value"]}
            line |= {f"{what} low": change[key]["lo"], f"{what} high": change[key]["hi"]}
        lines.append(line | {"ECE": before["ece"], "ECE corrected": after["ece"], "converged": own.get("converged")})
    return pd.DataFrame(lines)


def models_table(result: dict[str, Any]) -> pd.DataFrame:
    """One line per model: its size, its starting weights, the training rows with votes, and its training cost.

    Starting weights that another model of the table holds have its name.  The cost includes the models that this one
    started from or was distilled from, and the members of an ensemble; blank where one is not recorded.
    """
    owner = {model["weights_sha256"]: name for name, model in result["models"].items()}
    lines = []
    for name, model in result["models"].items():
        start, cost = model.get("starting_weights", {}), model["cost"] or {}
        lines.append(
            {
                "model": name, "kind": model["kind"], "backbone": model["backbone"], "parameters": model["parameters"],
                "starting weights": owner.get(start.get("sha256") or "", start.get("source")),
                "rows with votes": model.get("votes"), "epochs in all": cost.get("epochs"),
                "images in all": cost.get("images"), "training in all, s": cost.get("seconds"),
            }
        )  # fmt: skip
    return pd.DataFrame(lines)


def annotators_table(result: dict[str, Any]) -> pd.DataFrame:
    """One line per model and view: its comparison with the annotators on all rows; empty where no row has votes.

    The last lines are the annotators themselves: a random vote for the seven classes against the label, the plurality
    and another vote; then, where votes were counted, a random vote among all that were cast.
    """
    lines, people = [], None
    for name, model in result["models"].items():
        for view, sets in model["views"].items():
            if (people := sets["all"].get("people")) is None:
                continue
            own, kl, js = people["model"], people["kl"], people["js"]
            lines.append(
                {
                    "who": name, "view": view, "n": people["n"], "KL": kl["raw"], "KL scaled": kl["scaled"],
                    "JS": js["raw"], "JS scaled": js["scaled"], "label": own["label"], "plurality": own["plurality"],
                    "plurality in top 2": own["top2"], "one vote": own["vote"],
                }
            )  # fmt: skip
    if people is not None:
        own = people["annotators"]
        rates = {"label": own["label"], "plurality": own["plurality"], "one vote": own["each_other"]}
        lines.append({"who": "annotators", "view": "", "n": people["n"], **rates})
        if "label_of_all" in own:
            rates = {"n": people["votes"]["counts"], "label": own["label_of_all"]}
            lines.append({"who": "annotators, every vote", "view": "", **rates})
    return pd.DataFrame(lines)


def vote_calibration_table(result: dict[str, Any]) -> pd.DataFrame:
    """One line per model, view and raw or scaled: its calibration to the annotators' votes on all rows.

    Empty where no row has votes.  For the columns, see :mod:`fer_lib.calibration.votes`.
    """
    lines = []
    for name, view, rows, report in _reports(result, "views"):
        if rows != "all" or "people" not in report:
            continue
        for kind, own in report["people"]["calibration"].items():
            ece = own["true_label_ece"]
            lines.append(
                {
                    "model": name, "view": view, "logits": kind, "n": ece["n"], "true-label ECE": ece["value"],
                    "low": ece["lo"], "high": ece["hi"],
                    **{f"{third} third": own["thirds"].get(third, {}).get("value") for third in THIRDS},
                    "DistCE": own["dist_ce"], "EntCE": own["ent_ce"], "entropy bias": own["ent_bias"],
                    "rank": own["rank"], "Spearman": own["spearman"],
                }
            )  # fmt: skip
    return pd.DataFrame(lines)


def decisions_table(result: dict[str, Any]) -> pd.DataFrame:
    """One line per model, view and set of rows or source: prediction sets, answers and faces unlike the training.

    See :class:`fer_lib.evaluation.decision_rules.DecisionRules`; empty where no model has rules.
    """
    lines = []
    for name, view, rows, report in _reports(result, "views", "by_source"):
        if own := report.get("decisions"):
            sets, answers = own.get("sets", {}), own.get("answers", {})
            low, high = sets.get("coverage_interval", (None, None))
            lines.append(
                {
                    "model": name, "view": view, "rows": rows, "n": report["n_used"],
                    "coverage": sets.get("coverage"), "low": low, "high": high, "mean size": sets.get("mean_size"),
                    **{f"{k} covered": share for k, share in sets.get("coverage_by_class", {}).items()},
                    "answered": answers.get("share"), "wrong of these": answers.get("error"),
                    "unlike training": own.get("unlike"),
                }
            )  # fmt: skip
    return pd.DataFrame(lines)


def predictions(
    folder: Path, result: dict[str, Any], name: str, view: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(raw probs [N, 7], scaled probs [N, 7], y [N]) of a model on all rows, from an evaluation's ``folder``."""
    with np.load(folder / "predictions" / f"{name}-{view}.npz") as stored:
        logits, y = stored["logits"], stored["y"]
    temperature = Temperature.model_validate(result["models"][name]["views"][view]["all"]["temperature"])
    return metrics.softmax(logits), metrics.softmax(temperature.apply(logits, view)), y


def gates_table(result: dict[str, Any]) -> pd.DataFrame:
    """One line per gate and score of a ``gates.json``."""
    lines = []
    for gate in result["gates"]:
        for name, score in gate["scores"].items():
            change = score.get("change", {})
            lines.append(
                {
                    "gate": gate.get("suite", "session"), "score": name, "base": score["base"],
                    "candidate": score["candidate"], "change": score["candidate"] - score["base"],
                    "lo": change.get("lo"), "hi": change.get("hi"), "passed": score["passed"], "rows": gate["n_used"],
                }
            )  # fmt: skip
    return pd.DataFrame(lines)
