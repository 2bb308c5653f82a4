"""The folders of phases: where a phase writes, which ones are finished, and what a notebook run alone builds on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fer_lib import params as params_module
from fer_lib.errors import FerError
from fer_lib.pipeline.runfile import INPUTS
from fer_lib.storage import paths
from fer_lib.storage.atomic import explained
from fer_lib.storage.json_files import flatten, read_json, read_outputs
from fer_lib.storage.locks import RunLock, refuse_if_held
from fer_lib.storage.paths import external, is_uri


def notebook_path(kind: str) -> Path:
    """The notebook of a kind, in ``<home>/notebooks``; FerError when it is not there."""
    path = paths.home() / "notebooks" / f"{params_module.KINDS[kind][1]}.ipynb"
    if not path.is_file():
        raise FerError(f"there is no notebook {path}: set FER_HOME to the folder that holds params/ and notebooks/")
    return path


def attempts(phase: str, key: str) -> list[Path]:
    """The folders of this phase and key, oldest first: ``<phase>-<key12>``, then ``-2``, ``-3``, ... of ``--fresh``."""
    first = paths.phases_dir() / f"{phase}-{key[:12]}"
    found = [first] if first.is_dir() else []
    while found and (following := first.with_name(f"{first.name}-{len(found) + 1}")).is_dir():
        found.append(following)
    return found


def folder_for(phase: str, key: str, fresh: bool = False) -> Path:
    """The folder in which this phase runs next: the newest attempt, or with ``fresh`` a new one.

    Raises:
        FerError: when the newest attempt is alive; it names who runs it.
    """
    found = attempts(phase, key)
    first = paths.phases_dir() / f"{phase}-{key[:12]}"
    newest = found[-1] if found else first
    for lock in (newest / ".lock", _claim(newest)):
        refuse_if_held(lock, f"phase {phase!r} in {newest}")
    if not fresh or not found:
        return newest
    return first.with_name(f"{first.name}-{len(found) + 1}")


def claimed(folder: Path, phase: str) -> RunLock:
    """What a command holds while it runs ``phase`` in a kernel, whose own lock comes seconds later.

    Raises:
        FerError: another command holds it; it names which.
    """
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return RunLock(_claim(folder), f"phase {phase!r} in {folder}")


def _claim(folder: Path) -> Path:
    locks = paths.mlruns() / "locks"
    with explained(locks):
        locks.mkdir(exist_ok=True)
    return locks / f"{folder.name}.lock"


def own_params(params) -> dict[str, Any]:
    """A phase's parameters without its folder and its inputs."""
    return {k: v for k, v in params.model_dump(mode="json").items() if k != "output_dir" and k not in INPUTS}


def headline(folder: Path) -> dict[str, Any]:
    """What a finished phase says first, on one level: ``{"student/accuracy": 0.61}``."""
    return flatten(read_outputs(folder).get("headline") or {}, "/")


def done(folder: Path) -> dict[str, Any] | None:
    """The record of a finished phase folder (``inputs`` made absolute), None when it is not finished."""
    if not (folder / "done.json").is_file():
        return None
    record = read_json(folder / "done.json")

    def absolute(value):
        if isinstance(value, list):
            return [absolute(item) for item in value]
        return value if not value or is_uri(value) else str(external(value))

    return record | {"inputs": {name: absolute(v) for name, v in record["inputs"].items()}, "folder": str(folder)}


def finished(kinds: tuple[str, ...] = (), phase: str | None = None) -> list[dict[str, Any]]:
    """Records of finished phases of these kinds (or of that name), newest first."""
    folders = [path.parent for path in paths.phases_dir().glob("*/done.json")]
    records = [record for folder in folders if (record := done(folder)) is not None]
    wanted = [r for r in records if (r["kind"] in kinds if kinds else True) and phase in (None, r["phase"])]
    return sorted(wanted, key=lambda r: (Path(r["folder"]) / "done.json").stat().st_mtime_ns, reverse=True)
