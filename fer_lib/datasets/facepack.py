"""Faces through the contract once, in the order of a manifest's rows, mapped into memory: uint8, grey in one channel.

Three kinds give the same pixels at other prices.  ``faces`` keeps what training reads, R x R.  ``native`` keeps squares
smaller than R at their own size, before resizing and CLAHE, which are then done at each reading.  ``none`` keeps no
pixels: one pass finds the rows that can't be used (and the eyes, where faces are aligned), then each reading decodes.

A pack is keyed by its kind, the rows, their order, the part of the contract that decides pixels at R and the versions
of the libraries that decode and resize, so a change of any makes another pack, and backbones that differ in mean and
std only share one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
from filelock import FileLock

from fer_lib.datasets.cropping import Cut, cut_square, cutter
from fer_lib.datasets.manifest import BOX, Manifest
from fer_lib.datasets.pack_format import (
    CHUNK,
    FORMAT,
    RECORD,
    Chunk,
    PackWriter,
    bytes_done,
    checksum,
    read_pack,
    stored_reader,
    unfinished,
)
from fer_lib.errors import DataError
from fer_lib.faces.contract import CONTRACT_VERSION, FaceContract, to_gray, to_rgb
from fer_lib.faces.yunet import YUNET_SHA256
from fer_lib.params.base import PackKind
from fer_lib.storage.atomic import explained

log = logging.getLogger(__name__)

LIBRARIES = {"opencv": cv2.__version__, "pillow": PIL.__version__}  # whose decoding and resizing decide pixels
_PROBED = 64  # faces made to estimate a pack's size when the most it could take does not fit


class Faces:
    """The faces of a pack, read when asked for: indexed like a read-only array uint8 [N, R, R, 3].

    ``thin(i)`` is face i as the loader takes it, uint8 [R, R, C], one channel where it is grey, perhaps read-only.
    Reading raises DataError for a face that was damaged on the disk or, without stored pixels, can't be decoded.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, n: int, side: int, to_gray: Callable[[int], np.ndarray]):
        self.shape = (n, side, side, 3)
        self.thin = to_gray

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        """One face [R, R, 3] for an integer; [n, R, R, 3] for a slice, numbers or a mask."""
        rows = np.arange(len(self))[index]
        if rows.ndim == 0:
            return to_rgb(self.thin(int(rows)))
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for face, row in zip(out, rows.tolist(), strict=True):
            face[...] = to_rgb(self.thin(row))
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

    An interrupted build goes on from its last whole chunk and ends with the bytes of an unbroken one; pictures that it
    could not use are tried again.  What a tolerance leaves out of a finished pack is told whenever it is opened.
    Raises DataError naming the first ten pictures that are missing or undecodable as soon as they are more than
    ``tolerance``, when the disk has no room for the pack, and when a pack is not what was written; FerError when eyes
    are to be aligned without YuNet.
    """
    folder = _pack_folder(manifest, contract, cache_dir, tolerance, kind)
    if not (folder / RECORD).is_file():
        with explained(cache_dir):
            cache_dir.mkdir(parents=True, exist_ok=True)
        check_room([manifest], contract, cache_dir, tolerance, kind)
        with FileLock(cache_dir / f".{folder.name}.lock"):  # two phases that start together pack once
            if not (folder / RECORD).is_file():
                _build(manifest, contract, folder, tolerance, progress, kind)
    chunks = read_pack(folder)
    bad = [pair for c in chunks for pair in c.bad]
    if bad:
        log.warning(
            "%s leaves out %d of %d pictures that could not be used when it was made (%s%s): to try them again, "
            "delete that folder", folder, len(bad), len(manifest), bad[0][1], ", ..." if len(bad) > 1 else "",
        )  # fmt: skip
    used = Manifest(manifest.frame.drop(index=[i for i, _ in bad]), manifest.meta, manifest.path) if bad else manifest
    return FacePack(
        Faces(len(used), contract.resize, _thin_reader(folder, chunks, used, contract, kind)),
        used, contract, len(manifest), sum(c.without_points for c in chunks),
    )  # fmt: skip


def check_room(
    wanted: Sequence[Manifest],
    contract: FaceContract,
    cache_dir: Path,
    tolerance: int,
    kind: PackKind,
    later: Sequence[Manifest] = (),
) -> None:
    """DataError when the disk can't hold the packs of ``wanted`` and ``later`` that are not made yet, all together.

    ``later``: rows that will be packed after these; they are counted, but their pictures are not opened.  Only when
    three channels at R would not fit are some faces of ``wanted`` made, to see what they really take.
    """

    def missing(manifests: Sequence[Manifest]) -> dict[Path, Manifest]:
        folders = {_pack_folder(m, contract, cache_dir, tolerance, kind): m for m in manifests}
        return {folder: m for folder, m in folders.items() if not (folder / RECORD).is_file()}

    now = missing(wanted)
    if kind == "none" or not now:
        return
    packs, side = now | missing(later), contract.resize
    free = shutil.disk_usage(next(p for p in (cache_dir, *cache_dir.absolute().parents) if p.exists())).free
    free += sum(map(bytes_done, packs))
    faces, chosen = sum(map(len, packs.values())), sum(map(len, now.values()))
    if faces * side**2 * 3 <= free:
        return
    need = sum(len(m) * _size_of_a_face(m, contract, kind) for m in now.values()) / chosen * faces
    if need <= free:
        return
    others = [p.name for p in sorted(cache_dir.glob("pack-*.partial")) if p not in map(unfinished, packs)]
    smaller = "pack: native (faces smaller than that stay at their own size), " if kind == "faces" else ""
    left = f", or delete the unfinished {', '.join(others)}" if others else ""
    counts = " + ".join(f"{len(m):,}" for m in packs.values())
    what = f"face pack of {counts} faces" if len(packs) == 1 else f"{len(packs)} face packs of {counts} faces together"
    raise DataError(
        f"{what} at {side} px: needs {need / 1e9:.1f} GB, {cache_dir} has {free / 1e9:.1f} GB: use {smaller}pack: none "
        f"(pictures are decoded whenever they are seen) or a smaller image_size, or free some space{left}"
    )


def _size_of_a_face(manifest: Manifest, contract: FaceContract, kind: PackKind) -> float:
    """Bytes, the mean of faces spread over the rows."""
    chosen = np.unique(np.linspace(0, len(manifest) - 1, _PROBED).astype(int))
    rows = manifest.frame.iloc[chosen].to_dict("records")
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        sizes = [r.face.size for r in pool.map(cutter(manifest, contract, kind), rows) if not r.error]
    return float(np.mean(sizes or [contract.resize**2 * 3]))


def _pack_folder(manifest: Manifest, contract: FaceContract, cache_dir: Path, tolerance: int, kind: PackKind) -> Path:
    pixels = {"version": CONTRACT_VERSION, **contract.model_dump(mode="json", exclude={"mean", "std"}), **LIBRARIES}
    if contract.align == "eyes":
        pixels["points"] = f"{YUNET_SHA256} by ONNX Runtime"
    parts = [FORMAT, kind, rows_key(manifest), pixels, tolerance]
    return cache_dir / f"pack-{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]}"


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
            return to_gray(contract.finish(cut_square(used, contract, rows[i], lambda *_: found)[0]))

        return made
    read = stored_reader(folder, chunks)

    def stored(i: int) -> np.ndarray:
        face = read(i)
        return face if len(face) == contract.resize else to_gray(contract.finish(face))

    return stored


def _build(manifest: Manifest, contract: FaceContract, folder: Path, tolerance: int, progress, kind: PackKind) -> None:
    cut, rows = cutter(manifest, contract, kind), manifest.frame.to_dict("records")
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        writer = PackWriter(folder)
        again = [row for row, _ in writer.bad]
        healed = [i for i, r in zip(again, pool.map(cut, (rows[i] for i in again)), strict=True) if not r.error]
        if healed:
            writer.back_to(min(healed))
        for start in range(writer.rows, len(rows), CHUNK):
            results = list(pool.map(cut, rows[start : start + CHUNK]))
            chunk, faces = _chunk(start, results, contract, kind)
            if len(writer.bad) + len(chunk.bad) > tolerance:  # not kept: the next build tries these rows again
                if not writer.chunks:
                    shutil.rmtree(writer.folder)
                raise DataError(_too_many(writer.bad + chunk.bad, start + chunk.rows, len(rows), tolerance))
            writer.append(chunk, faces)
            if progress:
                progress(start + chunk.rows, len(rows))
    left_out = [message for _, message in writer.bad]
    writer.finish(
        kind=kind, n=len(rows) - len(left_out), left_out=left_out, contract=contract.model_dump(mode="json"),
        without_points=sum(chunk.without_points for chunk in writer.chunks),
    )  # fmt: skip


def _too_many(bad: list[tuple[int, str]], done: int, rows: int, tolerance: int) -> str:
    listed = "\n  ".join(message for _, message in bad[:10])
    seen = f"the first {done:,} of {rows:,}" if done < rows else f"{rows:,}"
    return (
        f"{len(bad)} of {seen} pictures can't be used (tolerance {tolerance}):\n  {listed}\n"
        "restore the files (what is packed stays, and the same call goes on there), or rebuild the manifest with a "
        "tolerance"
    )


def _chunk(start: int, results: list[Cut], contract: FaceContract, kind: PackKind) -> tuple[Chunk, list[np.ndarray]]:
    good = [r for r in results if not r.error]
    faces, align = [r.face for r in good], contract.align == "eyes"
    remembered = [None if r.eyes is None else r.eyes.tolist() for r in good] if align and kind == "none" else []
    return Chunk(
        first=start, rows=len(results), sides=[len(f) for f in faces], channels=[f.shape[2] for f in faces],
        sums=[checksum(f) for f in faces], bad=[(start + i, r.error) for i, r in enumerate(results) if r.error],
        eyes=remembered, without_points=sum(r.eyes is None for r in good) if align else 0,
    ), faces  # fmt: skip
