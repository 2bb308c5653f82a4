"""Parameters of every phase: one pydantic model a notebook, unknown keys forbidden.

A run file (``params/NAME.yaml``) is ``name``, ``experiment`` and an ordered mapping ``phases``; each phase names its
kind (default: the phase's own name) and overrides of that kind's defaults.  Inputs that are blank are taken from
the newest finished phase before it in the same run; inputs may name a phase of the run, a folder, or a registry URI.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=0)]


def usable_alias(alias: str) -> bool:
    """Whether the registry takes this alias of a model version."""
    return bool(re.fullmatch(r"[A-Za-z0-9_-]+", alias)) and not re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE)


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value, info):
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation in (int, float):
            raise ValueError("Input should be a number")  # pydantic would read true as 1
        return value


class PhaseParams(Strict):
    """What every phase has.  ``output_dir`` blank: a folder of its own under ``mlruns/phases``."""

    output_dir: str = ""
    seed: int = 1337
    smoke: bool = False

    @classmethod
    def collect(cls, namespace: dict[str, Any]):
        """The phase's parameters out of a notebook's globals, validated."""
        return cls(**{k: namespace[k] for k in cls.model_fields if k in namespace})


class CheckParams(PhaseParams):
    """00_check_device."""

    device: Literal["auto", "cpu", "cuda", "xpu", "mps"] = "auto"


class SourceSpec(Strict):
    """One raw dataset to import.  ``root="embedded"``: the drawn faces, written in that source's native layout."""

    source: str
    root: str = "embedded"
    name: str = ""
    mode: Literal["link", "copy"] = "link"
    votes: str = ""  # fer2013: FERPlus' fer2013new.csv, attached as soft labels
    images: str = ""  # ferplus: the fer2013.csv, or the picture tree, that its vote rows belong to
    image_map: str = ""  # fer2013/ferplus over a tree: CSV row,ferplus_image,fer2013_jpg that joins votes and pictures
    rule: Literal["majority", "plurality"] = "majority"
    tolerance: Count = 0  # bad records forgiven (still counted)
    faces: Annotated[int, Field(ge=70)] = 3000  # embedded only: how many to draw
    label_noise: Fraction = 0.0  # embedded only
    duplicates: Count = 0  # embedded only: planted exact copies within a split
    leaks: Count = 0  # embedded only: planted exact copies across splits


class ImportParams(PhaseParams):
    """01_import_datasets."""

    sources: list[SourceSpec] = [SourceSpec(source="fer2013")]


class ManifestParams(PhaseParams):
    """02_build_manifest."""

    imports: str = ""
    include_sources: list[str] = []
    exclude_sources: list[str] = []
    max_per_class: Count = 0  # rows kept of each class in each split of each source; 0: all (what --smoke shrinks)
    val_fraction: Fraction = 0.05
    val_roles: tuple[Fraction, Fraction, Fraction] = (0.6, 0.2, 0.2)  # select, temperature, conformal
    tolerance: Count = 0  # missing or undecodable pictures forgiven; part of the protocol id

    @model_validator(mode="after")
    def _roles_sum_to_one(self):
        if abs(sum(self.val_roles) - 1.0) > 1e-9:
            raise ValueError(f"val_roles must sum to 1, got {self.val_roles}")
        return self


class AugmentParams(Strict):
    """Training augmentation (SPEC 4): random resized crop, flip, colour jitter, and optional rotation and erasing."""

    scale: tuple[Fraction, Fraction] = (0.7, 1.0)
    ratio: tuple[Positive, Positive] = (0.75, 4 / 3)
    flip: Fraction = 0.5
    jitter: tuple[float, float, float, float] = (0.2, 0.2, 0.1, 0.02)  # brightness, contrast, saturation, hue
    rotation: Annotated[float, Field(ge=0.0, le=45.0)] = 0.0  # degrees either way
    erasing: Fraction = 0.0  # probability of one random rectangle set to the mean

    @field_validator("scale", "ratio")
    @classmethod
    def _from_low_to_high(cls, value):
        if not 0.0 < value[0] <= value[1]:
            raise ValueError("Input should be two numbers above 0, the smaller first")
        return value


