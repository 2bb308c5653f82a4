"""The image of one parametric face from a person, action units and a scene.

All curves of a face are rotated by the head's pose and projected at once, painted with anti-aliasing on a larger canvas
and shrunk; light, blur and noise come last.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from fer_lib.synthetic import features
from fer_lib.synthetic.features import ACTION_UNITS, Person

_SHIFT = 4  # sub-pixel bits of OpenCV's drawing calls
_FLAT = -9.0  # marks curves of the silhouette, which does not turn with the head


@dataclass(frozen=True)
class Scene:
    """What differs between two images of one person.

    Angles in degrees; shifts in image widths; ``light``: the relative slope of brightness over the image in x and y;
    ``gaze`` and ``skew`` (of the mouth corners) -1..1; ``blur``: the sigma in pixels of a 48-pixel face; ``bias`` and
    ``noise`` in gray levels; ``seed``: of background, occlusion and noise.
    """

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    scale: float = 1.0
    shift_x: float = 0.0
    shift_y: float = 0.0
    gaze: float = 0.0
    skew: float = 0.0
    light: tuple = (0.0, 0.0)
    gain: float = 1.0
    bias: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    occlusion: str = "none"
    background: str = "plain"
    seed: int = 0


class Sketch:
    """Curves of a face, projected together and painted in order on a canvas of ``side`` pixels.

    Three layers: flat skin and hair, the shade that darkens them, ink (eyes, brows, lips) on top.
    """

    def __init__(self, who: Person, scene: Scene, side: int):
        self.who, self.scene, self.side = who, scene, side
        self._curves: list[tuple] = []  # x, y, lift, layer, colour, stroke width

    def ink(self, x, y, colour, line: float = 0.0, lift: float = 0.0) -> None:
        """A filled shape, or an open stroke ``line`` wide, ``lift`` in front of the head's ellipsoid."""
        self._curves.append((x, y, lift, "ink", colour, line))

    def band(self, x, upper, lower, colour, lift: float = 0.0) -> None:
        """Ink between two curves over ``x``."""
        self.ink(np.r_[x, x[::-1]], np.r_[upper, lower[::-1]], colour, lift=lift)

    def flat(self, x, y, colour) -> None:
        """A filled shape in the plane of the silhouette, beneath shade and ink."""
        self._curves.append((x, y, _FLAT, "flat", colour, 0.0))

    def crease(self, x, y, depth: float, line: float, lift: float | None = 0.0) -> None:
        """Shade ``depth`` grey levels darker than 128 (= unchanged), later blurred; ``lift`` None: as :meth:`flat`."""
        level = float(np.clip(128 - depth, 30, 200))
        self._curves.append((x, y, _FLAT if lift is None else lift, "shade", level, line))

    def _project(self) -> list[np.ndarray]:
        """All curves in canvas pixels as fixed-point int32 [n, 1, 2]: yaw, pitch, weak perspective, roll, place."""
        s = self.scene
        xs, ys, lifts, *_ = zip(*self._curves, strict=True)
        lengths = [len(x) for x in xs]
        x, y, lift = np.concatenate(xs), np.concatenate(ys), np.repeat(lifts, lengths)
        bulge = 0.62 * np.sqrt(np.clip(1.0 - 0.85 * (x / self.who.width) ** 2 - 0.75 * y**2, 0.0, 1.0))
        z = np.where(lift == _FLAT, 0.0, bulge + lift)
        yaw, pitch, roll = np.radians((s.yaw, s.pitch, s.roll))
        x, z = x * np.cos(yaw) + z * np.sin(yaw), z * np.cos(yaw) - x * np.sin(yaw)
        near = (1.0 + 0.12 * z) * 0.47 * s.scale * self.side
        x, y = x * near, (y * np.cos(pitch) - z * np.sin(pitch)) * near
        out = np.empty((len(x), 1, 2))
        out[:, 0, 0] = x * np.cos(roll) - y * np.sin(roll) + self.side * (0.5 + s.shift_x) - 0.5
        out[:, 0, 1] = x * np.sin(roll) + y * np.cos(roll) + self.side * (0.5 + s.shift_y) - 0.5
        return np.split(np.round(out * 2**_SHIFT).astype(np.int32), np.cumsum(lengths)[:-1])

    def paint(self, image: np.ndarray, shade: np.ndarray) -> np.ndarray:
        """``image`` uint8 [side, side, 3] with the face; ``shade`` uint8 [side / 2, side / 2]: the head's own."""
        unit = 0.47 * self.scene.scale * self.side
        work = [(layer, points, colour, line * unit) for points, (*_, layer, colour, line) in zip(
            self._project(), self._curves, strict=True)]  # fmt: skip
        for layer, points, colour, line in work:
            if layer == "flat":
                _stroke(image, points, colour, line, _SHIFT)
            elif layer == "shade":  # half the size: one more fixed-point bit halves the coordinates
                _stroke(shade, points, colour, line / 2, _SHIFT + 1)
        shade = cv2.GaussianBlur(shade, (0, 0), 0.018 * shade.shape[0])
        shade = cv2.resize(shade, (self.side, self.side), interpolation=cv2.INTER_LINEAR)
        image = cv2.multiply(image, cv2.merge((shade, shade, shade)), scale=1 / 128)
        for layer, points, colour, line in work:
            if layer == "ink":
                _stroke(image, points, colour, line, _SHIFT)
        return image


