"""Every model of a run on one suite: the same rows, single view and flip average, with and without leaked pictures.

The temperature is fitted on val/temperature under the same view, frozen, and applied to the test rows.  Each reading
of test rows is logged (:mod:`fer_lib.datasets.openings`).  Where one model was trained on from another, what
that changed is set beside what it cost (:mod:`fer_lib.evaluation.stages`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_lib.calibration import metrics
from fer_lib.calibration.temperature import Temperature
from fer_lib.datasets.manifest import Manifest, evalset_id, protocol_id, select_sources
from fer_lib.datasets.openings import log_test_opening
from fer_lib.datasets.provenance import TrainingExposure, read_exposure
from fer_lib.errors import BundleError, DataError, FerError
from fer_lib.evaluation.annotators import people_report
from fer_lib.evaluation.leaks import checked_leaks
from fer_lib.evaluation.report import model_report
from fer_lib.evaluation.stages import Measured, write_stages
from fer_lib.models.bundle import Bundle, bundle_folder, derive_bundle, read_bundle
from fer_lib.models.ensemble import combine
from fer_lib.models.softlabels import cached_logits, read_record
from fer_lib.params import EvaluateParams

PARTS = ("report", "temperature")  # the rows reported on, and those that the temperature is fitted on


@dataclass(frozen=True)
class Subject:
    """What is measured: bundles and their weights (one bundle of weight 1 for a single model)."""

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

    def seen(self) -> TrainingExposure | None:
        """What the members have seen; None when none of them left a record."""
        first, *others = sorted((read_exposure(b.path) for b in self.bundles), key=lambda seen: seen is None)
        return None if first is None else first.with_ancestors(others)

    def describe(self) -> dict[str, Any]:
        own = self.bundles[0].meta["model"]
        known = {
            "kind": self.kind,
            "backbone": "+".join(b.meta["model"]["backbone"] for b in self.bundles),
            "image_size": own["image_size"]
            if len(self.bundles) == 1
            else [b.contract.image_size for b in self.bundles],
            "weights_sha256": self.bundles[0].weights_sha256 if len(self.bundles) == 1 else None,
            "parameters": sum(v.numel() for b in self.bundles for k, v in b.state_dict().items() if "running" not in k),
            "val_select": self.val_select,
        }
        if len(self.bundles) > 1:
            members = zip(self.bundles, self.weights, strict=True)
            known["members"] = [{"name": b.name, "weight": w, "weights_sha256": b.weights_sha256} for b, w in members]
            known["space"] = self.space
        return known


def subjects(models: list[Path], ensembles: list[Path]) -> list[Subject]:
    """Fit folders or bundles, and soft-label folders (their ensembles of more than one) as subjects.

    Raises FerError when two share a name, BundleError when an ensemble's member is no longer what it was.
    """
    found = []
    for folder in models:
        bundle = read_bundle(bundle_folder(folder))
        select = bundle.meta["metrics"].get("val_select")
        found.append(Subject(bundle.name, bundle.meta["kind"], [bundle], [1.0], val_select=select))
    for folder in ensembles:
        record = read_record(folder)
        if len(record["teachers"]) < 2:
            continue
        bundles = [read_bundle(t["uri"]) for t in record["teachers"]]
        for bundle, teacher in zip(bundles, record["teachers"], strict=True):
            if bundle.weights_sha256 != teacher["weights_sha256"]:
                raise BundleError(
                    f"{folder}: teacher {teacher['model']} was trained again since; export the soft labels again"
                )
        select = json.loads((folder / "ensemble_metrics.json").read_text())
        name = "ensemble" if len(ensembles) == 1 else f"ensemble_{folder.name.rsplit('-', 1)[0]}"
        weights = [t["weight"] for t in record["teachers"]]
        found.append(Subject(name, "ensemble", bundles, weights, record["ensemble_space"], select))
    names = [s.name for s in found]
    if repeated := sorted({n for n in names if names.count(n) > 1}):
        raise FerError(f"two models are called {', '.join(repeated)}: give each phase its own name parameter")
    return found


def evaluate(
    p: EvaluateParams, manifest: Manifest, models: list[Path], ensembles: list[Path], out: Path, cache_dir: Path, device
) -> dict[str, Any]:
    """Measure every model; writes ``evaluation.json``, ``predictions/NAME-VIEW.npz`` and ``bundles/NAME`` into ``out``.

    A bundle there carries the temperature fitted under the single view, and as ``metrics["test"]`` the scores of
    exactly what it predicts (single view, scaled).  Where rows have votes, each report says under ``people`` how the
    model compares with the annotators (:func:`people.people_report`).  Returns the content of ``evaluation.json``.
    ``stages.json`` is written where a model was trained on from another one of them.
    Raises DataError when rows are known to stand in train too and their source is not in ``p.allow_leaks``, and when
    the chosen sources leave no rows to measure, or none to fit a temperature on.
    """
    found = subjects(models, ensembles)
    if not found:
        raise FerError("nothing to evaluate: name finished teacher or student phases, or soft-label phases")
    chosen = dict(include_sources=p.include_sources, exclude_sources=p.exclude_sources)
    role = {} if p.split == "test" else {"val_role": "select"}
    rows = manifest.rows(split=p.split, **role, **chosen)
    held = _held(manifest, p)
    known, leaks = checked_leaks(manifest, rows, p.split, p.allow_leaks, {s.name: s.seen() for s in found})
    leaked = known.learned if p.leak_free else frozenset()
    out.mkdir(parents=True, exist_ok=True)
    (out / "predictions").mkdir(exist_ok=True)
    weights = {s.name: [b.weights_sha256 for b in s.bundles] for s in found}
    log_test_opening(
        rows, weights, "evaluation", cache_dir, out, suite=p.suite or p.split, manifest_sha256=manifest.sha256, **chosen
    )
    result: dict[str, Any] = {
        "suite": p.suite or p.split, "split": p.split, "manifest_sha256": manifest.sha256,
        "metric_version": metrics.METRIC_VERSION, "sources": sorted(set(rows.frame["source"])), "leaks": leaks,
        "sets": {}, "models": {},
    }  # fmt: skip
    single: dict[str, dict[str, Measured]] = {}  # model -> set of rows -> what the single view gave
    for subject in found:
        views = {}
        for view in p.views:
            logits, used = _logits(subject, rows, cache_dir, view, p, device)
            held_logits, held_labels = None, None
            if held is not None:
                held_logits, held_used = _logits(subject, held, cache_dir, view, p, device)
                held_labels = held_used.labels
            clean = np.asarray([s not in leaked for s in used.sample_ids])
            views[view] = {}
            for name, keep in {"all": np.ones(len(used), bool), **({"leak_free": clean} if leaked else {})}.items():
                expected = len(rows) if name == "all" else len(rows) - len(leaked)
                identity = _identity(used, keep, name, p.split, manifest, expected)
                identity["leaked"] = sum(s in known.learned for s, k in zip(used.sample_ids, keep, strict=True) if k)
                _same(
                    result["sets"].setdefault(name, identity | {"removed": len(rows) - expected}),
                    identity,
                    subject.name,
                )
                report = model_report(
                    logits[keep], used.labels[keep], held_logits, held_labels, p.calibration, p.fixed_temperature,
                    p.resamples, p.seed, allow_bound=p.smoke, view=view,
                )  # fmt: skip
                scaled = Temperature.model_validate(report["temperature"]).apply(logits[keep], view)
                tables = {
                    f"reliability_{kind}": _table(z, used.labels[keep])
                    for kind, z in (("raw", logits[keep]), ("scaled", scaled))
                }
                votes, votes_all = used.votes
                people = people_report(logits[keep], scaled, used.labels[keep], votes[keep], votes_all[keep])
                if people is not None:
                    report["people"] = people
                protocol = subject.protocol(identity["evalset_id"], view)
                views[view][name] = {"protocol_id": protocol, **identity, **report, **tables}
                if view == "none":
                    ids = [s for s, k in zip(used.sample_ids, keep, strict=True) if k]
                    seen = Measured(subject.name, views[view][name], logits[keep], used.labels[keep], ids)
                    single.setdefault(subject.name, {})[name] = seen
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
    write_stages(out, result, {s.name: s.bundles[0] for s in found if len(s.bundles) == 1}, single, p)
    return result


def _held(manifest: Manifest, p: EvaluateParams) -> Manifest | None:
    """The rows that a temperature is fitted on, of the sources that are measured; None where none is fitted."""
    if p.calibration not in ("global", "vector"):
        return None
    held = manifest.frame[manifest.frame["val_role"] == "temperature"]
    sources = select_sources(manifest.frame, p.include_sources, p.exclude_sources, manifest.path or "the manifest")
    if not held["source"].isin(sources["source"]).any():
        of = f" of {', '.join(sorted(set(sources['source'])))}" if len(held) else ""
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
        raise DataError(f"{subject.name}: its members could use different pictures; repair the manifest first")
    return combine(list(logits), subject.weights, subject.space), used


def _identity(
    used: Manifest, keep: np.ndarray, name: str, split: str, manifest: Manifest, expected: int
) -> dict[str, Any]:
    ids = [s for s, k in zip(used.sample_ids, keep, strict=True) if k]
    label = split if name == "all" else f"{split}/{name}"
    evalset = evalset_id(ids, used.labels[keep], label, int(manifest.meta.get("tolerance", 0)))
    return {"evalset_id": evalset, "n_expected": expected, "n_used": len(ids)}


def _same(known: dict[str, Any], identity: dict[str, Any], name: str) -> None:
    if known["evalset_id"] != identity["evalset_id"]:
        raise DataError(
            f"{name} was measured on {identity['n_used']} rows ({identity['evalset_id']}), the models before it on "
            f"{known['n_used']} ({known['evalset_id']}): they can't stand in one table"
        )


def _table(logits: np.ndarray, y: np.ndarray) -> dict[str, list]:
    table = metrics.reliability_table(metrics.softmax(logits), y)
    return {k: [None if isinstance(x, float) and np.isnan(x) else x for x in v.tolist()] for k, v in table.items()}


def _write_bundle(path: Path, bundle: Bundle, report: dict[str, Any], split: str) -> None:
    identity = {k: report[k] for k in ("evalset_id", "protocol_id", "n_expected", "n_used", "leaked")}
    key = "test" if split == "test" else "val"
    metrics = {key: report["scaled"] | identity, f"{key}_raw": report["raw"] | identity}
    derive_bundle(bundle, path, temperature=Temperature.model_validate(report["temperature"]), metrics=metrics)
