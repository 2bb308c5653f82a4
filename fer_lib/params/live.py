"""Parameters of live sessions: the session, its score (10) with the smoothing study, and the buffer to learn from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from fer_lib.emotions import NUM_CLASSES
from fer_lib.params.base import Count, Fraction, PhaseParams, Positive
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


class StudyParams(Strict):
    """The grid of smoothing settings; ranges as in :class:`SmoothingParams`."""

    ema_alpha: Annotated[list[float], Field(min_length=1)] = [0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95]
    hysteresis_delta: Annotated[list[float], Field(min_length=1)] = [0.0, 0.02, 0.05, 0.08, 0.12, 0.2]
    vote_window: Annotated[list[int], Field(min_length=1)] = [1, 5, 9, 15, 21, 31]
    vote_min_count: Annotated[list[int], Field(min_length=1)] = [1, 3, 5, 8, 11, 16]

    @field_validator("*")
    @classmethod
    def _check_settings(cls, values, info):
        for value in values:
            SmoothingParams(**{info.field_name: value})
        return values


class ScoreParams(PhaseParams):
    """10_score_session."""

    session: str = ""  # its folder; blank: the newest labelled one below mlruns/live, else a synthetic one
    # [first frame, last frame, label]: the corrected manual label; a blank label removes it.
    corrections: list[tuple[int, int, str]] = []
    faces_per_segment: Annotated[int, Field(ge=1, le=24)] = 8  # on the pages with faces
    study: StudyParams = StudyParams()


class BufferParams(Strict):
    """``fer live buffer``.  Probabilities are calibrated ones of single frames, before smoothing."""

    positive: Fraction = 0.90  # from here a stable frame is a positive of its class
    negative: Fraction = 0.50  # from here a frame is a negative; below it is ignored
    min_gap: Annotated[int, Field(ge=1)] = 10  # frames between two selected ones
    cap: Count = 300  # frames per class, of positives and of negatives each; 0: all
    context: Fraction = 0.5  # margin around a face on each side, as a share of its box's longer side
    block_sec: Positive = 10.0  # rows of one block share a group, so that splits do not separate neighbours

    @model_validator(mode="after")
    def _check_thresholds(self):
        if self.negative > self.positive:
            raise ValueError(f"negative {self.negative} must not lie above positive {self.positive}")
        return self
