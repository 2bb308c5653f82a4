"""Face packs: the faces of a manifest's rows after the face contract, memory-mapped, uint8, in the rows' order.

The three kinds give the same pixels.  ``faces`` stores them as training reads them, R x R.  ``native`` stores squares
smaller than R at their own size; resizing and CLAHE then run at each reading.  ``none`` stores no pixels: one pass
finds the unusable rows (and the landmarks, where eyes are aligned), and each reading decodes the image.

The folder's name hashes the kind, the rows and their order, the contract's fields that decide pixels at R, and the
versions of the libraries that decode and resize.  Backbones that differ only in mean and std share a pack.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
from filelock import FileLock

from fer_lib.datasets.cropping import Crop, crop_function, square_and_eyes
from fer_lib.datasets.manifest import BOX, Manifest
from fer_lib.datasets.pack_format import (
    FORMAT,
    Chunk,
    PackWriter,
    checksum,
    partial_bytes,
    partial_folder,
    read_index,
    stored_reader,
)
from fer_lib.errors import DataError
from fer_lib.faces.contract import CONTRACT_VERSION, FaceContract, to_gray, to_rgb
from fer_lib.faces.yunet import YUNET_SHA256
from fer_lib.params.base import PackKind
from fer_lib.storage.progress import step

log = logging.getLogger(__name__)

CHUNK = 256  # rows: 51 MB of colour faces at 258 pixels; an interruption loses at most one chunk
LIBRARIES = {"opencv": cv2.__version__, "pillow": PIL.__version__}  # their decoding and resizing decide pixels
_PROBED = 64  # faces made to estimate a pack's size when its upper bound does not fit


class Faces:
    """The faces of a pack, read on access: indexed like a read-only array uint8 [N, R, R, 3].

    ``compact(i)`` is face i for the loader, uint8 [R, R, C], C = 1 for grey, maybe read-only.  Reading raises DataError
    for a face that was damaged on the disk, and in a pack without pixels for an image that can't be decoded.
    """

    def __init__(self, n: int, side: int, compact: Callable[[int], np.ndarray]):
        self.shape = (n, side, side, 3)
        self.compact = compact

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        """One face [R, R, 3] for an integer; [n, R, R, 3] for a slice, numbers or a mask."""
        rows = np.arange(len(self))[index]
        if rows.ndim == 0:
            return to_rgb(self.compact(int(rows)))
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for face, row in zip(out, rows.tolist(), strict=True):
            face[...] = to_rgb(self.compact(row))
        return out


@dataclass(frozen=True)
class FacePack:
    """``faces`` uint8 [N, R, R, 3]; row i is row i of ``manifest``, which has the usable rows.

    ``n_expected``: the requested rows; more than ``len(manifest)`` only within a tolerance.
    ``without_points``: faces that ``align: eyes`` leaves unaligned because no eyes were found.
    """

    faces: Faces
    manifest: Manifest
    contract: FaceContract
    n_expected: int
    without_points: int = 0


def open_or_build(
    manifest: Manifest,
    contract: FaceContract,
    cache_dir: Path,
    tolerance: int = 0,
    kind: PackKind = "faces",
) -> FacePack:
    """The pack of ``manifest``'s rows, built when absent.

    An interrupted build continues after its last whole chunk, tries unusable images again, and ends with the bytes of
    an uninterrupted one.  A warning names the rows that a finished pack leaves out.
    Raises DataError with the first ten missing or undecodable images as soon as there are more than ``tolerance``, when
    the disk has no room, and for a damaged pack; FerError when eyes are to be aligned without YuNet.
    """
    folder = _pack_folder(manifest, contract, cache_dir, tolerance, kind)
    if not folder.is_dir():
        cache_dir.mkdir(parents=True, exist_ok=True)
        check_room([manifest], contract, cache_dir, tolerance, kind)
        with FileLock(cache_dir / f".{folder.name}.lock"):  # of two phases that start together, one builds
            if not folder.is_dir():
                _build(manifest, contract, folder, tolerance, kind)
    chunks = read_index(folder, len(manifest))
    bad = [pair for c in chunks for pair in c.bad]
    if bad:
        log.warning(
            "%s leaves out %d of %d images that could not be used when it was made (%s%s): to try them again, "
            "delete that folder", folder, len(bad), len(manifest), bad[0][1], ", ..." if len(bad) > 1 else "",
        )  # fmt: skip
    used = Manifest(manifest.frame.drop(index=[i for i, _ in bad]), manifest.meta, manifest.path) if bad else manifest
    read = _decoder(chunks, used, contract) if kind == "none" else _pack_reader(folder, chunks, contract)
    return FacePack(
        Faces(len(used), contract.resize, read), used, contract, len(manifest), sum(c.without_points for c in chunks)
    )


def check_room(
    wanted: Sequence[Manifest],
    contract: FaceContract,
    cache_dir: Path,
    tolerance: int,
    kind: PackKind,
    later: Sequence[Manifest] = (),
) -> None:
    """DataError when the disk has no room for the missing packs of ``wanted`` and ``later`` together.

    ``later``: rows that are packed afterwards; their images are not opened.  When three channels at R do not fit, some
    faces of ``wanted`` are made to estimate the size.
    """

    def missing(manifests: Sequence[Manifest]) -> dict[Path, Manifest]:
        folders = {_pack_folder(m, contract, cache_dir, tolerance, kind): m for m in manifests}
        return {folder: m for folder, m in folders.items() if not folder.is_dir()}

    now = missing(wanted)
    if kind == "none" or not now:
        return
    packs, side = now | missing(later), contract.resize
    free = shutil.disk_usage(next(p for p in (cache_dir, *cache_dir.absolute().parents) if p.exists())).free
    free += sum(map(partial_bytes, packs))
    rows = sum(map(len, packs.values()))
    if rows * side**2 * 3 <= free:
        return
    estimate = sum(len(m) * _mean_bytes(m, contract, kind) for m in now.values())
    need = estimate * rows / sum(map(len, now.values()))
    if need <= free:
        return
    others = [p.name for p in sorted(cache_dir.glob("pack-*.partial")) if p not in map(partial_folder, packs)]
    smaller = "pack: native (faces smaller than that stay at their own size), " if kind == "faces" else ""
    left = f", or delete the unfinished {', '.join(others)}" if others else ""
    counts = " + ".join(f"{len(m):,}" for m in packs.values())
    what = f"face pack of {counts} faces" if len(packs) == 1 else f"{len(packs)} face packs of {counts} faces together"
    raise DataError(
        f"{what} at {side} px: needs {need / 1e9:.1f} GB, {cache_dir} has {free / 1e9:.1f} GB: use {smaller}pack: none "
        f"(images are decoded at each reading) or a smaller image_size, or free some space{left}"
    )


def _mean_bytes(manifest: Manifest, contract: FaceContract, kind: PackKind) -> float:
    """Bytes per stored face, measured on faces spread over the rows."""
    sample = np.unique(np.linspace(0, len(manifest) - 1, _PROBED).astype(int))
    rows = manifest.frame.iloc[sample].to_dict("records")
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        sizes = [r.face.size for r in pool.map(crop_function(manifest, contract, kind), rows) if not r.error]
    return float(np.mean(sizes or [contract.resize**2 * 3]))


def _pack_folder(manifest: Manifest, contract: FaceContract, cache_dir: Path, tolerance: int, kind: PackKind) -> Path:
    pixels = {"version": CONTRACT_VERSION, **contract.model_dump(mode="json", exclude={"mean", "std"}), **LIBRARIES}
    if contract.align == "eyes":
        pixels["points"] = f"{YUNET_SHA256} by ONNX Runtime"
    parts = [FORMAT, kind, rows_key(manifest), pixels, tolerance]
    return cache_dir / f"pack-{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]}"


def rows_key(manifest: Manifest) -> str:
    """64 hex over the rows and their order; the manifest's own hash ignores the order."""
    return hashlib.sha256(json.dumps([manifest.sha256, manifest.sample_ids]).encode()).hexdigest()


