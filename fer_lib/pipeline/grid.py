"""The combinations of a sweep: the product of parameter values, each a validated plan."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fer_lib.errors import ParamsError
from fer_lib.pipeline.includes import read_run
from fer_lib.pipeline.runfile import Phase, RunPlan, input_phases, load_run

REPORTS = ("evaluate", "export", "ablation")  # kinds that report on models of other phases
REGISTERING = ("export", "checkpoints")  # kinds that move an alias of the registry
_PAIRS = {"[": "]", "{": "}"}


@dataclass(frozen=True)
class Combination:
    """One combination.  ``values``: parameter -> value, as written; ``overrides``: these and the fixed ones."""

    values: dict[str, str]
    overrides: list[str]
    plan: RunPlan

    @property
    def label(self) -> str:
        """``teacher.arcface_s=16, student.temperature=4``."""
        return ", ".join(f"{name}={value}" for name, value in self.values.items())


def load_combinations(path: Path | str, overrides: Sequence[str], smoke: bool = False) -> list[Combination]:
    """Every combination in the order of the values, the last parameter changing fastest.

    Args:
        path: the run file; smoke: see :func:`runfile.load_run`.
        overrides: ``phase.key=a,b``; a single value applies to all combinations.

    Raises:
        ParamsError: no parameter is varied, two combinations are the same, or a parameter of one is wrong.
    """
    read_run(Path(path))  # reports a missing or broken file without naming a combination
    choices = []
    for text in overrides:
        name, equals, value_text = text.partition("=")
        values = split_values(value_text) if equals else []
        if len(values) > 1 and "" in values:
            raise ParamsError(f"-p {text}: a value between two commas, or at an end, is missing")
        choices.append([(name.strip(), value) for value in values] if len(values) > 1 else [(None, text)])
    if all(len(choice) == 1 for choice in choices):
        raise ParamsError("nothing is varied: give a parameter several values, as in -p student.temperature=2,4,6 "
                          "(one set of parameters is run with: fer run)")  # fmt: skip
    combinations: list[Combination] = []
    for choice in itertools.product(*choices):
        values = {name: value for name, value in choice if name}
        overrides = [f"{name}={value}" if name else value for name, value in choice]
        try:
            combinations.append(Combination(values, overrides, load_run(path, overrides, smoke)))
        except ParamsError as error:
            label = ", ".join(f"{name}={value}" for name, value in choice if name)
            raise ParamsError(f"combination {label}: {error}") from error
    _check_distinct(combinations)
    return combinations


def _check_distinct(combinations: list[Combination]) -> None:
    by_params: dict[str, Combination] = {}
    for combination in combinations:
        params = "\n".join(f"{phase.name} {_effective_params(phase)}" for phase in combination.plan.phases)
        first = by_params.setdefault(params, combination)
        if first is not combination:
            raise ParamsError(f"combinations {first.label} and {combination.label} are the same run: leave "
                              f"one of the values out (a field that the mode does not read has no effect)")  # fmt: skip


def split_values(text: str) -> list[str]:
    """Split ``text`` at the commas outside brackets, braces and quotes: ``[0.7,1],[0.9,1]`` is two lists.

    As in YAML, a bracket or quote opens only at the start of a value or inside brackets.  Raises ParamsError when one
    is not closed.
    """
    parts, start, closing, quote, skip = [], 0, [], "", False
    for at, sign in enumerate(text):
        value_start = text[start:at].rstrip()[-1:] in ("", "[", "{", ":", ",")
        if skip:
            skip = False
        elif quote:
            skip = quote == '"' and sign == "\\"
            quote = "" if sign == quote else quote
        elif sign in "'\"" and value_start:
            quote = sign
        elif sign in _PAIRS and (closing or value_start):
            closing.append(_PAIRS[sign])
        elif closing and sign == closing[-1]:
            closing.pop()
        elif sign == "," and not closing:
            parts.append(text[start:at].strip())
            start = at + 1
    if closing or quote:
        raise ParamsError(f"{text}: {(closing or [quote])[-1]} is missing at the end")
    return [*parts, text[start:].strip()]


def affected_phases(combinations: list[Combination]) -> list[str]:
    """Names of the phases whose parameters or inputs differ between the combinations."""
    varied = _varied_phases(combinations)
    names: list[str] = []
    for phases in zip(*(combination.plan.phases for combination in combinations), strict=True):
        if phases[0].name in varied or any(input_phases(phase) & set(names) for phase in phases):
            names.append(phases[0].name)
    return names


def compared_phases(combinations: list[Combination], names: Sequence[str]) -> list[str]:
    """The affected phases among ``names`` whose results a sweep compares: those that no other affected phase uses.

    Evaluations and exports count only when no other phase is affected, because they report on other phases.
    """
    affected = [name for name in affected_phases(combinations) if name in names]
    phases = [phase for combination in combinations for phase in combination.plan.phases if phase.name in affected]
    makers = [phase for phase in phases if phase.kind not in REPORTS]
    makers = makers or [phase for phase in phases if phase.kind == "evaluate"] or phases
    last = {phase.name for phase in makers}.difference(*(input_phases(phase) for phase in makers))
    return [name for name in affected if name in last]


def exclude_registering(combinations: list[Combination], phases: list[Phase]) -> list[Phase]:
    """The phases without those that only register a model, since each combination would move the alias.

    A registering phase stays when one of its parameters is varied or another phase uses its model.
    """
    varied = _varied_phases(combinations)
    remaining: list[Phase] = []
    for phase in reversed(phases):
        used = any(phase.name in input_phases(later) for later in remaining)
        if used or phase.kind not in REGISTERING or phase.name in varied:
            remaining.insert(0, phase)
    return remaining


def _varied_phases(combinations: list[Combination]) -> set[str]:
    """Names of the phases whose own parameters differ between the combinations."""
    rows = zip(*(combination.plan.phases for combination in combinations), strict=True)
    return {phases[0].name for phases in rows if len({_effective_params(phase) for phase in phases}) > 1}


def _effective_params(phase: Phase) -> str:
    """Its parameters as JSON, without those that have no effect."""
    return phase.params.model_dump_json(exclude=set(phase.params.unused_fields(phase.params.model_dump())))
