"""Parameters of negative learning in teachers and students (Kim et al. 2019, NLNL)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from fer_lib.emotions import EMOTIONS
from fer_lib.errors import ParamsError
from fer_lib.params.base import Fraction, Shares
from fer_lib.params.strict import Strict, closest, read_mapping, validate


class NegativeParams(Strict):
    """``negl`` adds a loss to that of the labels, ``selnlpl`` replaces the loss of the labels (for noisy labels)."""

    # A file with the other parameters (neglconfig.json).  It is read when the parameters are validated, and its values
    # take its place.  A relative path starts at $FER_HOME, else at the working folder.
    config: str = ""
    method: Literal["none", "negl", "selnlpl"] = "none"
    draw: Literal["uniform", "confusion", "lowest", "neg_label"] = "uniform"  # how the wrong class of a row is drawn
    lowest: Annotated[int, Field(ge=1, le=6)] = 3  # draw lowest: one of that many classes of the lowest probability
    draws: Annotated[int, Field(ge=1, le=20)] = 1  # wrong classes of a row at each step; the loss is their mean
    weight: Annotated[float, Field(ge=0.0)] = 0.05  # negl: of the mean loss
    ratio: Fraction = 0.5  # negl: share of the rows of a class that are drawn in an epoch
    class_ratios: dict[str, Fraction] = {"Disgust": 0.25, "Fear": 0.25, "Sad": 0.25}  # negl: in place of ratio
    entropy: Fraction = 0.7  # negl: least entropy of the model's prediction, as a share of ln 7
    shares: Shares = (0.6, 0.2, 0.2)  # selnlpl: epochs of NL, SelNL and SelPL

    @model_validator(mode="before")
    @classmethod
    def _read_config(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("config"), str) or not values["config"]:
            return values
        path = Path(os.environ.get("FER_HOME", "")) / Path(os.path.expandvars(values["config"])).expanduser()
        defaults = cls.model_construct().model_dump(mode="json")  # -p negative.config=FILE sets them beside it
        if both := [key for key, value in values.items() if key != "config" and value != defaults.get(key)]:
            raise ParamsError(f"negative: {', '.join(both)} and config: {path} are both set: keep one of them")
        content = read_mapping(path)
        if content.pop("config", ""):
            raise ParamsError(f"{path}: 'config' names another file: write the parameters themselves")
        validate(cls, content, f"negative in {path}")
        return {"method": "negl"} | content  # whoever names a file wants what it describes

    @field_validator("class_ratios")
    @classmethod
    def _check_classes(cls, value):
        if unknown := [name for name in value if name not in EMOTIONS]:
            raise ValueError(f"unknown class {unknown[0]!r}{closest(unknown[0], EMOTIONS)}")
        return value
