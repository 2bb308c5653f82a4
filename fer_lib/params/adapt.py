"""Parameters of adapting a model to a live session (11)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fer_lib.params.base import Alias, Count, Device, Fraction, PackKind, PhaseParams, Positive, RegisteredName
from fer_lib.params.fit import AugmentParams, FitParams
from fer_lib.params.gates import GateParams, OfflineGate

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
