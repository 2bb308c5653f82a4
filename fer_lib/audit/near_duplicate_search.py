"""Candidates for near-duplicates: rows with close descriptors, by nearest-neighbour search.

A descriptor is the low spatial frequencies (cosine transform) of a perceptual hash.  Mirroring changes only the sign of
the odd ones, and a slight crop or rotation is a linear map of the hash.  So each face also queries for its mirrored,
cropped and rotated versions at the cost of one matrix product; the index (faiss: Johnson et al. 2019, "Billion-scale
similarity search with GPUs") has each face once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.fft import dct

from fer_lib.audit.hashes import SIDE, codes
from fer_lib.storage.progress import step

LOW, HIGH = 2.0, 10.0  # the band of frequencies, in half periods per image
WINDOW = 0.8  # how far the cosine window falls towards the edges, which crops and rotations change most
LEAST = 0.72  # cosine of two descriptors from which a pair is a candidate
SURE = 0.85  # from which it always is; below, only the CLOSEST of a face are
CLOSEST = 5
EXACT_UNTIL = 10_000  # rows up to which all are compared with all
PROBES = 16  # cells of the index that a query visits
RANKED = 12  # times NEIGHBOURS rows are compared exactly
NEIGHBOURS = 6  # per version of a face
_CHUNK = 16_384


def _crop(width: float, height: float, x: int, y: int) -> list[list[float]]:
    """The crop to these shares of the sides; x and y are -1, 0 or 1: the edge that it touches."""
    return [[width, 0, x * (1 - width) / 2 * SIDE], [0, height, y * (1 - height) / 2 * SIDE]]


def _rotation(degrees: float) -> list[list[float]]:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [[c, -s, 0], [s, c, 0]]


def _versions() -> np.ndarray:
    """float32 [V, 2, 3]: the identity, nine crops, two rotations; other crops and rotations are near one of them.

    Each maps a version's pixel to centred pixels (x right, y down) of the original.
    """
    corners = [_crop(0.92, 0.92, x, y) for x in (-1, 1) for y in (-1, 1)]
    edges = [_crop(0.92, 1, x, 0) for x in (-1, 1)] + [_crop(1, 0.92, 0, y) for y in (-1, 1)]
    all_of_it, middle = _crop(1, 1, 0, 0), _crop(0.96, 0.96, 0, 0)
    return np.array([all_of_it, middle, *corners, *edges, _rotation(6), _rotation(-6)], np.float32)


VERSIONS = _versions()
# version, mirrored, and the thumbnail: the plain one (0) or the equalised one (1)
_QUERIES = [(v, m, 0) for v in range(len(VERSIONS)) for m in (0, 1)] + [(0, 0, 1), (0, 1, 1)]


@dataclass(frozen=True)
class Candidates:
    """Pairs of rows, ``first`` < ``second`` (int64 [M]), and the version in which they are closest.

    ``cosine`` float32 [M] of their descriptors, ``version`` int64 [M], a row of VERSIONS, ``mirrored`` bool [M];
    ``query_is_first`` bool [M]: the version is one of ``first`` (else of ``second``).
    """

    first: np.ndarray
    second: np.ndarray
    cosine: np.ndarray
    version: np.ndarray
    mirrored: np.ndarray
    query_is_first: np.ndarray

    def __len__(self) -> int:
        return len(self.first)


@lru_cache(maxsize=1)
def _basis() -> tuple[np.ndarray, np.ndarray]:
    """Windowed cosines float64 [SIDE * SIDE, D], and +1 or -1 [D], the sign that mirroring gives each coefficient."""
    window = np.cos(np.pi * WINDOW * (np.arange(SIDE) - (SIDE - 1) / 2) / SIDE)
    waves = dct(np.eye(SIDE), axis=0, norm="ortho") * window
    frequency = np.hypot(*np.mgrid[:SIDE, :SIDE])
    u, v = np.nonzero((frequency >= LOW) & (frequency <= HIGH))
    basis = np.einsum("dy,dx->yxd", waves[u], waves[v]).reshape(SIDE * SIDE, -1)
    return basis, (1 - 2 * (v % 2)).astype(np.float32)


def _warp(matrix: np.ndarray) -> np.ndarray:
    """float64 [P, P], P = SIDE * SIDE: a flat image times its transpose is the image's version, bilinear."""
    at, middle = np.arange(SIDE), (SIDE - 1) / 2
    y, x = np.mgrid[:SIDE, :SIDE].reshape(2, -1) - middle
    source = [(row[0] * x + row[1] * y + row[2] + middle).clip(0, SIDE - 1) for row in matrix]
    share_x, share_y = (np.maximum(0, 1 - np.abs(s[:, None] - at)) for s in source)
    return (share_y[:, :, None] * share_x[:, None, :]).reshape(SIDE * SIDE, -1)


