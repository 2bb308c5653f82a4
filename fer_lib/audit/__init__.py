"""The audit of a manifest: which pictures are the same, exactly or nearly, and what follows for splits and labels."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from fer_lib.audit import groups, report
from fer_lib.audit.hashes import cached_hashes
from fer_lib.audit.report import Audit
from fer_lib.datasets.manifest import Manifest
from fer_lib.errors import DataError
from fer_lib.params.audit import AuditParams
from fer_lib.storage.atomic import explained, fresh_file, json_text

__all__ = ["Audit", "audit_manifest"]

_TABLES = ("duplicate_groups", "near_pairs", "conflicts")
_PICTURES = (
    "matrices", "conflicts", "across_splits", "across_sources", "least_alike", "noise_matrix", "label_noise"
)  # fmt: skip
# what an audit and those who draw it leave in its folder: the manifest goes first and comes last
OWN = (
    "manifest.parquet", "outputs.json", "audit.json", *(f"{name}.csv" for name in _TABLES),
    "label_noise.csv", "label_noise.json",
    *(f"{folder}{name}.png" for folder in ("", "figures/") for name in _PICTURES),
)  # fmt: skip


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
    ``params.remove`` leaves, with groups and twins: see ``fer_lib.datasets.near_duplicates``).  The manifest
    comes last, and what an earlier audit left there (OWN) goes before anything is read, so that a manifest means a
    whole audit.
    Hashes are kept in ``cache_dir`` when there is one.  ``progress(done, total)`` counts rows, three rounds of them
    (decoding, searching, comparing).

    Raises DataError when a picture cannot be read, nothing of train would be left, or ``out`` holds a manifest that no
    audit wrote, or the audited one.
    """
    out, began = Path(out).absolute(), time.time()
    _clear(out, manifest)
    progressed = _rounds(len(manifest), 3 if params.near else 1, progress)
    hashes = cached_hashes(manifest, cache_dir, progressed(0))
    hashed = time.time()
    found = groups.find(manifest.frame, hashes, params.near, params.similarity, params.seed, progressed(1))
    stays = groups.survivors(manifest.frame, found.group, hashes.area, params.remove)
    if (manifest.frame["split"] == "train").any() and not (stays & (manifest.frame["split"] == "train")).any():
        raise DataError(f"remove: {params.remove} would leave no train row of {manifest.path or 'the manifest'}: each "
                        "also stands in val or test; choose another rule, or another split")  # fmt: skip
    seconds = {"hashing": hashed - began, "searching": time.time() - hashed}
    clean = report.cleaned(manifest, params, found, stays)
    audit = report.assembled(manifest, params, found, stays, clean, seconds)
    _write(audit, out)
    return audit


def _write(audit: Audit, out: Path) -> None:
    """All files are written before any takes its place; the first to be opened, the manifest, does so last."""
    with ExitStack() as stack:
        audit.clean.write(stack.enter_context(fresh_file(out / OWN[0])))
        stack.enter_context(fresh_file(out / "audit.json")).write_text(json_text(audit.summary), encoding="utf-8")
        for name, table in audit.tables().items():
            table.to_csv(stack.enter_context(fresh_file(out / f"{name}.csv")), index=False, float_format="%.4f")


def _clear(out: Path, manifest: Manifest) -> None:
    """Make ``out`` and take out of it what an earlier audit left."""
    held = out / OWN[0]
    if manifest.path is not None and manifest.path.resolve() == held.resolve():
        raise DataError(f"{held} is what is to be audited, and would be replaced: choose another folder to write")
    if held.exists() and not (out / "audit.json").exists():
        raise DataError(f"{held} is a manifest that no audit wrote: choose another folder to write, or move it away")
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
        for name in OWN:
            (out / name).unlink(missing_ok=True)


def _rounds(rows: int, rounds: int, progress: Callable[[int, int], None] | None):
    """What counts ``rows`` in the share of one of several rounds."""

    def counting(before: int):
        return None if progress is None else lambda done, _: progress(before * rows + done, rounds * rows)

    return counting
