"""Evaluation of all models of a run on the same rows: all of them, those that do not leak, and each source by itself.

The temperature of a view is fitted on val/temperature under this view and applied unchanged to the test rows.  Each
reading of test rows is logged (:mod:`fer_lib.datasets.openings`).  Models that started from another model's weights are
compared with it (:mod:`fer_lib.evaluation.stages`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fer_lib.calibration import metrics
from fer_lib.calibration.temperature import Temperature
from fer_lib.datasets.evalset_ids import evalset_id
from fer_lib.datasets.manifest import Manifest, select_sources
from fer_lib.datasets.openings import log_test_opening
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError, FerError
from fer_lib.evaluation.annotators import annotator_report
from fer_lib.evaluation.leaks import checked_leaks
from fer_lib.evaluation.paired_comparison import Measurement
from fer_lib.evaluation.prior_correction import CorrectedLogits, correct_prior, target_prior
from fer_lib.evaluation.report import model_report, temperature_for
from fer_lib.evaluation.stages import write_stages
from fer_lib.evaluation.subjects import Subject, subjects
from fer_lib.models.bundle import Bundle, derive_bundle
from fer_lib.params import EvaluateParams
from fer_lib.storage.progress import each, step

OWN = "bundle"  # where temperatures come from when there are no val rows to fit them on


@dataclass(frozen=True)
class RowSet:
    """Rows that are scored together.  ``part`` of ``evaluation.json``: ``sets`` (all, leak_free) or ``by_source``."""

    part: str
    name: str
    label: str  # of the evalset id.  Rows of one source have the id of an evaluation of this source alone
    sample_ids: frozenset[str]


@dataclass(frozen=True)
class View:
    """One model's logits [N, 7] under one view on the N rows ``used``, before and after temperature and correction."""

    name: str
    used: Manifest
    logits: np.ndarray
    temperature: Temperature
    scaled: np.ndarray
    corrected: CorrectedLogits | None


