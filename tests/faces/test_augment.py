"""Augmentation: repeatable, within bounds, and each part as it is defined elsewhere."""

import colorsys

import cv2
import numpy as np
import pytest

from fer_lib.errors import DataError
from fer_lib.faces import augment as augment_module
from fer_lib.faces.augment import augment, brightness, contrast, crop_box, hue, saturation
from fer_lib.params import AugmentParams

STILL = dict(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, jitter=(0.0, 0.0, 0.0, 0.0))
EVERYTHING = AugmentParams(rotation=15.0, erasing=0.5)


def colour_face(side=92, seed=0):
    blurred = cv2.GaussianBlur(np.random.default_rng(seed).normal(128, 90, (side, side, 3)), (0, 0), 2)
    return np.clip((blurred - 128) * 5 + 128, 0, 255).astype(np.uint8)


def grey_face(side=92):
    return np.repeat(colour_face(side)[..., :1], 3, axis=2)


@pytest.mark.parametrize("face", [colour_face(), grey_face()], ids=["colour", "grey"])
def test_a_view_is_a_function_of_face_and_generator(face):
    before = face.copy()
    for seed in range(30):
        cv2.setRNGSeed(seed)
        np.random.seed(seed)
        view = augment(face, np.random.default_rng((1337, 4, seed)), 80, EVERYTHING)
        cv2.setRNGSeed(99)
        np.random.seed(99)
        np.testing.assert_array_equal(view, augment(face, np.random.default_rng((1337, 4, seed)), 80, EVERYTHING))
        assert view.shape == (80, 80, 3) and view.dtype == np.uint8
    np.testing.assert_array_equal(face, before)
    views = {augment(face, np.random.default_rng(seed), 80, EVERYTHING).tobytes() for seed in range(30)}
    assert len(views) == 30


def test_a_view_does_not_depend_on_threads():
    face = colour_face(258)
    threads = cv2.getNumThreads()
    views = []
    for n in (1, 2):
        cv2.setNumThreads(n)
        views.append([augment(face, np.random.default_rng(s), 224, EVERYTHING).tobytes() for s in range(8)])
    cv2.setNumThreads(threads)
    assert views[0] == views[1]


@pytest.mark.parametrize("size", [48, 80, 224])
@pytest.mark.parametrize("side", [55, 92, 258])
def test_any_size_from_any_face(side, size):
    assert augment(colour_face(side), np.random.default_rng(0), size, EVERYTHING).shape == (size, size, 3)


def test_grey_stays_grey_and_is_what_colour_arithmetic_gives(monkeypatch):
    face = grey_face()
    # Saturation and hue leave greys alone, so a face told from grey by one corner pixel gets the same view elsewhere.
    nearly = face.copy()
    nearly[0, 0] = (0, 128, 255)
    monkeypatch.setattr(augment_module, "_erase", lambda view, rng: None)  # its mean would see the pixel
    for seed in range(40):
        view = augment(face, np.random.default_rng(seed), 80, EVERYTHING)
        assert (view == view[..., :1]).all()
        as_colour = augment(nearly, np.random.default_rng(seed), 80, EVERYTHING)
        difference = np.abs(view.astype(int) - as_colour)
        assert np.mean(difference > 1) < 0.01


def test_nothing_asked_is_a_plain_resize():
    face = colour_face(96)
    still = AugmentParams(**STILL)
    for size in (96, 80, 120):
        expected = cv2.resize(face, (size, size), interpolation=cv2.INTER_LINEAR).astype(int)
        assert np.abs(augment(face, np.random.default_rng(0), size, still) - expected).max() <= 3  # warp: 1/32 pixel
    np.testing.assert_array_equal(augment(face, np.random.default_rng(0), 96, still), face)
    mirrored = AugmentParams(**{**STILL, "flip": 1.0})
    np.testing.assert_array_equal(augment(face, np.random.default_rng(0), 96, mirrored), face[:, ::-1])


