"""Results of an evaluation and of a checkpoint sweep: what their runs log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fer_lib.calibration.intervals import chance_level, chance_note
from fer_lib.datasets.openings import opening_count
from fer_lib.emotions import NUM_CLASSES
from fer_lib.evaluation.evaluate import OWN
from fer_lib.evaluation.leaks import leak_warnings
from fer_lib.evaluation.stage_views import signed
from fer_lib.evaluation.sweep_view import sweep_summary
from fer_lib.models.bundle import Bundle
from fer_lib.params import CheckpointParams
from fer_lib.storage.phase_result import PhaseResult, Registration

SOURCE_METRICS = ("n", "accuracy", "macro_f1", "macro_f1_present", "per_class_f1", "nll", "ece")
FILES = ("evaluation.json", "predictions", "confusion")


def best_model(result: dict[str, Any]) -> str:
    """Name of the model with the best macro-F1 over the classes present, raw, on a single view of all rows."""
    scores = {name: views["none"]["all"]["raw"]["macro_f1_present"] for name, views in _views(result).items()}
    return max(reversed(scores), key=scores.__getitem__)  # the last of equal ones


def single_view(result: dict[str, Any], name: str) -> dict[str, Any]:
    """The report of a model on a single view of all rows."""
    return _views(result)[name]["none"]["all"]


def _views(result: dict[str, Any]) -> dict[str, Any]:
    return {name: model["views"] for name, model in result["models"].items()}


def evaluate_result(
    result: dict[str, Any], stages: dict[str, Any] | None, out: Path, cache_dir: Path, smoke: bool = False
) -> PhaseResult:
    """The result of an evaluation in ``out``; ``stages``: of ``stages.read_stages``."""
    rows, best = result["sets"]["all"], best_model(result)
    report = single_view(result, best)
    raw, present = report["raw"], report["classes_present"]
    metrics: dict[str, Any] = {
        name: {view: _metrics(sets["all"], model["by_source"][view]) for view, sets in model["views"].items()}
        for name, model in result["models"].items()
    }
    if stages:
        metrics["stages"] = {s["child"]: s["scores"]["all"]["difference"] | s["cost"] for s in stages["stages"]}
    scores = {name: single_view(result, name)["raw"] for name in result["models"]}
    headline = {
        name: {"accuracy": own["accuracy"], "macro-F1": own["macro_f1_present"]} for name, own in scores.items()
    }
    chance = chance_note(scores, smoke)
    at_chance = [f"At chance {text}." for text in chance.values()]
    over = f" over the {len(present)} classes that have rows" if len(present) < NUM_CLASSES else ""
    summary = f"Best macro-F1{over} {raw['macro_f1_present']:.4f} (accuracy {raw['accuracy']:.4f}): {best}."
    return PhaseResult(
        ids={"evalset_id": rows["evalset_id"], "manifest_sha256": result["manifest_sha256"]},
        headline=headline | {"chance": chance_level(raw)} | chance,
        metrics=metrics,
        artifacts=[out / name for name in (*FILES, *(["stages.json"] if stages else []))],
        warnings=leak_warnings(result) + _rule_notes(result),
        note={
            "action": f"Measured {len(result['models'])} models on {result['suite']}: {rows['n_used']} of "
            f"{rows['n_expected']} rows.",
            "result": " ".join([summary, *at_chance, *_caveats(result, stages, out, cache_dir)]),
            "decision": "Nothing is chosen here: the student to export is chosen on val/select.",
            "next": "Export.",
        },
    )


def _rule_notes(result: dict[str, Any]) -> list[str]:
    """The models that get no confidence for the risk that was asked for, single view."""
    notes = {name: model.get("rules", {}).get("none", {}).get("note") for name, model in result["models"].items()}
    return [f"{name} answers every face: {note}" for name, note in notes.items() if note]


def _metrics(report: dict[str, Any], by_source: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What MLflow logs of one model and view: scaled scores of all rows, and below ``source/NAME`` of each source."""
    sources = {}
    for source, own in by_source.items():
        recall = {name: values["recall"] for name, values in own["per_class"].items()}
        sources[source] = {key: own["scaled"][key] for key in SOURCE_METRICS} | {"per_class_recall": recall}
        sources[source] |= {"prior_correction": own.get("prior_correction", {}).get("difference", {})}
    change = report.get("prior_correction", {}).get("difference", {})
    extra = {"people": report.get("people", {}), "source": sources, "prior_correction": change}
    return report["scaled"] | extra | {"decisions": report.get("decisions", {})}


def _caveats(result: dict[str, Any], stages: dict[str, Any] | None, out: Path, cache_dir: Path) -> list[str]:
    """Sentences about sources, prior corrections, leaks, temperatures, stages and how often the test rows were read."""
    best, lines = best_model(result), []
    by_source = result["models"][best]["by_source"]["none"]
    if len(by_source) > 1:
        scores = [f"{source} {own['raw']['macro_f1_present']:.4f}" for source, own in by_source.items()]
        lines.append(f"Its macro-F1 by source: {', '.join(scores)}.")
    if change := single_view(result, best).get("prior_correction", {}).get("difference"):
        macro, accuracy = (change[key] for key in ("macro_f1_present", "accuracy"))
        lines.append(
            f"A prior correction changes its macro-F1 by {signed(macro)} and its accuracy by {signed(accuracy)}."
        )
    if result["temperature_from"] == OWN:
        lines.append("The evaluated sources have no val rows, so each bundle's own temperature is applied.")
    if sets := single_view(result, best).get("decisions", {}).get("sets"):
        size, share = sets["mean_size"], sets["coverage"]
        lines.append(
            f"Its prediction sets hold the class of {share:.1%} of the rows, with {size:.2f} classes on average."
        )
    lines += leak_warnings(result)
    lines += [sentence for stage in (stages["stages"] if stages else []) for sentence in stage["said"]]
    if opened := opening_count(out, cache_dir):
        lines.append(f"Readings of these test rows in this store so far: {opened}.")
    if "leak_free" in result["sets"]:
        leaks = result["leaks"]
        lines.append(f"{leaks['rows']} of these rows are also in train, allowed for {', '.join(leaks['allowed'])}.")
    return lines


def sweep_result(
    params: CheckpointParams, result: dict[str, Any], bundle: Bundle, registration: Registration, out: Path
) -> PhaseResult:
    """The result of a checkpoint sweep in ``out``, whose chosen checkpoint is ``bundle``."""
    chosen = result["chosen"]
    ids = {key: bundle.meta["ids"][key] for key in ("weights_sha256", "evalset_id", "protocol_id")}
    return PhaseResult(
        ids=ids | {"manifest_sha256": result["manifest_sha256"], "calibration": params.calibration},
        headline={
            "from": f"{chosen['fit']}/{chosen['checkpoint']}",
            "val accuracy": chosen["raw"]["accuracy"],
            "val macro-F1": chosen[params.select_by]["macro_f1"],
            "registered": registration.text,
        },
        bundle=bundle.path,
        artifacts=[out / "sweep.json", bundle.path],
        metrics={"chosen": {part: chosen[part] for part in ("raw", "calibrated")} | {"epochs": chosen["epochs"]}},
        warnings=registration.warnings,
        note={
            "action": f"Measured {len(result['checkpoints'])} checkpoints of {', '.join(result['contracts'])} on "
            "val/select.",
            "result": " ".join(sweep_summary(result)),
            "decision": f"Chosen by {params.select_by} macro-F1 on val/select; test rows were not opened. "
            f"{registration.message}",
            "next": f"Name this phase where a model is asked for, or {registration.uri}.",
        },
    )
