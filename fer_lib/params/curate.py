"""Parameters of curated manifests and of CSV imports, and the named selections."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from fer_lib.params.base import Count, Fraction, ValRoles
from fer_lib.params.strict import Strict

Split = Literal["train", "val", "test"]
UNCLEANED = "uncleaned_"


class Selection(Strict):
    """The rows of a curated manifest: ``sources`` (empty: all), ``splits``, and whether duplicates are removed."""

    sources: tuple[str, ...] = ()
    splits: tuple[Split, ...] = ("train", "val", "test")
    deduplicate: bool = False


SELECTIONS: dict[str, Selection] = {
    "classification_manifest": Selection(),
    "classification_manifest_hq_train": Selection(
        sources=("ferplus", "rafdb_basic", "affectnet_full_balanced", "expw_hq")
    ),
    "classification_manifest_eval_only": Selection(
        sources=("expw_full", "expw_hq", "rafml_argmax", "rafdb_compound_mapped"), splits=("test",), deduplicate=True
    ),
    "test_all_sources": Selection(splits=("test",)),
}
"""Selections by name; ``uncleaned_<name>`` has the same sources and splits and removes no row."""


class CurateParams(Strict):
    """A curated manifest from one or several manifests (``fer data curate``).

    Steps in order: join, sources, splits, confidence, box size, blur, duplicates, caps.  The report has the number of
    rows that each step removed.
    """

    selection: str = "classification_manifest"
    allow_missing: bool = False  # continue without absent sources of the selection; the report lists them
    include_sources: list[str] = []
    exclude_sources: list[str] = []
    splits: list[Split] = []  # a subset of the selection's splits; blank: all
    min_confidence: Annotated[float, Field(ge=0.0)] = 0.0  # of the detector's box; rows without one are kept
    min_box: Count = 0  # pixels of the shorter side of the box, or of the image without a box
    min_blur: Annotated[float, Field(ge=0.0)] = 0.0  # variance of the Laplacian; see fer_lib.datasets.quality
    deduplicate: bool = False  # one row per content; the selection may also set it
    max_per_class: Count = 0  # rows of each class in each capped split; 0: all
    max_per_source: Count = 0  # rows of each source in each capped split
    max_per_class_and_source: Count = 0
    cap_splits: list[Split] = ["train"]
    seed: int = 1337

    @field_validator("selection")
    @classmethod
    def _check_selection(cls, value):
        if value.removeprefix(UNCLEANED) not in SELECTIONS:
            raise ValueError(f"Input should be one of {', '.join(SELECTIONS)}, or {UNCLEANED} before one of these")
        return value

    @model_validator(mode="after")
    def _refuse_filters_when_uncleaned(self):
        filters = ("min_confidence", "min_box", "min_blur", "deduplicate", "max_per_class", "max_per_source",
                  "max_per_class_and_source")  # fmt: skip
        active = [name for name in filters if getattr(self, name)]
        if self.selection.startswith(UNCLEANED) and active:
            raise ValueError(f"{self.selection} keeps every row, so {', '.join(active)} cannot be set")
        return self

    @property
    def selected(self) -> Selection:
        """The :class:`Selection` that ``selection`` names."""
        named = SELECTIONS[self.selection.removeprefix(UNCLEANED)]
        return named.model_copy(update={"deduplicate": False}) if self.selection.startswith(UNCLEANED) else named


class CsvParams(Strict):
    """Import of an interchange CSV as a manifest (``fer data import-manifest``)."""

    rebase: list[str] = []  # OLD=NEW: paths that begin with OLD begin with NEW instead
    tolerance: Count = 0  # number of bad rows that are allowed; they are counted
    val_fraction: Fraction = 0.05  # of the train rows of a source without val rows
    val_roles: ValRoles = (0.6, 0.2, 0.2)  # select, temperature, conformal
    seed: int = 1337

    @field_validator("rebase")
    @classmethod
    def _check_rebase(cls, value):
        for rule in value:
            if not rule.partition("=")[0] or "=" not in rule:
                raise ValueError(f"{rule!r} should be OLD=NEW, for instance D:\\data=/data or D:\\data=. (the root)")
        return value
