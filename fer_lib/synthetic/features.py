"""The curves of one person's face as functions of action units.

A face is a list of curves on an ellipsoid head, in units of half a head's height: x to the right, y down, the origin
between eyes and mouth.  Action units (Ekman & Friesen, Facial Action Coding System, 1978) are intensities in [0, 1].
The constants were set by eye, on contact sheets.
"""

from __future__ import annotations

import numpy as np

ACTION_UNITS = (
    "AU1", "AU2", "AU4", "AU5", "AU6", "AU7", "AU9", "AU10", "AU12", "AU15", "AU17", "AU20", "AU24", "AU25", "AU26",
)  # fmt: skip
"""Inner and outer brow raise, brow lower, upper lid raise, cheek raise, lid tighten, nose wrinkle, upper lip raise, lip
corner pull and depress, chin raise, mouth stretch, lip press, lips part, jaw drop."""

_SKINS = np.array(
    [
        [246, 226, 208], [238, 207, 180], [225, 184, 150], [206, 158, 120],
        [180, 130, 94], [146, 100, 70], [110, 74, 52], [78, 54, 42],
    ],
    float,
)  # fmt: skip
_HAIRS = (
    (28, 22, 20), (52, 36, 26), (92, 62, 38), (138, 100, 58),
    (196, 164, 104), (120, 54, 30), (150, 148, 146), (214, 210, 204),
)  # fmt: skip
_HAIR_STYLES = ("bald", "short", "short", "fringe", "parted", "long", "long", "curly")
_BEARDS = ("full", "moustache", "stubble", "none")
_IRISES = ((62, 40, 26), (88, 58, 34), (70, 92, 60), (74, 104, 136), (92, 108, 112))
_U = np.linspace(-1.0, 1.0, 11)
_ARC = 1.0 - _U**2
_BOW = np.sqrt(_ARC)
_RING = np.linspace(0.0, 2 * np.pi, 33)[:-1]


class Person:
    """The traits of one identity.  Lengths in half head heights, colours RGB 0..255."""

    def __init__(self, rng: np.random.Generator):
        u = rng.uniform  # another order of these draws gives other people
        tone = u(0, len(_SKINS) - 1.001)
        low = int(tone)
        skin = _SKINS[low] + (tone - low) * (_SKINS[low + 1] - _SKINS[low]) + rng.normal(0, 3, 3)
        is_dark = tone / (len(_SKINS) - 1) >= 0.5
        self.skin = tuple(np.clip(skin, 30, 252))
        self.hair = _HAIRS[rng.integers(0, 3 if is_dark else len(_HAIRS))]
        self.beard = _BEARDS[np.searchsorted((0.07, 0.12, 0.2), rng.random(), side="right")]
        self.width, self.jaw, self.chin = u(0.68, 0.82), u(2.0, 2.7), u(0.95, 1.06)
        self.eye_gap, self.eye_size, self.eye_tilt = u(0.32, 0.39), u(0.88, 1.14), u(-0.02, 0.025)
        self.brow_height, self.brow_slope, self.brow_thick = u(-0.03, 0.03), rng.normal(0, 0.018), u(0.03, 0.062)
        self.nose_length, self.nose_width = u(0.92, 1.1), u(0.13, 0.19)
        self.mouth_width, self.mouth_y, self.mouth_rest = u(0.28, 0.35), u(0.50, 0.56), rng.normal(0, 0.012)
        self.lip, self.wrinkled = u(0.75, 1.3), u(0.6, 1.2)
        self.hair_style, self.hairline = str(rng.choice(_HAIR_STYLES)), u(-0.74, -0.62)
        self.glasses = str(rng.choice(["none", "round", "square", "dark"], p=[0.8, 0.09, 0.09, 0.02]))
        self.iris = _IRISES[rng.integers(0, 2 if is_dark else len(_IRISES))]
        self.lip_colour = tuple(np.clip(skin * (0.86, 0.62, 0.62) + (u(-6, 14), 0, 0), 20, 240))


def tint(colour, factor: float) -> tuple:
    """``colour`` (RGB 0..255) made darker (factor < 1) or lighter."""
    return tuple(min(255.0, c * factor) for c in colour)


