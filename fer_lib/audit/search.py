"""Candidates for near-duplicates: rows whose descriptors are close, found without comparing all with all.

A descriptor holds the low spatial frequencies (cosine transform) of a perceptual hash.  Mirroring only changes the sign
of the odd ones, and a slight crop or turn is a linear map of the hash, so each face asks for its mirrored, cropped and
turned versions too at the price of one matrix product; the index (faiss: Johnson et al. 2019, "Billion-scale similarity
search with GPUs") holds each face once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fer_lib.audit.hashes import SIDE, codes

LOW, HIGH = 2.0, 10.0  # the band of frequencies, in half periods a picture
WINDOW = 0.8  # how far the cosine window falls towards the edges, which crops and turns change most
LEAST = 0.72  # cosine of two descriptors from which a pair is looked at more closely
SURE = 0.85  # from which it is in any case; below, a face's CLOSEST ones only
CLOSEST = 5
EXACT_UNTIL = 10_000  # rows up to which every one is compared
PROBES = 16  # cells of the index that a query looks into
RANKED = 12  # times NEIGHBOURS rows are compared exactly
NEIGHBOURS = 6  # asked for each version of a face
_CHUNK = 16_384


def _window(width: float, height: float, x: int, y: int) -> list[list[float]]:
    """The crop to these shares of the sides; x and y -1, 0 or 1: which edge it touches."""
    return [[width, 0, x * (1 - width) / 2 * SIDE], [0, height, y * (1 - height) / 2 * SIDE]]


def _turn(degrees: float) -> list[list[float]]:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [[c, -s, 0], [s, c, 0]]


def _versions() -> np.ndarray:
    """float32 [V, 2, 3]: as it is, nine crops, two turns; a face cropped or turned by others lies near one of them.

    Each says where, in centred pixels (x right, y down) of the original, a version's pixel comes from.
    """
    corners = [_window(0.92, 0.92, x, y) for x in (-1, 1) for y in (-1, 1)]
    edges = [_window(0.92, 1, x, 0) for x in (-1, 1)] + [_window(1, 0.92, 0, y) for y in (-1, 1)]
    all_of_it, middle = _window(1, 1, 0, 0), _window(0.96, 0.96, 0, 0)
    return np.array([all_of_it, middle, *corners, *edges, _turn(6), _turn(-6)], np.float32)


VERSIONS = _versions()
# version, mirrored, and which thumbnail asks: the plain one (0) or the equalised one (1)
_PLANS = [(v, m, 0) for v in range(len(VERSIONS)) for m in (0, 1)] + [(0, 0, 1), (0, 1, 1)]


@dataclass(frozen=True)
class Candidates:
    """Pairs of rows, ``first`` < ``second`` (int64 [M]), and as what they resemble each other most.

    ``cosine`` float32 [M] of their descriptors, ``version`` int64 [M] a line of VERSIONS, ``mirrored`` bool [M];
    ``asker`` bool [M] says whether the version is one of ``first`` (else of ``second``).
    """

    first: np.ndarray
    second: np.ndarray
    cosine: np.ndarray
    version: np.ndarray
    mirrored: np.ndarray
    asker: np.ndarray

    def __len__(self) -> int:
        return len(self.first)


@lru_cache(maxsize=1)
def _basis() -> tuple[np.ndarray, np.ndarray]:
    """Windowed cosines float64 [SIDE * SIDE, D], and +1 or -1 [D]: what mirroring does to each coefficient."""
    at = np.arange(SIDE)
    cosines = np.stack([np.cos(np.pi * (at + 0.5) * u / SIDE) for u in range(SIDE)]) * math.sqrt(2 / SIDE)
    cosines[0] /= math.sqrt(2)
    window = np.cos(np.pi * WINDOW * (at - (SIDE - 1) / 2) / SIDE)
    pairs = [(u, v) for u in range(SIDE) for v in range(SIDE) if LOW <= math.hypot(u, v) <= HIGH]
    basis = np.stack([np.outer(cosines[u] * window, cosines[v] * window).ravel() for u, v in pairs], axis=1)
    return basis, np.array([-1.0 if v % 2 else 1.0 for _, v in pairs], np.float32)


def _warp(matrix: np.ndarray) -> np.ndarray:
    """float64 [P, P], P = SIDE * SIDE: a flat picture times its transpose is the picture's version, bilinear."""
    middle = (SIDE - 1) / 2
    y, x = np.mgrid[:SIDE, :SIDE].reshape(2, -1) - middle
    source_x = (matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] + middle).clip(0, SIDE - 1)
    source_y = (matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] + middle).clip(0, SIDE - 1)
    left, top = np.minimum(source_x.astype(int), SIDE - 2), np.minimum(source_y.astype(int), SIDE - 2)
    right_share, low_share = source_x - left, source_y - top
    out, rows = np.zeros((SIDE * SIDE, SIDE * SIDE)), np.arange(SIDE * SIDE)
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        share = (low_share if i else 1 - low_share) * (right_share if j else 1 - right_share)
        out[rows, (top + i) * SIDE + left + j] += share
    return out


@lru_cache(maxsize=1)
def _projections() -> np.ndarray:
    """float32 [V, P, D]: a flat hash times line v is the descriptor of its version v."""
    basis, _ = _basis()
    return np.stack([(_warp(matrix).T @ basis) for matrix in VERSIONS]).astype(np.float32)


