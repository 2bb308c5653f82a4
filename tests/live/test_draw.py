"""Drawing of window and recording: every state is drawn, clicks hit their segment, views stay unchanged."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from view_factory import SHARES, make_view

from fer_lib.live.colours import COLOURS, OTHER_COLOURS, RGB, text_colour
from fer_lib.live.draw import HEIGHT, MIN_HEIGHT, annotate, bar_height, bar_label, draw, state
from fer_lib.live.plots import COLOURS as PLOTTED
from fer_lib.live.web.messages import state as message
from fer_lib.params import SmoothingParams

SIZES = [(640, 360), (1280, 720), (640, 480), (360, 640), (2400, 300), (48, 48), (1, 1)]
STATES = {
    "stable": {}, "unstable": {"label": -1, "votes": 5}, "unknown": {"label": -2}, "no face": {"faces": 0},
    "three faces": {"faces": 3}, "labelled": {"manual": 5}, "bare": {"overlay": False, "manual": 0},
    "bare without a face": {"overlay": False, "faces": 0},
    "never": {"label": -1, "smoothing": SmoothingParams(vote_window=3, vote_min_count=20)},
}  # fmt: skip


def contains(image, colour, least=20):
    return (image == colour).all(axis=2).sum() >= least


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", STATES)
def test_every_state_is_drawn_without_changing_the_view(name, size):
    shown = make_view(size, **STATES[name])
    before = shown.image.copy()
    for height in (HEIGHT, 720):
        image = draw(shown, height)
        assert image.dtype == np.uint8 and image.shape[0] == height and image.shape[2] == 3
        assert image.shape[1] >= 560 * height // HEIGHT
    recorded = annotate(shown)
    assert recorded.shape == before.shape and recorded.dtype == np.uint8 and recorded.flags.writeable
    assert (shown.image == before).all()
    assert not np.shares_memory(recorded, shown.image)
    if min(size) >= 100:
        assert (recorded != before).any()


def test_memory_layout_does_not_change_the_drawing():
    shown = make_view()
    flipped = replace(shown, image=np.asfortranarray(shown.image))
    assert (draw(shown) == draw(flipped)).all() and (annotate(shown) == annotate(flipped)).all()


@pytest.mark.parametrize("label", range(-2, 7))
def test_window_and_recording_show_a_label_in_its_colour(label):
    shown = make_view(label=label, overlay=False)
    for image in (draw(shown), annotate(shown)):
        assert contains(image, RGB[label])
        others = [k for k in range(-2, 7) if k != label]
        top = image[: image.shape[0] * 4 // 5]  # the label bar has all seven colours
        assert not any(contains(top, RGB[k]) for k in others)


def test_label_colours_are_distinct():
    assert PLOTTED is COLOURS and set(RGB) == set(range(-2, 7)) and not set(OTHER_COLOURS) & set(range(7))
    for one, other in combinations(RGB.values(), 2):
        assert np.abs(np.subtract(one, other)).sum() > 40
    assert text_colour((255, 255, 255)) == (0, 0, 0) and text_colour((10, 10, 90)) == (255, 255, 255)


@pytest.mark.parametrize("size", [(640, 360), (360, 640), (1280, 720)], ids=str)
@pytest.mark.parametrize("height", [MIN_HEIGHT, HEIGHT, 800])
@pytest.mark.parametrize("overlay", [True, False])
def test_a_click_on_the_bar_selects_the_segment_drawn_there(size, height, overlay):
    plain = draw(make_view(size, overlay=overlay), height)
    tall, wide = plain.shape[:2]
    top = tall - bar_height(tall)
    hits = np.array([[bar_label(x, y, plain.shape) for x in range(wide)] for y in (top, tall - 1)], float)
    assert (hits[0] == hits[1]).all()
    counts = np.bincount(hits[0].astype(int), minlength=7)
    assert len(counts) == 7 and counts.min() > 0 and np.ptp(counts) <= 1
    assert (np.diff(hits[0]) >= 0).all(), "from Angry on the left to Neutral on the right"
    for label in range(7):
        selected = draw(make_view(size, overlay=overlay, manual=label), height)[top:]
        differs = (selected != plain[top:]).any(axis=(0, 2))
        assert (hits[0][differs] == label).all() and differs.sum() > 0.9 * counts[label]
        assert contains(selected[:, hits[0] == label], RGB[label], 500)


@pytest.mark.parametrize("x, y", [(-1, 530), (5, 540), (5, -1), (5, 540 - bar_height(540) - 1), (700, 530)])
def test_a_click_outside_the_bar_selects_nothing(x, y):
    assert bar_label(x, y, (540, 700, 3)) is None


def test_overlay_off_removes_only_the_panel():
    with_panel, bare = draw(make_view()), draw(make_view(overlay=False))
    assert with_panel.shape[0] == bare.shape[0] and with_panel.shape[1] > bare.shape[1] + 250
    free = bare.shape[0] - bar_height(bare.shape[0])
    assert (with_panel[:free, : bare.shape[1]] == bare[:free]).all()
    bars = annotate(make_view()) != annotate(make_view(overlay=False))
    assert bars.any() and not bars[120:].any() and not bars[:, 160:].any(), "only the small bars in their corner"


def test_small_bars_avoid_the_scored_face():
    shown = make_view()
    there = replace(shown.faces[0], face=replace(shown.faces[0].face, box=(30.0, 20.0, 200.0, 190.0)))
    moved = [replace(v, faces=(there,)) for v in (shown, make_view(overlay=False))]
    bars = annotate(moved[0]) != annotate(moved[1])
    assert bars.any() and not bars[:, :480].any() and not bars[120:].any()


def test_a_large_image_is_resized_without_aliasing():
    fine = np.zeros((2160, 3840, 3), np.uint8)
    fine[::2] = 200  # every other line: picking lines would make it black, or bright
    shown = draw(replace(make_view(faces=0, overlay=False), image=fine))
    assert np.abs(shown[60:480].astype(int) - 100).max() <= 2


def test_bars_show_smoothed_and_marks_show_frame_probabilities():
    low, high = make_view(smoothed=np.eye(7)[6] * 0.3), make_view(smoothed=np.eye(7)[6] * 0.9)
    grown = [(draw(v)[:480, -302:] == RGB[6]).all(axis=2).sum() for v in (low, high)]
    assert grown[1] > 2.5 * grown[0] > 0
    moved = make_view(probs=np.roll(SHARES, 1))
    differs = (draw(make_view()) != draw(moved)).any(axis=2)
    assert differs[:, -302:].any() and not differs[:, :-302].any()


def test_boxes_are_drawn_at_the_face():
    shown = make_view((640, 360), overlay=False)
    top, left, bottom, right = shown.faces[0].face.box
    strong = (annotate(shown) == RGB[3]).all(axis=2)
    y, x = np.nonzero(strong[int(top) :])
    assert abs(x.min() - left) <= 2 and abs(x.max() - right) <= 2 and abs(y.max() + int(top) - bottom) <= 2
    image = draw(shown)
    up = (image.shape[0] - bar_height(image.shape[0])) / 360
    y, x = np.nonzero((image[int(top * up) : 480] == RGB[3]).all(axis=2))
    assert abs(x.min() - left * up) <= 3 and abs(x.max() - right * up) <= 3
    assert abs(y.max() + int(top * up) - bottom * up) <= 3


def test_a_face_partly_outside_the_image_is_drawn():
    shown = make_view()
    for box in ((-50.0, -80.0, 90.0, 60.0), (300.0, 600.0, 500.0, 900.0), (-1e9, -1e9, 1e9, 1e9)):
        away = replace(shown, faces=(replace(shown.faces[0], face=replace(shown.faces[0].face, box=box)),))
        assert draw(away).shape == draw(shown).shape and annotate(away).shape == shown.image.shape


def test_the_state_line_explains_the_label():
    assert state(make_view()) == "stable"
    assert state(make_view(label=-1)) == "not stable yet: Happy 0.72"
    assert state(make_view(label=-2)) == "too unsure: Happy 0.72"
    assert state(make_view(faces=0)) == "no face in the image"
    two = replace(make_view(), notes=("ambiguous",), label_set=("Happy", "Neutral"))
    assert state(two) == "ambiguous: Happy or Neutral"
    assert state(replace(two, label_set=("Happy",))) == "ambiguous: Happy 0.72"
    assert state(replace(two, label=-2)) == "too unsure: Happy or Neutral"
    unlike = replace(two, notes=("unlike what this model was trained on", "ambiguous"))
    assert state(unlike) == "unlike what this model was trained on"
    assert (draw(unlike) != draw(make_view())).any() and message(unlike, 0)["note"] == state(unlike)
    assert state(make_view(**STATES["never"])) == "never stable: 20 votes of 3"


def test_the_window_has_a_minimum_height():
    assert draw(make_view(), 100).shape[0] == MIN_HEIGHT