def draw_head(sketch, au: dict[str, float]) -> None:
    """Shoulders, ears, hair, the skin of head and jaw, beard."""
    who = sketch.who
    bend = np.where(np.sin(_RING) > 0, 2.0 / who.jaw, 1.0)  # a superellipse below the eyes
    x = who.width * np.sign(np.cos(_RING)) * np.abs(np.cos(_RING)) ** bend
    y = np.sign(np.sin(_RING)) * np.abs(np.sin(_RING)) ** bend
    x = x * (1.0 - 0.22 * np.clip(y, 0, 1) ** 1.5)
    y = np.where(y > 0, y * (who.chin + 0.15 * au["AU26"]), y)
    small_x, small_y = np.cos(_RING[::2]), np.sin(_RING[::2])
    if who.hair_style == "long":
        crown = np.linspace(np.pi, 2 * np.pi, 17)
        falling = np.r_[np.cos(crown), 1.06, 1.0, -1.0, -1.06] * (who.width + 0.15)
        sketch.flat(falling, np.r_[1.14 * np.sin(crown), 0.9, 1.35, 1.35, 0.9], tint(who.hair, 0.85))
    neck = np.array([-0.4, -0.38, -1.2, 1.2, 0.38, 0.4]), np.array([0.5, 1.15, 1.6, 1.6, 1.15, 0.5])
    sketch.flat(*neck, tint(who.skin, 0.72))
    if who.hair_style != "long":
        for side in (-1, 1):
            sketch.flat(side * who.width + 0.09 * small_x, 0.02 + 0.2 * small_y, tint(who.skin, 0.88))
    if who.hair_style == "curly":
        for angle in np.linspace(np.pi * 1.02, np.pi * 1.98, 8):
            curl_x, curl_y = who.width * 1.02 * np.cos(angle), 0.95 * np.sin(angle)
            sketch.flat(curl_x + 0.26 * small_x, curl_y + 0.26 * small_y, who.hair)
    sketch.flat(x, y, who.skin)
    if who.beard in ("full", "stubble"):
        lower = y > 0.02
        order = np.argsort(np.arctan2(x[lower], y[lower]))
        beard_x = np.r_[x[lower][order], 0.8 * who.width, 0.45, 0.28, 0.0, -0.28, -0.45, -0.8 * who.width]
        beard_y = np.r_[y[lower][order], 0.2, 0.40, 0.36, 0.34, 0.36, 0.40, 0.2]
        if who.beard == "full":
            sketch.flat(beard_x, beard_y, who.hair)
        else:
            sketch.crease(beard_x, beard_y, 24, line=0.0, lift=None)
    if who.hair_style != "bald":
        _draw_hair(sketch)


def _draw_hair(sketch) -> None:
    """Hair from temple to temple; styles differ in the hairline."""
    who = sketch.who
    over = np.linspace(np.pi * 1.02, np.pi * 1.98, 15)
    lines = {
        "fringe": who.hairline + 0.14 + 0.05 * np.cos(6 * _U),
        "parted": who.hairline + 0.18 * (_U - 0.2) ** 2 - 0.1 * (_U > 0.1),
    }
    line = lines.get(who.hair_style, who.hairline + 0.12 * _U**2)
    x, y = (who.width + 0.04) * np.cos(over), 0.03 + 1.1 * np.sin(over)
    sketch.flat(np.r_[x, _U[::-1] * who.width * 0.9], np.r_[y, line[::-1]], who.hair)


def draw_eyes(sketch, au: dict[str, float]) -> None:
    """Whites, irises cut off by the lids, lashes, lid creases, bags and brows of both eyes."""
    who = sketch.who
    wide, radius, y0 = 0.19 * who.eye_size, 0.092 * who.eye_size, -0.17
    opened = 1 + 0.85 * au["AU5"] - 0.4 * au["AU7"] - 0.25 * au["AU6"] - 0.45 * au["AU9"] - 0.25 * au["AU15"]
    raised = 1 + 0.45 * au["AU5"] - 0.55 * au["AU7"] - 0.95 * au["AU6"] - 0.55 * au["AU9"]
    top, low = 0.105 * who.eye_size * max(opened, 0.15), 0.07 * who.eye_size * max(raised, -0.35)
    sad = 0.05 * max(0.0, au["AU1"] - au["AU2"])  # the outer lid sinks when only the inner brow rises
    bag = 0.3 + au["AU6"] + 0.6 * au["AU7"] + 0.7 * au["AU9"]
    for side in (-1, 1):
        x0 = side * who.eye_gap
        x = x0 + wide * _U
        slant = side * _U * (sad - who.eye_tilt)
        upper, lower = y0 - top * _BOW**1.1 + slant, y0 + low * _ARC + slant
        sketch.band(x, upper, lower, (236, 234, 230))
        iris_x = np.clip(x0 + sketch.scene.gaze * wide * 0.32 + radius * np.cos(_RING[::2]), x[0], x[-1])
        lid = np.interp(iris_x, x, upper)
        iris_y = np.clip(y0 - 0.012 + radius * np.sin(_RING[::2]), lid, np.maximum(np.interp(iris_x, x, lower), lid))
        sketch.ink(iris_x, iris_y, who.iris)
        sketch.ink((iris_x + iris_x.mean()) / 2, (iris_y + iris_y.mean()) / 2, (14, 12, 12))
        sketch.ink(x, upper, (30, 22, 20), line=0.034)
        sketch.ink(x[1:-1], lower[1:-1], tint(who.skin, 0.55), line=0.016)
        sketch.crease(x, upper - 0.055 - 0.02 * au["AU5"], 34, 0.03)
        sketch.crease(x, lower + 0.075, 22 * bag, 0.03)
        _draw_brow(sketch, au, side)


