"""Parameters of the checkpoint sweep (05), soft labels (06), evaluation (08), export (09) and ablation (14)."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from fer_lib.emotions import NUM_CLASSES
from fer_lib.params.base import Alias, Device, PackKind, PhaseParams, Positive, RegisteredName
from fer_lib.params.strict import closest

# a share above 0 for each class, in their order; the sum is checked where it is used
Prior = Annotated[list[Annotated[float, Field(gt=0.0, lt=1.0)]], Field(min_length=NUM_CLASSES, max_length=NUM_CLASSES)]


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


class SoftLabelParams(PhaseParams):
    """06_export_softlabels."""

    manifest: str = ""
    teachers: list[str] = []  # blank: every earlier teacher phase
    weights: list[Annotated[float, Field(ge=0.0)]] = []  # blank: searched on val/select
    space: Literal["logit", "prob", "best"] = "logit"  # best: the one whose weights score better on val/select
    flip_average: bool = True
    batch_size: Annotated[int, Field(ge=1)] = 256
    pack: PackKind = "faces"
    device: Device = "auto"
    registered_name: RegisteredName = "fer-teacher-ensemble"
    alias: Alias = ""  # of the ensemble in the registry; blank: it is not registered

    @classmethod
    def unused_fields(cls, values: dict[str, Any]) -> frozenset[str]:
        return frozenset() if values.get("alias") else frozenset({"registered_name", "alias"})

    @model_validator(mode="after")
    def _check_space(self):
        if self.space == "best" and self.weights:
            raise ValueError("space best belongs to weights that are searched: leave weights blank, or name the space")
        return self


class EvaluateParams(PhaseParams):
    """08_evaluate."""

    manifest: str = ""
    models: list[str] = []  # blank: every earlier teacher and student phase
    ensembles: list[str] = []  # blank: every earlier soft-label phase
    split: Literal["test", "val"] = "test"
    suite: str = ""  # name of the rows in reports; blank: the split
    views: list[Literal["none", "flip"]] = ["none", "flip"]
    include_sources: list[str] = []  # sources for the scores and the temperature; blank: all
    exclude_sources: list[str] = []  # sources excluded from both, so that all models share one set of rows
    leak_free: bool = True  # also score without images that are known to be in train too
    allow_leaks: list[str] = []  # sources whose rows may be evaluated although they are in train too
    calibration: Literal["none", "global", "vector", "fixed"] = "global"
    fixed_temperature: Positive = 1.2
    prior_correction: Literal["none", "em", "uniform"] | Prior = "none"  # em: class shares estimated for each source
    resamples: Annotated[int, Field(ge=100)] = 1000
    batch_size: Annotated[int, Field(ge=1)] = 256
    pack: PackKind = "faces"
    device: Device = "auto"

    @classmethod
    def unused_fields(cls, values: dict[str, Any]) -> frozenset[str]:
        """Without a prior correction the cache key is that of versions that had none."""
        return frozenset({"prior_correction"}) if values.get("prior_correction", "none") == "none" else frozenset()

    @model_validator(mode="after")
    def _check_views(self):
        if "none" not in self.views:
            raise ValueError("views must include 'none': the exported model predicts on that single view")
        return self


class ExportParams(PhaseParams):
    """09_export_onnx: export, parity, registration, alias."""

    evaluation: str = ""
    manifest: str = ""
    candidates: list[str] = []  # blank: every earlier student phase; the best macro-F1 on val/select is registered
    registered_name: RegisteredName = "fer-student"
    alias: Alias = "candidate"
    opset: Annotated[int, Field(ge=17, le=23)] = 18
    parity_tolerance: Positive = 1e-4
    compact: bool = False  # also a file with int8 weights and one scale per channel, measured separately


class AblationParams(PhaseParams):
    """14_ablation."""

    evaluations: list[str] = []  # blank: every earlier evaluate phase
    variants: dict[str, list[str]] = {}  # name -> its models, one per seed in one order; blank: each model is one
    control: str = ""  # the variant that the others are compared with; blank: the first
    resamples: Annotated[int, Field(ge=100)] = 1000
    # of a notebook that runs alone with blank evaluations: the run file whose phases make them; blank: the newest ones
    run_file: str = "params/ablation.yaml"

    @classmethod
    def unused_fields(cls, values: dict[str, Any]) -> frozenset[str]:
        return frozenset({"run_file"})

    @model_validator(mode="after")
    def _check_variants(self):
        if unusable := [name for name in self.variants if not re.fullmatch(r"[\w. -]+", name)]:  # part of metric names
            raise ValueError(f"a variant should have letters, digits, spaces, '_', '-' and '.', not {unusable[0]!r}")
        counts = {name: len(models) for name, models in self.variants.items()}
        if 0 in counts.values() or len(set(counts.values())) > 1:
            listed = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise ValueError(
                f"every variant needs as many models as the others, one per seed in the same order: {listed}"
            )
        if self.control and counts and self.control not in counts:
            raise ValueError(f"control: there is no variant {self.control!r}{closest(self.control, counts)}")
        return self
