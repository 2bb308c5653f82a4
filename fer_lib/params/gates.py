"""Parameters of the gates that a candidate must pass before it replaces another model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from fer_lib.errors import ParamsError
from fer_lib.params.base import Fraction
from fer_lib.params.strict import Strict, closest, read_mapping, validate

Suite = Literal["val", "test", "eval_only", "test_all_sources"]


class OfflineGate(Strict):
    """The largest allowed drop of a candidate against the base model on one suite of a manifest."""

    # val: val rows that did not select the epoch; test, test_all_sources: test rows; eval_only: those of its sources
    suite: Suite = "eval_only"
    macro_f1_drop: Fraction = 0.01
    minority_f1_drop: Fraction = 0.02


class SessionGate(Strict):
    """Gates on one session that both models replay.

    The smoothed macro-F1 over the classes present must rise by more than ``macro_f1_gain``, and the flips per minute
    must not rise by more than the share ``flips_rise``.
    """

    macro_f1_gain: Fraction = 0.0
    flips_rise: Annotated[float, Field(ge=0.0)] = 0.10


class GateParams(Strict):
    """All gates.  ``decide_by``: the offline differences, or their paired 95 % confidence intervals."""

    offline: Annotated[list[OfflineGate], Field(min_length=1)] = [OfflineGate()]
    session: SessionGate = SessionGate()
    decide_by: Literal["point", "interval"] = "point"
    resamples: Annotated[int, Field(ge=100)] = 1000  # bootstrap resamples of the intervals

    @field_validator("offline")
    @classmethod
    def _check_suites(cls, value):
        if len({gate.suite for gate in value}) < len(value):
            raise ValueError("a suite occurs twice: set one gate per suite")
        return value


def read_gates(path: Path, name: str) -> GateParams:
    """The gates ``name`` in a file such as ``params/gates.yaml``.  Raises ParamsError with the closest name."""
    gates = read_mapping(path)
    if name not in gates:
        raise ParamsError(f"{path} has no gates {name!r}{closest(name, gates)}")
    return validate(GateParams, gates[name], f"gates {name}")