def _draw_brow(sketch, au: dict[str, float], side: int) -> None:
    who = sketch.who
    t = (_U + 1) / 2  # 0 at the inner end, 1 at the outer
    inner = who.eye_gap - 0.20 - 0.055 * au["AU4"] - 0.02 * au["AU9"]
    x = side * (inner + t * (0.43 + 0.02 * au["AU4"]))
    rest = -0.40 + who.brow_height - 0.05 * _ARC + who.brow_slope * (1 - 2 * t)
    up = 0.20 * au["AU1"] * (1 - t) ** 1.2 + 0.19 * au["AU2"] * t**0.6 * (1.25 - 0.5 * t)
    down = au["AU4"] * (0.04 + 0.13 * (1 - t) * (1 - 0.75 * au["AU1"])) + au["AU9"] * (0.04 + 0.05 * (1 - t))
    y = rest - up + down
    thick = who.brow_thick * (1.0 - 0.65 * t**2)
    colour = tint(who.hair, 0.8 if sum(who.hair) < 420 else 0.62)
    sketch.band(x, y - thick, y + thick, colour, lift=0.03)


def draw_wrinkles(sketch, au: dict[str, float]) -> None:
    """Forehead, frown, nose and chin creases, the folds beside the mouth, and the lit cheeks of a smile."""
    who, crease, w = sketch.who, sketch.crease, sketch.who.wrinkled
    if (brows := min(au["AU1"], au["AU2"]) * w) > 0.15:
        for y in (-0.64, -0.72, -0.80):
            crease(0.42 * _U, y - 0.03 * _ARC, 46 * brows, 0.025)
    if au["AU4"] > 0.15:
        for side in (-1, 1):
            crease(side * np.array([0.05, 0.06, 0.045]), np.array([-0.50, -0.40, -0.30]), 95 * au["AU4"] * w, 0.034)
    if au["AU9"] > 0.1:
        for y in (-0.22, -0.14, -0.06):
            crease(0.10 * _U, y + 0.03 * _ARC, 110 * au["AU9"] * w, 0.03, lift=0.1)
    fold = 0.15 + 0.9 * (au["AU12"] + au["AU9"]) + 0.7 * au["AU10"] + 0.25 * au["AU20"] + 0.2 * au["AU15"]
    spread = 0.09 * au["AU12"] + 0.05 * au["AU20"]
    for side in (-1, 1):
        x = np.array([who.nose_width + 0.03, 0.29 + spread, 0.36 + spread, 0.37 + spread])
        crease(side * x, np.array([0.17, 0.28, 0.40, 0.52]) - 0.04 * au["AU9"], 62 * min(fold, 1.3) * w, 0.034)
        if au["AU6"] > 0.1:
            crease(side * (who.eye_gap + 0.04 + 0.15 * _U), 0.12 - 0.05 * _ARC, -26 * au["AU6"], 0.12)
    if au["AU17"] > 0.15:
        crease(0.15 * _U, who.mouth_y + 0.22 - 0.05 * _ARC, 85 * au["AU17"] * w, 0.045)


def draw_nose(sketch, au: dict[str, float]) -> None:
    """Shaded sides, a lit bridge, wings and nostrils."""
    who = sketch.who
    tip = 0.24 * who.nose_length - 0.05 * au["AU9"]
    wide = who.nose_width * (1 + 0.25 * au["AU9"] + 0.1 * au["AU10"] + 0.1 * au["AU12"])
    for side in (-1, 1):
        x = side * np.array([0.09, 0.06, 0.08, wide])
        sketch.crease(x, np.array([-0.22, -0.05, 0.08, tip - 0.03]), 26, 0.05, lift=0.1)
    sketch.crease(np.zeros(2), np.array([-0.2, tip - 0.06]), -20, 0.06, lift=0.2)
    sketch.crease(wide * _U, tip + 0.035 * _ARC, 70, 0.04, lift=0.15)
    for side in (-1, 1):
        x = side * wide * 0.5 + 0.042 * np.cos(_RING[::4])
        sketch.ink(x, tip + 0.005 + 0.024 * np.sin(_RING[::4]), tint(who.skin, 0.32), lift=0.14)


