"""The manifest phase: build from imports, join other manifests, curate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from fer_lib.datasets.build import build_manifest, leaked_ids
from fer_lib.datasets.curate import CURATED_FILES, curate
from fer_lib.datasets.manifest import Manifest
from fer_lib.params import CurateParams, ManifestParams
from fer_lib.storage.json_files import flatten, read_json
from fer_lib.storage.phase_result import PhaseResult

BUILT, VALIDATION = "built.parquet", "manifest_validation.json"


def assemble(params: ManifestParams, import_dir: Path, manifests: Sequence[Path], out: Path) -> Manifest:
    """:func:`build_manifest`; then :func:`curate`, when ``params.curate`` or ``manifests`` (folders to join) are set.

    Writes ``out/manifest.parquet``.  With curation, ``out/built.parquet`` has the rows of the imports, which
    ``manifest_validation.json`` describes; ``curation_report.json`` and ``removed.csv`` describe the curation.
    Raises :class:`DataError` as both do; an earlier ``manifest.parquet`` then does not change.
    """
    if not manifests and params.curate == CurateParams():
        built = build_manifest(params, import_dir, out)
        for name in (BUILT, *CURATED_FILES):  # of an earlier manifest of this folder
            (out / name).unlink(missing_ok=True)
        return built
    others = [Manifest.read(Path(folder) / "manifest.parquet") for folder in manifests]
    built = build_manifest(params, import_dir, out, name=BUILT)
    return curate([built, *others], params.curate, out)


def steps_table(manifest: Manifest, out: Path) -> pd.DataFrame:
    """One line per step that made the manifest in ``out``: the rows that it removed and those left."""
    built = {"step": "built of the imports", "removed": 0, "left": read_json(out / VALIDATION)["rows_valid"]}
    if not _selection(manifest):
        return pd.DataFrame([built])
    report = read_json(out / CURATED_FILES[0])
    joined = {"step": "joined", "removed": report["rows_in_several"], "left": report["rows_total"]}
    return pd.DataFrame([built, joined, *report["steps"]])[["step", "removed", "left"]]


def validation_table(out: Path) -> pd.DataFrame:
    """The counts of ``manifest_validation.json``, one line each: rows, decoded images, duplicates."""
    validation = read_json(out / VALIDATION)
    counts = {key: validation[key] for key in ("rows_total", "rows_valid", "decode", "duplicates")}
    return pd.Series(flatten(counts), name="n", dtype=object).to_frame()


def manifest_result(params: ManifestParams, manifest: Manifest, out: Path) -> PhaseResult:
    """The result of a manifest phase in ``out``."""
    names, action = [VALIDATION, "manifest.parquet"], f"Joined the imports, checked {params.check}, "
    action += "assigned val roles by content."
    if selection := _selection(manifest):
        names += [BUILT, *CURATED_FILES]
        joined = len(params.manifests)
        action += f" Then joined {joined} other manifest(s) and chose {selection}: {len(manifest)} rows are left."
    leaked = len(leaked_ids(manifest))
    return PhaseResult(
        ids={"manifest_sha256": manifest.sha256},
        headline={"rows": len(manifest), "test twins in train": leaked},
        metrics={"rows": len(manifest), "twins_in_train": leaked},
        artifacts=[out / name for name in names],
        note={
            "action": action,
            "result": f"{len(manifest)} rows; {leaked} test images have an identical twin in train.",
            "decision": "Evaluation refuses twins unless the audit takes them out of train or allow_leaks names their "
            "source.",
            "next": "Train teachers.",
        },
    )


def _selection(manifest: Manifest) -> str:
    """The selection that curated the manifest; "" for one that only its imports made."""
    return manifest.meta["created"].get("selection", "")
