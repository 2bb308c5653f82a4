"""The folders of phases: notebooks, locks, and the records of finished phases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fer_lib import params as params_module
from fer_lib.errors import FerError
from fer_lib.pipeline.runfile import INPUTS
from fer_lib.storage import paths
from fer_lib.storage.json_files import flatten, read_json, read_outputs
from fer_lib.storage.paths import external, is_uri


def notebook_path(kind: str) -> Path:
    """The notebook of a kind, in ``<home>/notebooks``.  Raises FerError when it does not exist."""
    path = paths.home() / "notebooks" / f"{params_module.KINDS[kind][1]}.ipynb"
    if not path.is_file():
        raise FerError(f"there is no notebook {path}: set FER_HOME to the folder that holds params/ and notebooks/")
    return path


def command_lock(folder: Path) -> Path:
    """The lock file of the command that runs the phase in ``folder``; the kernel takes its own lock seconds later."""
    locks = paths.mlruns() / "locks"
    locks.mkdir(exist_ok=True)
    return locks / f"{folder.name}.lock"


def own_params(params) -> dict[str, Any]:
    """A phase's parameters without ``output_dir`` and its inputs."""
    return {k: v for k, v in params.model_dump(mode="json").items() if k != "output_dir" and k not in INPUTS}


def read_headline(folder: Path) -> dict[str, Any]:
    """The headline of a finished phase, flattened: ``{"student/accuracy": 0.61}``."""
    return flatten(read_outputs(folder).get("headline") or {}, "/")


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a finished phase folder (``done.json``, with absolute ``inputs``); None when it is not finished."""
    if not (folder / "done.json").is_file():
        return None
    record = read_json(folder / "done.json")

    def absolute(value):
        if isinstance(value, list):
            return [absolute(item) for item in value]
        return value if not value or is_uri(value) else str(external(value))

    return record | {"inputs": {name: absolute(v) for name, v in record["inputs"].items()}, "folder": str(folder)}


def finished_phases(kinds: tuple[str, ...] = (), phase: str | None = None, smoke: bool = True) -> list[dict[str, Any]]:
    """Records of finished phases of these kinds, or with this name, newest first; ``smoke``: also those of --smoke."""
    folders = [path.parent for path in paths.phases_dir().glob("*/done.json")]
    records = [record for folder in folders if (record := read_record(folder)) is not None]
    selected = [r for r in records if (r["kind"] in kinds if kinds else True) and phase in (None, r["phase"])]
    selected = [r for r in selected if smoke or not r["params"].get("smoke")]
    return sorted(selected, key=lambda r: (Path(r["folder"]) / "done.json").stat().st_mtime_ns, reverse=True)
