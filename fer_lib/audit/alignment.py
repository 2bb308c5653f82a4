"""Alignment of near-duplicate candidates: two images are laid over each other as well as possible, then compared.

Inverse compositional Gauss-Newton over six affine parameters (Baker & Matthews 2004, "Lucas-Kanade 20 years on") with
the gain projected out, then normalised correlation under a window that fades towards the edges.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from threadpoolctl import threadpool_limits

from fer_lib.audit.hashes import SIDE, blur_matrix, codes, smooth
from fer_lib.audit.near_duplicate_search import VERSIONS, Candidates
from fer_lib.storage.progress import step

STEPS = (3, 3)  # of refinement: for every pair, and for those that are not rejected then
REJECT_BELOW = 0.64  # correlation of codes after the first steps; copies of one image reach 0.85 there
TONE = 0.3  # share of the blurred thumbnails' correlation in the similarity; the codes' has the rest
_BLOCK = 128  # pairs at a time: their stacked thumbnails are one image for OpenCV (at most 32,767 rows)
_MIDDLE = (SIDE - 1) / 2
_DAMPING = 1e-3  # share of a parameter's own curvature added to it, so that a flat face does not diverge
_BLUR = blur_matrix(1.5)


_Y, _X = (np.mgrid[:SIDE, :SIDE].reshape(2, -1) - _MIDDLE).astype(np.float32)  # centred, [P], P = SIDE * SIDE
_WINDOW = ((np.cos(np.pi * 0.95 * _X / SIDE) * np.cos(np.pi * 0.95 * _Y / SIDE)) ** 1.5).astype(np.float32)


def transforms(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What affine matrices [M, 2, 3] do: mirrored bool [M], rotation in degrees and scale, float64 [M].

    The rotation is that after a mirror image is mirrored back.  The scale is the sides of one image as a share of the
    other's (a crop to 90 %: 0.9 or its inverse).
    """
    mirrored = np.linalg.det(matrix[:, :, :2]) < 0
    a, side = matrix.astype(np.float64), np.where(mirrored, -1.0, 1.0)
    degrees = np.degrees(np.arctan2(side * a[:, 1, 0] - a[:, 0, 1], side * a[:, 0, 0] + a[:, 1, 1]))
    return mirrored, degrees, np.sqrt(np.abs(np.linalg.det(a[:, :, :2])))


def align(thumbs: np.ndarray, pairs: Candidates) -> tuple[np.ndarray, np.ndarray]:
    """Align the query row of each pair to the other row, from the version that matched and from the identity.

    ``thumbs`` uint8 [N, 2, SIDE, SIDE].  Returns the similarity float32 [M] (0.7 correlation of codes + 0.3 correlation
    of blurred thumbnails, 1 at most), and the matrix float32 [M, 2, 3] from centred pixels of one image to the other's.
    """
    similarity, matrix = np.empty(len(pairs), np.float32), np.empty((len(pairs), 2, 3), np.float32)
    queries = np.where(pairs.query_is_first, pairs.first, pairs.second)
    others = np.where(pairs.query_is_first, pairs.second, pairs.first)

    def work(start: int) -> None:
        part = slice(start, start + _BLOCK)
        begin = np.stack([VERSIONS[pairs.version[part]], VERSIONS[np.zeros(len(queries[part]), int)]])
        begin[:, :, :, 0] *= np.where(pairs.mirrored[part], -1.0, 1.0)[:, None]
        similarity[part], matrix[part] = _block(thumbs[queries[part]], thumbs[others[part]], *begin)

    starts = range(0, len(pairs), _BLOCK)
    # one BLAS thread per worker: BLAS' own threads would only wait for each other on matrices this small
    aligning = step("comparing pairs", total=len(pairs), unit="pairs")
    with aligning as counter, threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for start, _ in zip(starts, pool.map(work, starts), strict=True):
            counter.update(min(start + _BLOCK, len(pairs)))
    return similarity, matrix


def _block(images: np.ndarray, templates: np.ndarray, matrix: np.ndarray, identity: np.ndarray):
    """Similarity [n] and matrix [n, 2, 3] of pairs of thumbnails uint8 [n, 2, SIDE, SIDE]."""
    code, other = (_flat(codes(thumbs[:, 0])) for thumbs in (images, templates))
    matrix, correlation = refine(code, other, matrix, STEPS[0])
    similarity, rest = correlation * (1 - TONE), np.flatnonzero(correlation > REJECT_BELOW)
    if len(rest) == 0:
        return similarity, matrix
    (image, equalised_image), (template, equalised_template) = (
        [_layers(thumbs[rest, kind]) for kind in (0, 1)] for thumbs in (images, templates)
    )
    refined, _ = refine(image[0], template[0], matrix[rest], STEPS[1])
    best, best_matrix = _similarity(image, template, refined), refined
    for one, two, trial in (
        (image, template, identity[rest]),
        (equalised_image, template, refined), (equalised_image, template, identity[rest]),
        (image, equalised_template, refined), (image, equalised_template, identity[rest]),
    ):  # fmt: skip
        best, best_matrix = _better(best, best_matrix, _similarity(one, two, trial), trial)
    matrix = matrix.copy()
    similarity[rest], matrix[rest] = best, best_matrix
    return similarity, matrix


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1, SIDE)


