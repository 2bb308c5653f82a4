"""Parameters of the label-noise audit in 03_audit_data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fer_lib.params.base import Count, Device, Fraction, PackKind, Positive
from fer_lib.params.fit import AugmentParams
from fer_lib.params.strict import Strict


class NoiseParams(Strict):
    """The small networks that predict each row out of fold, and the contact sheet."""

    splits: list[Literal["train", "val", "test"]] = ["train", "val"]  # using test counts as opening it
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
