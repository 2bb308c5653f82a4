"""The theme of every figure: sizes, and colours that also differ in grey.

Figures are made by :class:`matplotlib.figure.Figure`: pyplot's global state is not used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

from matplotlib import cycler

DPI = 100
BLUE, ORANGE, GREEN, RED = "#27568f", "#e08a2e", "#a3d1a3", "#b8403f"  # blue, orange and green: dark, medium, light
GREY, FAINT = "#5f5f5f", "#d9d9d9"
SERIES = (BLUE, ORANGE, GREEN)
# options of bar labels that a line of the axes may cross
ABOVE_LINES = {"padding": 3, "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.6}}

THEME = {
    "figure.dpi": DPI,
    "figure.constrained_layout.use": True,
    "figure.titlesize": 12,
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=[BLUE, ORANGE, RED, GREY]),
    "legend.frameon": False,
    "legend.fontsize": 9,
}

Draw = TypeVar("Draw", bound=Callable)


def themed(draw: Draw) -> Draw:
    """``draw`` with the theme in force while it runs; matplotlib is imported by the first call."""

    @functools.wraps(draw)
    def draw_themed(*args, **options):
        from matplotlib import rc_context

        with rc_context(THEME):
            return draw(*args, **options)

    return draw_themed