def mean_descriptor(plain: np.ndarray) -> np.ndarray:
    """float32 [D] from thumbnails uint8 [N, SIDE, SIDE]: what all faces have in common, whichever way they look.

    Few faces say little of it, so it is shrunk towards zero.
    """
    step = max(1, len(plain) // 20_000)
    total, n = 0.0, 0
    for start in range(0, len(plain), step * _CHUNK):
        some = _flat(plain[start : start + step * _CHUNK : step])
        total, n = total + (some @ _projections()[0]).sum(axis=0), n + len(some)
    return (total / (n + 200) * (_basis()[1] > 0)).astype(np.float32)


def _flat(thumbs: np.ndarray) -> np.ndarray:
    return codes(thumbs).reshape(-1, SIDE * SIDE)


def descriptors(flat: np.ndarray, mean: np.ndarray, version: int = 0, mirrored: bool = False) -> np.ndarray:
    """float32 [N, D] of unit length from flat codes [N, SIDE * SIDE]; a face without any structure gives zeros."""
    found = flat @ _projections()[version]
    if mirrored:
        found *= _basis()[1]
    found -= mean
    length = np.linalg.norm(found, axis=1, keepdims=True)
    structure = np.einsum("ij,ij->i", flat, flat)[:, None] > 1.0
    return np.divide(found, length, out=np.zeros_like(found), where=structure & (length > 1e-6))


def build_index(rows: np.ndarray, seed: int = 1337):
    """A faiss index of unit rows float32 [N, D], D even, by inner product.

    Up to EXACT_UNTIL rows every one is compared; beyond, rows lie in cells and a query looks into PROBES of them, first
    at codes of 4 bits for each two dimensions, then at the RANKED best themselves.
    """
    import faiss

    n, size = rows.shape
    if n <= EXACT_UNTIL:
        index = faiss.IndexFlatIP(size)
    else:
        cells = int(min(2 * math.sqrt(n), n / 40))
        index = faiss.index_factory(size, f"IVF{cells},PQ{size // 2}x4fs,RFlat", faiss.METRIC_INNER_PRODUCT)
        index.k_factor = RANKED
        inner = faiss.extract_index_ivf(index)
        inner.nprobe, inner.cp.seed, inner.cp.niter = PROBES, seed, 8
        index.train(rows[:: max(1, n // 150_000)])
    index.add(rows)
    return index


def candidates(
    thumbs: np.ndarray,
    least: float = LEAST,
    seed: int = 1337,
    progress: Callable[[int, int], None] | None = None,
) -> Candidates:
    """Pairs whose cosine is at least ``least`` under some version, mirrored or not; each pair once, at its best.

    ``thumbs`` uint8 [N, 2, SIDE, SIDE] of distinct pictures; ``progress(done, total)`` counts rows.
    """
    n, mean = len(thumbs), mean_descriptor(thumbs[:, 0])
    base = np.empty((n, len(mean)), np.float32)
    for start in range(0, n, _CHUNK):
        base[start : start + _CHUNK] = descriptors(_flat(thumbs[start : start + _CHUNK, 0]), mean)
    index = build_index(base, seed)
    found = []
    for start in range(0, n, _CHUNK):
        plain, equalised = (_flat(thumbs[start : start + _CHUNK, kind]) for kind in (0, 1))
        hits = []
        for number, (version, mirrored, kind) in enumerate(_PLANS):
            asked = descriptors(equalised if kind else plain, mean, version, mirrored)
            cosine, other = index.search(asked, min(NEIGHBOURS + 1, n))  # a face finds itself too
            row, column = np.nonzero(
                (cosine >= least) & (other >= 0) & (other != np.arange(len(asked))[:, None] + start)
            )
            hits.append((row + start, other[row, column], cosine[row, column], np.full(len(row), number, np.int8)))
        found.append(_closest(*(np.concatenate(parts) for parts in zip(*hits, strict=True)), n))
        if progress is not None:
            progress(min(start + _CHUNK, n), n)
    return _best_of_each_pair(*(np.concatenate(parts) for parts in zip(*found, strict=True)), n)


def _closest(asks, others, cosine, plan, n: int) -> tuple[np.ndarray, ...]:
    """Each (asking row, other row) once, at its best; below SURE only the CLOSEST of each asking row."""
    order = np.lexsort((plan, -cosine, asks * n + others))
    order = order[np.diff((asks * n + others)[order], prepend=-1) != 0]
    order = order[np.lexsort((others[order], -cosine[order], asks[order]))]
    begins = np.flatnonzero(np.diff(asks[order], prepend=-1))
    rank = np.arange(len(order)) - np.repeat(begins, np.diff(begins, append=len(order)))
    order = order[(rank < CLOSEST) | (cosine[order] >= SURE)]
    return asks[order], others[order], cosine[order], plan[order]


def _best_of_each_pair(asks, others, cosine, plan, n: int) -> Candidates:
    first, second = np.minimum(asks, others), np.maximum(asks, others)
    key = first * n + second
    order = np.lexsort((plan, -cosine, key))
    best = order[np.flatnonzero(np.diff(key[order], prepend=-1))]
    plans = np.array([(version, mirrored) for version, mirrored, _ in _PLANS])[plan[best]]
    return Candidates(first[best], second[best], cosine[best], plans[:, 0], plans[:, 1] == 1, asks[best] == first[best])
