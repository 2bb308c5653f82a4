"""Parameters of the audit (03): duplicates and, optionally, wrong labels."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fer_lib.params.base import Count, PhaseParams
from fer_lib.params.noise import NoiseParams


class AuditParams(PhaseParams):
    """03_audit_data.

    ``remove`` sets which rows of a group of duplicate images are removed from the manifest.  none: no row; within: all
    but one in each split; across: rows of train that are also in val or test, and rows of val that are also in test;
    all: all but one.
    """

    manifest: str = ""
    near: bool = True  # also resized, re-compressed, grey, mirrored, equalised, slightly cropped or rotated copies
    similarity: Annotated[float, Field(ge=0.8, le=1.0)] = 0.92  # above it two images are near-duplicates; 1: identical
    remove: Literal["none", "within", "across", "all"] = "across"
    shown: Count = 24  # groups on each contact sheet
    noise: bool = False  # also search for wrong labels, which trains small networks
    noise_nets: NoiseParams = NoiseParams()
