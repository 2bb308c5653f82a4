"""Parameters of what is done with trained models: soft labels (06), evaluation (08), export (09)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fer_lib.params.base import Alias, Device, PackKind, PhaseParams, Positive, RegisteredName


class SoftLabelParams(PhaseParams):
    """06_export_softlabels (SPEC 6)."""

    manifest: str = ""
    teachers: list[str] = []  # blank: every teacher phase before this one
    weights: list[Annotated[float, Field(ge=0.0)]] = []  # blank: searched on val/select
    space: Literal["logit", "prob"] = "logit"
    flip_average: bool = True
    batch_size: Annotated[int, Field(ge=1)] = 256
    pack: PackKind = "faces"
    device: Device = "auto"


class EvaluateParams(PhaseParams):
    """08_evaluate (SPEC 9)."""

    manifest: str = ""
    models: list[str] = []  # blank: every teacher and student phase before this one
    ensembles: list[str] = []  # blank: every soft-label phase before this one
    split: Literal["test", "val"] = "test"
    suite: str = ""  # the name under which the rows are reported; blank: the split
    views: list[Literal["none", "flip"]] = ["none", "flip"]
    include_sources: list[str] = []  # sources whose rows are measured, and fit the temperature; blank: all
    exclude_sources: list[str] = []  # sources left out of both, so that models of unlike training share one set
    leak_free: bool = True  # also without the pictures that are known to stand in train too
    allow_leaks: list[str] = []  # sources whose rows may be evaluated although they stand in train too
    calibration: Literal["none", "global", "vector", "fixed"] = "global"
    fixed_temperature: Positive = 1.2
    resamples: Annotated[int, Field(ge=100)] = 1000
    batch_size: Annotated[int, Field(ge=1)] = 256
    pack: PackKind = "faces"
    device: Device = "auto"

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
    registered_name: RegisteredName = "fer-student"
    alias: Alias = "candidate"
    opset: Annotated[int, Field(ge=17, le=23)] = 18
    parity_tolerance: Positive = 1e-4
    compact: bool = False  # also a file of its own with int8 weights and a scale a channel, measured by itself
