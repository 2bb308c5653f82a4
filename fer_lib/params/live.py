"""Parameters of the live session: source, model and smoothing of the label."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fer_lib.emotions import NUM_CLASSES
from fer_lib.params.base import Count, Fraction, Positive
from fer_lib.params.strict import Strict


class SmoothingParams(Strict):
    """Smoothing of the label: EMA e <- a e + (1-a) p, then a hysteresis margin, then a vote of the last labels."""

    ema_alpha: Annotated[float, Field(ge=0.0, le=0.99)] = 0.70
    hysteresis_delta: Annotated[float, Field(ge=0.0, le=0.5)] = 0.08
    vote_window: Annotated[int, Field(ge=1, le=101)] = 15  # frames with a face
    vote_min_count: Annotated[int, Field(ge=1)] = 8


class LiveParams(Strict):
    """One session of ``fer live``."""

    source: str = "0"  # a camera's number or a video file
    model: str = "packaged"  # also models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID/PATH, a bundle folder
    detector: Literal["auto", "yunet", "dnn", "haar"] = "auto"
    detector_model: str = ""  # YuNet's file, or the SSD's caffemodel with the prototxt beside it
    output: str = ""  # folder of the logs; blank: a new one below mlruns/live
    detect_scale: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5  # scale of the image for YuNet
    detect_every: Annotated[int, Field(ge=1, le=60)] = 3  # frames; between two detections faces are tracked
    record: Literal["none", "annotated", "raw", "both"] = "none"
    smoothing: SmoothingParams = SmoothingParams()
    temperature: Positive | None = None  # None: the bundle's
    logit_bias: str = ""  # a logit_bias.json; blank: the bundle's
    # A label whose smoothed probability is below its class's value is shown as Unknown; None: the bundle's.
    abstention: Annotated[list[Fraction], Field(min_length=NUM_CLASSES, max_length=NUM_CLASSES)] | None = None
    threads: Count = 1  # of ONNX Runtime; 0: its default
    paced: bool = False  # play a file at its own speed instead of as fast as possible
    show_emo_ratio: bool = True  # show the share of each class in the overlay
