"""Write the two files of a face pack, ``faces.u8`` and ``faces.jsonl``; ``facepack.py`` reads them.

``faces.u8`` holds the faces uint8 [R, R, C] in row order without gaps; C = 1 for grey, so a pack of grey faces is one
array [N, R, R, 1].  ``faces.jsonl`` describes and checks them: one line per chunk of rows, ``[CRC-32 of the entries,
[entry of each row]]``.  A line is written after its faces are on the disk, so an interrupted build continues after the
last valid line.  A build writes to ``<pack>.partial``; renaming that folder finishes the pack.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field, FiniteFloat, InstanceOf, TypeAdapter

from fer_lib.datasets.cropping import Crop, crop_function
from fer_lib.datasets.manifest import Manifest
from fer_lib.errors import DataError
from fer_lib.faces.contract import FaceContract
from fer_lib.params.base import PackKind
from fer_lib.storage.atomic import append_synced, sync_folder
from fer_lib.storage.progress import step

FACES, INDEX = "faces.u8", "faces.jsonl"
FORMAT = 5  # of both files; part of a pack's name
CHUNK = 256  # rows: 51 MB of colour faces at 258 pixels; an interruption loses at most one chunk
_PARTS = 64  # rows of a checksum's table

Point = Annotated[list[FiniteFloat], Field(min_length=2, max_length=2)]


class Entry(NamedTuple):
    """A row in the index: channels and checksum of its face (0 without pixels), landmarks [5][2], or its problem."""

    channels: Literal[0, 1, 3] = 0
    checksum: Annotated[int, Field(ge=0, lt=2**32)] = 0
    eyes: Annotated[list[Point], Field(min_length=5, max_length=5)] | None = None
    problem: InstanceOf[str] = ""  # the name of a file may hold what is no text for pydantic


_LINE = TypeAdapter(tuple[int, list[Entry]])


def build_pack(manifest: Manifest, contract: FaceContract, folder: Path, tolerance: int, kind: PackKind) -> None:
    """Write the pack ``folder`` of ``manifest``'s rows, from where an interrupted build stopped.

    Raises DataError when more than ``tolerance`` images can't be used, and when the disk refuses.
    """
    crop, rows = crop_function(manifest, contract, kind == "faces"), manifest.frame.to_dict("records")
    partial = partial_folder(folder)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        entries = _continue(
            partial, contract.resize, len(rows), lambda places: pool.map(crop, (rows[i] for i in places))
        )
        problems = [entry.problem for entry in entries if entry.problem]
        with step("packing faces", total=len(rows), unit="faces", done=len(entries)) as packing:
            for start in range(len(entries), len(rows), CHUNK):
                crops = list(pool.map(crop, rows[start : start + CHUNK]))
                chunk = [
                    Entry(face.shape[2], checksum(face), None if eyes is None else eyes.tolist(), problem)
                    for face, eyes, problem in crops
                ]
                problems += [entry.problem for entry in chunk if entry.problem]
                if len(problems) > tolerance:  # the chunk is not written: the next build tries its rows again
                    if not start:
                        shutil.rmtree(partial)
                    raise DataError(_too_many(problems, start + len(chunk), len(rows), tolerance))
                _append(partial, [face for face, _, _ in crops], chunk)
                packing.update(start + len(chunk))
    sync_folder(partial)
    os.replace(partial, folder)
    sync_folder(folder.parent)


def _continue(partial: Path, side: int, rows: int, crop_rows: Callable[[list[int]], Iterable[Crop]]) -> list[Entry]:
    """The entries of an unfinished pack before damage and before the chunk of a now usable row; the rest is cut off."""
    partial.mkdir(exist_ok=True)
    for name in (FACES, INDEX):
        (partial / name).touch()
    chunks = []
    with open(partial / FACES, "rb") as faces, open(partial / INDEX, "rb") as index:
        for chunk in valid_chunks(index):
            stored = (np.frombuffer(faces.read(side**2 * entry.channels), np.uint8) for entry in chunk)
            rows -= len(chunk)
            if rows < 0 or any(checksum(face) != entry.checksum for face, entry in zip(stored, chunk, strict=True)):
                break
            chunks.append(chunk)
    unusable = [i for i, entry in enumerate(chain(*chunks)) if entry.problem]
    usable = (i for i, (_, _, problem) in zip(unusable, crop_rows(unusable), strict=True) if not problem)
    if (row := next(usable, None)) is not None:
        while sum(map(len, chunks)) > row:
            chunks.pop()
    entries = list(chain(*chunks))
    os.truncate(partial / FACES, side**2 * sum(entry.channels for entry in entries))
    os.truncate(partial / INDEX, sum(len(_line(chunk)) for chunk in chunks))
    return entries


def _append(partial: Path, faces: Sequence[np.ndarray], chunk: list[Entry]) -> None:
    """Write and sync faces, then their line.  Raises DataError when the disk refuses."""
    append_synced(partial / FACES, *faces)
    append_synced(partial / INDEX, _line(chunk))


def _too_many(problems: list[str], done: int, rows: int, tolerance: int) -> str:
    listed = "\n  ".join(problems[:10])
    part = f"the first {done:,} of {rows:,}" if done < rows else f"{rows:,}"
    return (
        f"{len(problems)} of {part} images can't be used (tolerance {tolerance}):\n  {listed}\n"
        "restore the files (the same call then continues the pack), or rebuild the manifest with a tolerance"
    )


def _line(chunk: list[Entry]) -> bytes:
    text = json.dumps(chunk, separators=(",", ":"))
    return f"[{zlib.crc32(text.encode())},{text}]\n".encode()


def valid_chunks(lines: Iterable[bytes]) -> Iterator[list[Entry]]:
    """The chunks before the first truncated or changed line of the index."""
    for line in lines:
        try:
            _, chunk = _LINE.validate_python(json.loads(line))
        except (ValueError, RecursionError):  # no JSON, or values that no build writes
            return
        if _line(chunk) != line:
            return
        yield chunk


def partial_folder(folder: Path) -> Path:
    """Where the pack ``folder`` is built."""
    return folder.with_name(f"{folder.name}.partial")


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
