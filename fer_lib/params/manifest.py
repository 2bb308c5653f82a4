"""Parameters of the manifest (02)."""

from __future__ import annotations

from typing import Literal

from fer_lib.params.base import Count, Fraction, PhaseParams, ValRoles
from fer_lib.params.curate import CurateParams


class ManifestParams(PhaseParams):
    """02_build_manifest.

    Builds a manifest from the imports, joins ``manifests`` to it and applies ``curate``, like ``fer data curate``.
    """

    imports: str = ""
    manifests: list[str] = []  # others to join: earlier phases, or folders written by fer data
    include_sources: list[str] = []
    exclude_sources: list[str] = []
    max_per_class: Count = 0  # rows per class in each split of each source; 0: all; --smoke lowers it
    val_fraction: Fraction = 0.05
    val_roles: ValRoles = (0.6, 0.2, 0.2)  # select, temperature, conformal
    check: Literal["pictures", "paths"] = "pictures"  # decode each image once, or only check that the file exists
    tolerance: Count = 0  # number of missing or undecodable images that are allowed; part of the protocol id
    curate: CurateParams = CurateParams()  # selection, filters, caps; the defaults keep every row
