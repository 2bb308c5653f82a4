"""The face contract: one object that says how an image becomes the input of a model.

It travels in every bundle and is used by import, packing, training, soft labels, evaluation and prediction, so that a
model never sees two different crops of the same face.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Annotated, Any, Literal

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fer_lib.errors import DataError
from fer_lib.faces.align import crop_square, eyes_level

Box = tuple[float, float, float, float]  # top, left, bottom, right in pixels; bottom and right are exclusive
Channels = tuple[float, float, float]

# Part of the id: raise it whenever the same fields begin to give different pixels.
CONTRACT_VERSION = 1
# A box whose longer side is larger than this many times the image is a broken record, not a face.
MAX_BOX_OVER_PICTURE = 2.0


class FaceContract(BaseModel):
    """How a face is cut out, sized and normalised.

    box -> [eyes level] -> square -> R = round(1.15 S) -> [grey] -> [CLAHE] -> centre S -> (x / 255 - mean) / std.
    ``margin`` is the context added on each side of a box, as a share of its longer side.  Contracts with equal ``id``
    give equal pixels.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    image_size: Annotated[int, Field(ge=8, le=2048)] = 224
    align: Literal["none", "eyes"] = "none"
    margin: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    clahe: bool = False
    clahe_clip: Annotated[float, Field(gt=0.0)] = 2.0
    clahe_tile: Annotated[int, Field(ge=1, le=64)] = 8
    mean: Channels = (0.485, 0.456, 0.406)
    std: Channels = (0.229, 0.224, 0.225)
    grey: bool = False

    @model_validator(mode="after")
    def _std_is_positive(self):
        if not all(math.isfinite(v) for v in self.mean) or not all(math.isfinite(v) and v > 0 for v in self.std):
            raise ValueError(f"mean must be finite and std positive, got mean {self.mean}, std {self.std}")
        return self

    @property
    def resize(self) -> int:
        """R, the side in pixels at which faces are packed and augmented."""
        return round(1.15 * self.image_size)

    @property
    def id(self) -> str:
        """12 hex digits of SHA-256 over the canonical JSON of the fields and the contract version."""
        fields = {"version": CONTRACT_VERSION, **self.model_dump(mode="json")}
        return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:12]

    @property
    def crop_settings(self) -> dict[str, Any]:
        """The fields that decide what a face shows, whatever size and normalisation a backbone takes it at."""
        tones = {"clahe", "clahe_clip", "clahe_tile"} if self.clahe else {"clahe"}
        return self.model_dump(mode="json", include={"align", "margin", "grey"} | tones)

    def face(self, image: np.ndarray, box: Box | None = None, points: np.ndarray | None = None) -> np.ndarray:
        """The face as uint8 RGB [R, R, 3].

        ``image`` uint8 RGB [H, W, 3], edge-replicated outside; ``box`` in pixels, None for an image that is the face:
        ``margin`` then does not apply.  ``points`` float [5, 2] (x, y) of the detector turn the face when ``align`` is
        "eyes"; a face without points is not turned.
        Raises DataError for an array of another kind and for a box that is empty, not finite or off the image.
        """
        return self.finish(self.square(image, box, points))

    def square(self, image: np.ndarray, box: Box | None = None, points: np.ndarray | None = None) -> np.ndarray:
        """The first half of :meth:`face`: the square cut out (and turned) at its own scale, uint8 RGB [side, side, 3].

        It may be a view of ``image``.  A larger square is sampled at ``align.MAX_SIDE`` pixels a side.  Raises
        DataError as :meth:`face` does.
        """
        square = _square(check_image(image).shape, box, self.margin)
        if self._turns(points):
            return eyes_level(image, points, square)[0]
        return crop_square(image, *square)

    def finish(self, square: np.ndarray) -> np.ndarray:
        """The second half: a square uint8 [side, side, C] sized to R, made grey and equalised, uint8 [R, R, C].

        One channel (C = 1) stands for three equal ones and gives what each of those would give.
        """
        size = (self.resize, self.resize)
        shrinks = square.shape[0] > self.resize
        # one channel as three, because OpenCV rounds a single one differently in places
        face = cv2.resize(to_rgb(square), size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
        if square.shape[2] == 1:
            grey = cv2.extractChannel(face, 0)
            return (self._equalise_grey(grey) if self.clahe else grey)[..., None]
        if self.grey:
            face = to_rgb(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY))
        return self._equalise(face) if self.clahe else face

    def centre(self, faces: np.ndarray) -> np.ndarray:
        """The middle S x S of uint8 [..., R, R, 3]: a view uint8 [..., S, S, 3]."""
        if faces.shape[-3:-1] != (self.resize, self.resize):
            raise DataError(
                f"faces of shape {tuple(faces.shape)} do not fit this contract, which packs at {self.resize} x "
                f"{self.resize}: make them with the same contract's face()"
            )
        start = (self.resize - self.image_size) // 2
        stop = start + self.image_size
        return faces[..., start:stop, start:stop, :]

    def normalise(self, faces: np.ndarray) -> np.ndarray:
        """uint8 [N, S, S, 3] to float32 [N, 3, S, S]: (x / 255 - mean) / std a channel, contiguous."""
        return np.ascontiguousarray(self.channels_last(faces).transpose(0, 3, 1, 2))

    def channels_last(self, faces: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """The numbers of :meth:`normalise` in their fastest layout: uint8 [..., S, S, C] to float32 [..., S, S, 3].

        One channel counts as three equal ones.  ``out``: a contiguous array to write to.
        """
        if out is None:
            out = np.empty((*faces.shape[:-1], 3), dtype=np.float32)
        scale, shift = _scale_and_shift(self.mean, self.std, out.shape[-2])
        out[...] = to_rgb(faces) if faces.ndim == 3 else faces  # broadcasting one channel to three is far slower
        lines = out.reshape(-1, len(scale))  # NumPy is fast on long lines, slow on three channels at a time
        lines *= scale
        lines += shift
        return out

    def batch(self, items: Iterable[tuple[np.ndarray, Box | None, np.ndarray | None]]) -> np.ndarray:
        """(image, box, points) triples straight to the model's input, float32 [N, 3, S, S]."""
        faces = [self.face(image, box, points) for image, box, points in items]
        if not faces:
            return np.zeros((0, 3, self.image_size, self.image_size), dtype=np.float32)
        return self.normalise(self.centre(np.stack(faces)))

    def steps(
        self, image: np.ndarray, box: Box | None = None, points: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """The stages of one face for display, in order, uint8 [h, w, 3] each.

        Always ``raw``, ``square`` (or ``aligned`` when the eyes were levelled) and ``crop`` (what the model sees);
        ``box`` when there is a box, ``clahe`` when it is on.
        """
        stages = {"raw": check_image(image)}
        if box is not None:
            stages["box"] = _drawn(image, box, points)
        square = self.square(image, box, points)
        stages["aligned" if self._turns(points) else "square"] = square
        face = self.finish(square)
        if self.clahe:
            stages["clahe"] = face
        stages["crop"] = self.centre(face).copy()
        return stages

    def _turns(self, points: np.ndarray | None) -> bool:
        return self.align == "eyes" and points is not None

    def _equalise(self, face: np.ndarray) -> np.ndarray:
        """Contrast-limited equalisation of lightness only (Zuiderveld 1994), so that skin keeps its hue."""
        channel = to_gray(face)
        if channel.shape[2] == 1:
            return to_rgb(self._equalise_grey(channel[..., 0]))
        lab = cv2.cvtColor(face, cv2.COLOR_RGB2LAB)
        lab[..., 0] = self._clahe(np.ascontiguousarray(lab[..., 0]))
        return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)

    def _equalise_grey(self, face: np.ndarray) -> np.ndarray:
        """The same for grey uint8 [R, R], by two tables; 8-bit LAB returns channels that differ by one: take green."""
        lightness, grey = _grey_in_lab()
        return cv2.LUT(self._clahe(cv2.LUT(face, lightness)), grey)

    def _clahe(self, lightness: np.ndarray) -> np.ndarray:
        return cv2.createCLAHE(self.clahe_clip, (self.clahe_tile, self.clahe_tile)).apply(lightness)


@lru_cache(maxsize=1)
def _grey_in_lab() -> tuple[np.ndarray, np.ndarray]:
    """uint8 [256] each: L of every grey in OpenCV's 8-bit LAB, and the green channel that each L of a grey gives."""
    levels = np.arange(256, dtype=np.uint8)[None]
    lightness = cv2.cvtColor(to_rgb(levels), cv2.COLOR_RGB2LAB)[0, :, 0]
    neutral = np.full_like(levels, 128)  # a and b of every grey
    green = cv2.cvtColor(cv2.merge([levels, neutral, neutral]), cv2.COLOR_LAB2RGB)[0, :, 1]
    return lightness.copy(), green.copy()


def to_gray(face: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3] with three equal channels as [h, w, 1]; any other image as it is."""
    middle = face[len(face) // 2]
    if face.shape[2] == 1 or (middle != middle[:, :1]).any():  # one row nearly always decides
        return face
    red, green, blue = cv2.split(face)
    return red[..., None] if np.array_equal(red, green) and np.array_equal(red, blue) else face


def to_rgb(face: np.ndarray) -> np.ndarray:
    """uint8 [h, w], [h, w, 1] or [h, w, 3] as [h, w, 3]."""
    return face if face.ndim == 3 and face.shape[2] == 3 else cv2.cvtColor(face, cv2.COLOR_GRAY2RGB)


@lru_cache(maxsize=8)
def _scale_and_shift(mean: Channels, std: Channels, width: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 [3 width] each: one line's factors and summands of (x / 255 - mean) / std."""
    spread = np.asarray(std, dtype=np.float64)
    scale, shift = 1.0 / (255.0 * spread), -np.asarray(mean, dtype=np.float64) / spread
    return np.tile(scale.astype(np.float32), width), np.tile(shift.astype(np.float32), width)


def check_image(image: np.ndarray) -> np.ndarray:
    """The image itself; DataError unless it is uint8 RGB [H, W, 3] with at least one pixel."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise DataError(f"an image must be uint8 RGB [height, width, 3], got {got}: use fer_lib.faces.decode.decode")
    if 0 in image.shape:
        raise DataError(f"an image of shape {image.shape} has no pixels")
    return image


def _square(shape: tuple[int, ...], box: Box | None, margin: float) -> tuple[int, int, int]:
    """(top, left, side) of the square round the box's centre, in whole pixels, free to leave the image."""
    height, width = shape[:2]
    if box is None:
        top, left, bottom, right, margin = 0.0, 0.0, float(height), float(width), 0.0
    else:
        top, left, bottom, right = (float(v) for v in box)
        if not all(math.isfinite(v) for v in (top, left, bottom, right)) or bottom <= top or right <= left:
            raise DataError(f"box {box} is empty or not finite: expected (top, left, bottom, right) in pixels")
        if bottom <= 0 or right <= 0 or top >= height or left >= width:
            raise DataError(f"box {box} lies outside the image of {width} x {height} pixels: check its order")
    longer = max(bottom - top, right - left)
    if longer > MAX_BOX_OVER_PICTURE * max(height, width):
        raise DataError(f"box {box} is far larger than the image of {width} x {height} pixels: check its units")
    side = max(1, math.floor(longer * (1.0 + 2.0 * margin) + 0.5))
    return math.floor((top + bottom - side) / 2 + 0.5), math.floor((left + right - side) / 2 + 0.5), side


def _drawn(image: np.ndarray, box: Box, points: np.ndarray | None) -> np.ndarray:
    canvas = image.copy()
    top, left, bottom, right = (round(v) for v in box)
    stroke = max(1, round(min(image.shape[:2]) / 150))
    cv2.rectangle(canvas, (left, top), (right - 1, bottom - 1), (0, 220, 90), stroke)
    for x, y in () if points is None else np.asarray(points):
        cv2.circle(canvas, (round(float(x)), round(float(y))), stroke + 1, (255, 60, 60), -1)
    return canvas
