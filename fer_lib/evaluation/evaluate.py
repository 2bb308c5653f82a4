"""Evaluation of all models of a run on the same rows: single view and flip average, with and without leaked images.

The temperature is fitted on val/temperature under the same view and applied unchanged to the test rows.  Each reading
of test rows is logged (:mod:`fer_lib.datasets.openings`).  Models that started from another model's weights are
compared with it (:mod:`fer_lib.evaluation.stages`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_lib.calibration import metrics
from fer_lib.calibration.temperature import Temperature
from fer_lib.datasets.evalset_ids import evalset_id, protocol_id
from fer_lib.datasets.manifest import Manifest, select_sources
from fer_lib.datasets.openings import log_test_opening
from fer_lib.datasets.provenance import TrainingExposure, read_exposure
from fer_lib.errors import DataError, FerError
from fer_lib.evaluation.annotators import annotator_report
from fer_lib.evaluation.leaks import checked_leaks
from fer_lib.evaluation.paired_comparison import Measurement
from fer_lib.evaluation.report import model_report, reliability_lists
from fer_lib.evaluation.stages import training_facts, write_stages
from fer_lib.models.bundle import Bundle, bundle_folder, derive_bundle, read_bundle
from fer_lib.models.cost import cost_by_model, total
from fer_lib.models.ensemble import combine
from fer_lib.models.ensemble_folder import read_ensemble
from fer_lib.models.softlabels import cached_logits
from fer_lib.models.softlabels_format import read_record
from fer_lib.params import EvaluateParams
from fer_lib.storage.progress import each, step


@dataclass(frozen=True)
class Subject:
    """A model or an ensemble to evaluate: bundles and their weights (a single model has one bundle of weight 1)."""

    name: str
    kind: str
    bundles: list[Bundle]
    weights: list[float]
    space: str = "logit"
    val_select: dict[str, Any] | None = None

    def protocol(self, evalset: str, view: str) -> str:
        if len(self.bundles) == 1:
            return protocol_id(evalset, self.bundles[0].contract, view)
        contracts = "+".join(b.contract.id for b in self.bundles)
        return protocol_id(evalset, self.bundles[0].contract, f"{view}:{self.space}:{contracts}")

    def exposure(self) -> TrainingExposure | None:
        """The training exposure of all members; None when no member has a record."""
        first, *others = sorted((read_exposure(b.path) for b in self.bundles), key=lambda record: record is None)
        return None if first is None else first.with_ancestors(others)

    def describe(self) -> dict[str, Any]:
        """The model's entry in ``evaluation.json``, without its views."""
        own = self.bundles[0].meta["model"]
        entry = {
            "kind": self.kind,
            "backbone": "+".join(b.meta["model"]["backbone"] for b in self.bundles),
            "image_size": own["image_size"]
            if len(self.bundles) == 1
            else [b.contract.image_size for b in self.bundles],
            "weights_sha256": self.bundles[0].weights_sha256 if len(self.bundles) == 1 else None,
            "parameters": sum(v.numel() for b in self.bundles for k, v in b.state_dict().items() if "running" not in k),
            "val_select": self.val_select,
            "cost": total(cost_by_model((b.weights_sha256, b.meta.get("cost")) for b in self.bundles).values()),
        }
        if len(self.bundles) > 1:
            members = zip(self.bundles, self.weights, strict=True)
            entry["members"] = [{"name": b.name, "weight": w, "weights_sha256": b.weights_sha256} for b, w in members]
            entry["space"] = self.space
        else:
            entry |= training_facts(self.bundles[0])
        return entry


def subjects(models: list[Path], ensembles: list[Path]) -> list[Subject]:
    """Subjects from fit or bundle folders (``models``) and from ``ensembles``, those of several teachers.

    Raises FerError when two share a name, BundleError when a teacher's weights changed after the soft labels.
    """
    found = []
    for folder in models:
        bundle = read_bundle(bundle_folder(folder))
        select = bundle.meta["metrics"].get("val_select")
        found.append(Subject(bundle.name, bundle.meta["kind"], [bundle], [1.0], val_select=select))
    for folder in ensembles:
        if len(read_record(folder)["teachers"]) > 1:
            ensemble = read_ensemble(folder)
            name = "ensemble" if len(ensembles) == 1 else f"ensemble_{ensemble.name}"
            mix = ensemble.bundles, ensemble.weights, ensemble.space
            found.append(Subject(name, "ensemble", *mix, val_select=ensemble.metrics))
    names = [s.name for s in found]
    if repeated := sorted({n for n in names if names.count(n) > 1}):
        raise FerError(f"two models are called {', '.join(repeated)}: give each phase its own name parameter")
    return found


