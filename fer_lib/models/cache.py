"""A cache on disk for arrays that take minutes to compute."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fer_lib.storage.atomic import fresh_file
from fer_lib.storage.npz_files import read_npz

log = logging.getLogger(__name__)


def cached_array(file: Path, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """The array in the ``.npz`` ``file``, whose CRC-32 is checked; computed and written when it is missing or damaged.

    Raises DataError when the file cannot be written, OSError when it cannot be read.
    """
    if file.is_file():
        try:
            return read_npz(file)["array"]
        except (ValueError, KeyError):
            log.warning("%s is damaged: its array is computed again", file)
    array = compute()
    with fresh_file(file) as work, open(work, "wb") as stream:
        np.savez(stream, array=array)
    return array
