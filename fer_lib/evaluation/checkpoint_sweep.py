"""Checkpoint sweep: measure all saved checkpoints of finished fits on one protocol and write the best as a bundle.

Only val rows are read: val/temperature fits each checkpoint's temperature, val/select scores and selects.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_lib.calibration import metrics
from fer_lib.calibration.temperature import Temperature
from fer_lib.datasets.evalset_ids import evalset_id, protocol_id
from fer_lib.datasets.manifest import Manifest
from fer_lib.datasets.provenance import EXPOSURE_FILE, TrainingExposure, read_exposure
from fer_lib.errors import DataError, FerError
from fer_lib.evaluation.leaks import known_leaks
from fer_lib.evaluation.report import f1_report, model_report, temperature_for
from fer_lib.models.bundle import Bundle, derive_bundle, read_bundle
from fer_lib.models.softlabels import cached_logits
from fer_lib.params import CheckpointParams
from fer_lib.storage.atomic import fresh_file, write_json
from fer_lib.storage.progress import each
from fer_lib.training.checkpoint import checkpoint_bundle, has_checkpoint

SCORES = ("accuracy", "macro_f1", "minority_f1", "per_class_f1", "nll", "ece", "brier")
BEST, LAST = "best", "checkpoint_last"


@dataclass(frozen=True)
class Candidate:
    """One checkpoint of a fit: ``file`` is ``best``, ``checkpoint_last`` or ``checkpoint_epochNNN`` in ``folder``."""

    fit: str
    folder: Path
    file: str

    def open(self, work: Path) -> tuple[Bundle, float]:
        """Its weights as a bundle (written to ``work`` unless it is ``best``) and the epochs of training so far."""
        if self.file == BEST:
            bundle = read_bundle(self.folder / BEST)
            return bundle, bundle.meta["ids"]["epoch"] + 1.0
        bundle = checkpoint_bundle(self.folder / self.file, work)
        return bundle, float(bundle.meta["ids"]["epochs"])

    def exposure(self) -> TrainingExposure | None:
        return read_exposure(self.folder) or read_exposure(self.folder / BEST)


def candidates(fits: Sequence[Path]) -> list[Candidate]:
    """All checkpoints of the fits, in the order of the fits and of their epochs, ``best`` last.

    A fit has its model's name, or its folder's where two models share a name.
    Raises FerError without fits, for a folder that holds no fit, and for a folder named twice.
    """
    if not fits:
        raise FerError("no fits to sweep: name finished teacher or student phases, or their folders")
    for folder in fits:
        if not has_checkpoint(folder / BEST):
            raise FerError(f"{folder} is no fit (it holds no {BEST}/): name a finished teacher or student phase")
    if len({folder.resolve() for folder in fits}) < len(fits):
        raise FerError(f"a fit is named twice among {', '.join(folder.name for folder in fits)}: name each one once")
    names = [read_bundle(folder / BEST).name for folder in fits]
    checkpoints = []
    for folder, name in zip(fits, names, strict=True):
        fit = name if names.count(name) == 1 else folder.resolve().name
        numbered = [p.name for p in folder.iterdir() if re.fullmatch(r"checkpoint_epoch\d+", p.name)]
        files = sorted(numbered, key=lambda file: int(file.removeprefix("checkpoint_epoch")))
        files += [LAST] if has_checkpoint(folder / LAST) else []
        checkpoints += [Candidate(fit, folder, file) for file in (*files, BEST)]
    return checkpoints


class _Protocol:
    """The common measurement of all checkpoints: rows, view and calibration mode."""

    def __init__(self, p: CheckpointParams, manifest: Manifest, cache_dir: Path, device):
        sources = dict(include_sources=p.include_sources, exclude_sources=p.exclude_sources)
        self.p, self.cache_dir, self.device = p, cache_dir, device
        self.rows = manifest.rows(split="val", val_role="select", **sources)
        self.temperature_rows = manifest.rows(split="val", val_role="temperature", **sources)
        self.tolerance = int(manifest.meta.get("tolerance", 0))

    def logits(self, bundle: Bundle, rows: Manifest, view: str) -> tuple[np.ndarray, Manifest]:
        """Logits float64 [N, 7] and the rows that could be read."""
        options = dict(batch_size=self.p.batch_size, device=self.device, pack_kind=self.p.pack)
        logits, pack = cached_logits(bundle, rows, self.cache_dir, flip_average=view == "flip", **options)
        return logits, pack.manifest

    def identity(self, bundle: Bundle, used: Manifest, view: str) -> dict[str, Any]:
        evalset = evalset_id(used.sample_ids, used.labels, "val/select", self.tolerance)
        protocol = protocol_id(evalset, bundle.contract, view)
        counts = {"n_expected": len(self.rows), "n_used": len(used)}
        return {"evalset_id": evalset, "protocol_id": protocol, **counts}

    def measure(self, bundle: Bundle) -> dict[str, Any]:
        """Scores of one checkpoint, before and after the temperature fitted on val/temperature."""
        view = self.p.view
        val_logits, val_used = self.logits(bundle, self.temperature_rows, view)
        # an early epoch may have no minimum inside the bracket: the temperature's note records it
        temperature = temperature_for(val_logits, val_used.labels, self.p.calibration, allow_bound=True, view=view)
        logits, used = self.logits(bundle, self.rows, view)
        parts = {"raw": logits, "calibrated": temperature.apply(logits, view)}
        summaries = {name: metrics.summary(z, used.labels) for name, z in parts.items()}
        return {
            "weights_sha256": bundle.weights_sha256, "backbone": bundle.meta["model"]["backbone"],
            "face_contract_id": bundle.contract.id, **self.identity(bundle, used, view),
            "temperature": temperature.model_dump(),
            **{name: {k: summary[k] for k in SCORES} for name, summary in summaries.items()},
        }  # fmt: skip

    def report(self, bundle: Bundle, view: str) -> dict[str, Any]:
        """All scores of one checkpoint under one view, with intervals and reliability tables."""
        val_logits, val_used = self.logits(bundle, self.temperature_rows, view)
        logits, used = self.logits(bundle, self.rows, view)
        temperature = temperature_for(val_logits, val_used.labels, self.p.calibration, allow_bound=True, view=view)
        report = model_report(logits, used.labels, temperature, self.p.resamples, self.p.seed, view)
        interval = report["macro_f1_interval"]  # of the raw predictions
        if self.p.select_by == "calibrated":
            scaled = temperature.apply(logits, view)
            interval = f1_report(scaled, used.labels, self.p.resamples, self.p.seed)["macro_f1_interval"]
        return report | self.identity(bundle, used, view) | {"chosen_by_interval": interval}


def sweep(
    p: CheckpointParams,
    manifest: Manifest,
    fits: Sequence[Path],
    out: Path,
    cache_dir: Path,
    device,
) -> dict[str, Any]:
    """Measure every checkpoint of ``fits`` (folders), write the best, and return the content of ``sweep.json``.

    Writes into ``out``: ``sweep.json`` and ``bundle/``, the chosen weights named ``p.name`` with their temperature and
    val/select metrics under the single view (the view a bundle predicts with) and their training exposure.
    Raises FerError for a folder that is no fit, BundleError for a damaged checkpoint, DataError when the checkpoints
    could not be measured on the same rows, or when a fit was trained on val/select rows.
    """
    checkpoints, protocol = candidates(fits), _Protocol(p, manifest, cache_dir, device)
    leaks = _checked_leaks(p, manifest, protocol.rows, checkpoints)
    out.mkdir(parents=True, exist_ok=True)
    work, entries, contracts = out / "candidate", [], {}
    for candidate in each("checkpoint", checkpoints):
        bundle, epochs = candidate.open(work)
        about = {"fit": candidate.fit, "checkpoint": candidate.file, "epochs": epochs}
        entries.append(about | protocol.measure(bundle))
        contracts[candidate.fit] = bundle.contract.model_dump(mode="json")
        chosen = best_index(entries, p.select_by)  # in the loop, to fail early where rows differ
    bundle, epochs = checkpoints[chosen].open(work)
    reports = {view: protocol.report(bundle, view) for view in dict.fromkeys((p.view, "none"))}
    _write_bundle(p, bundle, epochs, checkpoints[chosen], reports["none"], protocol, out)
    shutil.rmtree(work, ignore_errors=True)
    low, high = reports[p.view]["chosen_by_interval"]
    as_good = {e["weights_sha256"] for e in entries if e[p.select_by]["macro_f1"] >= low} - {bundle.weights_sha256}
    result = {
        "manifest_sha256": manifest.sha256, "metric_version": metrics.METRIC_VERSION, "view": p.view,
        "select_by": p.select_by, "calibration": p.calibration,
        **{k: entries[chosen][k] for k in ("evalset_id", "n_expected", "n_used")},
        "leaks": leaks, "contracts": contracts, "differences": contract_differences(contracts), "checkpoints": entries,
        "chosen": {
            **entries[chosen], "index": chosen, "folder": checkpoints[chosen].folder.name, "views": reports,
            "interval": [low, high], "as_good": len(as_good),
        },
    }  # fmt: skip
    write_json(out / "sweep.json", result)
    return result


def best_index(entries: Sequence[dict[str, Any]], select_by: str) -> int:
    """Index of the best macro-F1 on val/select (``select_by``: raw or calibrated); a tie goes to fewer epochs.

    Raises DataError when the entries were not all measured on the same rows.
    """
    by_set: dict[str, list[str]] = {}
    for entry in entries:
        by_set.setdefault(entry["evalset_id"], []).append(f"{entry['fit']}/{entry['checkpoint']} ({entry['n_used']})")
    if len(by_set) > 1:
        sets = "; ".join(f"{name}: {', '.join(who)}" for name, who in by_set.items())
        raise DataError(
            f"these checkpoints were measured on different rows and can't be ranked ({sets}): their preprocessing "
            "could not use the same images, so repair the manifest, or sweep the fits one by one"
        )
    return min(range(len(entries)), key=lambda i: (-entries[i][select_by]["macro_f1"], entries[i]["epochs"], i))


def contract_differences(contracts: dict[str, dict[str, Any]]) -> list[str]:
    """Fields in which the face contracts of the fits differ, one line per field."""
    lines = []
    for field in dict.fromkeys(field for contract in contracts.values() for field in contract):
        values: dict[str, list[str]] = {}
        for fit, contract in contracts.items():
            values.setdefault(str(contract.get(field)), []).append(fit)
        if len(values) > 1:
            lines.append(f"{field}: " + "; ".join(f"{value} ({', '.join(who)})" for value, who in values.items()))
    return lines


def _checked_leaks(
    p: CheckpointParams, manifest: Manifest, rows: Manifest, checkpoints: list[Candidate]
) -> dict[str, Any]:
    """The val/select rows that fits learned from elsewhere; DataError where ``p.allow_leaks`` lacks their source."""
    exposures = {c.fit: c.exposure() for c in checkpoints}
    here = frozenset(rows.sample_ids)
    in_train = known_leaks(manifest, "val").trained_on & here  # the same for every fit
    by_fit: dict[str, int] = {}
    for fit, record in exposures.items():
        if record is None:
            continue
        leaked = (known_leaks(manifest, "val", [record]).trained_on & here) - in_train
        frame = rows.frame[rows.frame["sample_id"].isin(leaked)]
        if leaked:
            by_fit[fit] = len(leaked)
        if forbidden := sorted(set(frame["source"]) - set(p.allow_leaks)):
            raise DataError(
                f"{fit} learned from {len(leaked):,} of the {len(rows):,} val/select rows of "
                f"{manifest.path or 'the manifest'} ({', '.join(forbidden)}), so its score on them is partly memory: "
                f"sweep it on the manifest that it was trained on, or allow it: allow_leaks: [{', '.join(forbidden)}]"
            )
    unrecorded = sorted(fit for fit, record in exposures.items() if record is None or not record.complete)
    return {"twins_in_train": len(in_train), "learned_elsewhere": by_fit, "unrecorded": unrecorded}


def _write_bundle(
    p: CheckpointParams, bundle: Bundle, epochs: float, of: Candidate, report: dict, protocol: _Protocol, out: Path
) -> None:
    """Write ``out/bundle`` and its training exposure: the fit's own, and the rows that selected the checkpoint."""
    selected_on = [*protocol.rows.frame["content_id"], *protocol.temperature_rows.frame["content_id"]]
    with fresh_file(out / EXPOSURE_FILE) as file, open(file, "wb") as stream:
        TrainingExposure.of((), selected_on).with_ancestors([of.exposure()]).write(stream)
    identity = {k: report[k] for k in ("evalset_id", "protocol_id")}
    counts = {k: report[k] for k in ("n_expected", "n_used")}
    ids = {**identity, "epoch": math.ceil(epochs) - 1, "epochs": epochs, "fit": of.fit, "checkpoint": of.file}
    derive_bundle(
        bundle, out / "bundle", name=p.name, temperature=Temperature.model_validate(report["temperature"]), ids=ids,
        metrics={"val_select": report["raw"] | counts, "val_select_scaled": report["scaled"]},
        extra_files={EXPOSURE_FILE: out / EXPOSURE_FILE}, cost=read_bundle(of.folder / BEST).meta.get("cost"),
    )  # fmt: skip