def _layers(thumbs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes and blurred thumbnails, float32 [n * SIDE, SIDE] each, of thumbnails uint8 [n, SIDE, SIDE]."""
    return _flat(codes(thumbs)), _flat(smooth(thumbs.astype(np.float32), _BLUR))


def _better(best: np.ndarray, best_matrix: np.ndarray, value: np.ndarray, matrix: np.ndarray):
    wins = value > best
    return np.where(wins, value, best), np.where(wins[:, None, None], matrix, best_matrix)


def _similarity(image: tuple, template: tuple, matrix: np.ndarray) -> np.ndarray:
    """float32 [n], of the :func:`_layers` of both."""
    n, parts = len(matrix), []
    for mine, other in zip(image, template, strict=True):
        warped, inside = _warp(mine, matrix)
        parts.append(_correlation(warped, other.reshape(n, -1), _WINDOW * inside))
    return (1 - TONE) * parts[0] + TONE * parts[1]


def refine(image: np.ndarray, template: np.ndarray, matrix: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The best of ``steps`` refinements of ``matrix``, which aligns ``image`` to ``template``, both [n * SIDE, SIDE].

    Returns the matrix float32 [n, 2, 3] and the correlation float32 [n].
    """
    n = len(matrix)
    slope_y, slope_x = (slope.reshape(n, -1) for slope in np.gradient(template.reshape(n, SIDE, SIDE), axis=(1, 2)))
    template = template.reshape(n, -1)
    jacobian = np.stack([slope_x * _X, slope_x * _Y, slope_x, slope_y * _X, slope_y * _Y, slope_y], axis=1)  # [n, 6, P]
    weighted = template * _WINDOW
    power = np.maximum((weighted * template).sum(axis=1), 1e-6)
    jacobian -= (jacobian @ weighted[:, :, None]) * (template / power[:, None])[:, None, :]  # the gain projected out
    step = jacobian * _WINDOW
    hessian = step @ jacobian.transpose(0, 2, 1)
    np.einsum("nii->ni", hessian)[...] *= 1 + _DAMPING
    np.einsum("nii->ni", hessian)[...] += 1e-6 * np.trace(hessian, axis1=1, axis2=2)[:, None] + 1e-6
    best, best_matrix = np.full(n, -1.0, np.float32), matrix
    for number in range(steps + 1):
        warped, inside = _warp(image, matrix)
        best, best_matrix = _better(best, best_matrix, _correlation(warped, template, _WINDOW * inside), matrix)
        if number < steps:
            gain = (warped * weighted).sum(axis=1) / np.maximum((warped * warped * _WINDOW).sum(axis=1), 1e-6)
            error = (gain[:, None] * warped - template) * inside
            change = np.linalg.solve(hessian, step @ error[:, :, None])[:, :, 0]
            matrix = _compose(matrix, change.clip(-2.0, 2.0))
    return best_matrix, best


def _warp(image: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each image at its matrix' coordinates, float32 [n, P], and which of them are inside it (0 or 1)."""
    at_x = matrix[:, 0, 0, None] * _X + matrix[:, 0, 1, None] * _Y + (matrix[:, 0, 2, None] + np.float32(_MIDDLE))
    at_y = matrix[:, 1, 0, None] * _X + matrix[:, 1, 1, None] * _Y + (matrix[:, 1, 2, None] + np.float32(_MIDDLE))
    last = np.float32(SIDE - 1)
    inside = (at_x > -0.5) & (at_x < last + 0.5) & (at_y > -0.5) & (at_y < last + 0.5)
    np.clip(at_x, 0, last, out=at_x)
    np.clip(at_y, 0, last, out=at_y)
    at_y += np.arange(len(matrix), dtype=np.float32)[:, None] * SIDE
    return cv2.remap(image, at_x, at_y, cv2.INTER_LINEAR), inside.astype(np.float32)


def _correlation(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted normalised correlation of each row, float32 [n]; 0 where less than half of the weight is left."""
    total = np.maximum(weight.sum(axis=1, keepdims=True), 1e-6)
    a = a - (a * weight).sum(axis=1, keepdims=True) / total
    b = b - (b * weight).sum(axis=1, keepdims=True) / total
    wa = a * weight
    both = (wa * b).sum(axis=1) / np.sqrt(np.maximum((wa * a).sum(axis=1) * (b * b * weight).sum(axis=1), 1e-6))
    return np.where(total[:, 0] >= 0.5 * _WINDOW.sum(), both, 0.0).astype(np.float32)


def _compose(matrix: np.ndarray, change: np.ndarray) -> np.ndarray:
    """The warp after the inverse of a small one, float32 [n, 2, 3]."""
    n = len(matrix)
    small, whole = np.zeros((n, 3, 3), np.float32), np.zeros((n, 3, 3), np.float32)
    small[:, :2] = change.reshape(n, 2, 3)
    small += np.eye(3, dtype=np.float32)
    whole[:, :2], whole[:, 2, 2] = matrix, 1.0
    return (whole @ np.linalg.inv(small))[:, :2].astype(np.float32)
