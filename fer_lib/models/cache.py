"""A cache on disk for arrays that take minutes to compute."""

from __future__ import annotations

import contextlib
import io
import logging
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fer_lib.storage.atomic import fresh_file

log = logging.getLogger(__name__)


def cached_array(file: Path, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """The array in ``file``; it is computed and written when the file is missing or damaged.

    The file is a plain ``.npy`` followed by four bytes, the CRC-32 of the content before them.  Raises DataError when
    the file cannot be written, OSError when it cannot be read.
    """
    array = _read(file) if file.is_file() else None
    if array is None:
        array = compute()
        stream = io.BytesIO()
        np.save(stream, array, allow_pickle=False)
        with fresh_file(file) as work:
            work.write_bytes(stream.getvalue() + _crc(stream.getvalue()))
    return array


def _read(file: Path) -> np.ndarray | None:
    content = file.read_bytes()
    if len(content) > 4 and content[-4:] == _crc(content[:-4]):
        with contextlib.suppress(Exception):  # NumPy raises almost anything for what it did not write
            return np.load(io.BytesIO(content[:-4]), allow_pickle=False)
    log.warning("%s is damaged: its array is computed again", file)
    return None


def _crc(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(4, "little")
