"""Parameters of scoring a live session, and the grid of the smoothing study."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from fer_lib.params.base import PhaseParams
from fer_lib.params.live import SmoothingParams
from fer_lib.params.strict import Strict


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
