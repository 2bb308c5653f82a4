"""Faces through the contract once, memory-mapped: uint8 ``[N, R, R, 3]`` in the order of a manifest's rows.

A pack is keyed by the rows' hash and by the part of the contract that decides pixels at R, so a change of either makes
another pack, and backbones that differ in mean and std only share one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fer_lib.datasets.manifest import Manifest
from fer_lib.errors import DataError
from fer_lib.faces.contract import FaceContract
from fer_lib.faces.decode import decode

_BOX = ["bbox_top", "bbox_left", "bbox_bottom", "bbox_right"]
_CHUNK = 256


@dataclass(frozen=True)
class FacePack:
    """``faces`` uint8 [N, R, R, 3]; row i is row i of ``manifest``, which holds the rows that could be used.

    ``n_expected`` counts the rows asked for; it differs from ``len(manifest)`` only within an explicit tolerance.
    """

    faces: np.ndarray
    manifest: Manifest
    contract: FaceContract
    n_expected: int


def open_or_build(
    manifest: Manifest,
    contract: FaceContract,
    cache_dir: Path,
    tolerance: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> FacePack:
    """The pack of ``manifest``'s rows, made when absent.

    Raises DataError naming the first ten pictures that are missing or undecodable when they are more than ``tolerance``,
    and when the disk has no room for the pack.
    """
    pixels = contract.model_dump(mode="json", exclude={"mean", "std"})
    key = hashlib.sha256(json.dumps([manifest.sha256, pixels, tolerance], sort_keys=True).encode()).hexdigest()[:16]
    folder = cache_dir / f"pack-{key}"
    if not (folder / "pack.json").is_file():
        _build(manifest, contract, folder, tolerance, progress)
    record = json.loads((folder / "pack.json").read_text())
    side = contract.resize
    used = (
        manifest
        if not record["bad"]
        else Manifest(
            manifest.frame.drop(index=manifest.frame.index[record["bad"]]).reset_index(drop=True),
            manifest.meta,
            manifest.path,
        )
    )
    expected_bytes = len(used) * side * side * 3
    if (folder / "faces.u8").stat().st_size != expected_bytes:
        raise DataError(f"face pack {folder} has the wrong size; delete that folder and it is made again")
    faces = (
        np.memmap(folder / "faces.u8", np.uint8, "r", shape=(len(used), side, side, 3))
        if len(used)
        else np.empty((0, side, side, 3), np.uint8)
    )
    return FacePack(faces, used, contract, n_expected=len(manifest))


def _build(manifest, contract, folder: Path, tolerance: int, progress) -> None:
    side = contract.resize
    need = len(manifest) * side * side * 3
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if need > free:
        raise DataError(
            f"face pack of {len(manifest)} faces at {side} px needs {need / 1e9:.1f} GB, {folder.parent} has {free / 1e9:.1f} GB: "
            "free some space or use a smaller image_size"
        )
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    bad: list[int] = []
    errors: list[str] = []
    rows = manifest.frame.to_dict("records")

    def cut(row: dict):
        try:
            return contract.face(decode(manifest.resolve(row["image_path"])), box=_box(row))
        except (DataError, OSError) as error:
            return error

    with open(partial / "faces.u8", "wb") as out, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for start in range(0, len(rows), _CHUNK):
            for i, face in enumerate(pool.map(cut, rows[start : start + _CHUNK]), start):
                if isinstance(face, Exception):
                    bad.append(i)
                    errors.append(str(face))
                else:
                    out.write(face.tobytes())
            if progress:
                progress(min(start + _CHUNK, len(rows)), len(rows))
    if len(bad) > tolerance:
        shutil.rmtree(partial)
        listed = "\n  ".join(errors[:10])
        raise DataError(
            f"{len(bad)} of {len(rows)} pictures can't be used (tolerance {tolerance}):\n  {listed}\n"
            "restore the files, or rebuild the manifest with a tolerance"
        )
    (partial / "pack.json").write_text(
        json.dumps({"n": len(rows) - len(bad), "bad": bad, "contract": contract.model_dump(mode="json")})
    )
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def _box(row: dict):
    values = [row.get(c) for c in _BOX]
    return None if any(v is None or pd.isna(v) for v in values) else tuple(float(v) for v in values)
