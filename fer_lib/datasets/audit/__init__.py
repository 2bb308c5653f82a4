"""The audit of a manifest: which pictures are the same, exactly or nearly, and what follows for splits and labels."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from fer_lib.atomic import explained, fresh_file, write_json
from fer_lib.datasets.audit import groups, report
from fer_lib.datasets.audit.hashes import cached_hashes
from fer_lib.datasets.audit.report import Audit
from fer_lib.datasets.manifest import Manifest
from fer_lib.errors import DataError
from fer_lib.params.audit import AuditParams

__all__ = ["Audit", "audit_manifest"]


def audit_manifest(
    params: AuditParams,
    manifest: Manifest,
    out: Path,
    progress: Callable[[int, int], None] | None = None,
    cache_dir: Path | None = None,
) -> Audit:
    """Find what is twice in ``manifest``, list it, and write the manifest without it.

    Writes into ``out``: ``audit.json`` (the report), ``duplicate_groups.csv`` (a line a row of every group),
    ``near_pairs.csv``, ``conflicts.csv`` (groups whose rows carry unlike labels) and ``manifest.parquet`` (what
    ``params.remove`` leaves, and in its metadata the twins of its evaluated rows: see ``fer_lib.datasets.copies``).
    Hashes are kept in ``cache_dir`` when there is one.  ``progress(done, total)`` counts rows, three rounds of them (decoding, searching,
    comparing).

    Raises DataError when a picture cannot be read, or nothing of train would be left.
    """
    manifest_rows, out, began = len(manifest), Path(out).absolute(), time.time()
    rounds = 3 if params.near else 1
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)

    def count(before: int):
        total = rounds * manifest_rows
        return None if progress is None else lambda done, _: progress(before * manifest_rows + done, total)

    hashes = cached_hashes(manifest, cache_dir, count(0))
    hashed = time.time()
    found = groups.find(manifest.frame, hashes, params.near, params.similarity, params.seed, count(1))
    stays = groups.survivors(manifest.frame, found.group, hashes.area, params.remove)
    if (manifest.frame["split"] == "train").any() and not (stays & (manifest.frame["split"] == "train")).any():
        raise DataError(f"remove: {params.remove} would leave no train row of {manifest.path or 'the manifest'}: each "
                        "also stands in val or test; choose another rule, or another split")  # fmt: skip
    seconds = {"hashing": hashed - began, "searching": time.time() - hashed}
    clean = report.cleaned(manifest, params, found, stays)
    audit = report.assembled(manifest, params, found, stays, clean, seconds)
    for name, table in audit.tables().items():
        with fresh_file(out / f"{name}.csv") as work:
            table.to_csv(work, index=False, float_format="%.4f")
    write_json(out / "audit.json", audit.summary)
    clean.write(out / "manifest.parquet")
    return audit