def _stroke(image, points, colour, line, shift) -> None:
    if line <= 0.0:
        cv2.fillPoly(image, [points], colour, cv2.LINE_AA, shift)
    else:
        cv2.polylines(image, [points], False, colour, max(1, round(line)), cv2.LINE_AA, shift)


def _muted(rng: np.random.Generator) -> list[float]:
    """A random colour of any brightness and little saturation."""
    return np.clip(rng.uniform(25, 220) + rng.uniform(-32, 32, 3), 0, 255).tolist()


def _background(side: int, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    colour = _muted(rng)
    image = np.empty((side, side, 3), np.uint8)
    image[:] = colour
    if scene.background == "blocks":
        for _ in range(5):
            a, b = rng.integers(0, side, (2, 2))
            cv2.rectangle(image, a.tolist(), b.tolist(), _muted(rng), -1)
    elif scene.background == "blobs":
        for _ in range(6):
            cv2.circle(image, rng.integers(0, side, 2).tolist(), int(rng.uniform(0.06, 0.3) * side), _muted(rng), -1)
        image = cv2.blur(image, (side // 12, side // 12))
    elif scene.background == "slope":
        corners = np.array([_muted(rng) for _ in range(4)], np.uint8).reshape(2, 2, 3)
        image = cv2.resize(corners, (side, side), interpolation=cv2.INTER_LINEAR)
    return image


def _occlude(image: np.ndarray, kind: str, skin: tuple, rng: np.random.Generator) -> None:
    side = image.shape[0]
    u = rng.uniform
    if kind == "hand":
        x, y = u(0.1, 0.9) * side, u(0.6, 1.0) * side
        for finger in range(4):
            a = (int(x + finger * 0.085 * side), int(y))
            b = (int(a[0] + u(-0.04, 0.04) * side), int(y + 0.35 * side))
            cv2.line(image, a, b, features.tint(skin, 0.94 - 0.05 * finger), int(0.085 * side), cv2.LINE_AA)
    elif kind == "bar":
        a = (int(u(-0.2, 1.2) * side), int(u(-0.2, 1.2) * side))
        b = (int(u(0, 1) * side), int(u(0, 1) * side))
        cv2.line(image, a, b, _muted(rng), int(u(0.06, 0.18) * side), cv2.LINE_AA)
    elif kind == "scarf":
        top = int(u(0.68, 0.85) * side)
        cv2.rectangle(image, (0, top), (side, side), _muted(rng), -1)


def draw(who: Person, au: dict[str, float], scene: Scene, size: int = 48) -> np.ndarray:
    """The image: uint8 RGB [size, size, 3], a pure function of its arguments.

    ``au`` maps action units to intensities in [0, 1]; absent ones are 0.
    """
    au = {name: float(au.get(name, 0.0)) for name in ACTION_UNITS}
    rng = np.random.default_rng([scene.seed, 2])
    side = size * (3 if size <= 64 else 2)
    image = _background(side, scene, rng)
    sketch = Sketch(who, scene, side)
    features.draw_head(sketch, au)
    features.draw_wrinkles(sketch, au)
    features.draw_nose(sketch, au)
    features.draw_eyes(sketch, au)
    features.draw_mouth(sketch, au)
    features.draw_glasses(sketch)
    shade = np.full((side // 2, side // 2), 112, np.uint8)
    centre = (int(side * (0.25 + scene.shift_x / 2)), int(side * (0.25 + scene.shift_y / 2)))
    cv2.ellipse(shade, centre, (int(0.145 * side), int(0.2 * side)), scene.roll, 0, 360, 132, -1)
    shade = cv2.blur(shade, (side // 14, side // 14))
    image = sketch.paint(image, shade)
    if scene.occlusion != "none":
        _occlude(image, scene.occlusion, who.skin, rng)
    image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    if scene.blur > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), scene.blur * size / 48)
    ramp = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    light = scene.gain * (1.0 + scene.light[0] * ramp[None, :] + scene.light[1] * ramp[:, None])
    grain = rng.standard_normal((size, size), np.float32) * scene.noise + scene.bias
    return np.clip(image * light[:, :, None] + grain[:, :, None], 0, 255).astype(np.uint8)
