"""The saved checkpoints of finished fits, measured again on one protocol, and the best of them as a bundle (SPEC 5).

Only val rows are opened: val/temperature fits each checkpoint's temperature, val/select scores and chooses.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_lib.calibration import metrics
from fer_lib.calibration.intervals import bootstrap_interval
from fer_lib.calibration.temperature import Temperature
from fer_lib.datasets.manifest import Manifest, evalset_id, protocol_id
from fer_lib.datasets.provenance import EXPOSURE_FILE, TrainingExposure, read_exposure
from fer_lib.errors import DataError, FerError
from fer_lib.evaluation.leaks import known_leaks
from fer_lib.evaluation.report import model_report, temperature_for
from fer_lib.models.bundle import Bundle, derive_bundle, read_bundle
from fer_lib.models.softlabels import cached_logits
from fer_lib.params import CheckpointParams
from fer_lib.storage.atomic import fresh_file, write_json
from fer_lib.training.checkpoint import checkpoint_bundle, has_checkpoint

KEYS = ("accuracy", "macro_f1", "minority_f1", "per_class_f1", "nll", "ece", "brier")
BEST, LAST = "best", "checkpoint_last"


@dataclass(frozen=True)
class Candidate:
    """A file of a fit's folder: ``best``, ``checkpoint_last`` or ``checkpoint_epochNNN``; ``fit``: the fit's name."""

    fit: str
    folder: Path
    file: str

    def open(self, work: Path) -> tuple[Bundle, float]:
        """Its weights as a bundle (a checkpoint's is written to ``work``), and the epochs that they were trained."""
        if self.file == BEST:
            bundle = read_bundle(self.folder / BEST)
            return bundle, bundle.meta["ids"]["epoch"] + 1.0
        bundle = checkpoint_bundle(self.folder / self.file, work)
        return bundle, float(bundle.meta["ids"]["epochs"])

    def seen(self) -> TrainingExposure | None:
        return read_exposure(self.folder) or read_exposure(self.folder / BEST)


def candidates(fits: Sequence[Path]) -> list[Candidate]:
    """Every checkpoint of the fits, in the order of the fits and of their epochs, ``best`` last.

    A fit is called as its model is, or as its folder where two models share a name.
    Raises FerError without fits, for a folder that holds no fit, and for one that is named twice.
    """
    if not fits:
        raise FerError("no fits to sweep: name finished teacher or student phases, or their folders")
    for folder in fits:
        if not has_checkpoint(folder / BEST):
            raise FerError(f"{folder} is no fit (it holds no {BEST}/): name a finished teacher or student phase")
    if len({folder.resolve() for folder in fits}) < len(fits):
        raise FerError(f"a fit is named twice among {', '.join(folder.name for folder in fits)}: name each one once")
    names = [read_bundle(folder / BEST).name for folder in fits]
    found = []
    for folder, name in zip(fits, names, strict=True):
        fit = name if names.count(name) == 1 else folder.resolve().name
        numbered = [p.name for p in folder.iterdir() if re.fullmatch(r"checkpoint_epoch\d+", p.name)]
        files = sorted(numbered, key=lambda file: int(file.removeprefix("checkpoint_epoch")))
        files += [LAST] if has_checkpoint(folder / LAST) else []
        found += [Candidate(fit, folder, file) for file in (*files, BEST)]
    return found


class _Protocol:
    """What every checkpoint is measured on: rows, view, temperature's mode."""

    def __init__(self, p: CheckpointParams, manifest: Manifest, cache_dir: Path, device):
        keep = dict(include_sources=p.include_sources, exclude_sources=p.exclude_sources)
        self.p, self.cache_dir, self.device = p, cache_dir, device
        self.rows = manifest.rows(split="val", val_role="select", **keep)
        self.held = manifest.rows(split="val", val_role="temperature", **keep)
        self.tolerance = int(manifest.meta.get("tolerance", 0))

    def logits(self, bundle: Bundle, rows: Manifest, view: str) -> tuple[np.ndarray, Manifest]:
        """float64 [N, 7] and the rows that they are of."""
        options = dict(batch_size=self.p.batch_size, device=self.device, pack_kind=self.p.pack)
        logits, pack = cached_logits(bundle, rows, self.cache_dir, flip_average=view == "flip", **options)
        return logits, pack.manifest

    def identity(self, bundle: Bundle, used: Manifest, view: str) -> dict[str, Any]:
        evalset = evalset_id(used.sample_ids, used.labels, "val/select", self.tolerance)
        protocol = protocol_id(evalset, bundle.contract, view)
        counts = {"n_expected": len(self.rows), "n_used": len(used)}
        return {"evalset_id": evalset, "protocol_id": protocol, **counts}

    def measure(self, bundle: Bundle) -> dict[str, Any]:
        """The scores of one checkpoint, before and after the temperature that its own held rows ask for."""
        view = self.p.view
        held, held_used = self.logits(bundle, self.held, view)
        # an epoch that knows nothing yet may have no minimum inside the bracket: its note says so
        temperature = temperature_for(held, held_used.labels, self.p.calibration, allow_bound=True, view=view)
        logits, used = self.logits(bundle, self.rows, view)
        parts = {"raw": logits, "calibrated": temperature.apply(logits, view)}
        measured = {name: metrics.summary(z, used.labels) for name, z in parts.items()}
        return {
            "weights_sha256": bundle.weights_sha256, "backbone": bundle.meta["model"]["backbone"],
            "face_contract_id": bundle.contract.id, **self.identity(bundle, used, view),
            "temperature": temperature.model_dump(),
            **{name: {k: summary[k] for k in KEYS} for name, summary in measured.items()},
        }  # fmt: skip

    def report(self, bundle: Bundle, view: str) -> dict[str, Any]:
        """Everything of one checkpoint under one view, with intervals and the tables of its reliability diagrams."""
        held, held_used = self.logits(bundle, self.held, view)
        logits, used = self.logits(bundle, self.rows, view)
        report = model_report(
            logits, used.labels, held, held_used.labels, self.p.calibration, resamples=self.p.resamples,
            seed=self.p.seed, allow_bound=True, view=view,
        )  # fmt: skip
        scaled = Temperature.model_validate(report["temperature"]).apply(logits, view)
        tables = {f"reliability_{k}": _table(z, used.labels) for k, z in (("raw", logits), ("scaled", scaled))}
        interval = report["macro_f1_interval"]  # of the raw predictions
        if self.p.select_by == "calibrated":
            interval = bootstrap_interval(_macro_f1, scaled, used.labels, self.p.resamples, self.p.seed)
        return report | tables | self.identity(bundle, used, view) | {"chosen_by_interval": list(interval)}


def sweep(
    p: CheckpointParams,
    manifest: Manifest,
    fits: Sequence[Path],
    out: Path,
    cache_dir: Path,
    device,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure every checkpoint of ``fits`` (their folders), choose one, write it; the content of ``sweep.json``.

    Leaves in ``out``: ``sweep.json`` and ``bundle/``, the chosen weights under the name ``p.name``, with the
    temperature and the val/select metrics of these very weights under the single view, which is what a bundle predicts
    on, and the record of what they have seen.  ``progress(done, total)`` counts checkpoints.
    Raises FerError for a folder that is no fit, BundleError for a damaged checkpoint, DataError when the checkpoints
    could not be measured on the same rows, or when a fit learned from rows that are to choose.
    """
    found, protocol = candidates(fits), _Protocol(p, manifest, cache_dir, device)
    leaks = _checked_leaks(p, manifest, protocol.rows, found)
    out.mkdir(parents=True, exist_ok=True)
    work, entries, contracts = out / "candidate", [], {}
    for done, candidate in enumerate(found, 1):
        bundle, epochs = candidate.open(work)
        about = {"fit": candidate.fit, "checkpoint": candidate.file, "epochs": epochs}
        entries.append(about | protocol.measure(bundle))
        contracts[candidate.fit] = bundle.contract.model_dump(mode="json")
        chosen = pick(entries, p.select_by)  # at once where rows differ
        if progress is not None:
            progress(done, len(found))
    bundle, epochs = found[chosen].open(work)
    reports = {view: protocol.report(bundle, view) for view in dict.fromkeys((p.view, "none"))}
    _write(p, bundle, epochs, found[chosen], reports["none"], protocol, out)
    shutil.rmtree(work, ignore_errors=True)
    low, high = reports[p.view]["chosen_by_interval"]
    as_good = {e["weights_sha256"] for e in entries if e[p.select_by]["macro_f1"] >= low} - {bundle.weights_sha256}
    result = {
        "manifest_sha256": manifest.sha256, "metric_version": metrics.METRIC_VERSION, "view": p.view,
        "select_by": p.select_by, "calibration": p.calibration,
        **{k: entries[chosen][k] for k in ("evalset_id", "n_expected", "n_used")},
        "leaks": leaks, "contracts": contracts, "differences": differences(contracts), "checkpoints": entries,
        "chosen": {
            **entries[chosen], "index": chosen, "folder": found[chosen].folder.name, "views": reports,
            "interval": [low, high], "as_good": len(as_good),
        },
    }  # fmt: skip
    write_json(out / "sweep.json", result)
    return result


def pick(entries: Sequence[dict[str, Any]], select_by: str) -> int:
    """Where the best macro-F1 on val/select stands (``select_by``: raw or calibrated); a tie goes to fewer epochs.

    DataError when the entries were not all measured on the same rows.
    """
    by_set: dict[str, list[str]] = {}
    for entry in entries:
        by_set.setdefault(entry["evalset_id"], []).append(f"{entry['fit']}/{entry['checkpoint']} ({entry['n_used']})")
    if len(by_set) > 1:
        sets = "; ".join(f"{name}: {', '.join(who)}" for name, who in by_set.items())
        raise DataError(
            f"these checkpoints were measured on different rows and can't be ranked ({sets}): their preprocessing "
            "could not use the same pictures, so repair the manifest, or sweep the fits one by one"
        )
    return min(range(len(entries)), key=lambda i: (-entries[i][select_by]["macro_f1"], entries[i]["epochs"], i))


def differences(contracts: dict[str, dict[str, Any]]) -> list[str]:
    """Where the face contracts of the fits differ, a line a field: the same rows, seen through other pixels."""
    lines = []
    for field in dict.fromkeys(field for contract in contracts.values() for field in contract):
        values: dict[str, list[str]] = {}
        for fit, contract in contracts.items():
            values.setdefault(str(contract.get(field)), []).append(fit)
        if len(values) > 1:
            lines.append(f"{field}: " + "; ".join(f"{value} ({', '.join(who)})" for value, who in values.items()))
    return lines


def _checked_leaks(p: CheckpointParams, manifest: Manifest, rows: Manifest, found: list[Candidate]) -> dict[str, Any]:
    """Which of the choosing rows a fit learned from elsewhere; those that stand in this manifest's own train aside.

    The latter are the same for every fit that was trained on it.  DataError when their source is not in
    ``p.allow_leaks``.  ``unrecorded``: fits of which what they saw is not (wholly) known.
    """
    seen = {c.fit: c.seen() for c in found}
    here = frozenset(rows.sample_ids)
    twins = known_leaks(manifest, "val").learned & here
    by_fit: dict[str, int] = {}
    for fit, record in seen.items():
        if record is None:
            continue
        learned = (known_leaks(manifest, "val", [record]).learned & here) - twins
        frame = rows.frame[rows.frame["sample_id"].isin(learned)]
        if learned:
            by_fit[fit] = len(learned)
        if forbidden := sorted(set(frame["source"]) - set(p.allow_leaks)):
            raise DataError(
                f"{fit} learned from {len(learned):,} of the {len(rows):,} val/select rows of "
                f"{manifest.path or 'the manifest'} ({', '.join(forbidden)}), so its score on them is partly memory: "
                f"sweep it on the manifest that it was trained on, or allow it: allow_leaks: [{', '.join(forbidden)}]"
            )
    unrecorded = sorted(fit for fit, record in seen.items() if record is None or not record.whole)
    return {"twins_in_train": len(twins), "learned_elsewhere": by_fit, "unrecorded": unrecorded}


def _write(
    p: CheckpointParams, bundle: Bundle, epochs: float, of: Candidate, report: dict, protocol: _Protocol, out: Path
) -> None:
    """``out/bundle`` and beside it what the weights saw: the fit's record, and the rows that chose among them."""
    chose = [*protocol.rows.frame["content_id"], *protocol.held.frame["content_id"]]
    with fresh_file(out / EXPOSURE_FILE) as file, open(file, "wb") as stream:
        TrainingExposure.of((), chose).with_ancestors([of.seen()]).write(stream)
    identity = {k: report[k] for k in ("evalset_id", "protocol_id")}
    counts = {k: report[k] for k in ("n_expected", "n_used")}
    ids = {**identity, "epoch": math.ceil(epochs) - 1, "epochs": epochs, "fit": of.fit, "checkpoint": of.file}
    derive_bundle(
        bundle, out / "bundle", name=p.name, temperature=Temperature.model_validate(report["temperature"]), ids=ids,
        metrics={"val_select": report["raw"] | counts, "val_select_scaled": report["scaled"]},
        extra_files={EXPOSURE_FILE: out / EXPOSURE_FILE},
    )  # fmt: skip


def _macro_f1(logits: np.ndarray, y: np.ndarray) -> float:
    return metrics.macro_f1(logits.argmax(axis=1), y)


def _table(logits: np.ndarray, y: np.ndarray) -> dict[str, list]:
    table = metrics.reliability_table(metrics.softmax(logits), y)
    return {k: [None if isinstance(x, float) and math.isnan(x) else x for x in v.tolist()] for k, v in table.items()}