def draw_mouth(sketch, au: dict[str, float]) -> None:
    """Lips, the opening between them, teeth, moustache."""
    who = sketch.who
    pull, stretch, bared = au["AU12"], au["AU20"], au["AU10"] * (1 - au["AU12"])
    rounded = au["AU26"] * (1 - pull) * (1 - 0.8 * stretch)
    wide = 1 + 0.32 * pull + 0.38 * stretch - 0.4 * rounded - 0.06 * au["AU17"] - 0.06 * au["AU24"]
    x = who.mouth_width * wide * _U
    corner = who.mouth_rest - 0.21 * pull + 0.17 * au["AU15"] + 0.07 * stretch + 0.05 * au["AU10"]
    y0 = who.mouth_y + 0.03 * pull - 0.045 * au["AU17"] - 0.03 * au["AU15"] + 0.02 * rounded
    line = y0 + corner * _U**2 * (1 + sketch.scene.skew * np.sign(_U))
    square = max(1.0 - 0.65 * stretch - 0.5 * bared - 0.4 * rounded, 0.3)  # an almond opening at 1, a box near 0
    gap = (0.42 * au["AU26"] + 0.15 * au["AU25"]) * _ARC**square
    share = 0.28 + 0.16 * rounded  # a jaw that drops without a smile opens an oval, not a bowl
    upper = line - share * gap - 0.085 * au["AU10"] * (1 - np.abs(_U) ** 1.5)
    lower = line + (1 - share) * gap - 0.02 * au["AU10"] * _ARC
    press = who.lip * (1 - 0.8 * au["AU24"])
    bow = 0.055 * press * (1 - 0.35 * pull) * (1 - 0.35 * stretch) * (1 - 0.3 * au["AU9"]) * _BOW
    bow = bow * (1 - 0.25 * np.exp(-((_U / 0.18) ** 2)))
    pout = 0.085 * press * (1 - 0.3 * pull) * (1 + 0.35 * au["AU17"] - 0.2 * stretch) * _BOW
    if who.beard in ("full", "moustache"):
        sketch.ink(np.r_[x * 1.1, x[::-1] * 0.9], np.r_[upper - 0.03 - 0.07 * _BOW, (upper - 0.01)[::-1]], who.hair)
    sketch.band(x, upper - bow, lower + pout, who.lip_colour)
    sketch.crease(x, lower + pout + 0.05, 34, 0.05)
    for end in (0, -1):  # the dents beside the corners make much of a smile and of a frown
        dent = np.array([0.0, 0.02 * np.sign(x[end])]), np.array([0.0, 0.03 * np.sign(corner)])
        sketch.crease(x[end] + dent[0], line[end] + dent[1], 70, 0.06)
    if gap.max() + 0.08 * au["AU10"] <= 0.05:
        sketch.ink(x, (upper + lower) / 2, tint(who.lip_colour, 0.42), line=0.03 + 0.02 * au["AU24"])
        return
    sketch.band(x * 0.95, upper, lower, (52, 18, 22))
    teeth = np.minimum((lower - upper) * (0.8 - 0.65 * rounded), 0.11)
    sketch.band(x * 0.9, upper, upper + teeth, (238, 234, 224))
    if stretch + bared > 0.45:  # the lower row shows as well
        sketch.band(x * 0.82, lower - teeth * 0.6, lower, (222, 216, 204))


def draw_glasses(sketch) -> None:
    """Round, square or dark glasses, where the person wears any."""
    who, dark = sketch.who, (28, 26, 28)
    if who.glasses == "none":
        return
    power = 0.5 if who.glasses == "square" else 1.0
    c, s = np.cos(_RING), np.sin(_RING)
    ring_x, ring_y = 0.26 * np.sign(c) * np.abs(c) ** power, -0.15 + 0.21 * np.sign(s) * np.abs(s) ** power
    for side in (-1, 1):
        x = side * who.eye_gap + ring_x
        if who.glasses == "dark":
            sketch.ink(x, ring_y, dark, lift=0.1)
        else:
            sketch.ink(np.r_[x, x[0]], np.r_[ring_y, ring_y[0]], dark, line=0.032, lift=0.1)
    edge = who.eye_gap - 0.25
    sketch.ink(np.array([-edge, edge]), np.full(2, -0.18), dark, line=0.035, lift=0.15)
