"""The audit of a manifest: exact duplicates and near-duplicates, and the manifest without the rows that leak."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

from fer_lib.audit import groups, report
from fer_lib.audit.hashes import cached_hashes
from fer_lib.audit.report import Audit
from fer_lib.datasets.manifest import Manifest
from fer_lib.errors import DataError
from fer_lib.params.audit import AuditParams
from fer_lib.storage.atomic import fresh_file, json_text

MANIFEST = "manifest.parquet"
_TABLES = ("duplicate_groups", "near_pairs", "conflicts")
_FIGURES = (
    "matrices", "conflicts", "across_splits", "across_sources", "least_alike", "noise_matrix", "label_noise"
)  # fmt: skip
# all files of an audit, those of its figures and of the label-noise audit included
_FILES = (
    MANIFEST, "outputs.json", "audit.json", *(f"{name}.csv" for name in _TABLES), "label_noise.csv", "label_noise.json",
    *(f"{folder}{name}.png" for folder in ("", "figures/") for name in _FIGURES),
)  # fmt: skip


def audit_manifest(params: AuditParams, manifest: Manifest, out: Path, cache_dir: Path | None = None) -> Audit:
    """Find the duplicates in ``manifest``, list them, and write the manifest without those that ``params`` removes.

    Writes into ``out``: ``audit.json`` (the summary), ``duplicate_groups.csv`` (each row of each group),
    ``near_pairs.csv``, ``conflicts.csv`` (groups with several labels) and ``manifest.parquet`` (the rows that
    ``params.remove`` leaves, with groups and near-duplicates: see ``fer_lib.datasets.duplicate_records``).  The files
    of an earlier audit in ``out`` are deleted first and the manifest is written last: a manifest means a whole audit.
    ``cache_dir`` caches the hashes.

    Raises DataError when an image cannot be read, no train row would be left, or ``out`` has a manifest that no audit
    wrote, or the audited one.
    """
    out, start = Path(out).absolute(), time.time()
    _clear(out, manifest)
    hashes = cached_hashes(manifest, cache_dir)
    hashed = time.time()
    duplicates = groups.find_duplicates(manifest.frame, hashes, params.near, params.similarity, params.seed)
    keep = groups.rows_to_keep(manifest.frame, duplicates.group, hashes.area, params.remove)
    train = (manifest.frame["split"] == "train").to_numpy()
    if train.any() and not (keep & train).any():
        raise DataError(f"remove: {params.remove} would leave no train row of {manifest.path or 'the manifest'}: each "
                        "is also in val or test; choose another rule, or another split")  # fmt: skip
    seconds = {"hashing": hashed - start, "searching": time.time() - hashed}
    audit = report.build_report(manifest, params, duplicates, keep, seconds)
    _write(audit, out)
    return audit


def _write(audit: Audit, out: Path) -> None:
    """Write all files before any is renamed to its name; the manifest, opened first, is renamed last."""
    with ExitStack() as stack:
        audit.clean.write(stack.enter_context(fresh_file(out / MANIFEST)))
        stack.enter_context(fresh_file(out / "audit.json")).write_text(json_text(audit.summary), encoding="utf-8")
        for name, table in zip(_TABLES, (audit.rows, audit.pairs, audit.conflicts), strict=True):
            path = stack.enter_context(fresh_file(out / f"{name}.csv"))
            report.spreadsheet_safe(table).to_csv(path, index=False, float_format="%.4f")


def _clear(out: Path, manifest: Manifest) -> None:
    """Make ``out`` and delete the files of an earlier audit in it."""
    present = out / MANIFEST
    if manifest.path is not None and manifest.path.resolve() == present.resolve():
        raise DataError(f"{present} is the manifest to be audited, and would be replaced: choose another output folder")
    if present.exists() and not (out / "audit.json").exists():
        raise DataError(f"{present} is a manifest that no audit wrote: choose another output folder, or move it away")
    out.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        (out / name).unlink(missing_ok=True)
