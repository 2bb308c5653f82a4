"""The combinations that a sweep runs: the product of the values given for some parameters, each a validated plan."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fer_lib.errors import ParamsError
from fer_lib.pipeline.includes import read_run
from fer_lib.pipeline.runfile import Phase, RunPlan, load_run

REPORTS = ("evaluate", "export")  # kinds that say something about other phases' models
REGISTERING = ("export", "checkpoints")  # kinds that move an alias of the registry
_PAIRS = {"[": "]", "{": "}"}


@dataclass(frozen=True)
class Combination:
    """One of them.  ``values``: parameter as written -> value as written; ``overrides``: these and the fixed ones."""

    values: dict[str, str]
    overrides: list[str]
    plan: RunPlan

    @property
    def label(self) -> str:
        """``teacher.arcface_s=16, student.temperature=4``."""
        return ", ".join(f"{name}={value}" for name, value in self.values.items())


def combinations(path: Path | str, overrides: Sequence[str], smoke: bool = False) -> list[Combination]:
    """Every combination, in the order in which the values are written, the last parameter changing fastest.

    Args:
        path: the run file; smoke: see :func:`runfile.load_run`.
        overrides: ``phase.key=a,b``; one with a single value is set in all combinations.

    Raises:
        ParamsError: nothing is varied; two combinations are the same; or a parameter of one is wrong, which is named.
    """
    read_run(Path(path))  # a file that is missing or broken is no combination's fault
    choices = []
    for text in overrides:
        name, equals, written = text.partition("=")
        values = split_values(written) if equals else []
        if len(values) > 1 and "" in values:
            raise ParamsError(f"-p {text}: a value between two commas, or at an end, is missing")
        choices.append([(name.strip(), value) for value in values] if len(values) > 1 else [(None, text)])
    if all(len(choice) == 1 for choice in choices):
        raise ParamsError("nothing is varied: give a parameter several values, as in -p student.temperature=2,4,6 "
                          "(one set of parameters is run with: fer run)")  # fmt: skip
    found: list[Combination] = []
    for chosen in itertools.product(*choices):
        values = {name: value for name, value in chosen if name}
        given = [f"{name}={value}" if name else value for name, value in chosen]
        try:
            found.append(Combination(values, given, load_run(path, given, smoke)))
        except ParamsError as error:
            label = ", ".join(f"{name}={value}" for name, value in chosen if name)
            raise ParamsError(f"combination {label}: {error}") from error
    _all_differ(found)
    return found


def _all_differ(found: list[Combination]) -> None:
    seen: dict[str, Combination] = {}
    for combination in found:
        same = "\n".join(f"{phase.name} {_effective(phase)}" for phase in combination.plan.phases)
        first = seen.setdefault(same, combination)
        if first is not combination:
            raise ParamsError(f"combinations {first.label} and {combination.label} are the same run: "
                              f"leave one of the values out (a field that "
                              f"the mode does not read makes no difference)")  # fmt: skip


def split_values(text: str) -> list[str]:
    """``text`` cut at the commas outside brackets, braces and quotes: ``[0.7,1],[0.9,1]`` is two lists.

    As in YAML a bracket or quote opens something only at the beginning of a value (or inside brackets).  ParamsError
    when one is not closed.
    """
    parts, start, closing, quote, skip = [], 0, [], "", False
    for at, sign in enumerate(text):
        fresh = text[start:at].rstrip()[-1:] in ("", "[", "{", ":", ",")  # a value may begin here
        if skip:
            skip = False
        elif quote:
            skip = quote == '"' and sign == "\\"
            quote = "" if sign == quote else quote
        elif sign in "'\"" and fresh:
            quote = sign
        elif sign in _PAIRS and (closing or fresh):
            closing.append(_PAIRS[sign])
        elif closing and sign == closing[-1]:
            closing.pop()
        elif sign == "," and not closing:
            parts.append(text[start:at].strip())
            start = at + 1
    if closing or quote:
        raise ParamsError(f"{text}: {(closing or [quote])[-1]} is missing at the end")
    return [*parts, text[start:].strip()]


def reached(found: list[Combination]) -> list[str]:
    """Names of the phases that differ between the combinations, in themselves or in what they are made from."""
    varied = _varied(found)
    names: list[str] = []
    for phases in zip(*(combination.plan.phases for combination in found), strict=True):
        if phases[0].name in varied or any(_takes_from(phase) & set(names) for phase in phases):
            names.append(phases[0].name)
    return names


def last_reached(found: list[Combination], among: Sequence[str]) -> list[str]:
    """Of the reached phases among these, those whose results are compared: the last ones that make something.

    Evaluations and exports report on others; only where nothing else is reached are they compared themselves.
    """
    touched = [name for name in reached(found) if name in among]
    phases = [phase for combination in found for phase in combination.plan.phases if phase.name in touched]
    makers = [phase for phase in phases if phase.kind not in REPORTS]
    makers = makers or [phase for phase in phases if phase.kind == "evaluate"] or phases
    used = {name for phase in makers for name in _takes_from(phase)}
    names = {phase.name for phase in makers}
    return [name for name in touched if name in names - used]


def without_registering(found: list[Combination], chosen: list[Phase]) -> list[Phase]:
    """The phases without those that would only register a model: each combination would move the alias to its own.

    One of which a parameter is varied stays, and so does one whose model another phase goes on with.
    """
    varied = _varied(found)
    kept: list[Phase] = []
    for phase in reversed(chosen):
        used = any(phase.name in _takes_from(later) for later in kept)
        if used or phase.kind not in REGISTERING or phase.name in varied:
            kept.insert(0, phase)
    return kept


def _varied(found: list[Combination]) -> set[str]:
    """Names of the phases whose own parameters differ between the combinations."""
    alike = zip(*(combination.plan.phases for combination in found), strict=True)
    return {phases[0].name for phases in alike if len({_effective(phase) for phase in phases}) > 1}


def _effective(phase: Phase) -> str:
    """Its parameters without those that have no effect beside the others."""
    return phase.params.model_dump_json(exclude=set(phase.params.unused_fields(phase.params.model_dump())))


def _takes_from(phase: Phase) -> set[str]:
    return {p.name for sources in phase.links.values() for p in sources if isinstance(p, Phase)}
