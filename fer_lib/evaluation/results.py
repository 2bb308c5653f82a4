"""Results of an evaluation and of a checkpoint sweep: what their runs log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fer_lib.calibration.intervals import CHANCE, chance_note
from fer_lib.datasets.openings import opening_count
from fer_lib.evaluation.leaks import leak_warnings
from fer_lib.evaluation.sweep_view import sweep_summary
from fer_lib.models.bundle import Bundle
from fer_lib.params import CheckpointParams
from fer_lib.storage.phase_result import PhaseResult, Registration


def best_model(result: dict[str, Any]) -> str:
    """Name of the model with the best macro-F1, raw, on a single view of all rows."""
    scores = {name: views["none"]["all"]["raw"]["macro_f1"] for name, views in _views(result).items()}
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
    raw = single_view(result, best)["raw"]
    metrics: dict[str, Any] = {
        name: {view: sets["all"]["scaled"] | {"people": sets["all"].get("people", {})} for view, sets in views.items()}
        for name, views in _views(result).items()
    }
    if stages:
        metrics["stages"] = {s["child"]: s["scores"]["all"]["difference"] | s["cost"] for s in stages["stages"]}
    scores = {name: single_view(result, name)["raw"] for name in result["models"]}
    headline = {name: {"accuracy": own["accuracy"], "macro-F1": own["macro_f1"]} for name, own in scores.items()}
    chance = chance_note(scores, smoke)
    at_chance = [f"At chance {text}." for text in chance.values()]
    summary = f"Best macro-F1 {raw['macro_f1']:.4f} (accuracy {raw['accuracy']:.4f}): {best}."
    return PhaseResult(
        ids={"evalset_id": rows["evalset_id"], "manifest_sha256": result["manifest_sha256"]},
        headline=headline | {"chance": CHANCE} | chance,
        metrics=metrics,
        artifacts=[out / name for name in ("evaluation.json", "predictions", *(["stages.json"] if stages else []))],
        note={
            "action": f"Measured {len(result['models'])} models on {result['suite']}: {rows['n_used']} of "
            f"{rows['n_expected']} rows.",
            "result": " ".join([summary, *at_chance, *_caveats(result, stages, out, cache_dir)]),
            "decision": "Nothing is chosen here: the student to export is chosen on val/select.",
            "next": "Export.",
        },
    )


def _caveats(result: dict[str, Any], stages: dict[str, Any] | None, out: Path, cache_dir: Path) -> list[str]:
    """Sentences about leaks, stages and how often the test rows were read."""
    lines = leak_warnings(result)
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
