"""Parameters of the live session (SPEC 10): what is looked at, by which model, and how calm the label is."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fer_lib.emotions import NUM_CLASSES
from fer_lib.params.base import Count, Fraction, Positive, Strict


class SmoothingParams(Strict):
    """How a label is calmed: e <- a e + (1-a) p, then a margin to change it, then a vote of the last labels."""

    ema_alpha: Annotated[float, Field(ge=0.0, le=0.99)] = 0.70
    hysteresis_delta: Annotated[float, Field(ge=0.0, le=0.5)] = 0.08
    vote_window: Annotated[int, Field(ge=1, le=101)] = 15  # frames with a face
    vote_min_count: Annotated[int, Field(ge=1)] = 8


class LiveParams(Strict):
    """One session of ``fer live``."""

    source: str = "0"  # a camera's number or a video file
    model: str = "packaged"  # also models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID/PATH, a bundle folder
    detector: Literal["auto", "yunet", "dnn", "haar"] = "auto"
    detector_model: str = ""  # YuNet's file, or the SSD's caffemodel with its prototxt beside it
    output: str = ""  # folder of the logs; blank: a new one below mlruns/live
    detect_scale: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5  # YuNet looks at pictures reduced by this
    detect_every: Annotated[int, Field(ge=1, le=60)] = 3  # frames; between two detections faces are tracked
    record: Literal["none", "annotated", "raw", "both"] = "none"
    smoothing: SmoothingParams = SmoothingParams()
    temperature: Positive | None = None  # None: the bundle's
    logit_bias: str = ""  # a logit_bias.json; blank: the bundle's
    # A label whose smoothed probability is below its class's value is shown as Unknown; None: the bundle's.
    abstention: Annotated[list[Fraction], Field(min_length=NUM_CLASSES, max_length=NUM_CLASSES)] | None = None
    threads: Count = 1  # of ONNX Runtime; 0: its own choice
    paced: bool = False  # a file is played at its own speed instead of as fast as it can be worked through
    show_emo_ratio: bool = True  # whether the overlay shows the share of each class
