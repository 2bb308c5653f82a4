"""What a model's training cost, together with the models that it derives from.

A cost counts training steps: ``seconds`` (without validation), ``epochs`` and ``images``.  ``ancestors`` maps the
weights' hash of each model that this one started from or was distilled from, and of theirs, to its own cost, so that a
model that is an ancestor twice counts once.  Weights that were not trained here (a hub's, a package's, a file's) cost
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fer_lib.models.bundle import Bundle, derive_bundle, read_bundle
from fer_lib.storage.json_files import read_json

FIELDS = ("seconds", "epochs", "images")
Spent = Mapping[str, float]


def training_cost(history: list[dict[str, Any]], ancestors: Mapping[str, Spent | None]) -> dict[str, Any]:
    """``own``, ``cumulative`` and ``ancestors`` of a fit with this ``history.json``."""
    timings = [row["timing"] for row in history]
    images = sum(round(t["epoch_sec"] * t["images_per_sec"]) for t in timings)
    own = {"seconds": timings[-1]["total_sec"], "epochs": len(timings), "images": images}
    return {"own": own, "cumulative": total([own, *ancestors.values()]), "ancestors": dict(ancestors)}


def record_cost(fit: Path, teachers: Iterable[tuple[str, Mapping[str, Any] | None]]) -> Bundle:
    """Add its cost to the ``best`` bundle of a finished ``fit``; ``teachers``: weights' hash and cost of each."""
    best, start = read_bundle(fit / "best"), read_json(fit / "starting_weights.json")
    models = [*teachers, *([(start["weights_sha256"], start.get("cost"))] if start["source"] == "init_from" else [])]
    cost = training_cost(read_json(fit / "history.json"), cost_by_model(models))
    return derive_bundle(best, best.path, cost=cost)


def cost_by_model(models: Iterable[tuple[str, Mapping[str, Any] | None]]) -> dict[str, Spent | None]:
    """Weights' hash -> own cost, of models (hash, their cost) and their ancestors; None where it is not recorded."""
    found: dict[str, Spent | None] = {}
    for weights_sha256, cost in models:
        own = {weights_sha256: None} if cost is None else {weights_sha256: cost["own"], **cost["ancestors"]}
        found |= {name: spent or found.get(name) for name, spent in own.items()}
    return found


def total(costs: Iterable[Spent | None]) -> dict[str, float] | None:
    """The sum of costs; None where one is not recorded."""
    costs = list(costs)
    return None if None in costs else {name: sum(cost[name] for cost in costs) for name in FIELDS}
