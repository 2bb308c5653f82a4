"""Views of drawn faces for tests of window and recording."""

import numpy as np

from fer_lib.faces.detectors import Face
from fer_lib.live.controls import Setting
from fer_lib.live.session_files import NO_LABEL
from fer_lib.live.tracker import TrackedFace
from fer_lib.live.view import View
from fer_lib.params import SmoothingParams
from fer_lib.synthetic.dataset import draw_face

SHARES = np.array([0.04, 0.01, 0.03, 0.72, 0.02, 0.06, 0.12])


def make_view(
    size=(640, 360), faces=1, label=3, manual=NO_LABEL, overlay=True, smoothed=SHARES, probs=None, votes=12,
    smoothing=None, index=0,
):  # fmt: skip
    """A view of ``size`` (width, height) with ``faces`` faces, the largest first."""
    width, height = size
    rng = np.random.default_rng(5)
    image = np.empty((height, width, 3), np.uint8)
    image[:] = np.linspace(60, 150, width)[None, :, None] + rng.normal(0, 4, (height, width, 3))
    tracked = []
    for i in range(faces):
        side = max(4, int(min(height, width) * (0.5, 0.3, 0.25)[i % 3]))
        left, top = int(width * (0.36, 0.06, 0.78)[i % 3]), int(height * (0.28, 0.1, 0.4)[i % 3])
        left, top = max(0, min(left, width - side)), max(0, min(top, height - side))
        if side <= min(size):  # the image may be smaller than any face
            image[top : top + side, left : left + side] = draw_face(3, i, (3, 4, 0)[i % 3], side).image
        tracked.append(TrackedFace(i + 1, Face((float(top), float(left), float(top + side), float(left + side)), 0.9)))
    if not faces:
        smoothed, label, votes = None, -1, 0
    elif probs is None:
        probs = smoothed * 0.8 + 0.2 / 7
    image.setflags(write=False)
    setting = Setting(manual, "key" if manual >= 0 else "", smoothing or SmoothingParams(), overlay)
    return View(
        index,
        index / 30,
        image,
        tuple(tracked),
        probs if faces else None,
        smoothed,
        label,
        votes,
        setting,
        29.7,
        11.6,
        3,
    )
