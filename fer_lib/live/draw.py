"""Render the image of the live window and the annotated recording; each is a pure function of a view.

Sizes refer to a window :data:`HEIGHT` pixels high and scale with it.  The constant parts (names, help, label bar) are
drawn once per size and copied.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.live.colours import RGB, Colour, text_colour
from fer_lib.live.controls import HELP
from fer_lib.live.session_files import UNKNOWN
from fer_lib.live.view import View

HEIGHT, MIN_HEIGHT = 540, 480  # of the whole window; below the minimum its text is illegible
BAR_HEIGHT = 46  # of the label bar
PANEL_WIDTH = 302  # of the panel beside the image
MIN_WIDTH = 560  # of the window: seven names must fit in the bar
MAX_ASPECT = 2.0  # a wider image gets dark bands above and below

_BACKGROUND, _RAISED, _LINE = (24, 24, 28), (46, 46, 54), (70, 70, 80)
_TEXT, _FAINT, _OTHER = (230, 230, 230), (160, 160, 170), (200, 200, 200)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_MARGIN, _ROWS_TOP, _ROW, _TRACK = 14, 74, 25, (94, 248)  # panel: left edge; bars: first row, pitch, x range
# the help omits the steps, which are visible when a key is pressed
_KEYS = (("1 to 7", "label, or click below"), *((keys, what.partition(" -/+")[0]) for keys, what in HELP[1:]))


def draw(view: View, height: int = HEIGHT) -> np.ndarray:
    """The whole window as uint8 RGB [height, width, 3]: image, boxes, panel (with the overlay on), label bar.

    ``height`` in pixels, at least :data:`MIN_HEIGHT`; the width follows from the image's aspect ratio.
    """
    height = max(int(height), MIN_HEIGHT)
    unit, free = height / HEIGHT, height - bar_height(height)
    panel = round(PANEL_WIDTH * unit) if view.setting.overlay else 0
    rows, columns = view.image.shape[:2]
    scale = min(free / rows, MAX_ASPECT * free / columns)
    size = max(1, round(columns * scale)), max(1, round(rows * scale))
    room = max(size[0], round(MIN_WIDTH * unit) - panel)
    canvas = _static_layer(height, room, panel).copy()
    left, top = (room - size[0]) // 2, (free - size[1]) // 2
    area = canvas[top : top + size[1], left : left + size[0]]
    cv2.resize(_halve(view.image, size), size, dst=area, interpolation=cv2.INTER_LINEAR)
    _draw_faces(area, view, np.array([size[0] / columns, size[1] / rows]), unit)
    if panel:
        _draw_panel(canvas[:free, room:], view, unit)
    if view.setting.label >= 0:
        _draw_segment(canvas, view.setting.label, True)
    return canvas


def annotate(view: View) -> np.ndarray:
    """A copy of the view's image, uint8 RGB [H, W, 3], with boxes, label, small bars and manual label.

    The bars are omitted with the overlay off, without a face, and when they would cover more than a quarter.
    """
    out = np.array(view.image, order="C")
    unit = max(1.0, min(out.shape[:2]) / 480)
    _draw_faces(out, view, np.ones(2), unit)
    if view.setting.overlay and view.smoothed is not None:
        _draw_small_bars(out, view, unit)
    if view.manual:
        _tag(out, f"manual: {view.manual}", 0, out.shape[0], RGB[view.setting.label], 0.45 * unit)
    return out


def bar_height(height: int) -> int:
    """Height in pixels of the label bar of a window with this height."""
    return round(BAR_HEIGHT * height / HEIGHT)


def bar_label(x: int, y: int, shape: tuple[int, ...]) -> int | None:
    """The class 0..6 whose segment of the label bar contains pixel (``x``, ``y``); None outside the bar.

    ``shape``: of the image from :func:`draw`, height and width first.
    """
    height, width = shape[:2]
    if not (0 <= x < width and height - bar_height(height) <= y < height):
        return None
    return int(x) * NUM_CLASSES // width


@lru_cache(maxsize=8)
def _static_layer(height: int, room: int, panel: int) -> np.ndarray:
    """The parts that no view changes: names, empty bars and help of the panel, and the label bar without a label."""
    unit, free = height / HEIGHT, height - bar_height(height)
    canvas = np.full((height, room + panel, 3), _BACKGROUND, np.uint8)
    for label in range(NUM_CLASSES):
        _draw_segment(canvas, label, False)
    if panel:
        _draw_static_panel(canvas[:free, room:], unit)
    canvas.setflags(write=False)
    return canvas


def _halve(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """``image`` halved while it is at least twice ``size`` (width, height): a fast resize without aliasing."""
    while image.shape[1] >= 2 * size[0] and image.shape[0] >= 2 * size[1]:
        half = image.shape[1] // 2, image.shape[0] // 2
        image = cv2.resize(image[: 2 * half[1], : 2 * half[0]], half, interpolation=cv2.INTER_AREA)
    return image


def _draw_static_panel(panel: np.ndarray, unit: float) -> None:
    for label, name in enumerate(EMOTIONS):
        top, bottom = _row(label, unit)
        _text(panel, name, _MARGIN * unit, bottom - 3 * unit, 0.45 * unit, _TEXT)
        cv2.rectangle(panel, (round(_TRACK[0] * unit), top), (round(_TRACK[1] * unit), bottom), _RAISED, -1)
    _text(panel, "bar: smoothed   mark: this frame", _MARGIN * unit, 264 * unit, 0.38 * unit, _FAINT)
    for y in (276, 350, 402):
        ends = (round(_MARGIN * unit), round(y * unit)), (round((PANEL_WIDTH - _MARGIN) * unit), round(y * unit))
        cv2.line(panel, *ends, _LINE, 1)
    _text(panel, "keys", _MARGIN * unit, 420 * unit, 0.38 * unit, _FAINT)
    for i, (keys, what) in enumerate(_KEYS):
        # the first help text is too long for half a row
        x, y = (60, 420) if i == 0 else (_MARGIN + 140 * ((i - 1) % 2), 437 + 17 * ((i - 1) // 2))
        width = _text(panel, keys, x * unit, y * unit, 0.38 * unit, _TEXT)
        _text(panel, what, x * unit + width + 6 * unit, y * unit, 0.38 * unit, _FAINT)


def _draw_panel(panel: np.ndarray, view: View, unit: float) -> None:
    p, left, right = view.setting.smoothing, _MARGIN * unit, (PANEL_WIDTH - _MARGIN) * unit
    colour = RGB[view.label]
    _text(panel, view.text, left, 36 * unit, 0.95 * unit, colour, 2)
    if view.smoothed is not None and view.label >= 0:
        _text_right(panel, f"{view.smoothed[view.label]:.2f}", right, 36 * unit, 0.95 * unit, colour, 2)
    _text(panel, state(view), left, 60 * unit, 0.45 * unit, _TEXT)
    if view.smoothed is not None:
        for label in range(NUM_CLASSES):
            _draw_row(panel, view, label, unit)
    _text(panel, f"average a {p.ema_alpha:.2f}", left, 298 * unit, 0.45 * unit, _TEXT)
    _text_right(panel, f"margin {p.hysteresis_delta:.2f}", right, 298 * unit, 0.45 * unit, _TEXT)
    _text(panel, f"votes {view.votes} of {p.vote_window}", left, 320 * unit, 0.45 * unit, _TEXT)
    _text_right(panel, f"needed {p.vote_min_count}", right, 320 * unit, 0.45 * unit, _TEXT)
    _draw_votes(panel, view, unit)
    _text(panel, f"{view.fps:.1f} FPS", left, 371 * unit, 0.45 * unit, _TEXT)
    _text(panel, f"{view.latency_ms:.0f} ms", left + 90 * unit, 371 * unit, 0.45 * unit, _TEXT)
    _text_right(panel, f"dropped {view.dropped}", right, 371 * unit, 0.45 * unit, _TEXT)
    manual = f"manual label: {view.manual or 'none'}"
    _text(panel, manual, left, 392 * unit, 0.45 * unit, _TEXT if view.manual else _FAINT)


def state(view: View) -> str:
    """One line that explains the label."""
    p = view.setting.smoothing
    if view.smoothed is None:
        return "no face in the image"
    if p.vote_min_count > p.vote_window:
        return f"never stable: {p.vote_min_count} votes of {p.vote_window}"
    if view.label == UNKNOWN:
        return f"too unsure: {view.likely}"
    if view.label < 0:
        return f"not stable yet: {view.likely}"
    return view.note or "stable"


def _row(label: int, unit: float) -> tuple[int, int]:
    """Top and bottom of the bar of a class in the panel."""
    return round((_ROWS_TOP + _ROW * label) * unit), round((_ROWS_TOP + _ROW * label + 16) * unit)


def _draw_row(panel: np.ndarray, view: View, label: int, unit: float) -> None:
    (top, bottom), (start, end) = _row(label, unit), (v * unit for v in _TRACK)
    share = float(view.smoothed[label])
    if (filled := round(start + share * (end - start))) > round(start):
        cv2.rectangle(panel, (round(start), top), (filled, bottom), RGB[label], -1)
    if view.probs is not None:
        mark = round(start + float(view.probs[label]) * (end - start))
        cv2.rectangle(panel, (mark - 1, top - 2), (mark, bottom + 2), (255, 255, 255), -1)
    right, colour = (PANEL_WIDTH - _MARGIN) * unit, _TEXT if label == view.label else _FAINT
    _text_right(panel, f"{share:.2f}", right, bottom - 3 * unit, 0.45 * unit, colour)


def _draw_votes(panel: np.ndarray, view: View, unit: float) -> None:
    """A gauge of the votes in the window, with a mark at the number of votes needed."""
    p, top, bottom = view.setting.smoothing, round(329 * unit), round(338 * unit)
    start, end = _MARGIN * unit, (PANEL_WIDTH - _MARGIN) * unit

    def at(votes: int) -> int:
        return round(start + min(votes / p.vote_window, 1.0) * (end - start))

    cv2.rectangle(panel, (round(start), top), (round(end), bottom), _RAISED, -1)
    if view.votes:
        cv2.rectangle(panel, (round(start), top), (at(view.votes), bottom), RGB[view.label], -1)
    cv2.rectangle(panel, (at(p.vote_min_count) - 1, top - 3), (at(p.vote_min_count), bottom + 3), (255, 255, 255), -1)


def _draw_segment(canvas: np.ndarray, label: int, selected: bool) -> None:
    """Draw one class of the label bar, in the pixel columns that :func:`bar_label` assigns to it."""
    height, width = canvas.shape[:2]
    unit, top = height / HEIGHT, height - bar_height(height)
    left, right = (-(-k * width // NUM_CLASSES) for k in (label, label + 1))
    segment = canvas[top:, left:right]
    segment[:] = RGB[label] if selected else _RAISED
    segment[: round(4 * unit)] = RGB[label]
    segment[:, :1] = _BACKGROUND
    text = f"{label + 1} {EMOTIONS[label]}"
    (wide, high), _ = cv2.getTextSize(text, _FONT, 0.5 * unit, 1)
    scale = 0.5 * unit * min(1.0, (right - left - 6) / wide)
    (wide, high), _ = cv2.getTextSize(text, _FONT, scale, 1)
    x, y = (right - left - wide) / 2, (segment.shape[0] + round(4 * unit) + high) / 2
    _text(segment, text, x, y, scale, text_colour(RGB[label]) if selected else _TEXT)


def _draw_faces(area: np.ndarray, view: View, up: np.ndarray, unit: float) -> None:
    """Draw the boxes on an image ``up`` (x, y) times as large as the view's; the scored one last, on top."""
    for tracked in view.faces[:0:-1]:
        left, top, _, bottom = _draw_box(area, tracked.face.box, up, _OTHER, 1)
        _tag(area, f"face {tracked.number}", left, top, _BACKGROUND, 0.38 * unit, bottom)
    if not view.faces:
        _tag(area, "no face", 0, 0, RGB[view.label], 0.5 * unit)
        return
    left, top, _, bottom = _draw_box(area, view.faces[0].face.box, up, RGB[view.label], max(2, round(3 * unit)))
    share = f" {view.smoothed[view.label]:.2f}" if view.smoothed is not None and view.label >= 0 else ""
    _tag(area, view.text + share, left, top, RGB[view.label], 0.6 * unit, bottom)


