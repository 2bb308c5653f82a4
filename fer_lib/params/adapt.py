"""Parameters of adapting a model to a live session (11), and of the gates that a candidate must pass."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from fer_lib.errors import ParamsError
from fer_lib.params.base import Alias, Count, Device, Fraction, PackKind, PhaseParams, Positive, RegisteredName
from fer_lib.params.fit import AugmentParams, FitParams
from fer_lib.params.strict import Strict, closest, read_mapping, validate

Suite = Literal["val", "test", "eval_only", "test_all_sources"]


class OfflineGate(Strict):
    """The largest allowed drop of a candidate against the base model on one suite of a manifest."""

    # val: val rows that did not select the epoch; test, test_all_sources: test rows; eval_only: those of its sources
    suite: Suite = "eval_only"
    macro_f1_drop: Fraction = 0.01
    minority_f1_drop: Fraction = 0.02


class SessionGate(Strict):
    """Gates on one session that both models replay.

    The smoothed macro-F1 over the classes present must rise by more than ``macro_f1_gain``, and the flips per minute
    must not rise by more than the share ``flips_rise``.
    """

    macro_f1_gain: Fraction = 0.0
    flips_rise: Annotated[float, Field(ge=0.0)] = 0.10


class GateParams(Strict):
    """All gates.  ``decide_by``: the offline differences, or their paired 95 % confidence intervals."""

    offline: Annotated[list[OfflineGate], Field(min_length=1)] = [OfflineGate()]
    session: SessionGate = SessionGate()
    decide_by: Literal["point", "interval"] = "point"
    resamples: Annotated[int, Field(ge=100)] = 1000  # bootstrap resamples of the intervals

    @field_validator("offline")
    @classmethod
    def _check_suites(cls, value):
        if len({gate.suite for gate in value}) < len(value):
            raise ValueError("a suite occurs twice: set one gate per suite")
        return value


def read_gates(path: Path, name: str) -> GateParams:
    """The gates ``name`` in a file such as ``params/gates.yaml``.  Raises ParamsError with the closest name."""
    gates = read_mapping(path)
    if name not in gates:
        raise ParamsError(f"{path} has no gates {name!r}{closest(name, gates)}")
    return validate(GateParams, gates[name], f"gates {name}")


Tune = Literal["head", "bn", "both"]
NormPolicy = Literal["frozen", "update"]


class AdaptParams(PhaseParams):
    """11_adapt."""

    RUNTIME_FIELDS: ClassVar[frozenset[str]] = FitParams.RUNTIME_FIELDS

    manifest: str = ""  # val rows select the epoch, fit the temperature and gate; train rows are replayed
    base: str = ""  # the model to adapt, with torch weights; blank: the newest earlier student phase
    name: str = "adapted"
    buffers: list[str] = []  # folders written by fer live buffer; blank: the buffer of a synthetic session
    gate_session: str = ""  # recorded, with manual labels; both models replay it; blank: that of buffer 1
    offline_only: bool = False  # no session gates; the registered version records it
    tune: Tune = "head"  # head: embedding and head; bn: scale and shift of the norm layers; both
    bn_policy: NormPolicy = "frozen"  # running statistics of batch norm: fixed, or updated on the new rows
    negl_weight: Annotated[float, Field(ge=0.0)] = 0.05
    replay: Annotated[float, Field(ge=0.0, le=100.0)] = 1.0  # train rows of the manifest per row of the buffers
    epochs: Annotated[int, Field(ge=1)] = 3
    batch_size: Annotated[int, Field(ge=2)] = 64
    lr: Positive = 1e-4
    min_lr: Annotated[float, Field(ge=0.0)] = 1e-5
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    warmup_epochs: Annotated[float, Field(ge=0.0)] = 0.0
    clip_grad: Annotated[float, Field(ge=0.0)] = 1.0
    label_smoothing: Fraction = 0.0
    augment: AugmentParams = AugmentParams()
    max_train_batches: Count = 0  # 0: all
    max_val_batches: Count = 0
    calibration: Literal["global", "vector"] = "global"
    gates: GateParams = GateParams(offline=[OfflineGate(suite="val")])
    allow_leaks: list[str] = []  # sources whose rows may gate although they are in train too
    registered_name: RegisteredName = "fer-student"
    alias: Alias = ""  # registry alias of a candidate that passes; blank: nothing is registered
    pack: PackKind = "faces"
    workers: Annotated[int, Field(ge=0, le=64)] | Literal["auto"] = "auto"
    device: Device = "auto"
    threads: Count = 0
    deterministic: bool = True


class AdaptFit(FitParams):
    """The fit of one base model with :class:`AdaptParams`: its architecture and contract, and the adapt parameters."""

    name: str = "adapted"
    mode: Literal["adapt"] = "adapt"
    head: Literal["linear", "cosine"] = "linear"
    arcface_s: Positive = 30.0
    imbalance: Literal["none"] = "none"
    tune: Tune = "head"
    bn_policy: NormPolicy = "frozen"
    negl_weight: float = 0.05
