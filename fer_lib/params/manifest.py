"""Parameters of the manifest (02)."""

from __future__ import annotations

from typing import Literal

from fer_lib.params.base import Count, Fraction, PhaseParams, ValRoles
from fer_lib.params.curate import CurateParams


class ManifestParams(PhaseParams):
    """02_build_manifest.

    The imports become a manifest; then ``manifests`` are joined to it and ``curate`` chooses rows, as ``fer data
    curate`` does.
    """

    imports: str = ""
    manifests: list[str] = []  # others to join: earlier phases, or folders that fer data wrote
    include_sources: list[str] = []
    exclude_sources: list[str] = []
    max_per_class: Count = 0  # rows kept of each class in each split of each source; 0: all (what --smoke shrinks)
    val_fraction: Fraction = 0.05
    val_roles: ValRoles = (0.6, 0.2, 0.2)  # select, temperature, conformal
    check: Literal["pictures", "paths"] = "pictures"  # each is decoded once, or only looked for on disk
    tolerance: Count = 0  # missing or undecodable pictures forgiven; part of the protocol id
    curate: CurateParams = CurateParams()  # selection, filters, caps; its defaults keep every row
