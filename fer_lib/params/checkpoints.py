"""Parameters of the sweep over saved checkpoints (05)."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from fer_lib.params.base import Alias, Device, PackKind, PhaseParams, RegisteredName


class CheckpointParams(PhaseParams):
    """05_sweep_checkpoints."""

    manifest: str = ""
    fits: list[str] = []  # teacher and student phases, or their folders; blank: every earlier teacher phase
    name: str = "checkpoint"  # of the selected model; in a run file the phase's name by default
    select_by: Literal["raw", "calibrated"] = "raw"  # macro-F1 before or after each checkpoint's own temperature
    calibration: Literal["global", "vector"] = "global"
    view: Literal["none", "flip"] = "none"
    include_sources: list[str] = []
    exclude_sources: list[str] = []
    allow_leaks: list[str] = []  # sources whose val rows may be scored although a fit was trained on them
    resamples: Annotated[int, Field(ge=100)] = 1000
    batch_size: Annotated[int, Field(ge=1)] = 256
    pack: PackKind = "faces"
    device: Device = "auto"
    registered_name: RegisteredName = "fer-teacher"
    alias: Alias = "candidate"  # blank: no alias moves

    @field_validator("fits")
    @classmethod
    def _check_fits(cls, value):
        """A registered model has one set of weights; only the fit's folder has those of all epochs."""
        if uris := [fit for fit in value if fit == "packaged" or re.match(r"[a-z]{2,}:/", fit)]:
            raise ValueError(f"Input should be fits or their folders; {uris[0]} holds no checkpoints")
        return value
