"""Parameters of curated manifests, of interchange CSVs coming in, and the selections that SPEC 3 names."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from fer_lib.params.base import Count, Fraction, Strict, ValRoles

Split = Literal["train", "val", "test"]
UNCLEANED = "uncleaned_"


class Selection(Strict):
    """What a curated manifest holds: ``sources`` (empty: all), ``splits``, and whether a content may stand twice."""

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
"""The curated manifests by name; ``uncleaned_<name>`` is the same sources and splits with no row taken away."""


class CurateParams(Strict):
    """A curated manifest out of one or several (``fer data curate``).

    Steps, in this order: join, sources, splits, confidence, box size, blur, duplicates, caps.  Each says how many rows
    it removed.
    """

    selection: str = "classification_manifest"
    allow_missing: bool = False  # go on without sources of the selection that are not there (they are reported)
    include_sources: list[str] = []
    exclude_sources: list[str] = []
    splits: list[Split] = []  # of the selection's; blank: all of them
    min_confidence: Annotated[float, Field(ge=0.0)] = 0.0  # of the detector's box; rows without one stay
    min_box: Count = 0  # pixels of the shorter side of the box, or of the picture where there is none
    min_blur: Annotated[float, Field(ge=0.0)] = 0.0  # variance of the Laplacian; see fer_lib.datasets.quality
    deduplicate: bool = False  # one row a content (the selection may ask for it by itself)
    max_per_class: Count = 0  # rows of each class in each capped split; 0: all
    max_per_source: Count = 0  # rows of each source in each capped split
    max_per_class_and_source: Count = 0
    cap_splits: list[Split] = ["train"]
    seed: int = 1337

    @field_validator("selection")
    @classmethod
    def _a_known_selection(cls, value):
        if value.removeprefix(UNCLEANED) not in SELECTIONS:
            raise ValueError(f"Input should be one of {', '.join(SELECTIONS)}, or {UNCLEANED} before one of these")
        return value

    @model_validator(mode="after")
    def _uncleaned_takes_nothing_away(self):
        takers = ("min_confidence", "min_box", "min_blur", "deduplicate", "max_per_class", "max_per_source",
                  "max_per_class_and_source")  # fmt: skip
        asked = [name for name in takers if getattr(self, name)]
        if self.selection.startswith(UNCLEANED) and asked:
            raise ValueError(f"{self.selection} keeps every row, so {', '.join(asked)} can't be asked of it")
        return self

    @property
    def selected(self) -> Selection:
        """The sources, splits and rule on duplicates that ``selection`` stands for."""
        named = SELECTIONS[self.selection.removeprefix(UNCLEANED)]
        return named.model_copy(update={"deduplicate": False}) if self.selection.startswith(UNCLEANED) else named


class CsvParams(Strict):
    """An interchange CSV coming in as a manifest (``fer data import-manifest``)."""

    rebase: list[str] = []  # OLD=NEW: paths that begin with OLD begin with NEW instead
    tolerance: Count = 0  # bad rows forgiven (still counted)
    val_fraction: Fraction = 0.05  # of the train rows of a source that has no val rows of its own
    val_roles: ValRoles = (0.6, 0.2, 0.2)  # select, temperature, conformal
    seed: int = 1337

    @field_validator("rebase")
    @classmethod
    def _old_and_new(cls, value):
        for rule in value:
            if not rule.partition("=")[0] or "=" not in rule:
                raise ValueError(f"{rule!r} should be OLD=NEW, for instance D:\\data=/data or D:\\data=. (the root)")
        return value
