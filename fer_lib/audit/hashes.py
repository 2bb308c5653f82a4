"""Perceptual hashes of faces, robust to scaling, compression, grayscale and a change of light.

A face has two gray 32 x 32 thumbnails: plain, and after contrast-limited equalisation (CLAHE), to match equalised
copies.  Compared are their :func:`codes`: the local mean subtracted and divided by the local deviation (Gaussian
neighbourhoods, as in Jarrett et al. 2009, "What is the best multi-stage architecture"), which do not depend on light.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

from fer_lib.datasets.cropping import each_face
from fer_lib.datasets.manifest import Manifest
from fer_lib.errors import DataError
from fer_lib.storage.atomic import fresh_file
from fer_lib.storage.npz_files import read_npz

SIDE = 32  # pixels of a thumbnail
SIGMA = 2.0  # of the neighbourhood, in pixels of the thumbnail
FLOOR = 10.0  # gray levels added to the local deviation, so that noise on a flat area stays small
LARGEST = 128  # faces with longer sides are resized to 96 before equalisation: the same result, faster
HASH_VERSION = 1  # part of the cache key


@dataclass(frozen=True)
class Hashes:
    """``thumbs`` uint8 [N, 2, 32, 32]: plain and equalised; ``pixels`` uint64 [N, 2]: see :func:`pixel_id`.

    ``area`` int64 [N]: the number of pixels of the face.
    """

    thumbs: np.ndarray
    pixels: np.ndarray
    area: np.ndarray


def blur_matrix(sigma: float) -> np.ndarray:
    """float32 [SIDE, SIDE]: a row of pixels times its transpose is that row, Gaussian-blurred, edges replicated."""
    return gaussian_filter1d(np.eye(SIDE), sigma, axis=0, mode="nearest").astype(np.float32)


_BLUR = blur_matrix(SIGMA)


def smooth(x: np.ndarray, blur: np.ndarray = _BLUR) -> np.ndarray:
    """float32 [N, SIDE, SIDE] blurred along both sides, by two products of all rows at once."""
    half = (x.reshape(-1, SIDE) @ blur.T).reshape(x.shape).transpose(0, 2, 1)
    return (np.ascontiguousarray(half).reshape(-1, SIDE) @ blur.T).reshape(x.shape).transpose(0, 2, 1)


def codes(thumbs: np.ndarray) -> np.ndarray:
    """float32 [N, SIDE, SIDE] of thumbnails uint8 [N, SIDE, SIDE]: (x - local mean) / (local deviation + FLOOR)."""
    x = thumbs.astype(np.float32)
    x -= smooth(x)
    deviation = np.sqrt(smooth(x * x))
    deviation += FLOOR
    x /= deviation
    return x


def thumbnails(face: np.ndarray) -> np.ndarray:
    """uint8 [2, 32, 32], plain and equalised, of a face uint8 RGB [H, W, 3] or gray [H, W], stretched to a square."""
    gray = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY) if face.ndim == 3 else face
    out = np.empty((2, SIDE, SIDE), np.uint8)
    out[0] = _resize(gray)
    if min(gray.shape) > LARGEST:
        gray = cv2.resize(gray, (96, 96), interpolation=cv2.INTER_LINEAR)
    out[1] = _resize(cv2.createCLAHE(2.0, (8, 8)).apply(gray))
    return out


def _resize(gray: np.ndarray) -> np.ndarray:
    interpolation = cv2.INTER_AREA if min(gray.shape) >= SIDE else cv2.INTER_CUBIC
    return cv2.resize(gray, (SIDE, SIDE), interpolation=interpolation)


def pixel_id(face: np.ndarray) -> np.ndarray:
    """uint64 [2]: the first 16 bytes of SHA-256 over shape and RGB values; equal for exact duplicates."""
    digest = hashlib.sha256(repr(face.shape).encode())
    digest.update(np.ascontiguousarray(face).data)
    return np.frombuffer(digest.digest()[:16], np.uint64)


def hash_manifest(manifest: Manifest) -> Hashes:
    """The hashes of a manifest's rows, in their order.

    Raises DataError naming the first image that cannot be read.
    """
    n = len(manifest)
    out = Hashes(np.empty((n, 2, SIDE, SIDE), np.uint8), np.empty((n, 2), np.uint64), np.empty(n, np.int64))

    def hash_face(i: int, face: np.ndarray) -> None:
        out.thumbs[i], out.pixels[i], out.area[i] = thumbnails(face), pixel_id(face), face.size // 3

    each_face(manifest, hash_face, "hashing images")
    return out


def cached_hashes(manifest: Manifest, cache_dir: Path | None) -> Hashes:
    """:func:`hash_manifest`, cached in ``cache_dir``.  Raises DataError for a damaged cache file."""
    if cache_dir is None:
        return hash_manifest(manifest)
    file = cache_file(manifest, cache_dir)
    if not file.is_file():
        hashes = hash_manifest(manifest)
        with fresh_file(file) as work, open(work, "wb") as stream:
            np.savez(stream, **vars(hashes))
        return hashes
    try:
        return Hashes(**read_npz(file))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{file} is damaged ({error}): delete it, and the hashes are computed again") from error


def cache_file(manifest: Manifest, cache_dir: Path) -> Path:
    """The file of :func:`cached_hashes` for these rows, in this order."""
    key = hashlib.sha256(f"{HASH_VERSION}|{manifest.sha256}|{'|'.join(manifest.sample_ids)}".encode()).hexdigest()[:16]
    return Path(cache_dir) / f"hashes-{key}.npz"
