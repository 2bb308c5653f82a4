"""Faces that are followed from frame to frame: found by a detector every few frames, moved by optical flow between.

A face keeps its number while its box overlaps the one before (intersection over union, assigned as a whole by the
Hungarian method); one that is not found again in :data:`PATIENCE` detections is gone.  Between detections a box is
moved and scaled by the median flow of points in it (Kalal et al. 2010) on a small grey picture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

from fer_lib.faces.detectors import Detector, Face

OVERLAP = 0.3  # of a face with its former box
PATIENCE = 2  # detections in a row that may miss a face
GRID = 5  # points followed in a face, a side
LARGER = 1.2  # times the area of the first face that another must have to be first: sizes jitter, people do not
FLOW_SIDE = 320  # pixels of the longer side of the picture on which they are followed


@dataclass(frozen=True)
class Tracked:
    """A face and its ``number``, which it keeps; ``missed`` detections in a row did not find it."""

    number: int
    face: Face
    missed: int = 0


class Tracker:
    """Pictures of one stream in order -> its faces, the largest first, which stays that until another is larger by
    LARGER; the rest by size.  One thread's."""

    def __init__(self, detector: Detector, every: int = 1, scale: float = 1.0, refine: bool = False):
        """``every`` so many frames are searched, reduced by ``scale``; ``refine``: with points that alignment needs."""
        self.detector, self.every, self.scale, self.refine = detector, every, scale, refine
        self._faces: list[Tracked] = []
        self._grey: np.ndarray | None = None
        self._seen = self._numbers = self._first = 0

    def step(self, image: np.ndarray) -> list[Tracked]:
        """The faces of the next picture, uint8 RGB [H, W, 3]; of another size than the last one it is searched anew."""
        grey, factor = _small_grey(image) if self.every > 1 else (None, 1.0)
        changed = self._grey is not None and grey is not None and grey.shape != self._grey.shape
        if self._seen % self.every == 0 or changed:
            self._faces = self._matched(self._detect(image))
        elif self._faces:
            self._faces = [t for t in map(lambda t: _moved(t, self._grey, grey, factor), self._faces) if t is not None]
        self._grey, self._seen = grey, self._seen + 1
        return self._ordered([t for t in self._faces if not t.missed])

    def _ordered(self, faces: list[Tracked]) -> list[Tracked]:
        faces = sorted(faces, key=lambda t: t.face.area, reverse=True)
        for i, tracked in enumerate(faces):
            if tracked.number == self._first and tracked.face.area * LARGER >= faces[0].face.area:
                return [tracked, *faces[:i], *faces[i + 1 :]]
        self._first = faces[0].number if faces else self._first
        return faces

    def _detect(self, image: np.ndarray) -> list[Face]:
        if self.scale == 1.0:
            return self.detector.detect(image, refine=self.refine)
        size = (max(1, round(image.shape[1] * self.scale)), max(1, round(image.shape[0] * self.scale)))
        faces = self.detector.detect(cv2.resize(image, size, interpolation=cv2.INTER_AREA), refine=self.refine)
        up = np.array([image.shape[1] / size[0], image.shape[0] / size[1]])
        return [_scaled(face, up) for face in faces]

    def _matched(self, found: list[Face]) -> list[Tracked]:
        """The found faces under the numbers of those that they are, and those that were not found for a while yet."""
        before = self._faces
        overlap = np.array([[iou(t.face.box, f.box) for f in found] for t in before]).reshape(len(before), len(found))
        pairs = dict(
            (int(column), before[row])
            for row, column in zip(*linear_sum_assignment(-overlap), strict=True)
            if overlap[row, column] >= OVERLAP
        )
        faces = []
        for column, face in enumerate(found):
            if column not in pairs:
                self._numbers += 1
            faces.append(Tracked(pairs[column].number if column in pairs else self._numbers, face))
        kept = {t.number for t in faces}
        gone = [replace(t, missed=t.missed + 1) for t in before if t.number not in kept]
        return faces + [t for t in gone if t.missed <= PATIENCE]


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union of two boxes (top, left, bottom, right)."""
    height, width = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if height <= 0 or width <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return height * width / (sum(areas) - height * width)


def _small_grey(image: np.ndarray) -> tuple[np.ndarray, float]:
    """A grey picture of at most FLOW_SIDE pixels, and how many of its pixels one of the picture is."""
    factor = min(1.0, FLOW_SIDE / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    return cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY), factor


def _moved(tracked: Tracked, before: np.ndarray, now: np.ndarray, factor: float) -> Tracked | None:
    """Where a face went; where the flow is lost it stays where it was, and off the picture it is gone."""
    face = tracked.face
    top, left, bottom, right = (v * factor for v in face.box)
    inner = np.linspace(0.2, 0.8, GRID)  # the rim of a box is background
    points = np.stack(np.meshgrid(left + inner * (right - left), top + inner * (bottom - top)), -1)
    points = points.reshape(-1, 1, 2).astype(np.float32)
    ahead, found, _ = cv2.calcOpticalFlowPyrLK(before, now, points, None, winSize=(15, 15), maxLevel=2)
    good = found.ravel() == 1
    if good.sum() < len(points) / 2:
        return tracked
    old, new = points[good, 0], ahead[good, 0]
    shift = np.median(new - old, axis=0) / factor
    spread = [np.median(np.abs(p - np.median(p, axis=0)).sum(axis=1)) for p in (old, new)]
    growth = float(np.clip(spread[1] / max(spread[0], 1e-6), 0.9, 1.1))
    top, left, bottom, right = face.box
    middle = np.array([(left + right) / 2, (top + bottom) / 2])
    half = np.array([(right - left) / 2, (bottom - top) / 2]) * growth
    low, high = middle + shift - half, middle + shift + half
    height, width = now.shape[0] / factor, now.shape[1] / factor
    if not (max(low[0], 0) < min(high[0], width) and max(low[1], 0) < min(high[1], height)):
        return None
    spots = None if face.points is None else ((face.points - middle) * growth + middle + shift).astype(np.float32)
    box = (float(low[1]), float(low[0]), float(high[1]), float(high[0]))
    return replace(tracked, face=replace(face, box=box, points=spots))


def _scaled(face: Face, up: np.ndarray) -> Face:
    top, left, bottom, right = face.box
    points = None if face.points is None else (face.points * up).astype(np.float32)
    box = (top * up[1], left * up[0], bottom * up[1], right * up[0])
    return Face(tuple(float(v) for v in box), face.score, points)
