"""What ``fer data`` reads and leaves: manifests by file or folder, ``key=value`` settings, ids beside a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fer_lib.errors import DataError

if TYPE_CHECKING:
    from fer_lib.datasets.manifest import Manifest


def imported_rows(folder: Path) -> Manifest:
    """The rows of a folder of imports; DataError when it holds none."""
    from fer_lib.datasets.manifest import Manifest
    from fer_lib.importers import read_imports

    return Manifest(read_imports(folder), {"root": folder.absolute().as_posix()})


def read_rows(path: Path) -> Manifest:
    """The manifest at a file or in a folder, or the rows of a folder of imports; DataError when there is none."""
    from fer_lib.datasets.manifest import Manifest

    if path.is_dir() and not (path / "manifest.parquet").is_file():
        if not any(path.glob("*/rows.parquet")):
            raise DataError(f"{path} holds neither manifest.parquet nor imported datasets: name the folder of one")
        return imported_rows(path)
    return Manifest.read(path / "manifest.parquet" if path.is_dir() else path)


def values_of(param: list[str] | None) -> dict[str, Any]:
    """``key=value`` settings, values read as YAML; ParamsError for anything else."""
    from fer_lib.pipeline.runfile import read_setting

    return dict(read_setting(text, "key=value, for instance -p tolerance=3") for text in param or [])


def written(manifest: Manifest, out: Path) -> None:
    """Leave the manifest's id where phases look for it, so that one written again costs no training, and say so."""
    from fer_lib.storage.atomic import write_json

    write_json(out / "outputs.json", {"ids": {"manifest_sha256": manifest.sha256}, "headline": {"rows": len(manifest)}})
    typer.echo(f"{len(manifest):,} rows in {out / 'manifest.parquet'} (sha256 {manifest.sha256[:12]})")