def _draw_box(area: np.ndarray, box: tuple, up: np.ndarray, colour: Colour, width: int) -> tuple[int, int, int, int]:
    """Draw the box (top, left, bottom, right); returns (left, top, right, bottom) in pixels of ``area``."""
    high, wide = area.shape[:2]
    spans = np.clip(np.array(box)[[1, 0, 3, 2]] * np.tile(up, 2), -wide - high, 2 * (wide + high))
    left, top, right, bottom = (int(round(v)) for v in spans.tolist())
    cv2.rectangle(area, (left, top), (right - 1, bottom - 1), colour, width)
    return left, top, right, bottom


def _tag(
    image: np.ndarray, text: str, left: int, top: int, colour: Colour, scale: float, bottom: int | None = None
) -> None:
    """Draw text on a filled rectangle above ``top``, or below ``bottom`` without room above; clipped to the image."""
    (wide, high), base = cv2.getTextSize(text, _FONT, scale, 1)
    pad = max(3, round(8 * scale))
    tall = high + base // 2 + 2 * pad
    x = max(0, min(left, image.shape[1] - wide - 2 * pad))
    y = top - tall
    if y < 0 and bottom is not None:
        y = bottom
    y = max(0, min(y, image.shape[0] - tall))
    cv2.rectangle(image, (x, y), (x + wide + 2 * pad - 1, y + tall - 1), colour, -1)
    _text(image, text, x + pad, y + pad + high, scale, text_colour(colour))


