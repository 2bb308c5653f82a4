"""Base classes of all parameters, and types of single values."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from fer_lib.params.strict import Strict

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=0)]
Device = Literal["auto", "cpu", "cuda", "xpu", "mps"]
# Face packs: at the model's size (fast), at the image's own size where smaller (compact), or no pack.
PackKind = Literal["faces", "native", "none"]


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
    def collect(cls, namespace: dict[str, Any]):
        """The validated parameters of a phase from a notebook's globals."""
        return cls(**{k: namespace[k] for k in cls.model_fields if k in namespace})


class CheckParams(PhaseParams):
    """00_check_device."""

    device: Device = "auto"
