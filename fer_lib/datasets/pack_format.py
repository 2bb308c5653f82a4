"""The two files of a face pack: ``faces.u8`` with the pixels and ``faces.jsonl``, which describes and checks them.

``faces.u8`` holds faces uint8 [side, side, C] in row order without gaps, C = 1 for grey: a pack of grey faces of one
size is one array [N, side, side, 1].  ``faces.jsonl`` has one line per chunk of rows: its CRC-32 and its fields.  A
line is written after its pixels are on the disk, so an interrupted build continues after the last valid line.  A build
writes to ``<pack>.partial``; renaming that folder finishes the pack.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer_lib.errors import DataError
from fer_lib.storage.atomic import explained, sync_folder

FACES, INDEX = "faces.u8", "faces.jsonl"
FORMAT = 4
_PARTS = 64
_SAMPLED = 16  # faces checked when a pack is opened
_REBUILD = "delete that folder and it is made again"


def checksum(pixels: np.ndarray) -> int:
    """32 bits over uint8 pixels: the CRC-32 of their number, of sums of 8-byte words and of the remaining bytes.

    The words form 64 rows; each row and each column is summed modulo 2^64.  A changed, zeroed or shifted range and two
    exchanged ranges change these sums, unless four changes at the corners of a rectangle cancel out.  Changed sums
    collide once in 2^32.  That detects disk and copy errors, not forgery.  It is faster than a CRC of all bytes
    (``benchmarks/loader.py`` measures both), so every face can be checked whenever it is read.
    """
    flat = pixels.reshape(-1)
    whole = flat.size // (8 * _PARTS) * (8 * _PARTS)
    words = flat[:whole].view("<u8").reshape(_PARTS, -1)
    return zlib.crc32(flat[whole:], zlib.crc32(words.sum(axis=0), zlib.crc32(words.sum(axis=1), flat.size)))


@dataclass(frozen=True)
class Chunk:
    """One line of the index: ``rows`` rows of the manifest from ``first``.

    ``bad``: (row, problem) of unusable rows.  The other lists have one entry per usable row: side and channels of the
    stored face (0, 0 in a pack without pixels), its checksum, and, where a pack without pixels aligns the eyes, the
    landmarks [5][2].  ``without_points`` counts faces whose eyes were not found.
    """

    first: int
    rows: int
    sides: list[int]
    channels: list[int]
    sums: list[int]
    bad: list[tuple[int, str]]
    eyes: list[list[list[float]] | None]
    without_points: int

    @property
    def sizes(self) -> np.ndarray:
        """Bytes of each stored face, int64."""
        sides = np.asarray(self.sides, np.int64)
        return sides * sides * np.asarray(self.channels, np.int64)

    def line(self) -> bytes:
        fields = json.dumps(vars(self), separators=(",", ":"))
        return f"[{zlib.crc32(fields.encode())},{fields}]\n".encode()


def _parsed(line: bytes) -> Chunk | None:
    """The chunk of a line of the index; None for a truncated or changed line."""
    try:
        chunk = Chunk(**json.loads(line)[1])
    except (ValueError, TypeError, LookupError):
        return None
    return chunk if chunk.line() == line else None


class PackWriter:
    """Appends to the unfinished pack of ``target``, after the valid chunks of an interrupted build."""

    def __init__(self, target: Path):
        self.target, self.folder = target, partial_folder(target)
        self.folder.mkdir(exist_ok=True)
        for name in (FACES, INDEX):
            (self.folder / name).touch()
        self.truncate(_valid_chunks(self.folder))

    @property
    def rows(self) -> int:
        """Rows of the manifest that are done."""
        return sum(c.rows for c in self.chunks)

    @property
    def bad(self) -> list[tuple[int, str]]:
        """(row, problem) of the unusable rows so far."""
        return [pair for c in self.chunks for pair in c.bad]

    def append(self, chunk: Chunk, faces: Sequence[np.ndarray]) -> None:
        """Write and sync ``faces``, then ``chunk``.  Raises DataError when the disk refuses."""
        with explained(self.folder):
            for name, parts in ((FACES, map(np.ascontiguousarray, faces)), (INDEX, [chunk.line()])):
                with open(self.folder / name, "ab") as out:
                    out.writelines(parts)
                    out.flush()
                    os.fsync(out.fileno())
        self.chunks.append(chunk)

    def truncate(self, chunks: list[Chunk]) -> None:
        """Remove everything after ``chunks``, the first ones of the pack."""
        os.truncate(self.folder / FACES, sum(int(c.sizes.sum()) for c in chunks))
        os.truncate(self.folder / INDEX, sum(len(c.line()) for c in chunks))
        self.chunks = chunks

    def finish(self) -> None:
        """Sync the folder and rename it to the target."""
        sync_folder(self.folder)
        os.replace(self.folder, self.target)
        sync_folder(self.target.parent)


def partial_folder(target: Path) -> Path:
    """Where the pack ``target`` is built."""
    return target.with_name(f"{target.name}.partial")


def partial_bytes(target: Path) -> int:
    """Bytes of faces that an interrupted build of ``target`` left."""
    faces = partial_folder(target) / FACES
    return faces.stat().st_size if faces.is_file() else 0


def _valid_chunks(folder: Path) -> list[Chunk]:
    """The chunks before the first damaged line or face."""
    chunks: list[Chunk] = []
    with open(folder / FACES, "rb") as faces, open(folder / INDEX, "rb") as index:
        for chunk in map(_parsed, index):
            if chunk is None:
                break
            stored = zip(chunk.sizes.tolist(), chunk.sums, strict=True)
            if any(checksum(np.frombuffer(faces.read(size), np.uint8)) != known for size, known in stored):
                break
            chunks.append(chunk)
    return chunks


def read_index(folder: Path, rows: int) -> list[Chunk]:
    """The chunks of a finished pack of ``rows`` rows.  DataError for a damaged index or pixels of the wrong size."""
    try:
        with open(folder / INDEX, "rb") as index:
            chunks = list(map(_parsed, index))
        size = (folder / FACES).stat().st_size
    except OSError as error:
        damage = f"{error.filename} cannot be read ({error.strerror})"
        raise DataError(f"face pack {folder}: {damage}; {_REBUILD}") from error
    if None in chunks or sum(c.rows for c in chunks) != rows:
        raise DataError(f"face pack {folder}: its {INDEX} was changed after it was written; {_REBUILD}")
    expected = sum(int(c.sizes.sum()) for c in chunks)
    if size != expected:
        raise DataError(
            f"face pack {folder} has the wrong size ({FACES}: {size:,} bytes, not {expected:,} bytes); {_REBUILD}"
        )
    return chunks


def stored_reader(folder: Path, chunks: list[Chunk]) -> Callable[[int], np.ndarray]:
    """A function of i: the i-th stored face uint8 [side, side, C], a read-only view of the mapped file.

    A face is compared with its checksum whenever it is read; 16 faces spread over the pack are read at once.
    Raises DataError for a face that differs.
    """
    sides, channels, sums = (
        np.array([value for c in chunks for value in getattr(c, name)], np.int64)
        for name in ("sides", "channels", "sums")
    )
    ends = np.cumsum(sides * sides * channels)
    if not len(ends):
        return lambda i: np.empty((0, 0, 0), np.uint8)[i]
    pixels = np.asarray(np.memmap(folder / FACES, np.uint8, "r"))

    def read(i: int) -> np.ndarray:
        side, depth = int(sides[i]), int(channels[i])
        face = pixels[ends[i] - side * side * depth : ends[i]]
        if checksum(face) != sums[i]:
            raise DataError(f"face pack {folder}: face {i} is not what was written there; {_REBUILD}")
        return face.reshape(side, side, depth)

    for i in np.unique(np.linspace(0, len(ends) - 1, _SAMPLED).astype(int)):
        read(int(i))
    return read
