"""Faces through the contract once, in the order of a manifest's rows, mapped into memory: uint8, grey in one channel.

Three kinds give the same pixels at other prices.  ``faces`` keeps what training reads, R x R.  ``native`` keeps squares
smaller than R at their own size, before resizing and CLAHE, which are then done at each reading.  ``none`` keeps no
pixels: one pass finds the rows that can't be used (and the eyes, where faces are aligned), then each reading decodes.

A pack is keyed by its kind, the rows, their order and the part of the contract that decides pixels at R, so a change of
any makes another pack, and backbones that differ in mean and std only share one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock

from fer_lib.atomic import explained
from fer_lib.datasets.manifest import BOX, Manifest
from fer_lib.datasets.packfile import CHUNK, FORMAT, RECORD, Chunk, PackWriter, checksum, read_pack, stored_reader
from fer_lib.errors import DataError
from fer_lib.faces.contract import CONTRACT_VERSION, Box, FaceContract, expand, thin
from fer_lib.faces.decode import decode
from fer_lib.faces.detectors import YUNET_SHA256, get_detector
from fer_lib.faces.points import find_points
from fer_lib.params.base import PackKind

_PROBED = 64  # faces made to estimate a pack's size when the most it could take does not fit


class Faces:
    """The faces of a pack, read when asked for: indexed like a read-only array uint8 [N, R, R, 3].

    ``thin(i)`` is face i as the loader takes it, uint8 [R, R, C], one channel where it is grey, perhaps read-only.
    Reading raises DataError for a face that was damaged on the disk or, without stored pixels, can't be decoded.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, n: int, side: int, thin: Callable[[int], np.ndarray]):
        self.shape = (n, side, side, 3)
        self.thin = thin

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        """One face [R, R, 3] for an integer; [n, R, R, 3] for a slice, numbers or a mask."""
        rows = np.arange(len(self))[index]
        if rows.ndim == 0:
            return expand(self.thin(int(rows)))
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for face, row in zip(out, rows.tolist(), strict=True):
            face[...] = expand(self.thin(row))
        return out

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)


@dataclass(frozen=True)
class FacePack:
    """``faces`` uint8 [N, R, R, 3]; row i is row i of ``manifest``, which holds the rows that could be used.

    ``n_expected`` counts the rows asked for; it differs from ``len(manifest)`` only within an explicit tolerance.
    ``without_points`` counts the faces that ``align: eyes`` left as they are, because no eyes were found in them.
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
    progress: Callable[[int, int], None] | None = None,
    kind: PackKind = "faces",
) -> FacePack:
    """The pack of ``manifest``'s rows, made when absent; ``progress(done, total)`` counts rows while it is made.

    An interrupted build goes on from its last whole chunk and ends with the bytes of an unbroken one.
    Raises DataError naming the first ten pictures that are missing or undecodable when they are more than
    ``tolerance``, when the disk has no room for the pack, and when a pack is not what was written; FerError when eyes
    are to be aligned without YuNet.
    """
    pixels = {"version": CONTRACT_VERSION, **contract.model_dump(mode="json", exclude={"mean", "std"})}
    if contract.align == "eyes":
        pixels["points"] = YUNET_SHA256
    parts = [FORMAT, kind, rows_key(manifest), pixels, tolerance]
    folder = cache_dir / f"pack-{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]}"
    if not (folder / RECORD).is_file():
        with explained(cache_dir):
            cache_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(cache_dir / f".{folder.name}.lock"):  # two phases that start together pack once
            if not (folder / RECORD).is_file():
                _build(manifest, contract, folder, tolerance, progress, kind)
    record, chunks = read_pack(folder)
    bad = [row for c in chunks for row, _ in c.bad]
    used = Manifest(manifest.frame.drop(index=bad), manifest.meta, manifest.path) if bad else manifest
    return FacePack(
        Faces(len(used), contract.resize, _thin_reader(folder, chunks, used, contract, kind)),
        used, contract, len(manifest), record["without_points"],
    )  # fmt: skip


def rows_key(manifest: Manifest) -> str:
    """64 hex over the rows and their order, which the manifest's own hash leaves out."""
    return hashlib.sha256(json.dumps([manifest.sha256, manifest.sample_ids]).encode()).hexdigest()


def _thin_reader(
    folder: Path, chunks: list[Chunk], used: Manifest, contract: FaceContract, kind: PackKind
) -> Callable[[int], np.ndarray]:
    """A function of a row of ``used``: its face uint8 [R, R, C]."""
    if kind == "none":
        rows = used.frame[["image_path", *(side for side in BOX if side in used.frame)]].to_dict("records")
        eyes = [points for c in chunks for points in c.eyes] or [None] * len(rows)

        def made(i: int) -> np.ndarray:
            found = None if eyes[i] is None else np.asarray(eyes[i], np.float32)
            return thin(contract.finish(_square(used, contract, rows[i], lambda *_: found)[0]))

        return made
    read = stored_reader(folder, chunks)

    def stored(i: int) -> np.ndarray:
        face = read(i)
        return face if len(face) == contract.resize else thin(contract.finish(face))

    return stored