def evaluate(
    p: EvaluateParams, manifest: Manifest, models: list[Path], ensembles: list[Path], out: Path, cache_dir: Path, device
) -> dict[str, Any]:
    """Evaluate every model and write into ``out``; return the content of ``evaluation.json``.

    Files: ``evaluation.json``, ``predictions/NAME-VIEW.npz``, ``confusion/NAME.csv``, ``stages.json`` where one model
    started from another's weights, and ``bundles/NAME``.  A bundle there carries the temperature of the single view
    and, as ``metrics["test"]``, the scores of its predictions (single view, scaled).  Where rows have votes, each
    report has ``people``, the comparison with the annotators
    (:func:`fer_lib.evaluation.annotators.annotator_report`).
    Where the evaluated sources have no val rows, each bundle's own temperature is applied.
    Raises FerError without models, DataError when rows leak from training and their source is not in
    ``p.allow_leaks``, and when the chosen sources leave no rows to measure or val rows but none for a temperature.
    """
    evaluated = subjects(models, ensembles)
    if not evaluated:
        raise FerError("nothing to evaluate: name finished teacher or student phases, or soft-label phases")
    if p.prior_correction not in ("none", "em"):
        target_prior(p.prior_correction)  # refused before any row is read
    chosen = dict(include_sources=p.include_sources, exclude_sources=p.exclude_sources)
    role = {} if p.split == "test" else {"val_role": "select"}
    rows = manifest.rows(split=p.split, **role, **chosen)
    temperature_rows = _temperature_rows(manifest, p)
    known, leaks = checked_leaks(manifest, rows, p.split, p.allow_leaks, {s.name: s.exposure() for s in evaluated})
    row_sets = _row_sets(rows, p.split, known.trained_on if p.leak_free else frozenset())
    for folder in ("predictions", "confusion"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    weights = {s.name: [b.weights_sha256 for b in s.bundles] for s in evaluated}
    log_test_opening(
        rows, weights, "evaluation", cache_dir, out, suite=p.suite or p.split, manifest_sha256=manifest.sha256, **chosen
    )
    fitted = p.calibration in ("global", "vector")
    result: dict[str, Any] = {
        "suite": p.suite or p.split, "split": p.split, "manifest_sha256": manifest.sha256,
        "metric_version": metrics.METRIC_VERSION, "sources": sorted(set(rows.frame["source"])), "leaks": leaks,
        "temperature_from": p.calibration if not fitted else OWN if temperature_rows is None else "val/temperature",
        "sets": {}, "by_source": {}, "models": {},
    }  # fmt: skip
    single_view: dict[str, dict[str, Measurement]] = {}  # model -> set of rows -> measurement
    for subject in each("model", evaluated):
        scores: dict[str, Any] = {"views": {}, "by_source": {}}
        for name in p.views:
            view = _view(subject, rows, temperature_rows, cache_dir, name, p, device)
            scores["views"][name], scores["by_source"][name] = {}, {}
            for row_set, keep, report in _reports(subject, view, row_sets, known.trained_on, manifest, p):
                part = result[row_set.part]
                _check_same_rows(part.setdefault(row_set.name, _identity(report, rows)), report, subject.name)
                scores["views" if row_set.part == "sets" else row_set.part][name][row_set.name] = report
                if name == "none" and row_set.part == "sets":
                    ids = [s for s, k in zip(view.used.sample_ids, keep, strict=True) if k]
                    measured = Measurement(subject.name, report, view.logits[keep], view.used.labels[keep], ids)
                    single_view.setdefault(subject.name, {})[row_set.name] = measured
            np.savez_compressed(
                out / "predictions" / f"{subject.name}-{name}.npz",
                logits=view.logits,
                y=view.used.labels,
                sample_id=np.asarray(view.used.sample_ids),
                source=view.used.frame["source"].to_numpy(str),
            )
        result["models"][subject.name] = subject.describe() | scores
        report = scores["views"]["none"]["all"]
        confusion = pd.DataFrame(report["raw"]["confusion"], index=EMOTIONS, columns=EMOTIONS)
        confusion.to_csv(out / "confusion" / f"{subject.name}.csv", index_label="true", lineterminator="\n")
        if subject.kind != "ensemble":
            own = result["temperature_from"] == OWN
            _write_bundle(out / "bundles" / subject.name, subject.bundles[0], report, p.split, own)
    (out / "evaluation.json").write_text(json.dumps(result, indent=1))
    with step("comparing models"):
        write_stages(out, result, {s.name: s.bundles[0] for s in evaluated if len(s.bundles) == 1}, single_view, p)
    return result


def _row_sets(rows: Manifest, split: str, leaked: frozenset[str]) -> list[RowSet]:
    """All rows, those that do not leak where some do, and the rows of each source."""
    frame = rows.frame
    every = frozenset(frame["sample_id"])
    sets = [RowSet("sets", "all", split, every)]
    if leaked:
        sets.append(RowSet("sets", "leak_free", f"{split}/leak_free", every - leaked))
    by_source = frame.groupby("source")["sample_id"].agg(frozenset)
    return sets + [RowSet("by_source", str(source), split, ids) for source, ids in by_source.items()]


def _view(
    subject: Subject, rows: Manifest, temperature_rows: Manifest | None, cache_dir: Path, name: str, p, device
) -> View:
    logits, used = subject.logits(rows, cache_dir, name, p, device)
    if temperature_rows is not None:
        val_logits, val = subject.logits(temperature_rows, cache_dir, name, p, device)
        temperature = temperature_for(val_logits, val.labels, p.calibration, allow_bound=p.smoke, view=name)
    elif p.calibration in ("global", "vector"):
        temperature = subject.own_temperature()
    else:
        temperature = temperature_for(None, None, p.calibration, p.fixed_temperature)
    scaled, corrected = temperature.apply(logits, name), None
    if p.prior_correction != "none":
        sources = used.frame["source"].to_numpy(str)
        corrected = correct_prior(scaled, sources, subject.training_prior(), p.prior_correction)
    return View(name, used, logits, temperature, scaled, corrected)


def _reports(
    subject: Subject, view: View, row_sets: list[RowSet], leaked: frozenset[str], manifest: Manifest, p: EvaluateParams
) -> Iterator[tuple[RowSet, np.ndarray, dict[str, Any]]]:
    """Each set with a used row: which of the used rows it has, bool [N], and its ids, counts and scores."""
    reports: dict[tuple[str, frozenset[str]], dict[str, Any]] = {}  # all rows and those of an only source are equal
    sample_ids, y = view.used.sample_ids, view.used.labels
    for row_set in row_sets:
        keep = np.asarray([s in row_set.sample_ids for s in sample_ids])
        if not keep.any():
            continue
        key = row_set.label, row_set.sample_ids
        if key not in reports:
            ids = [s for s, k in zip(sample_ids, keep, strict=True) if k]
            evalset = evalset_id(ids, y[keep], row_set.label, int(manifest.meta.get("tolerance", 0)))
            with step("scoring"):
                reports[key] = {
                    "protocol_id": subject.protocol(evalset, view.name), "evalset_id": evalset,
                    "n_expected": len(row_set.sample_ids), "n_used": len(ids), "leaked": sum(s in leaked for s in ids),
                    **_scores(view, keep, p),
                }  # fmt: skip
        report = reports[key]
        if view.corrected is not None and row_set.part == "by_source":
            about = view.corrected.by_source[row_set.name]
            report = report | {"prior_correction": about | report["prior_correction"]}
        yield row_set, keep, report


def _scores(view: View, keep: np.ndarray, p: EvaluateParams) -> dict[str, Any]:
    """Scores on the rows ``keep`` bool [N], beside the annotators where these rows have votes."""
    logits, scaled, y = view.logits[keep], view.scaled[keep], view.used.labels[keep]
    report = model_report(logits, y, view.temperature, p.resamples, p.seed, view.name)
    if (people := annotator_report(logits, scaled, y, *(v[keep] for v in view.used.votes))) is not None:
        report["people"] = people
    if view.corrected is not None:
        change = view.corrected.report(view.scaled, view.used.labels, keep, p.resamples, p.seed)
        report["prior_correction"] = change
    return report


def _temperature_rows(manifest: Manifest, p: EvaluateParams) -> Manifest | None:
    """The val/temperature rows of the evaluated sources; None where these have no val rows or none is fitted."""
    if p.calibration not in ("global", "vector"):
        return None
    where = manifest.path or "the manifest"
    frame = select_sources(manifest.frame, p.include_sources, p.exclude_sources, where)
    val = frame[frame["split"] == "val"]
    if len(val) and not (val["val_role"] == "temperature").any():
        raise DataError(
            f"{where} has no val rows of the role temperature of {', '.join(sorted(set(val['source'])))}, so none can "
            "be fitted: evaluate with calibration: none or fixed, with other sources, or on a manifest that has them"
        )
    chosen = dict(include_sources=p.include_sources, exclude_sources=p.exclude_sources)
    return manifest.rows(split="val", val_role="temperature", **chosen) if len(val) else None


def _identity(report: dict[str, Any], rows: Manifest) -> dict[str, Any]:
    """The ids and counts of a set of rows, and how many of ``rows`` it leaves out."""
    identity = {key: report[key] for key in ("evalset_id", "n_expected", "n_used", "leaked")}
    return identity | {"removed": len(rows) - report["n_expected"]}


def _check_same_rows(first: dict[str, Any], report: dict[str, Any], name: str) -> None:
    if first["evalset_id"] != report["evalset_id"]:
        raise DataError(
            f"{name} was measured on {report['n_used']} rows ({report['evalset_id']}), the models before it on "
            f"{first['n_used']} ({first['evalset_id']}): one table can't hold both; repair the manifest, or evaluate "
            "them in two phases"
        )


def _write_bundle(path: Path, bundle: Bundle, report: dict[str, Any], split: str, own_temperature: bool) -> None:
    identity = {k: report[k] for k in ("evalset_id", "protocol_id", "n_expected", "n_used", "leaked")}
    key = "test" if split == "test" else "val"
    scores = {key: report["scaled"] | identity, f"{key}_raw": report["raw"] | identity}
    temperature = None if own_temperature else Temperature.model_validate(report["temperature"])
    derive_bundle(bundle, path, temperature=temperature, metrics=scores)
