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


def _check_sum(shares: tuple[float, ...]) -> tuple[float, ...]:
    if abs(sum(shares) - 1.0) > 1e-9:
        raise ValueError("Input should be three shares that sum to 1")
    return shares


def _check_roles(roles: tuple[float, float, float]) -> tuple[float, float, float]:
    if min(roles[:2]) <= 0.0:
        raise ValueError("select selects the epoch and temperature calibrates, so both should be above 0")
    return roles


Shares = Annotated[tuple[Fraction, Fraction, Fraction], AfterValidator(_check_sum)]
ValRoles = Annotated[Shares, AfterValidator(_check_roles)]


# Arguments of timm.create_model that the library sets, or that make timm read a file or its hub.
_SET_ARGS = r"pretrained\w*|checkpoint_path|cache_dir|num_classes|img_size|in_chans|features_only|scriptable|exportable"


def _check_backbone_args(args: dict[str, Any]) -> dict[str, Any]:
    for name, value in args.items():
        if re.fullmatch(_SET_ARGS, name):
            raise ValueError(f"{name} is set by the library: leave it out")
        if not isinstance(value, bool | str) and not (isinstance(value, int | float) and abs(value) <= 10_000):
            raise ValueError(f"{name} should be a text, true, false, or a number of at most 10,000 either way")
        if name == "pad_type" and value not in ("", "same", "valid"):  # timm pads symmetrically for any other word
            raise ValueError("pad_type should be same, valid, or '' for symmetric padding")
    return args


BackboneArgs = Annotated[dict[str, Any], AfterValidator(_check_backbone_args)]


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
