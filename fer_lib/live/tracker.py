"""Track faces from frame to frame: a detector every few frames, optical flow in between.

Detections are assigned to tracks by intersection over union with the Hungarian method; a track that
:data:`MAX_MISSED` successive detections miss ends with the next miss.  Between detections a box moves and scales with
the median flow of points in it (Kalal et al. 2010, "Forward-Backward Error") on a small grey image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

from fer_lib.faces.detectors import Detector, Face

MIN_IOU = 0.3  # of a face with its previous box
MAX_MISSED = 2  # successive detections that may miss a face
GRID = 5  # points per side of the grid tracked in a face
SWITCH_RATIO = 1.2  # area ratio by which another face becomes the first one, so that box jitter does not switch it
FLOW_SIDE = 320  # pixels of the longer side of the image for optical flow


@dataclass(frozen=True)
class TrackedFace:
    """A face and the constant ``number`` of its track; ``missed`` successive detections did not find it."""

    number: int
    face: Face
    missed: int = 0


class Tracker:
    """Tracks the faces of one stream in one thread.  The first face is the largest one; it stays first until another
    one is larger by :data:`SWITCH_RATIO`.  The others are sorted by size."""

    def __init__(self, detector: Detector, every: int = 1, scale: float = 1.0, refine: bool = False):
        """Detect in one of ``every`` frames, resized by ``scale``; ``refine``: with the landmarks for alignment."""
        self.detector, self.every, self.scale, self.refine = detector, every, scale, refine
        self._faces: list[TrackedFace] = []
        self._grey: np.ndarray | None = None
        self._frames = self._last_number = self._first = 0

    def step(self, image: np.ndarray) -> list[TrackedFace]:
        """The faces of the next frame, uint8 RGB [H, W, 3]; a change of the frame size triggers detection."""
        grey, factor = _small_grey(image) if self.every > 1 else (None, 1.0)
        resized = self._grey is not None and grey is not None and grey.shape != self._grey.shape
        if self._frames % self.every == 0 or resized:
            self._faces = self._match(self._detect(image))
        elif self._faces:
            self._faces = [t for t in map(lambda t: _move(t, self._grey, grey, factor), self._faces) if t is not None]
        self._grey, self._frames = grey, self._frames + 1
        return self._order([t for t in self._faces if not t.missed])

    def _order(self, faces: list[TrackedFace]) -> list[TrackedFace]:
        faces = sorted(faces, key=lambda t: t.face.area, reverse=True)
        for i, tracked in enumerate(faces):
            if tracked.number == self._first and tracked.face.area * SWITCH_RATIO >= faces[0].face.area:
                return [tracked, *faces[:i], *faces[i + 1 :]]
        self._first = faces[0].number if faces else self._first
        return faces

    def _detect(self, image: np.ndarray) -> list[Face]:
        if self.scale == 1.0:
            return self.detector.detect(image, refine=self.refine)
        size = (max(1, round(image.shape[1] * self.scale)), max(1, round(image.shape[0] * self.scale)))
        faces = self.detector.detect(cv2.resize(image, size, interpolation=cv2.INTER_AREA), refine=self.refine)
        up = np.array([image.shape[1] / size[0], image.shape[0] / size[1]])
        return [_scale(face, up) for face in faces]

    def _match(self, detections: list[Face]) -> list[TrackedFace]:
        """The detections with the numbers of their tracks, and the tracks that were missed at most MAX_MISSED times."""
        before = self._faces
        shape = len(before), len(detections)
        overlap = np.array([[iou(t.face.box, f.box) for f in detections] for t in before]).reshape(shape)
        pairs = dict(
            (int(column), before[row])
            for row, column in zip(*linear_sum_assignment(-overlap), strict=True)
            if overlap[row, column] >= MIN_IOU
        )
        faces = []
        for column, face in enumerate(detections):
            if column not in pairs:
                self._last_number += 1
            faces.append(TrackedFace(pairs[column].number if column in pairs else self._last_number, face))
        matched = {t.number for t in faces}
        missed = [replace(t, missed=t.missed + 1) for t in before if t.number not in matched]
        return faces + [t for t in missed if t.missed <= MAX_MISSED]


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union of two boxes (top, left, bottom, right)."""
    height, width = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if height <= 0 or width <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return height * width / (sum(areas) - height * width)


def _small_grey(image: np.ndarray) -> tuple[np.ndarray, float]:
    """A grey image of at most FLOW_SIDE pixels, and its scale."""
    factor = min(1.0, FLOW_SIDE / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    return cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY), factor


def _move(tracked: TrackedFace, before: np.ndarray, now: np.ndarray, factor: float) -> TrackedFace | None:
    """The face moved by optical flow; unchanged when the flow is lost, None when it has left the image."""
    face = tracked.face
    top, left, bottom, right = (v * factor for v in face.box)
    inner = np.linspace(0.2, 0.8, GRID)  # the border of a box is background
    points = np.stack(np.meshgrid(left + inner * (right - left), top + inner * (bottom - top)), -1)
    points = points.reshape(-1, 1, 2).astype(np.float32)
    moved, status, _ = cv2.calcOpticalFlowPyrLK(before, now, points, None, winSize=(15, 15), maxLevel=2)
    good = status.ravel() == 1
    if good.sum() < len(points) / 2:
        return tracked
    old, new = points[good, 0], moved[good, 0]
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


def _scale(face: Face, up: np.ndarray) -> Face:
    top, left, bottom, right = face.box
    points = None if face.points is None else (face.points * up).astype(np.float32)
    box = (top * up[1], left * up[0], bottom * up[1], right * up[0])
    return Face(tuple(float(v) for v in box), face.score, points)
