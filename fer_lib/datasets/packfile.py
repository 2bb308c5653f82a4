"""What lies in a face pack's folder: pixels one face after another, and a journal that says what each stretch holds.

``faces.u8`` holds faces uint8 [side, side, C], C = 1 for grey, in row order without gaps (a pack of grey faces of one
size is one array [N, side, side, 1]).  ``journal.jsonl`` has one line for every ``CHUNK`` rows of the manifest, written
after the pixels are on the disk: what it names is whole, so an interrupted build goes on after its last line.
``pack.json`` comes last and makes the folder a pack.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_lib.atomic import explained, readable, write_json
from fer_lib.errors import DataError

CHUNK = 256  # rows: 51 MB of colour faces at 258 pixels, and what an interruption costs at most
FACES, JOURNAL, RECORD = "faces.u8", "journal.jsonl", "pack.json"
FORMAT = 2
_PARTS = 64
_SAMPLED = 16  # faces checked when a pack is opened
_AGAIN = "delete that folder and it is made again"


def checksum(pixels: np.ndarray) -> int:
    """32 bits over uint8 pixels: the CRC-32 of 64 partial sums of 8-byte words, and of the odd bytes at the end.

    It finds what disks and copies do (zeroed, lost, shifted or exchanged stretches, changed values) at more than
    20 GB/s, so that every face can be checked whenever it is read.  It is no defence against someone who forges sums.
    """
    flat = pixels.reshape(-1)
    whole = flat.size // (8 * _PARTS) * (8 * _PARTS)
    parts = flat[:whole].view("<u8").reshape(_PARTS, -1).sum(axis=1)
    return zlib.crc32(flat[whole:], zlib.crc32(parts, flat.size))


@dataclass(frozen=True)
class Chunk:
    """One journal line: ``rows`` rows of the manifest from ``first``.

    ``bad``: (row, what is wrong) of rows that can't be used.  The other lists are of the rows that can: side and
    channels of what is stored (0, 0 in a pack without pixels), its checksum, and the eyes' points [5][2] where a pack
    without pixels must remember them.  ``without_points`` counts faces whose eyes were not found.
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


class PackWriter:
    """Chunks appended to the folder of an unfinished pack; one made on what an interrupted build left goes on there."""

    def __init__(self, folder: Path):
        self.folder = folder
        with explained(folder):
            folder.mkdir(exist_ok=True)
            for name in (FACES, JOURNAL):
                (folder / name).touch()
            self.chunks = _whole_chunks(folder)

    @property
    def rows(self) -> int:
        """How many rows of the manifest are done."""
        return sum(c.rows for c in self.chunks)

    @property
    def bytes(self) -> int:
        return int(sum(c.sizes.sum() for c in self.chunks))

    def append(self, chunk: Chunk, faces: Sequence[np.ndarray]) -> None:
        """``faces`` and then ``chunk``, each safely on the disk.  Raises DataError when the disk refuses."""
        with explained(self.folder):
            for name, parts in ((FACES, faces), (JOURNAL, [_line(chunk)])):
                with open(self.folder / name, "ab") as out:
                    for part in parts:
                        out.write(np.ascontiguousarray(part).data if isinstance(part, np.ndarray) else part)
                    out.flush()
                    os.fsync(out.fileno())
        self.chunks.append(chunk)

    def finish(self, target: Path, record: dict[str, Any]) -> None:
        """The record written and the folder renamed to ``target``."""
        journal = hashlib.sha256((self.folder / JOURNAL).read_bytes()).hexdigest()
        write_json(self.folder / RECORD, {"format": FORMAT, "bytes": self.bytes, "journal_sha256": journal, **record})
        with explained(target):
            os.replace(self.folder, target)


def _line(chunk: Chunk) -> bytes:
    return json.dumps(asdict(chunk), separators=(",", ":")).encode() + b"\n"


def _whole_chunks(folder: Path) -> list[Chunk]:
    """The chunks whose line is whole and whose faces are what the line says; both files are cut off after the last."""
    chunks: list[Chunk] = []
    written = noted = 0
    with open(folder / FACES, "rb+") as faces, open(folder / JOURNAL, "rb+") as journal:
        for line in journal:
            if not line.endswith(b"\n"):
                break
            chunk = Chunk(**json.loads(line))
            if any(checksum(np.frombuffer(faces.read(n), np.uint8)) != s for n, s in zip(*_stored(chunk), strict=True)):
                break
            chunks.append(chunk)
            written, noted = written + int(chunk.sizes.sum()), noted + len(line)
        faces.truncate(written)
        journal.truncate(noted)
    return chunks


def _stored(chunk: Chunk) -> tuple[list[int], list[int]]:
    return chunk.sizes.tolist(), chunk.sums


def read_pack(folder: Path) -> tuple[dict[str, Any], list[Chunk]]:
    """The record and the chunks of a finished pack.  DataError when journal or size are not what was written."""
    with readable(folder / RECORD):
        record = json.loads((folder / RECORD).read_bytes())
    with readable(folder / JOURNAL):
        journal = (folder / JOURNAL).read_bytes()
    if hashlib.sha256(journal).hexdigest() != record["journal_sha256"]:
        raise DataError(f"face pack {folder}: its {JOURNAL} was changed after it was written; {_AGAIN}")
    file = folder / FACES
    if not file.is_file() or file.stat().st_size != record["bytes"]:
        size = f"{file.stat().st_size:,} bytes" if file.is_file() else "gone"
        raise DataError(
            f"face pack {folder} has the wrong size ({FACES}: {size}, not {record['bytes']:,} bytes); {_AGAIN}"
        )
    return record, [Chunk(**json.loads(line)) for line in journal.splitlines()]


def stored_reader(folder: Path, chunks: list[Chunk]) -> Callable[[int], np.ndarray]:
    """A function of i: the i-th stored face uint8 [side, side, C], a read-only view of the mapped file.

    Every face is compared with its checksum whenever it is read, and sixteen spread over the pack at once, here.
    Raises DataError for one that is not what was written.
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
            raise DataError(f"face pack {folder}: face {i} is not what was written there; {_AGAIN}")
        return face.reshape(side, side, depth)

    for i in np.unique(np.linspace(0, len(ends) - 1, _SAMPLED).astype(int)):
        read(int(i))
    return read
