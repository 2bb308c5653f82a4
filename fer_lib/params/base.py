"""Base classes of all parameters, and types of single values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from fer_lib.errors import ParamsError
from fer_lib.params.strict import Strict, unknown_key, validate

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=0)]
Device = Literal["auto", "cpu", "cuda", "xpu", "mps"]
# Face packs: pixels at the model's size (fast), or no pixels (images are decoded at each reading).
PackKind = Literal["faces", "none"]


def _check_roles(roles: tuple[float, float, float]) -> tuple[float, float, float]:
    if abs(sum(roles) - 1.0) > 1e-9:
        raise ValueError(f"val_roles must sum to 1, got {roles}")
    if min(roles[:2]) <= 0.0:
        raise ValueError(
            f"val_roles {roles}: select selects the epoch and temperature calibrates, so both must be above 0"
        )
    return roles


ValRoles = Annotated[tuple[Fraction, Fraction, Fraction], AfterValidator(_check_roles)]


def usable_alias(alias: str) -> bool:
    """Whether the registry accepts this alias of a model version."""
    return bool(re.fullmatch(r"[A-Za-z0-9_-]+", alias)) and not re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE)


def _check_alias(alias: str) -> str:
    if alias and not usable_alias(alias):
        raise ValueError("Input should be letters, digits, _ and -, not latest or v1")
    return alias


def _check_name(name: str) -> str:
    if not name.strip() or set(name) & set("/:@.%\"'"):
        raise ValueError("Input should be a name without quotes and / : @ . %")
    return name


# MLflow would refuse these only at the end of a run.
Alias = Annotated[str, AfterValidator(_check_alias)]
RegisteredName = Annotated[str, AfterValidator(_check_name)]


class PhaseParams(Strict):
    """Parameters of every phase.  ``output_dir`` blank: a new folder under ``mlruns/phases``."""

    output_dir: str = ""
    seed: int = 1337
    smoke: bool = False

    @classmethod
    def unused_fields(cls, values: dict[str, Any]) -> frozenset[str]:
        """Names of the fields that have no effect with these values."""
        return frozenset()

    @classmethod
    def collect(cls, namespace: Mapping[str, Any], phase: str):
        """The validated parameters of ``phase`` from a notebook's globals.

        A field is the global of its name (of the parameters cell, or injected by papermill), else the entry of its name
        in the global ``advanced``, else the model's default.
        Raises ParamsError for an invalid value, an unknown key of ``advanced``, and a field that is set in both places.
        """
        own = {name: namespace[name] for name in cls.model_fields if name in namespace}
        advanced = namespace.get("advanced", {})
        if not isinstance(advanced, dict):
            raise ParamsError(f"phase {phase!r}: advanced must be a dict of parameters, got {advanced!r}")
        for key in advanced:
            if key not in cls.model_fields:
                raise ParamsError(f"phase {phase!r}: advanced: {unknown_key(key, cls.model_fields)}")
            if key in own:
                raise ParamsError(f"phase {phase!r}: advanced: {key!r} is set outside it too: keep one of both")
        return validate(cls, advanced | own, phase)


class CheckParams(PhaseParams):
    """00_check_device."""

    device: Device = "auto"
