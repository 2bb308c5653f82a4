"""Arrays that cost minutes to compute, kept on the disk."""

from __future__ import annotations

import io
import logging
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fer_lib.storage.atomic import fresh_file, readable

log = logging.getLogger(__name__)


def cached_array(file: Path, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """The array kept in ``file``, computed where there is none and again where it is not what was written.

    The file is a plain ``.npy`` with four bytes behind it, the CRC-32 of all before.  Raises DataError when the disk
    refuses to be read or written.
    """
    kept = _read(file) if file.is_file() else None
    if kept is None:
        kept = compute()
        stream = io.BytesIO()
        np.save(stream, kept, allow_pickle=False)
        with fresh_file(file) as work:
            work.write_bytes(stream.getvalue() + _crc(stream.getvalue()))
    return kept


def _read(file: Path) -> np.ndarray | None:
    with readable(file):
        content = file.read_bytes()
    if len(content) > 4 and content[-4:] == _crc(content[:-4]):
        return np.load(io.BytesIO(content[:-4]), allow_pickle=False)
    log.warning("%s is damaged: what it held is computed again", file)
    return None


def _crc(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(4, "little")