def _decoder(chunks: list[Chunk], used: Manifest, contract: FaceContract) -> Callable[[int], np.ndarray]:
    """A function of a row of ``used``: its face uint8 [R, R, C], from the image file."""
    rows = used.frame[["image_path", *(side for side in BOX if side in used.frame)]].to_dict("records")
    landmarks = [points for c in chunks for points in c.eyes] or [None] * len(rows)

    def read(i: int) -> np.ndarray:
        points = None if landmarks[i] is None else np.asarray(landmarks[i], np.float32)
        return to_gray(contract.finish(square_and_eyes(used, contract, rows[i], lambda *_: points)[0]))

    return read


def _pack_reader(folder: Path, chunks: list[Chunk], contract: FaceContract) -> Callable[[int], np.ndarray]:
    """A function of a row: its face uint8 [R, R, C], from the pack."""
    stored = stored_reader(folder, chunks)

    def read(i: int) -> np.ndarray:
        face = stored(i)
        return face if len(face) == contract.resize else to_gray(contract.finish(face))

    return read


def _build(manifest: Manifest, contract: FaceContract, folder: Path, tolerance: int, kind: PackKind) -> None:
    crop, rows = crop_function(manifest, contract, kind), manifest.frame.to_dict("records")
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        writer = PackWriter(folder)
        unusable = [row for row, _ in writer.bad]
        for row, result in zip(unusable, pool.map(crop, (rows[i] for i in unusable)), strict=True):
            if not result.error:
                writer.truncate([c for c in writer.chunks if c.first + c.rows <= row])
                break
        with step("packing faces", total=len(rows), unit="faces", done=writer.rows) as packing:
            for start in range(writer.rows, len(rows), CHUNK):
                results = list(pool.map(crop, rows[start : start + CHUNK]))
                chunk = _chunk(start, results, contract, kind)
                if len(writer.bad) + len(chunk.bad) > tolerance:  # not written: the next build tries these rows again
                    if not writer.chunks:
                        shutil.rmtree(writer.folder)
                    raise DataError(_too_many(writer.bad + chunk.bad, start + chunk.rows, len(rows), tolerance))
                writer.append(chunk, [r.face for r in results if not r.error])
                packing.update(start + chunk.rows)
    writer.finish()


def _too_many(bad: list[tuple[int, str]], done: int, rows: int, tolerance: int) -> str:
    listed = "\n  ".join(message for _, message in bad[:10])
    part = f"the first {done:,} of {rows:,}" if done < rows else f"{rows:,}"
    return (
        f"{len(bad)} of {part} images can't be used (tolerance {tolerance}):\n  {listed}\n"
        "restore the files (the same call then continues the pack), or rebuild the manifest with a tolerance"
    )


def _chunk(start: int, results: list[Crop], contract: FaceContract, kind: PackKind) -> Chunk:
    usable, align = [r for r in results if not r.error], contract.align == "eyes"
    landmarks = [None if r.eyes is None else r.eyes.tolist() for r in usable] if align and kind == "none" else []
    return Chunk(
        first=start, rows=len(results), sides=[len(r.face) for r in usable],
        channels=[r.face.shape[2] for r in usable], sums=[checksum(r.face) for r in usable],
        bad=[(start + i, r.error) for i, r in enumerate(results) if r.error], eyes=landmarks,
        without_points=sum(r.eyes is None for r in usable) if align else 0,
    )  # fmt: skip