def test_the_crop_shows_the_box_that_was_drawn():
    face = colour_face(120)
    p = AugmentParams(**{**STILL, "scale": (0.3, 0.6), "ratio": (0.5, 2.0)})
    for seed in range(20):
        top, left, h, w = crop_box(120, 120, np.random.default_rng(seed), p.scale, p.ratio)
        view = augment(face, np.random.default_rng(seed), 40, p).astype(float)
        ys = top + (np.arange(40) + 0.5) * h / 40 - 0.5
        xs = left + (np.arange(40) + 0.5) * w / 40 - 0.5
        # Bilinear look-up written out, edges repeated.
        y0, x0 = np.floor(ys).astype(int), np.floor(xs).astype(int)
        fy, fx = (ys - y0)[:, None, None], (xs - x0)[None, :, None]

        def at(y, x):
            return face[np.clip(y, 0, 119)][:, np.clip(x, 0, 119)].astype(float)

        expected = (at(y0, x0) * (1 - fx) + at(y0, x0 + 1) * fx) * (1 - fy)
        expected += (at(y0 + 1, x0) * (1 - fx) + at(y0 + 1, x0 + 1) * fx) * fy
        assert np.abs(view - expected).max() <= 4 and np.abs(view - expected).mean() < 0.6


def test_crop_boxes_keep_area_aspect_and_place():
    rng = np.random.default_rng(3)
    boxes = np.array([crop_box(92, 92, rng, (0.7, 1.0), (0.75, 4 / 3)) for _ in range(4000)])
    top, left, h, w = boxes.T
    assert (top >= 0).all() and (left >= 0).all() and (top + h <= 92 + 1e-9).all() and (left + w <= 92 + 1e-9).all()
    area, aspect = h * w / 92**2, w / h
    assert area.min() >= 0.7 - 1e-9 and area.max() <= 1 + 1e-9 and area.min() < 0.71
    assert aspect.min() >= 0.75 - 1e-9 and aspect.max() <= 4 / 3 + 1e-9
    assert abs(np.log(aspect).mean()) < 0.01 and abs((left + w / 2).mean() - 46) < 0.3
    assert crop_box(92, 92, rng, (1.0, 1.0), (2.0, 2.0)) == pytest.approx((23.0, 0.0, 46.0, 92.0))  # nothing fits


def test_rotation_is_in_degrees_and_repeats_edges():
    face = np.zeros((101, 101, 3), np.uint8)
    cv2.line(face, (10, 50), (90, 50), (255, 255, 255), 3)
    p = AugmentParams(**{**STILL, "rotation": 30.0})
    tilts = []
    for seed in range(200):
        view = augment(face, np.random.default_rng(seed), 101, p)[..., 0]
        ys, xs = np.nonzero(view > 128)
        tilts.append(np.degrees(np.arctan(np.polyfit(xs - 50.0, ys - 50.0, 1)[0])))
        assert abs(xs.mean() - 50) < 0.7 and abs(ys.mean() - 50) < 0.7
    assert -30.5 < min(tilts) < -27 and 27 < max(tilts) < 30.5 and abs(np.mean(tilts)) < 4
    flat = np.full((60, 60, 3), 200, np.uint8)
    assert (augment(flat, np.random.default_rng(1), 60, AugmentParams(**{**STILL, "rotation": 45.0})) == 200).all()


def test_flip_is_a_fair_coin_by_default():
    face = np.zeros((40, 40, 3), np.uint8)
    face[:, :20] = 255
    p = AugmentParams(**{**STILL, "flip": 0.5})
    lit = [augment(face, np.random.default_rng(s), 40, p)[20, 5, 0] > 128 for s in range(400)]
    assert 160 < sum(lit) < 240


