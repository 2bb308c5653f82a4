"""Per-class bias before the softmax (``logit_bias.json``), read strictly: a missing value would shift other classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter

from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.errors import DataError
from fer_lib.params.strict import first_problem

_BIAS = TypeAdapter(
    Annotated[list[float], Field(min_length=NUM_CLASSES, max_length=NUM_CLASSES)],
    config=ConfigDict(strict=True, allow_inf_nan=False),
)


def read_logit_bias(file: Path | str) -> np.ndarray:
    """The bias float64 [7] in a JSON file: seven numbers, Angry first, or an object with a number for each class.

    DataError, naming the file, when it can't be read or holds anything else.
    """
    file = Path(file).expanduser()
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(values, dict) and values.keys() == set(EMOTIONS):
            values = [values[name] for name in EMOTIONS]
        return np.asarray(_BIAS.validate_python(values), dtype=np.float64)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{file} is no logit bias: {first_problem(error)}; write seven finite numbers in the order "
            f'{", ".join(EMOTIONS)}, or an object like {{"Angry": 0.1, ...}} with all seven'
        ) from error
