"""Parameters of the gates that a candidate has to pass before it may take another model's place (SPEC 11)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from fer_lib.errors import ParamsError
from fer_lib.params.base import Fraction, Strict
from fer_lib.params.strict import closest, read_mapping, validate

Suite = Literal["val", "test", "eval_only", "test_all_sources"]


class OfflineGate(Strict):
    """How much worse than the base a candidate may be on one suite of a manifest."""

    # val: the val rows that chose no epoch; test, test_all_sources: the test rows; eval_only: those of SPEC 3's sources
    suite: Suite = "eval_only"
    macro_f1_drop: Fraction = 0.01
    minority_f1_drop: Fraction = 0.02


class SessionGate(Strict):
    """What a candidate must be worth on the same replayed session: smoothed macro-F1 over present classes has to rise
    by more than ``macro_f1_gain``, flips a minute by no more than the share ``flips_rise``."""

    macro_f1_gain: Fraction = 0.0
    flips_rise: Annotated[float, Field(ge=0.0)] = 0.10


class GateParams(Strict):
    """All that has to hold.  ``decide_by``: the offline differences themselves, or their paired 95 % intervals."""

    offline: Annotated[list[OfflineGate], Field(min_length=1)] = [OfflineGate()]
    session: SessionGate = SessionGate()
    decide_by: Literal["point", "interval"] = "point"
    resamples: Annotated[int, Field(ge=100)] = 1000  # of the intervals

    @field_validator("offline")
    @classmethod
    def _each_suite_once(cls, value):
        if len({gate.suite for gate in value}) < len(value):
            raise ValueError("a suite stands twice: give each one gate")
        return value


def read_gates(path: Path, name: str) -> GateParams:
    """The gates called ``name`` in a file such as ``params/gates.yaml``; ParamsError that names the closest one."""
    known = read_mapping(path)
    if name not in known:
        raise ParamsError(f"{path} has no gates {name!r}{closest(name, known)}")
    return validate(GateParams, known[name], f"gates {name}")