def _build(manifest: Manifest, contract: FaceContract, folder: Path, tolerance: int, progress, kind: PackKind) -> None:
    cut, rows = _cutter(manifest, contract, kind), manifest.frame.to_dict("records")
    partial = folder.with_name(f"{folder.name}.partial")
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        writer = PackWriter(partial)
        if kind != "none":
            _check_room(writer, contract, rows, lambda some: pool.map(cut, some), kind)
        for start in range(writer.rows, len(rows), CHUNK):
            results = list(pool.map(cut, rows[start : start + CHUNK]))
            writer.append(*_chunk(start, results, contract, kind))
            if progress:
                progress(min(start + CHUNK, len(rows)), len(rows))
    bad = [message for chunk in writer.chunks for _, message in chunk.bad]
    if len(bad) > tolerance:
        shutil.rmtree(partial)  # its chunks hold the failures, so nothing could go on from them
        listed = "\n  ".join(bad[:10])
        raise DataError(
            f"{len(bad)} of {len(rows)} pictures can't be used (tolerance {tolerance}):\n  {listed}\n"
            "restore the files, or rebuild the manifest with a tolerance"
        )
    without_points = sum(chunk.without_points for chunk in writer.chunks)
    record = {"kind": kind, "n": len(rows) - len(bad), "without_points": without_points}
    writer.finish(folder, record | {"contract": contract.model_dump(mode="json")})


@dataclass(frozen=True)
class _Cut:
    """What packing makes of a row: pixels to store, the eyes' points, or what is wrong with its picture."""

    face: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 0), np.uint8))
    eyes: np.ndarray | None = None
    error: str = ""


def _chunk(start: int, results: list[_Cut], contract: FaceContract, kind: PackKind) -> tuple[Chunk, list[np.ndarray]]:
    good = [r for r in results if not r.error]
    faces, align = [r.face for r in good], contract.align == "eyes"
    remembered = [None if r.eyes is None else r.eyes.tolist() for r in good] if align and kind == "none" else []
    return Chunk(
        first=start, rows=len(results), sides=[len(f) for f in faces], channels=[f.shape[2] for f in faces],
        sums=[checksum(f) for f in faces], bad=[(start + i, r.error) for i, r in enumerate(results) if r.error],
        eyes=remembered, without_points=sum(r.eyes is None for r in good) if align else 0,
    ), faces  # fmt: skip


def _cutter(manifest: Manifest, contract: FaceContract, kind: PackKind) -> Callable[[dict[str, Any]], _Cut]:
    """A function of a row, for threads."""
    align = contract.align == "eyes"
    if align:
        get_detector("yunet")  # no YuNet to be had is told once and before anything is written
    own = threading.local()  # a detector serves one thread

    def points(image: np.ndarray, box: Box | None) -> np.ndarray | None:
        if not align:
            return None
        if not hasattr(own, "detector"):
            own.detector = get_detector("yunet")
        return find_points(image, box, own.detector)

    def cut(row: dict[str, Any]) -> _Cut:
        try:
            square, eyes = _square(manifest, contract, row, points)
        except DataError as error:
            return _Cut(error=str(error))
        if kind == "none":
            return _Cut(eyes=eyes)
        face = thin(contract.finish(square))
        if kind == "native" and len(square) < contract.resize and thin(square).size < face.size:
            face = thin(square)
        return _Cut(face.copy(), eyes)  # copied, or a small view would keep its whole photo in memory

    return cut


def _square(
    manifest: Manifest, contract: FaceContract, row: dict[str, Any], points: Callable
) -> tuple[np.ndarray, np.ndarray | None]:
    """The row's square uint8 [side, side, 3] and its eyes' points.  Raises DataError naming the picture."""
    path, box = manifest.resolve(row["image_path"]), _box(row)
    try:
        image = decode(path)
        eyes = points(image, box)
        return contract.square(image, box, eyes), eyes
    except DataError as error:
        raise error if str(path) in str(error) else DataError(f"{path}: {error}") from error


def _box(row: dict[str, Any]) -> Box | None:
    """(top, left, bottom, right) of a row that is a face in a photo; None for a picture that is the face."""
    values = [row.get(side) for side in BOX]
    return None if any(v is None or pd.isna(v) for v in values) else tuple(float(v) for v in values)


def _check_room(writer: PackWriter, contract: FaceContract, rows: list, cut: Callable, kind: PackKind) -> None:
    """DataError when the disk can't hold the pack.  Only when three channels at R would not fit are faces probed."""
    cache, side = writer.folder.parent, contract.resize
    free = shutil.disk_usage(cache).free + writer.bytes
    need = len(rows) * side**2 * 3
    if need <= free:
        return
    probed = [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, _PROBED).astype(int))]
    sizes = [result.face.size for result in cut(probed) if not result.error]
    need = int(np.mean(sizes or [side**2 * 3]) * len(rows))
    if need <= free:
        return
    others = [p.name for p in sorted(cache.glob("pack-*.partial")) if p != writer.folder]
    if not writer.rows:
        shutil.rmtree(writer.folder)
    smaller = "pack: native (faces smaller than that stay at their own size), " if kind == "faces" else ""
    left = f", or delete the unfinished {', '.join(others)}" if others else ""
    raise DataError(
        f"face pack of {len(rows):,} faces at {side} px needs {need / 1e9:.1f} GB, {cache} has {free / 1e9:.1f} GB: "
        f"use {smaller}pack: none (pictures are decoded whenever they are seen) or a smaller image_size, or free some "
        f"space{left}"
    )
