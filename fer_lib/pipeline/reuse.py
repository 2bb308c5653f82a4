"""Whether a phase re-uses a finished folder instead of running.

A phase belongs to the newest folder with its name and cache key.  When that folder is finished (``done.json``), the
phase is re-used; else it runs there, and goes on from what an interrupted run left.  ``--fresh`` takes a new folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fer_lib.pipeline import cache_key
from fer_lib.pipeline.folders import command_lock, finished_phases, own_params
from fer_lib.pipeline.runfile import Phase
from fer_lib.storage import paths
from fer_lib.storage.locks import raise_if_locked


def find_earlier(phase: Phase, key: str | None, inputs: dict[str, Any] | None) -> tuple[Path | None, bool]:
    """For ``--only`` and ``--from``: the folder of an earlier phase, and whether other code made it.

    It is the newest finished one with this cache key, else the newest with these parameters and inputs; None when
    there is none.  ``key`` and ``inputs`` are None when the inputs are not finished, and then not compared.
    """
    if key is not None:
        for folder in reversed(attempts(phase.name, key)):
            if (folder / "done.json").is_file():
                return folder, False
    own = own_params(phase.params)
    for record in finished_phases((phase.kind,), phase.name):
        if record["params"] == own and (inputs is None or cache_key.same_inputs(record["inputs"], inputs)):
            return Path(record["folder"]), True
    return None, False


def finished_before(phases: Sequence[Phase]) -> set[str]:
    """Names of the phases that have finished in this home at least once, with whatever parameters."""
    return {phase.name for phase in phases} & {record["phase"] for record in finished_phases()}


def attempts(phase: str, key: str) -> list[Path]:
    """Folders of this phase and cache key, oldest first: ``<phase>-<key12>``, ``-2``, ``-3``, ... of ``--fresh``."""
    first = paths.phases_dir() / f"{phase}-{key[:12]}"
    found = [first] if first.is_dir() else []
    while found and (following := first.with_name(f"{first.name}-{len(found) + 1}")).is_dir():
        found.append(following)
    return found


def folder_for(phase: str, key: str, fresh: bool = False) -> Path:
    """The folder for the next run of this phase: the newest attempt, or with ``fresh`` a new one.

    Raises:
        FerError: another process runs the newest attempt; the message names it.
    """
    earlier = attempts(phase, key)
    first = paths.phases_dir() / f"{phase}-{key[:12]}"
    newest = earlier[-1] if earlier else first
    for lock in (newest / ".lock", command_lock(newest)):
        raise_if_locked(lock, f"phase {phase!r} in {newest}")
    if not fresh or not earlier:
        return newest
    return first.with_name(f"{first.name}-{len(earlier) + 1}")
