"""Parameters of the audit (03): duplicates, and on request wrong labels."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fer_lib.params.base import Count, PhaseParams
from fer_lib.params.noise import NoiseParams


class AuditParams(PhaseParams):
    """03_audit_data.

    ``remove`` says which rows of a group of equal pictures the manifest that comes out lacks:
    none; within: all but one in each split; across: those in train that also stand in val or test, and those in val
    that also stand in test; all: all but one.
    """

    manifest: str = ""
    near: bool = True  # also resized, re-compressed, grey, mirrored, equalised, slightly cropped or turned copies
    similarity: Annotated[float, Field(ge=0.8, le=1.0)] = 0.92  # from which two pictures are one; 1: identical
    remove: Literal["none", "within", "across", "all"] = "across"
    shown: Count = 24  # groups on each contact sheet
    noise: bool = False  # also look for wrong labels, which trains small nets
    noise_nets: NoiseParams = NoiseParams()
