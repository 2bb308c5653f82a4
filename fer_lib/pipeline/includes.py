"""Includes of run files: ``include: [data.yaml]`` puts the phases of that file first.

An included phase keeps its name, parameters, seed and the phases that its blank inputs use.  So its folder is the same
from every file that includes it, and they all re-use it.  A file that is included twice (three backbones that all
include the data) counts once.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fer_lib.errors import ParamsError
from fer_lib.params.strict import closest, read_mapping

TOP_KEYS = ("name", "experiment", "seed", "seconds", "include", "smoke", "phases")


@dataclass
class RunText:
    """A run file and its includes, as written.

    ``top``: the mapping of the file.  ``phases``: phase -> its mapping with the file's seed, in run order.  ``smoke``:
    phase -> its overrides for ``--smoke``.  ``visible_phases``: phase -> the phases that it can use as inputs, which
    are those before it in its file and all in the included files.
    """

    top: dict[str, Any]
    phases: dict[str, Any] = field(default_factory=dict)
    smoke: dict[str, dict[str, Any]] = field(default_factory=dict)
    visible_phases: dict[str, frozenset[str]] = field(default_factory=dict)


def read_run(path: Path) -> RunText:
    """Read a run file and its includes.  Raises ParamsError naming the file that is missing or wrong."""
    text = RunText(read_mapping(path))
    _add_file(text, path, text.top, {}, {}, ())
    return text


def matching_phases(name: str, kinds: dict[str, str], what: str) -> list[str]:
    """The phase of that name, else all phases of that kind (``kinds``: phase -> kind).  Raises ParamsError if none."""
    phases = [name] if name in kinds else [phase for phase, kind in kinds.items() if kind == name]
    if not phases:
        raise ParamsError(f"{what}: there is no phase or kind {name!r} in this run"
                          f"{closest(name, [*kinds, *set(kinds.values())])}")  # fmt: skip
    return phases


def _add_file(
    text: RunText, path: Path, raw: dict, read: dict[Path, frozenset[str]], owner: dict[str, Path], within: tuple
) -> frozenset[str]:
    """Add the phases of one file after those of its includes; returns the names of both."""
    here = path.resolve()
    if here in within:
        raise ParamsError(f"{path} includes itself, through {' -> '.join(p.name for p in (*within, here))}")
    if here in read:
        return read[here]
    if unknown := [key for key in raw if key not in TOP_KEYS]:
        raise ParamsError(f"{path}: unknown key {unknown[0]!r}{closest(unknown[0], TOP_KEYS)}")
    phases = raw.get("phases")
    if not isinstance(phases, dict) or not phases:
        raise ParamsError(f"{path}: 'phases' must be a mapping of at least one phase, as in phases: {{import: {{}}}}")
    names = frozenset()
    for other in _included_files(path, raw):
        names |= _add_file(text, other, read_mapping(other), read, owner, (*within, here))
    for phase, values in phases.items():
        if phase in owner:
            raise ParamsError(f"phase {phase!r} is in {owner[phase]} and in {path}, and this run includes both: "
                              "rename one of them")  # fmt: skip
        owner[phase] = path
        values = {} if values is None else values
        seeded = isinstance(values, dict) and "seed" in raw
        text.phases[phase] = {"seed": raw["seed"]} | values if seeded else values
        text.visible_phases[phase] = names
        names |= {phase}
    _add_smoke(text, path, raw.get("smoke") or {}, names)
    read[here] = names
    return names


def declared_seconds(path: Path, top: dict[str, Any]) -> float | None:
    """What the whole run takes by its file, None without ``seconds``.  Raises ParamsError when it is no number."""
    seconds = top.get("seconds")
    if seconds is not None and not (type(seconds) in (int, float) and 0 < seconds < float("inf")):
        raise ParamsError(f"{path}: 'seconds' must be a number of seconds, as in seconds: 60, got {seconds!r}")
    return seconds


def _included_files(path: Path, raw: dict) -> list[Path]:
    names = raw.get("include") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ParamsError(f"{path}: 'include' must be a list of run files, as in include: [data.yaml], got {names!r}")
    return [path.parent / name for name in names]


def _add_smoke(text: RunText, path: Path, own: Any, names: Collection[str]) -> None:
    if not isinstance(own, dict) or not all(isinstance(changes, dict) for changes in own.values()):
        raise ParamsError(f"{path}: 'smoke' must map phases or kinds to parameters, got {own!r}")
    phases = {phase: values for phase, values in text.phases.items() if phase in names}
    kinds = {p: str(values.get("kind", p)) if isinstance(values, dict) else str(p) for p, values in phases.items()}
    for name, changes in own.items():
        for phase in matching_phases(str(name), kinds, f"{path}: smoke"):
            text.smoke.setdefault(phase, {}).update(changes)
