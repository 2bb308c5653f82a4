"""Parameters of the data: import (01), manifest (02), audit (03), curated manifests and CSV imports."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from fer_lib.params.base import Count, Device, Fraction, PackKind, PhaseParams, Positive, Shares, ValRoles
from fer_lib.params.fit import AugmentParams
from fer_lib.params.strict import Strict

Split = Literal["train", "val", "test"]


class SourceSpec(Strict):
    """One raw dataset.  ``root="embedded"``: synthetic faces in the native layout of that source.

    Specs with the same ``name`` are parts of one source: their rows carry one name, each part has its own folder.
    """

    source: str
    root: str = "embedded"
    name: str = ""
    splits: list[Split] = []  # only rows of these splits are imported, the others are counted; blank: all
    mode: Literal["link", "copy"] = "link"
    votes: str = ""  # fer2013: fer2013new.csv of FERPlus, whose annotator votes become soft labels
    images: str = ""  # ferplus: fer2013.csv, or the image tree, of its annotator votes
    image_map: str = ""  # with an image tree: CSV row,ferplus_image,fer2013_jpg that joins votes and images
    rule: Literal["majority", "plurality"] = "majority"
    tolerance: Count = 0  # number of bad records that are allowed; they are counted
    # for sources without a split (expw_*, ckplus, jaffe); separate from seed, so that all runs share one split
    split_seed: Count = 1337
    split_fracs: Shares = (0.8, 0.1, 0.1)  # train, val, test; (0, 0, 1): all test
    min_confidence: float = 60.0  # expw_hq: faces below it are excluded and counted
    crop: bool = True  # expw_hq: write each face as a JPEG; false: reference photo and box
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 92
    jpeg_subsampling: Literal[0, 1, 2] = 0  # 4:4:4, 4:2:2, 4:2:0
    bbox_pad_ratio: Fraction = 0.0  # margin of a crop on each side, as a share of the box's longer side
    faces: Annotated[int, Field(ge=70)] = 3000  # embedded only: how many to draw
    label_noise: Fraction = 0.0  # embedded only
    noise_shape: Literal["symmetric", "confusions"] = "symmetric"  # of label_noise: any class, or likely ones
    duplicates: Count = 0  # embedded only: exact duplicates within a split
    leaks: Count = 0  # embedded only: exact duplicates across splits


class ImportParams(PhaseParams):
    """01_import_datasets."""

    sources: list[SourceSpec] = [SourceSpec(source="fer2013")]


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


class NoiseParams(Strict):
    """The small networks that predict each row out of fold, and the contact sheet."""

    splits: list[Split] = ["train", "val"]  # using test counts as opening it
    folds: Annotated[int, Field(ge=2, le=50)] = 5
    rounds: Annotated[int, Field(ge=1, le=3)] = 2  # from the second round, training leaves out rows with suspect labels
    backbone: str = "test_resnet"
    image_size: Annotated[int, Field(ge=32, le=512)] = 48
    embed_dim: Annotated[int, Field(ge=8)] = 64
    epochs: Annotated[int, Field(ge=1)] = 15
    batch_size: Annotated[int, Field(ge=2)] = 64
    lr: Positive = 1e-2
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.5  # strong, so that wrong labels are not memorised
    label_smoothing: Fraction = 0.0
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.998
    # mild, around the share of the face in the centre crop (3/4), because the training is short
    augment: AugmentParams = AugmentParams(scale=(0.65, 0.9), ratio=(0.9, 1.11), jitter=(0.2, 0.2, 0.0, 0.0))
    shown: Annotated[int, Field(ge=1, le=400)] = 48  # faces on the contact sheet
    device: Device = "auto"
    threads: Count = 0
    pack: PackKind = "faces"


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
