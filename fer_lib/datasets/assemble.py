"""The manifest of a phase: built of imports, joined with other manifests, and narrowed to what was asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fer_lib.datasets.build import build_manifest
from fer_lib.datasets.curate import CURATED_FILES, curate
from fer_lib.datasets.manifest import Manifest
from fer_lib.params import CurateParams, ManifestParams

BUILT = "built.parquet"


def assemble(
    params: ManifestParams,
    import_dir: Path,
    manifests: Sequence[Path],
    out: Path,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """:func:`build_manifest`; then, where ``params.curate`` asks for anything or ``manifests`` (folders) are to be
    joined, :func:`curate`.

    ``out/manifest.parquet`` is what comes out; where it was curated, ``out/built.parquet`` is what the imports alone
    gave, which ``manifest_validation.json`` describes, and ``curation_report.json`` and ``removed.csv`` tell the rest.
    Raises :class:`DataError` as both do; an earlier ``manifest.parquet`` then stays as it was.
    """
    if not manifests and params.curate == CurateParams():
        built = build_manifest(params, import_dir, out, progress)
        for name in (BUILT, *CURATED_FILES):  # of an earlier manifest of this folder
            (out / name).unlink(missing_ok=True)
        return built
    others = [Manifest.read(Path(folder) / "manifest.parquet") for folder in manifests]
    built = build_manifest(params, import_dir, out, progress, name=BUILT)
    return curate([built, *others], params.curate, out, progress)
