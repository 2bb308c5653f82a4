"""What a cheap camera does to a face, as optional training augmentation; all of it is off by default.

In the order in which a camera does it: no colour, movement while the shutter is open, the tone curve, sensor noise,
JPEG.  Views are uint8 [S, S, 3] RGB or [S, S] grey.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from fer_lib.params import AugmentParams

STREAK = 0.06  # a motion blur's greatest length, share of the view's side
JPEG_QUALITY = (20, 80)


def degrade(view: np.ndarray, rng: np.random.Generator, p: AugmentParams) -> np.ndarray:
    """The effects that ``p`` switches on; ``view`` itself, and no random number drawn, when there are none."""
    if p.grey and view.ndim == 3 and rng.random() < p.grey:
        view = cv2.cvtColor(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if p.motion_blur and rng.random() < p.motion_blur:
        view = motion_blur(view, STREAK * len(view) * rng.random(), math.pi * rng.random())
    if p.gamma:
        limit = math.log1p(p.gamma)
        view = gamma(view, math.exp(rng.uniform(-limit, limit)))
    if p.noise:
        view = noise(view, rng, p.noise * rng.random())
    if p.jpeg and rng.random() < p.jpeg:
        view = jpeg(view, int(rng.integers(JPEG_QUALITY[0], JPEG_QUALITY[1] + 1)))
    return view


def motion_blur(view: np.ndarray, length: float, angle: float) -> np.ndarray:
    """The mean along a straight streak of ``length`` pixels at ``angle`` (radians), edges replicated."""
    side = 2 * math.ceil(length / 2) + 1
    kernel = np.zeros((side, side), np.float32)
    steps = np.linspace(-length / 2, length / 2, 8 * side)
    columns, rows = side // 2 + steps * math.cos(angle), side // 2 + steps * math.sin(angle)
    np.add.at(kernel, (np.rint(rows).astype(int), np.rint(columns).astype(int)), 1.0)
    return cv2.filter2D(view, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)


def gamma(view: np.ndarray, exponent: float) -> np.ndarray:
    """255 (x / 255) ^ exponent."""
    return cv2.LUT(view, np.rint(255.0 * (np.arange(256) / 255.0) ** exponent).astype(np.uint8))


def noise(view: np.ndarray, rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Independent normal noise of standard deviation ``sigma`` levels, cut to 0..255."""
    shaken = view + np.float32(sigma) * rng.standard_normal(view.shape, dtype=np.float32)
    return np.clip(np.rint(shaken), 0, 255).astype(np.uint8)


def jpeg(view: np.ndarray, quality: int) -> np.ndarray:
    """The view after JPEG at ``quality`` (1..100)."""
    colour = view.ndim == 3
    data = cv2.imencode(".jpg", view[..., ::-1] if colour else view, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    back = cv2.imdecode(data, cv2.IMREAD_COLOR if colour else cv2.IMREAD_GRAYSCALE)
    return cv2.cvtColor(back, cv2.COLOR_BGR2RGB) if colour else back