def _draw_small_bars(image: np.ndarray, view: View, unit: float) -> None:
    """Draw the smoothed probabilities in the upper left corner, or in the right one if the scored face is left."""
    pitch, width, pad = 14 * unit, 150 * unit, 5 * unit
    height = NUM_CLASSES * pitch + 2 * pad
    if image.shape[0] < 2 * height or image.shape[1] < 2 * width:
        return
    occupied = any(face.face.box[1] < width and face.face.box[0] < 1.5 * height for face in view.faces[:1])
    area = image[: round(height), -round(width) :] if occupied else image[: round(height), : round(width)]
    area[:] = area // 4
    for label, name in enumerate(EMOTIONS):
        y, start, end = pad + pitch * label, 70 * unit, width - pad
        top, bottom = round(y + 3 * unit), round(y + pitch - 3 * unit)
        _text(area, name, pad, y + pitch - 4 * unit, 0.36 * unit, _TEXT)
        if (filled := round(start + float(view.smoothed[label]) * (end - start))) > round(start):
            cv2.rectangle(area, (round(start), top), (filled, bottom), RGB[label], -1)


def _text(image: np.ndarray, text: str, x: float, y: float, scale: float, colour: Colour, thickness: int = 1) -> int:
    """Write ``text`` from ``x`` on the baseline ``y``; returns its width in pixels."""
    cv2.putText(image, text, (round(x), round(y)), _FONT, scale, colour, thickness, cv2.LINE_AA)
    return cv2.getTextSize(text, _FONT, scale, thickness)[0][0]


def _text_right(
    image: np.ndarray, text: str, right: float, y: float, scale: float, colour: Colour, thickness: int = 1
) -> None:
    """Write right-aligned ``text`` that ends at ``right``."""
    wide = cv2.getTextSize(text, _FONT, scale, thickness)[0][0]
    _text(image, text, right - wide, y, scale, colour, thickness)
