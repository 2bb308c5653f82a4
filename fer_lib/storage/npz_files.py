"""Files of named arrays (``.npz``), read without trust in their content."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np


def read_npz(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a file that ``numpy.savez`` wrote, by name.

    Arrays of objects are refused, and compressed ones, which can be a thousand times larger than their file.
    Raises FileNotFoundError when it is missing, ValueError when it holds anything else.
    """
    with open(file, "rb") as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                    raise ValueError("its arrays are compressed")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as stored:
                return dict(stored)
        except Exception as error:  # zipfile and NumPy raise almost anything for a damaged file
            raise ValueError(f"{type(error).__name__}: {error}"[:200]) from error
