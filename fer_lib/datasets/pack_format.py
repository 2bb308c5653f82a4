"""What lies in a face pack's folder: pixels one face after another, and a journal that says what each stretch holds.

``faces.u8`` holds faces uint8 [side, side, C], C = 1 for grey, in row order without gaps (a pack of grey faces of one
size is one array [N, side, side, 1]).  ``journal.txt`` has one line for every ``CHUNK`` rows of the manifest, written
after the pixels are on the disk: the CRC-32 of what follows on the line, and a chunk as JSON.  What it names is whole,
so an interrupted build goes on after its last good line.  ``pack.json`` comes last and makes the folder a pack; one
that lost it is an unfinished pack.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, NonNegativeInt, ValidationError

from fer_lib.errors import DataError
from fer_lib.storage.atomic import explained, sync_folder, write_json

CHUNK = 256  # rows: 51 MB of colour faces at 258 pixels, and what an interruption costs at most
FACES, JOURNAL, RECORD = "faces.u8", "journal.txt", "pack.json"
FORMAT = 3
_PARTS = 64
_SAMPLED = 16  # faces checked when a pack is opened
_AGAIN = "delete that folder and it is made again"


def checksum(pixels: np.ndarray) -> int:
    """32 bits over uint8 pixels: the CRC-32 of their number, of sums of 8-byte words and of the odd bytes at the end.

    The words stand in 64 lines; every line and every column is summed modulo 2^64.  So a changed, zeroed or shifted
    stretch and two exchanged ones change sums, wherever they lie, save for changes that cancel out in lines and columns
    alike, which takes four words at the corners of a rectangle; and changed sums go unseen once in 2^32.  That is
    enough against what disks and copies do, and no defence against someone who forges sums.  It is faster than a CRC of
    all bytes (``benchmarks/loader.py`` shows both), so that every face can be checked whenever it is read.
    """
    flat = pixels.reshape(-1)
    whole = flat.size // (8 * _PARTS) * (8 * _PARTS)
    words = flat[:whole].view("<u8").reshape(_PARTS, -1)
    return zlib.crc32(flat[whole:], zlib.crc32(words.sum(axis=0), zlib.crc32(words.sum(axis=1), flat.size)))


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


class Record(BaseModel):
    """``pack.json``: what the other two files must be, and for people what the pack is.

    ``left_out``: what was wrong with each picture that a tolerance left out.
    """

    format: NonNegativeInt = FORMAT
    bytes: NonNegativeInt
    journal_sha256: str
    kind: str
    n: NonNegativeInt
    left_out: list[str]
    without_points: NonNegativeInt
    contract: dict[str, Any]


class PackWriter:
    """Chunks appended to the unfinished pack of ``target``, after those that an interrupted build left."""

    def __init__(self, target: Path):
        self.target, self.folder = target, unfinished(target)
        with explained(target):
            if target.exists():  # it lost its record, and its place would be in the way of what is made now
                shutil.rmtree(target) if self.folder.exists() else os.replace(target, self.folder)
            self.folder.mkdir(exist_ok=True)
            (self.folder / RECORD).unlink(missing_ok=True)
            for name in (FACES, JOURNAL):
                (self.folder / name).touch()
            self.chunks = _whole_chunks(self.folder)

    @property
    def rows(self) -> int:
        """How many rows of the manifest are done."""
        return sum(c.rows for c in self.chunks)

    @property
    def bad(self) -> list[tuple[int, str]]:
        """(row, what is wrong) of every row that is done and can't be used."""
        return [pair for c in self.chunks for pair in c.bad]

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

    def back_to(self, row: int) -> None:
        """Forget the chunks from the one that holds ``row`` on."""
        kept = [c for c in self.chunks if c.first + c.rows <= row]
        with explained(self.folder):
            os.truncate(self.folder / JOURNAL, sum(len(_line(c)) for c in kept))
            os.truncate(self.folder / FACES, sum(int(c.sizes.sum()) for c in kept))
        self.chunks = kept

    def finish(self, **about: Any) -> None:
        """The record written and the folder renamed to the target; ``about``: the record's fields that people read."""
        journal = hashlib.sha256((self.folder / JOURNAL).read_bytes()).hexdigest()
        size = int(sum(c.sizes.sum() for c in self.chunks))
        write_json(self.folder / RECORD, Record(bytes=size, journal_sha256=journal, **about))
        with explained(self.target):
            os.replace(self.folder, self.target)
            sync_folder(self.target.parent)


def unfinished(target: Path) -> Path:
    """Where the pack of ``target`` lies while it is made."""
    return target.with_name(f"{target.name}.partial")


def bytes_done(target: Path) -> int:
    """How many bytes of faces an interrupted build of ``target`` left."""
    return sum(f.stat().st_size for folder in (target, unfinished(target)) if (f := folder / FACES).is_file())


def _line(chunk: Chunk) -> bytes:
    text = json.dumps(asdict(chunk), separators=(",", ":")).encode() + b"\n"
    return b"%08x %b" % (zlib.crc32(text), text)


def _parsed(line: bytes) -> Chunk | None:
    """The chunk of a whole line; None for half a line and for anything else that was not written there."""
    crc, _, text = line.partition(b" ")
    return Chunk(**json.loads(text)) if crc == b"%08x" % zlib.crc32(text) else None


def _whole_chunks(folder: Path) -> list[Chunk]:
    """The chunks whose line is whole and whose faces are what the line says; both files are cut off after the last."""
    chunks: list[Chunk] = []
    written = noted = 0
    with open(folder / FACES, "rb+") as faces, open(folder / JOURNAL, "rb+") as journal:
        for line in journal:
            chunk = _parsed(line)
            if chunk is None:
                break
            if any(checksum(np.frombuffer(faces.read(n), np.uint8)) != s for n, s in zip(*_stored(chunk), strict=True)):
                break
            chunks.append(chunk)
            written, noted = written + int(chunk.sizes.sum()), noted + len(line)
        faces.truncate(written)
        journal.truncate(noted)
    return chunks


def _stored(chunk: Chunk) -> tuple[list[int], list[int]]:
    return chunk.sizes.tolist(), chunk.sums


def read_pack(folder: Path) -> list[Chunk]:
    """The chunks of a finished pack.  DataError when record, journal or size are not what was written."""
    try:
        record = Record.model_validate_json((folder / RECORD).read_bytes())
        journal = (folder / JOURNAL).read_bytes()
    except ValidationError as error:
        raise DataError(f"face pack {folder}: its {RECORD} is damaged ({_first(error)}); {_AGAIN}") from error
    except OSError as error:
        raise DataError(f"face pack {folder}: {error.filename} cannot be read ({error.strerror}); {_AGAIN}") from error
    if hashlib.sha256(journal).hexdigest() != record.journal_sha256:
        raise DataError(f"face pack {folder}: its {JOURNAL} was changed after it was written; {_AGAIN}")
    file = folder / FACES
    if not file.is_file() or file.stat().st_size != record.bytes:
        size = f"{file.stat().st_size:,} bytes" if file.is_file() else "gone"
        raise DataError(
            f"face pack {folder} has the wrong size ({FACES}: {size}, not {record.bytes:,} bytes); {_AGAIN}"
        )
    return [Chunk(**json.loads(line.partition(b" ")[2])) for line in journal.splitlines()]


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".lstrip(": ")


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
