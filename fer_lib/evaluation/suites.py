"""Gate suites: the rows of a suite in a manifest, and the measurement of models on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fer_lib.datasets.evalset_ids import evalset_id, protocol_id
from fer_lib.datasets.manifest import Manifest
from fer_lib.datasets.openings import log_test_opening
from fer_lib.datasets.provenance import read_exposure
from fer_lib.errors import DataError
from fer_lib.evaluation.leaks import checked_leaks
from fer_lib.evaluation.paired_comparison import Measurement
from fer_lib.models.bundle import Bundle
from fer_lib.models.softlabels import cached_logits
from fer_lib.params import AdaptParams
from fer_lib.params.adapt import Suite
from fer_lib.params.data import SELECTIONS
from fer_lib.storage.progress import each


def suite_rows(manifest: Manifest, suite: Suite) -> Manifest:
    """The rows of a suite: for ``val`` all val rows that select no epoch, for the others test rows.

    ``eval_only`` has the sources of the selection ``classification_manifest_eval_only``, each content once.
    Raises DataError when no row is left.
    """
    frame = manifest.frame
    if suite == "val":
        frame = frame[(frame["split"] == "val") & (frame["val_role"] != "select")]
        hint = "build the manifest with a smaller select share (val_roles)"
    else:
        frame, hint = frame[frame["split"] == "test"], "name a manifest that has them, or gate on suite: val"
        if suite == "eval_only":
            sources = SELECTIONS["classification_manifest_eval_only"].sources
            frame = frame[frame["source"].isin(sources)].sort_values("sample_id").drop_duplicates("content_id")
            hint = f"it needs test rows of {', '.join(sources)}; or gate on suite: val or test"
    if frame.empty:
        raise DataError(f"{manifest.path or 'the manifest'} has no rows for the suite {suite}: {hint}")
    return Manifest(frame.reset_index(drop=True), manifest.meta, manifest.path)


def measure_suite(
    models: dict[str, Bundle], manifest: Manifest, suite: Suite, p: AdaptParams, cache_dir: Path, folder: Path, device
) -> tuple[list[Measurement], dict[str, Any]]:
    """Each model's logits on the suite under the single view, and the summary of leaked rows.

    Reading test rows is logged, also in the phase's ``folder``.  Raises DataError when rows leak from training and
    their source is not in ``p.allow_leaks``.
    """
    rows, split = suite_rows(manifest, suite), "val" if suite == "val" else "test"
    exposures = {name: read_exposure(bundle.path) for name, bundle in models.items()}
    _, leaks = checked_leaks(manifest, rows, split, p.allow_leaks, exposures)
    label, tolerance = ("val/held" if suite == "val" else suite), int(manifest.meta.get("tolerance", 0))
    weights = {name: [bundle.weights_sha256] for name, bundle in models.items()}
    log_test_opening(rows, weights, "gate", cache_dir, folder, label, suite=suite, manifest_sha256=manifest.sha256)
    measurements = []
    for name, bundle in each("model", models.items()):
        options = dict(flip_average=False, batch_size=256, device=device, pack_kind=p.pack)
        logits, pack = cached_logits(bundle, rows, cache_dir, **options)
        used = pack.manifest
        evalset = evalset_id(used.sample_ids, used.labels, label, tolerance)
        protocol = protocol_id(evalset, bundle.contract, "none")
        report = {"evalset_id": evalset, "protocol_id": protocol, "n_expected": len(rows), "n_used": len(used)}
        measurements.append(Measurement(name, report, logits, used.labels, used.sample_ids))
    return measurements, leaks