class FitParams(PhaseParams):
    """What teacher and student training share."""

    manifest: str = ""
    backbone: str = "resnet18"
    pretrained: str = "none"  # none | hub | package | a local file
    image_size: Annotated[int, Field(ge=32, le=1024)] = 224
    clahe: bool = False
    align: Literal["none", "eyes"] = "none"
    margin: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    embed_dim: Annotated[int, Field(ge=8)] = 512
    dropout: Fraction = 0.2
    epochs: Annotated[int, Field(ge=1)] = 60
    batch_size: Annotated[int, Field(ge=2)] = 64
    accum_steps: Annotated[int, Field(ge=1)] = 1
    lr: Positive = 3e-4
    min_lr: Annotated[float, Field(ge=0.0)] = 1e-5
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.05
    warmup_epochs: Annotated[float, Field(ge=0.0)] = 2.0
    clip_grad: Annotated[float, Field(ge=0.0)] = 0.0  # 0: off
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0  # 0: off
    label_smoothing: Fraction = 0.0
    soft_label_weight: Fraction = 0.0  # share of the annotators' votes in the target, where a row has votes
    imbalance: Literal["none", "balanced", "class_weights", "both"] = "balanced"
    min_per_class: Annotated[int, Field(ge=1)] = 2
    cb_beta: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9999
    augment: AugmentParams = AugmentParams()
    include_sources: list[str] = []
    exclude_sources: list[str] = []
    init_from: str = ""  # a phase, a bundle folder or a registry URI whose weights this one starts from
    eval_every: Annotated[int, Field(ge=1)] = 1
    checkpoint_every: Annotated[int, Field(ge=1)] = 10
    checkpoint_minutes: Positive = 10.0
    max_train_batches: Count = 0  # 0: all
    max_val_batches: Count = 0
    calibration: Literal["global", "vector"] = "global"
    device: Literal["auto", "cpu", "cuda", "xpu", "mps"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    threads: Count = 0  # 0: torch's own choice
    deterministic: bool = True

    @model_validator(mode="after")
    def _batch_fits_the_sampler(self):
        if self.imbalance in ("balanced", "both") and self.batch_size < 7 * self.min_per_class:
            raise ValueError(
                f"batch_size {self.batch_size} is too small for balanced batches of >= {self.min_per_class} a class: "
                f"use batch_size >= {7 * self.min_per_class}, or imbalance: class_weights"
            )
        return self


class TeacherParams(FitParams):
    """04_train_teacher (SPEC 5)."""

    name: str = "teacher"
    arcface_s: Positive = 30.0
    arcface_m: Annotated[float, Field(ge=0.0, lt=1.5)] = 0.35
    plain_epochs: Annotated[float, Field(ge=0.0)] = 5  # epochs, or a fraction of the run when < 1
    ramp_end: Annotated[float, Field(ge=0.0)] = 15

    @model_validator(mode="after")
    def _ramp_ends_after_it_starts(self):
        same_unit = (self.plain_epochs < 1) == (self.ramp_end < 1)  # fractions of the run, or epochs
        if same_unit and self.ramp_end < self.plain_epochs:
            raise ValueError(f"ramp_end {self.ramp_end} must not lie before plain_epochs {self.plain_epochs}")
        return self


class SoftLabelParams(PhaseParams):
    """06_export_softlabels (SPEC 6)."""

    manifest: str = ""
    teachers: list[str] = []  # blank: every teacher phase before this one
    weights: list[Annotated[float, Field(ge=0.0)]] = []  # blank: searched on val/select
    space: Literal["logit", "prob"] = "logit"
    flip_average: bool = True
    batch_size: Annotated[int, Field(ge=1)] = 256
    device: Literal["auto", "cpu", "cuda", "xpu", "mps"] = "auto"


class StudentParams(FitParams):
    """07_train_student (SPEC 7)."""

    name: str = "student"
    backbone: str = "mobilenetv3_large_100"
    epochs: Annotated[int, Field(ge=1)] = 10
    batch_size: Annotated[int, Field(ge=2)] = 256
    lr: Positive = 1e-3
    imbalance: Literal["none", "balanced", "class_weights", "both"] = "none"
    arcface_s: Positive = 30.0
    head: Literal["linear", "cosine"] = "linear"
    mode: Literal["ce", "kd", "dkd", "dkd_mixed"] = "ce"
    softlabels: str = ""
    alpha: Fraction = 0.5  # KD: share of the distillation term
    temperature: Positive = 2.0
    dkd_alpha: Annotated[float, Field(ge=0.0)] = 1.0
    dkd_beta: Annotated[float, Field(ge=0.0)] = 1.0
    dkd_warmup_epochs: Annotated[float, Field(ge=0.0)] = 20.0  # min(this, epochs / 4)
    teacher_temperature: Positive = 1.0  # z_t is divided by it before anything else
    teacher_view: Literal["cached", "online"] = "cached"
    tune: Literal["all", "head", "bn", "last_block"] = "all"


class EvaluateParams(PhaseParams):
    """08_evaluate (SPEC 9)."""

    manifest: str = ""
    models: list[str] = []  # blank: every teacher and student phase before this one
    ensembles: list[str] = []  # blank: every soft-label phase before this one
    split: Literal["test", "val"] = "test"
    suite: str = ""  # the name under which the rows are reported; blank: the split
    views: list[Literal["none", "flip"]] = ["none", "flip"]
    leak_free: bool = True  # also without the test pictures that have an identical twin in train
    calibration: Literal["none", "global", "vector", "fixed"] = "global"
    fixed_temperature: Positive = 1.2
    resamples: Annotated[int, Field(ge=100)] = 1000
    batch_size: Annotated[int, Field(ge=1)] = 256
    device: Literal["auto", "cpu", "cuda", "xpu", "mps"] = "auto"

    @model_validator(mode="after")
    def _single_view_is_measured(self):
        if "none" not in self.views:
            raise ValueError("views must include 'none': it is the single view that the exported model predicts on")
        return self


class ExportParams(PhaseParams):
    """09_export_onnx: export, parity, registration, alias."""

    evaluation: str = ""
    manifest: str = ""
    candidates: list[
        str
    ] = []  # blank: every student phase before this one; the best macro-F1 on val/select is registered
    registered_name: str = "fer-student"
    alias: str = "champion"
    opset: Annotated[int, Field(ge=17, le=23)] = 18
    parity_tolerance: Positive = 1e-4
    compact: bool = False  # also a file of its own with int8 weights and a scale a channel, measured by itself

    @field_validator("registered_name", "alias")
    @classmethod
    def _the_registry_takes_it(cls, value, info):
        """What MLflow would refuse only when everything before is done."""
        if info.field_name == "registered_name" and (not value.strip() or set(value) & set("/:@.%\"'")):
            raise ValueError("Input should be a name without quotes and / : @ . %")
        if info.field_name == "alias" and value and not usable_alias(value):
            raise ValueError("Input should be letters, digits, _ and -, not latest or v1")
        return value


KINDS: dict[str, tuple[type[PhaseParams], str]] = {
    "check": (CheckParams, "00_check_device"),
    "import": (ImportParams, "01_import_datasets"),
    "manifest": (ManifestParams, "02_build_manifest"),
    "teacher": (TeacherParams, "04_train_teacher"),
    "softlabels": (SoftLabelParams, "06_export_softlabels"),
    "student": (StudentParams, "07_train_student"),
    "evaluate": (EvaluateParams, "08_evaluate"),
    "export": (ExportParams, "09_export_onnx"),
}
