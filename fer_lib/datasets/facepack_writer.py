"""Write the two files of a face pack, ``faces.u8`` and ``faces.index``; ``facepack.py`` reads them.

``faces.u8`` holds the faces uint8 [R, R, C] in row order without gaps; C = 1 for grey, so a pack of grey faces is one
array [N, R, R, 1].  ``faces.index`` has one ENTRY per row and ends with the CRC-32 of all of them.  Entries are written
after their faces are on the disk, so an interrupted build continues after the last entry that fits its face.  A build
writes to ``<pack>.partial``; renaming that folder finishes the pack.
"""

from __future__ import annotations

import os
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from fer_lib.datasets.cropping import crop_function
from fer_lib.datasets.manifest import Manifest
from fer_lib.errors import DataError
from fer_lib.faces.contract import FaceContract
from fer_lib.params.base import PackKind
from fer_lib.storage.atomic import append_synced, sync_folder
from fer_lib.storage.progress import step

FACES, INDEX = "faces.u8", "faces.index"
FORMAT = 6  # of both files; part of a pack's name
CHUNK = 256  # rows: 51 MB of colour faces at 258 pixels; an interruption loses at most one chunk
UNUSABLE = 255  # in place of the channels
ENTRY = np.dtype([("channels", "u1"), ("checksum", "<u4"), ("eyes", "<f4", (5, 2))])
"""A row in the index: channels of its face (0 without pixels), :func:`checksum` of it, landmarks (NaN without)."""
_PARTS = 64  # rows of a checksum's table


def build_pack(manifest: Manifest, contract: FaceContract, folder: Path, tolerance: int, kind: PackKind) -> None:
    """Write the pack ``folder`` of ``manifest``'s rows, from where an interrupted build stopped.

    Raises DataError when more than ``tolerance`` images can't be used, and when the disk refuses.
    """
    crop, rows = crop_function(manifest, contract, kind == "faces"), manifest.frame.to_dict("records")
    partial, problems = partial_folder(folder), []
    done = _continue(partial, contract.resize, len(rows))
    packing = step("packing faces", total=len(rows), unit="faces", done=done)
    with packing as counter, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for start in range(done, len(rows), CHUNK):
            crops = list(pool.map(crop, rows[start : start + CHUNK]))
            problems += [problem for _, _, problem in crops if problem]
            done = start + len(crops)
            if len(problems) > tolerance:  # the chunk is not written: the next build tries its rows again
                if not start:
                    shutil.rmtree(partial)
                raise DataError(_too_many(problems, done, len(rows), tolerance))
            append_synced(partial / FACES, *(face for face, _, _ in crops))
            append_synced(partial / INDEX, np.array([_entry(*each) for each in crops], ENTRY))
            counter.update(done)
    append_synced(partial / INDEX, zlib.crc32((partial / INDEX).read_bytes()).to_bytes(4, "little"))
    sync_folder(partial)
    os.replace(partial, folder)
    sync_folder(folder.parent)


def _entry(face: np.ndarray, eyes: np.ndarray | None, problem: str) -> tuple:
    return UNUSABLE if problem else face.shape[2], checksum(face), np.full((5, 2), np.nan) if eyes is None else eyes


def _continue(partial: Path, side: int, rows: int) -> int:
    """The number of rows of an unfinished pack before damage and the first unusable row; the rest is cut off."""
    partial.mkdir(exist_ok=True)
    for name in (FACES, INDEX):
        (partial / name).touch()
    entries, done, end = np.fromfile(partial / INDEX, ENTRY, rows), 0, 0
    with open(partial / FACES, "rb") as faces:
        for channels, expected in entries[["channels", "checksum"]].tolist():
            if channels == UNUSABLE:  # its image is tried again
                break
            face = np.frombuffer(faces.read(side**2 * channels), np.uint8)
            if checksum(face) != expected:
                break
            done, end = done + 1, end + face.size
    os.truncate(partial / FACES, end)
    os.truncate(partial / INDEX, done * ENTRY.itemsize)
    return done


def _too_many(problems: list[str], done: int, rows: int, tolerance: int) -> str:
    listed = "\n  ".join(problems[:10])
    part = f"the first {done:,} of {rows:,}" if done < rows else f"{rows:,}"
    return (
        f"{len(problems)} of {part} images can't be used (tolerance {tolerance}):\n  {listed}\n"
        "restore the files (the same call then continues the pack), or rebuild the manifest with a tolerance"
    )


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
