"""Faces through the contract once, memory-mapped: uint8 ``[N, R, R, 3]`` in the order of a manifest's rows.

A pack is keyed by the rows, their order and the part of the contract that decides pixels at R, so a change of any makes
another pack, and backbones that differ in mean and std only share one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock

from fer_lib.atomic import explained, fresh_folder, settle
from fer_lib.datasets.manifest import BOX, Manifest
from fer_lib.errors import DataError
from fer_lib.faces.contract import CONTRACT_VERSION, Box, FaceContract
from fer_lib.faces.decode import decode
from fer_lib.faces.detectors import YUNET_SHA256, get_detector
from fer_lib.faces.points import find_points

_CHUNK = 256
_BYTES, _RECORD = "faces.u8", "pack.json"


@dataclass(frozen=True)
class FacePack:
    """``faces`` uint8 [N, R, R, 3]; row i is row i of ``manifest``, which holds the rows that could be used.

    ``n_expected`` counts the rows asked for; it differs from ``len(manifest)`` only within an explicit tolerance.
    ``without_points`` counts the faces that ``align: eyes`` left as they are, because no eyes were found in them.
    """

    faces: np.ndarray
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
) -> FacePack:
    """The pack of ``manifest``'s rows, made when absent; ``progress(done, total)`` counts rows while it is made.

    Raises DataError naming the first ten pictures that are missing or undecodable when they are more than
    ``tolerance``, and when the disk has no room for the pack; FerError when eyes are to be aligned without YuNet.
    """
    pixels = {"version": CONTRACT_VERSION, **contract.model_dump(mode="json", exclude={"mean", "std"})}
    if contract.align == "eyes":
        pixels["points"] = YUNET_SHA256
    key = hashlib.sha256(json.dumps([rows_key(manifest), pixels, tolerance], sort_keys=True).encode()).hexdigest()[:16]
    folder = cache_dir / f"pack-{key}"
    if not (folder / _RECORD).is_file():
        with explained(cache_dir):
            cache_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(cache_dir / f".{folder.name}.lock"):  # two phases that start together pack once
            settle(folder)
            if not (folder / _RECORD).is_file():
                _build(manifest, contract, folder, tolerance, progress)
    record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    frame, side, file = manifest.frame, contract.resize, folder / _BYTES
    used = Manifest(frame.drop(index=record["bad"]), manifest.meta, manifest.path) if record["bad"] else manifest
    shape = (len(used), side, side, 3)
    if not file.is_file() or file.stat().st_size != np.prod(shape):
        raise DataError(f"face pack {folder} has the wrong size; delete that folder and it is made again")
    faces = np.memmap(file, np.uint8, "r", shape=shape) if len(used) else np.empty(shape, np.uint8)
    return FacePack(faces, used, contract, len(manifest), record["without_points"])


def rows_key(manifest: Manifest) -> str:
    """64 hex over the rows and their order, which the manifest's own hash leaves out."""
    return hashlib.sha256(json.dumps([manifest.sha256, manifest.sample_ids]).encode()).hexdigest()


def _build(manifest: Manifest, contract: FaceContract, folder: Path, tolerance: int, progress) -> None:
    need = len(manifest) * contract.resize**2 * 3
    free = shutil.disk_usage(folder.parent).free
    if need > free:
        raise DataError(
            f"face pack of {len(manifest)} faces at {contract.resize} px needs {need / 1e9:.1f} GB, {folder.parent} "
            f"has {free / 1e9:.1f} GB: free some space or use a smaller image_size"
        )
    cut = _cutter(manifest, contract)
    rows = manifest.frame.to_dict("records")
    bad: list[int] = []
    errors: list[str] = []
    without_points = 0
    with fresh_folder(folder) as work, explained(folder):
        with open(work / _BYTES, "wb") as out, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for start in range(0, len(rows), _CHUNK):
                for i, (face, found) in enumerate(pool.map(cut, rows[start : start + _CHUNK]), start):
                    if isinstance(face, str):
                        bad.append(i)
                        errors.append(face)
                    else:
                        out.write(face.tobytes())
                        without_points += not found
                if progress:
                    progress(min(start + _CHUNK, len(rows)), len(rows))
        if len(bad) > tolerance:
            listed = "\n  ".join(errors[:10])
            raise DataError(
                f"{len(bad)} of {len(rows)} pictures can't be used (tolerance {tolerance}):\n  {listed}\n"
                "restore the files, or rebuild the manifest with a tolerance"
            )
        record = {"n": len(rows) - len(bad), "bad": bad, "without_points": without_points}
        record["contract"] = contract.model_dump(mode="json")
        (work / _RECORD).write_text(json.dumps(record), encoding="utf-8")


def _cutter(manifest: Manifest, contract: FaceContract) -> Callable[[dict[str, Any]], tuple[np.ndarray | str, bool]]:
    """A function of a row: (face uint8 [R, R, 3], whether its eyes were found), or what is wrong with its picture."""
    align = contract.align == "eyes"
    if align:
        get_detector("yunet")  # no YuNet to be had is told once and before anything is written
    own = threading.local()  # a detector serves one thread

    def points(image: np.ndarray, box: Box | None) -> np.ndarray | None:
        if not hasattr(own, "detector"):
            own.detector = get_detector("yunet")
        return find_points(image, box, own.detector)

    def cut(row: dict[str, Any]) -> tuple[np.ndarray | str, bool]:
        path, box = manifest.resolve(row["image_path"]), _box(row)
        try:
            image = decode(path)
            eyes = points(image, box) if align else None
            return contract.face(image, box, eyes), eyes is not None or not align
        except DataError as error:
            return str(error) if str(path) in str(error) else f"{path}: {error}", False

    return cut


def _box(row: dict[str, Any]) -> Box | None:
    """(top, left, bottom, right) of a row that is a face in a photo; None for a picture that is the face."""
    values = [row.get(side) for side in BOX]
    return None if any(v is None or pd.isna(v) for v in values) else tuple(float(v) for v in values)