@lru_cache(maxsize=1)
def _projections() -> np.ndarray:
    """float32 [V, P, D]: a flat hash times entry v is the descriptor of its version v."""
    basis, _ = _basis()
    return np.stack([(_warp(matrix).T @ basis) for matrix in VERSIONS]).astype(np.float32)


def mean_descriptor(plain: np.ndarray) -> np.ndarray:
    """float32 [D] from thumbnails uint8 [N, SIDE, SIDE]: what all faces and their mirror images have in common.

    It is shrunk towards zero, since few faces estimate it badly.
    """
    step = max(1, len(plain) // 20_000)
    total, n = 0.0, 0
    for start in range(0, len(plain), step * _CHUNK):
        part = _flat(plain[start : start + step * _CHUNK : step])
        total, n = total + (part @ _projections()[0]).sum(axis=0), n + len(part)
    return (total / (n + 200) * (_basis()[1] > 0)).astype(np.float32)


def _flat(thumbs: np.ndarray) -> np.ndarray:
    return codes(thumbs).reshape(-1, SIDE * SIDE)


def descriptors(flat: np.ndarray, mean: np.ndarray, version: int = 0, mirrored: bool = False) -> np.ndarray:
    """float32 [N, D] of unit length from flat codes [N, SIDE * SIDE]; zeros for a face without structure."""
    out = flat @ _projections()[version]
    if mirrored:
        out *= _basis()[1]
    out -= mean
    length = np.linalg.norm(out, axis=1, keepdims=True)
    structure = np.einsum("ij,ij->i", flat, flat)[:, None] > 1.0
    return np.divide(out, length, out=np.zeros_like(out), where=structure & (length > 1e-6))


def build_index(rows: np.ndarray, seed: int = 1337):
    """A faiss index of unit rows float32 [N, D], D even, by inner product.

    Up to EXACT_UNTIL rows a query compares all of them.  Beyond, rows are in cells: a query visits PROBES of them,
    compares codes of 4 bits per two dimensions first, then the RANKED best rows exactly.
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


def candidates(thumbs: np.ndarray, least: float = LEAST, seed: int = 1337) -> Candidates:
    """Pairs whose cosine is at least ``least`` in some version, mirrored or not; each pair once, at its best.

    ``thumbs`` uint8 [N, 2, SIDE, SIDE] of distinct images.
    """
    n, mean = len(thumbs), mean_descriptor(thumbs[:, 0])
    base = np.empty((n, len(mean)), np.float32)
    for start in range(0, n, _CHUNK):
        base[start : start + _CHUNK] = descriptors(_flat(thumbs[start : start + _CHUNK, 0]), mean)
    index = build_index(base, seed)
    out = []
    with step("searching near-duplicates", total=n, unit="images") as counter:
        for start in range(0, n, _CHUNK):
            plain, equalised = (_flat(thumbs[start : start + _CHUNK, kind]) for kind in (0, 1))
            hits = []
            for number, (version, mirrored, kind) in enumerate(_QUERIES):
                queries = descriptors(equalised if kind else plain, mean, version, mirrored)
                cosine, other = index.search(queries, min(NEIGHBOURS + 1, n))  # a face finds itself too
                itself = np.arange(start, start + len(queries))[:, None]
                row, column = np.nonzero((cosine >= least) & (other >= 0) & (other != itself))
                hits.append((row + start, other[row, column], cosine[row, column], np.full(len(row), number, np.int8)))
            out.append(_closest(*(np.concatenate(parts) for parts in zip(*hits, strict=True)), n))
            counter.update(min(start + _CHUNK, n))
    return _best_of_each_pair(*(np.concatenate(parts) for parts in zip(*out, strict=True)), n)


def _closest(row, other, cosine, query, n: int) -> tuple[np.ndarray, ...]:
    """Each (query row, other row) once, at its best; below SURE only the CLOSEST of each query row."""
    order = np.lexsort((query, -cosine, row * n + other))
    order = order[np.diff((row * n + other)[order], prepend=-1) != 0]
    order = order[np.lexsort((other[order], -cosine[order], row[order]))]
    begins = np.flatnonzero(np.diff(row[order], prepend=-1))
    rank = np.arange(len(order)) - np.repeat(begins, np.diff(begins, append=len(order)))
    order = order[(rank < CLOSEST) | (cosine[order] >= SURE)]
    return row[order], other[order], cosine[order], query[order]


def _best_of_each_pair(row, other, cosine, query, n: int) -> Candidates:
    first, second = np.minimum(row, other), np.maximum(row, other)
    key = first * n + second
    order = np.lexsort((query, -cosine, key))
    best = order[np.flatnonzero(np.diff(key[order], prepend=-1))]
    version, mirrored = np.array([query[:2] for query in _QUERIES])[query[best]].T
    return Candidates(first[best], second[best], cosine[best], version, mirrored == 1, row[best] == first[best])