def evaluate(
    p: EvaluateParams, manifest: Manifest, models: list[Path], ensembles: list[Path], out: Path, cache_dir: Path, device
) -> dict[str, Any]:
    """Evaluate every model; write ``evaluation.json``, ``predictions/NAME-VIEW.npz`` and ``bundles/NAME`` into ``out``.

    A bundle there carries the temperature of the single view and, as ``metrics["test"]``, the scores of its own
    predictions (single view, scaled).  Where rows have votes, each report has ``people``, the comparison with the
    annotators (:func:`fer_lib.evaluation.annotators.annotator_report`).  ``stages.json`` is written where one model
    started from another's weights.  Returns the content of ``evaluation.json``.
    Raises FerError without models, DataError when rows leak from training and their source is not in
    ``p.allow_leaks``, and when the chosen sources leave no rows to measure or none to fit a temperature on.
    """
    evaluated = subjects(models, ensembles)
    if not evaluated:
        raise FerError("nothing to evaluate: name finished teacher or student phases, or soft-label phases")
    chosen = dict(include_sources=p.include_sources, exclude_sources=p.exclude_sources)
    role = {} if p.split == "test" else {"val_role": "select"}
    rows = manifest.rows(split=p.split, **role, **chosen)
    temperature_rows = _temperature_rows(manifest, p)
    known, leaks = checked_leaks(manifest, rows, p.split, p.allow_leaks, {s.name: s.exposure() for s in evaluated})
    leaked = known.trained_on if p.leak_free else frozenset()
    out.mkdir(parents=True, exist_ok=True)
    (out / "predictions").mkdir(exist_ok=True)
    weights = {s.name: [b.weights_sha256 for b in s.bundles] for s in evaluated}
    log_test_opening(
        rows, weights, "evaluation", cache_dir, out, suite=p.suite or p.split, manifest_sha256=manifest.sha256, **chosen
    )
    result: dict[str, Any] = {
        "suite": p.suite or p.split, "split": p.split, "manifest_sha256": manifest.sha256,
        "metric_version": metrics.METRIC_VERSION, "sources": sorted(set(rows.frame["source"])), "leaks": leaks,
        "sets": {}, "models": {},
    }  # fmt: skip
    single_view: dict[str, dict[str, Measurement]] = {}  # model -> set of rows -> measurement
    for subject in each("model", evaluated):
        views = {}
        for view in p.views:
            logits, used = _logits(subject, rows, cache_dir, view, p, device)
            val_logits, val_labels = None, None
            if temperature_rows is not None:
                val_logits, val_used = _logits(subject, temperature_rows, cache_dir, view, p, device)
                val_labels = val_used.labels
            clean = np.asarray([s not in leaked for s in used.sample_ids])
            views[view] = {}
            for name, keep in {"all": np.ones(len(used), bool), **({"leak_free": clean} if leaked else {})}.items():
                expected = len(rows) if name == "all" else len(rows) - len(leaked)
                ids = [s for s, k in zip(used.sample_ids, keep, strict=True) if k]
                label, y = p.split if name == "all" else f"{p.split}/{name}", used.labels[keep]
                identity = {
                    "evalset_id": evalset_id(ids, y, label, int(manifest.meta.get("tolerance", 0))),
                    "n_expected": expected, "n_used": len(ids), "leaked": sum(s in known.trained_on for s in ids),
                }  # fmt: skip
                first = result["sets"].setdefault(name, identity | {"removed": len(rows) - expected})
                _check_same_rows(first, identity, subject.name)
                votes = [v[keep] for v in used.votes]
                with step("scoring"):
                    report = _report(logits[keep], y, votes, val_logits, val_labels, p, view)
                protocol = subject.protocol(identity["evalset_id"], view)
                views[view][name] = {"protocol_id": protocol, **identity, **report}
                if view == "none":
                    measurement = Measurement(subject.name, views[view][name], logits[keep], y, ids)
                    single_view.setdefault(subject.name, {})[name] = measurement
            np.savez_compressed(
                out / "predictions" / f"{subject.name}-{view}.npz",
                logits=logits,
                y=used.labels,
                sample_id=np.asarray(used.sample_ids),
            )
        result["models"][subject.name] = subject.describe() | {"views": views}
        if subject.kind != "ensemble":
            _write_bundle(out / "bundles" / subject.name, subject.bundles[0], views["none"]["all"], p.split)
    (out / "evaluation.json").write_text(json.dumps(result, indent=1))
    with step("comparing models"):
        write_stages(out, result, {s.name: s.bundles[0] for s in evaluated if len(s.bundles) == 1}, single_view, p)
    return result


