"""The manifest phase: build from imports, join other manifests, curate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fer_lib.datasets.build import build_manifest
from fer_lib.datasets.curate import CURATED_FILES, curate
from fer_lib.datasets.manifest import Manifest
from fer_lib.params import CurateParams, ManifestParams

BUILT = "built.parquet"


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
