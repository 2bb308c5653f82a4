"""Per-class bias before the softmax (``logit_bias.json``), read strictly: a missing value would shift other classes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.errors import DataError


def read_logit_bias(file: Path | str) -> np.ndarray:
    """The bias float64 [7] in a JSON file: seven numbers, Angry first, or an object with a number for each class.

    DataError, naming the file, when it can't be read or holds anything else.
    """
    file = Path(file).expanduser()
    try:
        return checked_bias(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, OverflowError, RecursionError, DataError) as error:
        raise DataError(
            f"{file} is no logit bias: {error}; write seven numbers in the order {', '.join(EMOTIONS)}, "
            'or an object like {"Angry": 0.1, ...} with all seven'
        ) from error


def checked_bias(values: Any) -> np.ndarray:
    """float64 [7] of a sequence of seven finite numbers or a mapping of the seven classes; DataError for others."""
    if isinstance(values, Mapping):
        unknown, missing = [k for k in values if k not in EMOTIONS], [e for e in EMOTIONS if e not in values]
        if unknown or missing:
            parts = [f"there is no class {', '.join(map(repr, unknown))}"] if unknown else []
            parts += [f"{', '.join(missing)} missing"] if missing else []
            raise DataError(" and ".join(parts))
        values = [values[e] for e in EMOTIONS]
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise DataError(f"expected seven numbers, found {type(values).__name__}")
    if len(values) != NUM_CLASSES:
        raise DataError(f"it has {len(values)} values, not {NUM_CLASSES}")
    if any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in values):
        raise DataError(f"{list(values)} are not all numbers")
    bias = np.asarray(values, dtype=np.float64)
    if not np.isfinite(bias).all():
        raise DataError(f"{list(values)} are not all finite")
    return bias


def checked_abstention(values: Any) -> np.ndarray:
    """float64 [7]: the probability below which each class's label is "Unknown"; DataError unless seven in 0..1."""
    least = checked_bias(values)
    if (least < 0).any() or (least > 1).any():
        raise DataError(f"abstention {least.tolist()}: each class's value must be between 0 and 1")
    return least