def _report(logits, y, votes, val_logits, val_labels, p: EvaluateParams, view) -> dict[str, Any]:
    """Scores, comparison with the annotators where rows have votes, and reliability tables of one set of rows."""
    report = model_report(
        logits, y, val_logits, val_labels, p.calibration, p.fixed_temperature, p.resamples, p.seed,
        allow_bound=p.smoke, view=view,
    )  # fmt: skip
    scaled = Temperature.model_validate(report["temperature"]).apply(logits, view)
    people = annotator_report(logits, scaled, y, *votes)
    return report | ({} if people is None else {"people": people}) | reliability_lists(logits, scaled, y)


def _temperature_rows(manifest: Manifest, p: EvaluateParams) -> Manifest | None:
    """The val/temperature rows of the evaluated sources; None where no temperature is fitted."""
    if p.calibration not in ("global", "vector"):
        return None
    candidates = manifest.frame[manifest.frame["val_role"] == "temperature"]
    sources = select_sources(manifest.frame, p.include_sources, p.exclude_sources, manifest.path or "the manifest")
    if not candidates["source"].isin(sources["source"]).any():
        of = f" of {', '.join(sorted(set(sources['source'])))}" if len(candidates) else ""
        raise DataError(
            f"{manifest.path or 'the manifest'} has no val rows of the role temperature{of}, so none can be fitted: "
            "evaluate with calibration: none or fixed, with other sources, or on a manifest that has val rows"
        )
    chosen = dict(include_sources=p.include_sources, exclude_sources=p.exclude_sources)
    return manifest.rows(split="val", val_role="temperature", **chosen)


def _logits(
    subject: Subject, rows: Manifest, cache_dir: Path, view: str, p: EvaluateParams, device
) -> tuple[np.ndarray, Manifest]:
    options = dict(flip_average=view == "flip", batch_size=p.batch_size, device=device, pack_kind=p.pack)
    logits, packs = zip(*[cached_logits(b, rows, cache_dir, **options) for b in subject.bundles], strict=True)
    used = packs[0].manifest
    if any(pack.manifest.sha256 != used.sha256 for pack in packs):
        raise DataError(f"{subject.name}: not all of its members could read the same images; repair the manifest first")
    return combine(list(logits), subject.weights, subject.space), used


def _check_same_rows(first: dict[str, Any], identity: dict[str, Any], name: str) -> None:
    if first["evalset_id"] != identity["evalset_id"]:
        raise DataError(
            f"{name} was measured on {identity['n_used']} rows ({identity['evalset_id']}), the models before it on "
            f"{first['n_used']} ({first['evalset_id']}): one table can't hold both; repair the manifest, or evaluate "
            "them in two phases"
        )


def _write_bundle(path: Path, bundle: Bundle, report: dict[str, Any], split: str) -> None:
    identity = {k: report[k] for k in ("evalset_id", "protocol_id", "n_expected", "n_used", "leaked")}
    key = "test" if split == "test" else "val"
    metrics = {key: report["scaled"] | identity, f"{key}_raw": report["raw"] | identity}
    derive_bundle(bundle, path, temperature=Temperature.model_validate(report["temperature"]), metrics=metrics)
