"""Parameters of soft labels (06), evaluation (08) and export (09)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fer_lib.params.base import Alias, Device, PackKind, PhaseParams, Positive, RegisteredName


class SoftLabelParams(PhaseParams):
    """06_export_softlabels."""

    manifest: str = ""
    teachers: list[str] = []  # blank: every earlier teacher phase
    weights: list[Annotated[float, Field(ge=0.0)]] = []  # blank: searched on val/select
    space: Literal["logit", "prob"] = "logit"
    flip_average: bool = True
    batch_size: Annotated[int, Field(ge=1)] = 256
    pack: PackKind = "faces"
    device: Device = "auto"


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
    resamples: Annotated[int, Field(ge=100)] = 1000
    batch_size: Annotated[int, Field(ge=1)] = 256
    pack: PackKind = "faces"
    device: Device = "auto"

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
