"""The colours of the seven classes and of the other labels, shared by plots, window and page."""

from __future__ import annotations

from fer_lib.live.session_files import UNKNOWN, UNSTABLE

COLOURS = ("#c44e52", "#8c6d31", "#8172b2", "#e1a32a", "#4c72b0", "#dd8452", "#7f8c8d")  # in class order
OTHER_COLOURS = {UNSTABLE: "#e8e8e8", UNKNOWN: "#2ab7a9"}  # distinct from the class colours

Colour = tuple[int, int, int]  # RGB


def rgb(text: str) -> Colour:
    """``#rrggbb`` as three integers 0..255."""
    return tuple(int(text[i : i + 2], 16) for i in (1, 3, 5))


RGB: dict[int, Colour] = {label: rgb(text) for label, text in (OTHER_COLOURS | dict(enumerate(COLOURS))).items()}


def text_colour(colour: Colour) -> Colour:
    """Black or white, the more legible one on ``colour``."""
    brightness = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    return (0, 0, 0) if brightness > 125 else (255, 255, 255)
