"""Parameters of training: teachers (04) and students (07)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from fer_lib.params.base import BackboneArgs, Count, Device, Fraction, PackKind, PhaseParams, Positive
from fer_lib.params.negative import NegativeParams
from fer_lib.params.nested import NestedParams
from fer_lib.params.strict import Strict


class AugmentParams(Strict):
    """Training augmentation: random resized crop, flip, colour jitter; optional rotation and webcam effects."""

    scale: tuple[Fraction, Fraction] = (0.7, 1.0)
    ratio: tuple[Positive, Positive] = (0.75, 4 / 3)
    flip: Fraction = 0.5
    jitter: tuple[float, float, float, float] = (0.2, 0.2, 0.1, 0.02)  # brightness, contrast, saturation, hue
    rotation: Annotated[float, Field(ge=0.0, le=45.0)] = 0.0  # degrees either way
    erasing: Fraction = 0.0  # probability of random erasing: one rectangle set to the mean
    grey: Fraction = 0.0  # probability of a grey image
    motion_blur: Fraction = 0.0  # probability of motion blur of up to 6 % of the side
    gamma: Annotated[float, Field(ge=0.0, le=3.0)] = 0.0  # g: exponent between 1 / (1 + g) and 1 + g
    noise: Annotated[float, Field(ge=0.0, le=64.0)] = 0.0  # grey levels: the largest standard deviation
    jpeg: Fraction = 0.0  # probability of JPEG at quality 20..80

    @field_validator("scale", "ratio")
    @classmethod
    def _check_range(cls, value):
        if not 0.0 < value[0] <= value[1]:
            raise ValueError("Input should be two numbers above 0, the smaller first")
        return value


class FitParams(PhaseParams):
    """Parameters that teachers and students share."""

    # Fields that do not change the result: excluded from the cache key and from the identity of a checkpoint.
    RUNTIME_FIELDS: ClassVar[frozenset[str]] = frozenset(("device", "threads", "workers", "pack", "checkpoint_minutes"))

    manifest: str = ""
    backbone: str = "resnet18"
    backbone_args: BackboneArgs = {}  # further arguments of timm.create_model, for instance {pad_type: same}
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
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.9  # Nesterov momentum of sgd
    lr: Positive = 3e-4
    min_lr: Annotated[float, Field(ge=0.0)] = 1e-5
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.05
    warmup_epochs: Annotated[float, Field(ge=0.0)] = 2.0
    clip_grad: Annotated[float, Field(ge=0.0)] = 0.0  # 0: off
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0  # 0: off
    label_smoothing: Fraction = 0.0
    soft_label_weight: Fraction = 0.0  # share of the annotator votes in the target of rows that have votes
    mixup: Annotated[float, Field(ge=0.0, le=8.0)] = 0.0  # alpha of the Beta distribution; 0: off
    focal_gamma: Annotated[float, Field(ge=0.0, le=10.0)] = 0.0  # 0: cross-entropy
    logit_adjustment: Annotated[float, Field(ge=0.0, le=4.0)] = 0.0  # tau (Menon et al. 2021)
    negative: NegativeParams = NegativeParams()
    nested: NestedParams = NestedParams()
    imbalance: Literal["none", "balanced", "class_weights", "both"] = "balanced"
    balance_sources: bool = False  # equal shares of every source in each batch
    min_per_class: Annotated[int, Field(ge=1)] = 2
    cb_beta: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9999
    augment: AugmentParams = AugmentParams()
    pack: PackKind = "faces"
    workers: Annotated[int, Field(ge=0, le=64)] | Literal["auto"] = "auto"  # threads that prepare batches
    include_sources: list[str] = []
    exclude_sources: list[str] = []
    init_from: str = ""  # a phase, a bundle folder or a registry URI with the starting weights
    eval_every: Annotated[int, Field(ge=1)] = 1
    checkpoint_every: Annotated[int, Field(ge=1)] = 10
    checkpoint_minutes: Positive = 10.0
    max_train_batches: Count = 0  # 0: all
    max_val_batches: Count = 0
    calibration: Literal["global", "vector"] = "global"
    device: Device = "auto"
    processes: Annotated[int, Field(ge=1, le=64)] = 1  # devices, or CPU processes, that share every batch
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 on a CUDA device that supports it
    compile: bool = False  # torch.compile for the training step
    threads: Count = 0  # 0: torch's default
    deterministic: bool = True

    @classmethod
    def unused_fields(cls, values: dict[str, Any]) -> frozenset[str]:
        adamw = values.get("optimizer", "adamw") == "adamw"
        off = {
            "backbone_args": not values.get("backbone_args"),
            "optimizer": adamw,
            "momentum": adamw,
            "balance_sources": not values.get("balance_sources"),
            "negative": values.get("negative", {}).get("method", "none") == "none",
            "nested": values.get("nested", {}).get("kind", "off") == "off",
        }
        return frozenset(name for name, is_off in off.items() if is_off)

    @field_validator("pretrained")
    @classmethod
    def _check_pretrained(cls, value):
        """Refuse a misspelled word before the data phases run."""
        if value not in ("none", "hub", "package") and not re.search(r"[/\\.]", value):
            raise ValueError("Input should be none, hub, package, or the path of a file of weights")
        return value

    @model_validator(mode="after")
    def _refuse_conflicts(self):
        if conflict := next(self._conflicts(), None):
            raise ValueError(conflict)
        return self

    def _conflicts(self) -> Iterator[str]:
        """Combinations of parameters that cannot be trained, and what to set instead."""
        rows, parts = self.batch_size, self.accum_steps * self.processes
        if self.imbalance in ("balanced", "both") and rows < 7 * self.min_per_class:
            yield (
                f"batch_size {rows} is too small for balanced batches of >= {self.min_per_class} per class: "
                f"use batch_size >= {7 * self.min_per_class}, or imbalance: class_weights"
            )
        if rows < 2 * parts:
            yield (
                f"batch_size {rows} in {parts} micro-batches (accum_steps x processes) leaves fewer than 2 rows in "
                f"each, and batch norm needs 2: use batch_size >= {2 * parts}, or fewer of them"
            )
        apart = {"processes > 1": self.processes > 1, "compile": self.compile, "mixup": self.mixup > 0}
        if self.nested.kind == "prototypes" and any(apart.values()):
            yield (
                "the prototype loss (nested.kind: prototypes) can't be used with "
                f"{' and '.join(name for name, active in apart.items() if active)}: it needs the embedding and the one "
                "label of every row; leave it at its default, or use nested: {kind: blocks}"
            )
        if self.logit_adjustment and self.imbalance != "none":
            yield (
                f"logit_adjustment {self.logit_adjustment} and imbalance: {self.imbalance} would correct the class "
                "prior twice: set imbalance: none, or logit_adjustment: 0"
            )
        if self.negative.method == "selnlpl" and (self.processes > 1 or self.mixup):
            yield (
                "negative.method: selnlpl selects rows by the predictions for the row itself, which one process "
                "stores: set processes: 1 (accum_steps splits a batch too) and mixup: 0, or another method"
            )


class TeacherParams(FitParams):
    """04_train_teacher: ArcFace with a warm-up of the margin (Deng et al. 2019)."""

    name: str = "teacher"
    head: Literal["cosine", "linear"] = "cosine"  # linear: softmax; arcface_s and arcface_m have no effect
    arcface_s: Positive = 30.0
    arcface_m: Annotated[float, Field(ge=0.0, lt=1.5)] = 0.35
    plain_epochs: Annotated[float, Field(ge=0.0)] = 5  # epochs, or a fraction of the run when < 1
    ramp_end: Annotated[float, Field(ge=0.0)] = 15
    onnx: Literal["none", "best", "both"] = "both"  # files written at the end: best.onnx, last.onnx

    def _conflicts(self) -> Iterator[str]:
        yield from super()._conflicts()
        start, end = (v * self.epochs if v < 1 else v for v in (self.plain_epochs, self.ramp_end))
        if end < start:
            yield (
                f"ramp_end {self.ramp_end:g} (epoch {end:g} of {self.epochs}) must not be before plain_epochs "
                f"{self.plain_epochs:g} (epoch {start:g}); below 1 they are fractions of the run"
            )


class StudentParams(FitParams):
    """07_train_student: cross-entropy, KD (Hinton et al. 2015) or DKD (Zhao et al. 2022)."""

    _SHARED: ClassVar[frozenset[str]] = frozenset(("temperature", "teacher_temperature", "teacher_view", "softlabels"))
    # The distillation fields that have an effect in each mode.
    MODE_FIELDS: ClassVar[dict[str, frozenset[str]]] = {
        "ce": frozenset(),
        "kd": _SHARED | {"alpha"},
        "dkd": _SHARED | {"dkd_alpha", "dkd_beta", "dkd_warmup_epochs"},
        "dkd_mixed": _SHARED | {"alpha"},
    }
    LENGTHS: ClassVar[dict[str, int]] = {"ce": 10, "kd": 20, "dkd": 10, "dkd_mixed": 10}

    name: str = "student"
    backbone: str = "mobilenetv3_large_100"
    epochs: Count = 0  # 0: 20 for kd, 10 for the others
    batch_size: Annotated[int, Field(ge=2)] = 256
    lr: Positive = 1e-3
    imbalance: Literal["none", "balanced", "class_weights", "both"] = "none"
    arcface_s: Positive = 30.0
    head: Literal["linear", "cosine"] = "linear"
    mode: Literal["ce", "kd", "dkd", "dkd_mixed"] = "ce"
    softlabels: str = ""
    alpha: Fraction = 0.5  # weight of the KD term
    temperature: Positive = 2.0
    dkd_alpha: Annotated[float, Field(ge=0.0)] = 1.0
    dkd_beta: Annotated[float, Field(ge=0.0)] = 1.0
    dkd_warmup_epochs: Annotated[float, Field(ge=0.0)] = 20.0  # min(this, epochs / 4)
    teacher_temperature: Positive = 1.0  # the teacher logits are divided by it first
    teacher_view: Literal["cached", "online"] = "cached"
    tune: Literal["all", "head", "bn", "last_block"] = "all"

    @model_validator(mode="before")
    @classmethod
    def _set_length(cls, values):
        length = cls.LENGTHS.get(str(values.get("mode", "ce")))
        return values if values.get("epochs", 0) or not length else {**values, "epochs": length}

    def _conflicts(self) -> Iterator[str]:
        yield from super()._conflicts()
        if self.mixup and self.mode != "ce" and self.teacher_view == "cached":
            yield (
                f"mixup {self.mixup:g} makes images that the cached teacher logits do not belong to: set teacher_view: "
                "online, or mixup: 0"
            )

    @classmethod
    def unused_fields(cls, values: dict[str, Any]) -> frozenset[str]:
        every = frozenset().union(*cls.MODE_FIELDS.values())
        unused = every - cls.MODE_FIELDS[values.get("mode", cls.model_fields["mode"].default)]
        off = super().unused_fields(values)
        if "negative" not in off and values["negative"].get("draw") == "confusion":  # of the teacher of the soft labels
            unused -= {"softlabels"}
        return unused | off
