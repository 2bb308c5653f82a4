"""Run files that build on others: ``include: [data.yaml]`` puts the phases of that file before one's own.

An included phase stays what it is in its own file: its name, parameters, seed and the phases that a blank input is
taken from.  So its folder is the same whichever file it was run through, and what one file finished the others re-use.
A file that is reached on two ways (three backbones that all include the data) counts once.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fer_lib.errors import ParamsError
from fer_lib.params.strict import closest, read_mapping

TOP_KEYS = ("name", "experiment", "seed", "include", "smoke", "phases")


@dataclass
class RunText:
    """A run file with all that it includes, as written.

    ``top``: the file's own mapping.  ``phases``: phase -> what is written of it, the file's seed filled in, in the
    order in which they run.  ``smoke``: phase -> its overrides for ``--smoke``.  ``sight``: phase -> the phases that it
    can build on: those before it in its own file, and all of the files that this one includes.
    """

    top: dict[str, Any]
    phases: dict[str, Any] = field(default_factory=dict)
    smoke: dict[str, dict[str, Any]] = field(default_factory=dict)
    sight: dict[str, frozenset[str]] = field(default_factory=dict)


def read_run(path: Path) -> RunText:
    """Read a run file and what it includes; ParamsError naming the file that is broken, missing or at odds."""
    text = RunText(read_mapping(path))
    _add(text, path, text.top, {}, {}, ())
    return text


def targets(name: str, kinds: dict[str, str], what: str) -> list[str]:
    """The phase of that name, else all the phases of that kind (``kinds``: phase -> kind); ParamsError for neither."""
    found = [name] if name in kinds else [phase for phase, kind in kinds.items() if kind == name]
    if not found:
        raise ParamsError(f"{what}: there is no phase or kind {name!r} in this run"
                          f"{closest(name, [*kinds, *set(kinds.values())])}")  # fmt: skip
    return found


def _add(
    text: RunText, path: Path, raw: dict, read: dict[Path, frozenset[str]], owner: dict[str, Path], within: tuple
) -> frozenset[str]:
    """Add one file's phases behind those that it includes; their names and those of its includes."""
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
    for other in _included(path, raw):
        names |= _add(text, other, read_mapping(other), read, owner, (*within, here))
    for phase, given in phases.items():
        if phase in owner:
            raise ParamsError(f"phase {phase!r} stands in {owner[phase]} and in {path}, which are put together here: "
                              "give one another name")  # fmt: skip
        owner[phase] = path
        given = {} if given is None else given
        seeded = isinstance(given, dict) and "seed" in raw
        text.phases[phase] = {"seed": raw["seed"]} | given if seeded else given
        text.sight[phase] = names
        names |= {phase}
    _add_smoke(text, path, raw.get("smoke") or {}, names)
    read[here] = names
    return names


def _included(path: Path, raw: dict) -> list[Path]:
    names = raw.get("include") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ParamsError(f"{path}: 'include' must be a list of run files, as in include: [data.yaml], got {names!r}")
    return [path.parent / name for name in names]


def _add_smoke(text: RunText, path: Path, own: Any, names: Collection[str]) -> None:
    if not isinstance(own, dict) or not all(isinstance(changes, dict) for changes in own.values()):
        raise ParamsError(f"{path}: 'smoke' must map phases or kinds to parameters, got {own!r}")
    written = {phase: given for phase, given in text.phases.items() if phase in names}
    kinds = {p: str(given.get("kind", p)) if isinstance(given, dict) else str(p) for p, given in written.items()}
    for name, changes in own.items():
        for phase in targets(str(name), kinds, f"{path}: smoke"):
            text.smoke.setdefault(phase, {}).update(changes)
