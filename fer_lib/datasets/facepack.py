"""Open and read face packs, the faces of a manifest's rows after the face contract; ``facepack_writer.py`` writes them.

The kind ``faces`` maps stored pixels.  The kind ``none`` stores none and gives the same faces: one pass finds the
unusable rows (and the landmarks, where eyes are aligned), and each reading decodes the image.

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
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
from filelock import FileLock

from fer_lib.datasets.cropping import crop_function, read_face
from fer_lib.datasets.facepack_writer import (
    FACES,
    FORMAT,
    INDEX,
    Entry,
    build_pack,
    checksum,
    partial_folder,
    valid_chunks,
)
from fer_lib.datasets.manifest import BOX, Manifest
from fer_lib.errors import DataError
from fer_lib.faces.contract import CONTRACT_VERSION, FaceContract, to_rgb
from fer_lib.faces.yunet import YUNET_SHA256
from fer_lib.params.base import PackKind

log = logging.getLogger(__name__)

LIBRARIES = {"opencv": cv2.__version__, "pillow": PIL.__version__}  # their decoding and resizing decide pixels
_PROBED = 64  # faces made to estimate a pack's size when its upper bound does not fit
_SAMPLED = 16  # faces checked when a pack is opened


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
    manifest: Manifest, contract: FaceContract, cache_dir: Path, tolerance: int = 0, kind: PackKind = "faces"
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
                build_pack(manifest, contract, folder, tolerance, kind)
    entries = _read_index(folder, len(manifest), contract.resize, tolerance, kind)
    bad = [i for i, entry in enumerate(entries) if entry.problem]
    used = manifest
    if bad:
        log.warning(
            "%s leaves out %d of %d images that could not be used when it was made (%s%s): to try them again, "
            "delete that folder", folder, len(bad), len(manifest), entries[bad[0]].problem, ", ..." * (len(bad) > 1),
        )  # fmt: skip
        used = Manifest(manifest.frame.drop(index=bad), manifest.meta, manifest.path)
        entries = [entry for entry in entries if not entry.problem]
    read = _decoder(used, contract, entries) if kind == "none" else _stored_reader(folder, contract.resize, entries)
    without_points = sum(entry.eyes is None for entry in entries) if contract.align == "eyes" else 0
    return FacePack(Faces(len(used), contract.resize, read), used, contract, len(manifest), without_points)


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
    faces of ``wanted`` are made to see how many are grey.
    """

    def missing(manifests: Sequence[Manifest]) -> dict[Path, Manifest]:
        folders = {_pack_folder(m, contract, cache_dir, tolerance, kind): m for m in manifests}
        return {folder: m for folder, m in folders.items() if not folder.is_dir()}

    now = missing(wanted)
    if kind == "none" or not now:
        return
    packs = now | missing(later)
    free = shutil.disk_usage(next(p for p in (cache_dir, *cache_dir.absolute().parents) if p.exists())).free
    begun = (partial_folder(folder) / FACES for folder in packs)
    free += sum(file.stat().st_size for file in begun if file.is_file())
    rows, pixels = sum(map(len, packs.values())), contract.resize**2
    need = rows * pixels * 3
    if need > free:
        sampled = sum(len(m) * _mean_channels(m, contract) for m in now.values())
        need = sampled * pixels * rows / sum(map(len, now.values()))
    if need <= free:
        return
    counts = " + ".join(f"{len(m):,}" for m in packs.values())
    raise DataError(
        f"face packs of {counts} faces at {contract.resize} px: needs {need / 1e9:.1f} GB, {cache_dir} has "
        f"{free / 1e9:.1f} GB: use pack: none (images are decoded at each reading) or a smaller image_size, or free "
        "some space (an unfinished pack-*.partial there can be deleted)"
    )


def _mean_channels(manifest: Manifest, contract: FaceContract) -> float:
    """Channels per stored face, of faces spread over the rows."""
    sample = np.unique(np.linspace(0, len(manifest) - 1, _PROBED).astype(int))
    rows = manifest.frame.iloc[sample].to_dict("records")
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        crops = list(pool.map(crop_function(manifest, contract), rows))
    return float(np.mean([face.shape[2] for face, _, problem in crops if not problem] or [3]))


def rows_key(manifest: Manifest) -> str:
    """64 hex over the rows and their order; the manifest's own hash ignores the order."""
    return hashlib.sha256(json.dumps([manifest.sha256, manifest.sample_ids]).encode()).hexdigest()


def _pack_folder(manifest: Manifest, contract: FaceContract, cache_dir: Path, tolerance: int, kind: PackKind) -> Path:
    pixels = {"version": CONTRACT_VERSION, **contract.model_dump(mode="json", exclude={"mean", "std"}), **LIBRARIES}
    if contract.align == "eyes":
        pixels["points"] = f"{YUNET_SHA256} by ONNX Runtime"
    parts = [FORMAT, kind, rows_key(manifest), pixels, tolerance]
    return cache_dir / f"pack-{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]}"


def _read_index(folder: Path, rows: int, side: int, tolerance: int, kind: PackKind) -> list[Entry]:
    """The entries of a finished pack.  DataError for a damaged index or pixels of the wrong size."""
    try:
        lines, size = (folder / INDEX).read_bytes().splitlines(keepends=True), (folder / FACES).stat().st_size
    except OSError as error:
        raise _damaged(folder, f"{error.filename} cannot be read ({error.strerror})") from error
    chunks = list(valid_chunks(lines))
    entries = list(chain(*chunks))
    stored = all(bool(entry.channels) == (kind == "faces" and not entry.problem) for entry in entries)
    tolerated = sum(bool(entry.problem) for entry in entries) <= tolerance
    if len(chunks) < len(lines) or len(entries) != rows or not (stored and tolerated):
        raise _damaged(folder, f"its {INDEX} was changed after it was written")
    expected = side**2 * sum(entry.channels for entry in entries)
    if size != expected:
        raise _damaged(folder, f"{FACES} has the wrong size ({size:,} bytes, not {expected:,} bytes)")
    return entries


def _damaged(folder: Path, damage: str) -> DataError:
    return DataError(f"face pack {folder}: {damage}; delete that folder and it is made again")


def _stored_reader(folder: Path, side: int, entries: list[Entry]) -> Callable[[int], np.ndarray]:
    """A function of i: the i-th face uint8 [R, R, C], a read-only view of the mapped file.

    A face is compared with its checksum whenever it is read; 16 faces spread over the pack are read at once.
    Raises DataError for a face that differs.
    """
    if not entries:
        return lambda i: np.empty((0, 0, 0), np.uint8)[i]
    channels, checksums = ([getattr(entry, name) for entry in entries] for name in ("channels", "checksum"))
    ends = np.cumsum(channels) * side**2
    pixels = np.asarray(np.memmap(folder / FACES, np.uint8, "r"))

    def read(i: int) -> np.ndarray:
        face = pixels[ends[i] - side * side * channels[i] : ends[i]]
        if checksum(face) != checksums[i]:
            raise _damaged(folder, f"face {i} is not what was written there")
        return face.reshape(side, side, channels[i])

    for i in np.unique(np.linspace(0, len(ends) - 1, _SAMPLED).astype(int)):
        read(int(i))
    return read


def _decoder(used: Manifest, contract: FaceContract, entries: list[Entry]) -> Callable[[int], np.ndarray]:
    """A function of a row of ``used``: its face uint8 [R, R, C], from the image file."""
    rows = used.frame[["image_path", *(side for side in BOX if side in used.frame)]].to_dict("records")
    eyes = [entry.eyes for entry in entries]
    return lambda i: read_face(used, contract, rows[i], eyes[i])