def test_erasing_sets_one_rectangle_to_the_mean():
    face = colour_face(100)
    shares = []
    for seed in range(200):
        view = augment(face, np.random.default_rng(seed), 100, AugmentParams(**{**STILL, "erasing": 1.0}))
        changed = (view != face).any(axis=2)
        ys, xs = np.nonzero(changed)
        box = (slice(ys.min(), ys.max() + 1), slice(xs.min(), xs.max() + 1))
        assert changed[box].mean() > 0.98  # a few pixels were that colour before
        np.testing.assert_array_equal(np.unique(view[changed], axis=0), [np.rint(face.mean(axis=(0, 1)))])
        shares.append(changed[box].size / 100**2)
    assert 0.015 < min(shares) < 0.04 and 0.17 < max(shares) < 0.21
    some = [
        augment(face, np.random.default_rng(s), 100, AugmentParams(**{**STILL, "erasing": 0.25})) for s in range(400)
    ]
    assert 65 < sum((v != face).any() for v in some) < 135


@pytest.mark.parametrize("factor", [0.0, 0.6, 0.8, 1.0, 1.2, 1.9])
@pytest.mark.parametrize("image", [colour_face(), grey_face()], ids=["colour", "grey"])
def test_brightness_contrast_saturation_agree_with_torchvision(image, factor):
    import torch

    import fer_lib  # noqa: F401  (lets torchvision load beside a CPU build of torch)

    transforms = pytest.importorskip("torchvision.transforms.v2.functional")
    tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())
    for ours, theirs in (
        (brightness, transforms.adjust_brightness),
        (contrast, transforms.adjust_contrast),
        (saturation, transforms.adjust_saturation),
    ):
        expected = theirs(tensor, factor).numpy().transpose(1, 2, 0).astype(int)
        assert np.abs(ours(image, factor) - expected).max() <= 2, ours.__name__  # torchvision cuts, we round
    if factor == 1.0:
        for ours in (brightness, contrast, saturation):
            np.testing.assert_array_equal(ours(image, factor), image)


@pytest.mark.parametrize("turn", [-0.5, -0.3, -0.017, 0.0, 0.02, 0.25, 0.5])
def test_hue_agrees_with_the_standard_library(turn):
    image = np.random.default_rng(0).integers(0, 256, (37, 41, 3), dtype=np.uint8)
    expected = np.empty(image.shape)
    for y, x in np.ndindex(image.shape[:2]):
        h, s, v = colorsys.rgb_to_hsv(*(image[y, x] / 255))
        expected[y, x] = np.array(colorsys.hsv_to_rgb((h + turn) % 1.0, s, v)) * 255
    assert np.abs(hue(image, turn) - expected).max() <= 0.51


def test_hue_works_block_by_block_on_large_views():
    image = colour_face(258)
    np.testing.assert_array_equal(hue(image, 0.1)[100:120], hue(image[100:120], 0.1))
    np.testing.assert_array_equal(hue(image, 0.0), image)


def test_jitter_factors_span_their_ranges():
    flat = np.full((8, 8, 3), 100, np.uint8)
    p = AugmentParams(**{**STILL, "jitter": (0.2, 0.0, 0.0, 0.0)})
    levels = [int(augment(flat, np.random.default_rng(s), 8, p)[0, 0, 0]) for s in range(300)]
    assert min(levels) in (80, 81) and max(levels) in (119, 120) and abs(np.mean(levels) - 100) < 2
    p = AugmentParams(**{**STILL, "jitter": (3.0, 0.0, 0.0, 0.0)})
    levels = [int(augment(flat, np.random.default_rng(s), 8, p)[0, 0, 0]) for s in range(300)]
    assert min(levels) < 10 and max(levels) == 255  # never below 0, cut at 255


def test_other_arrays_are_refused():
    for bad in (np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3), np.float32), np.zeros((0, 9, 3), np.uint8)):
        with pytest.raises(DataError, match="packed face"):
            augment(bad, np.random.default_rng(0), 8, EVERYTHING)
