"""Augmentation: repeatable, within bounds, and each part as it is defined elsewhere."""

import colorsys

import cv2
import numpy as np
import pytest

from fer_lib.errors import DataError
from fer_lib.faces import augment as augmentation
from fer_lib.faces.augment import LUMA, augment, colour_matrix, crop_box
from fer_lib.params import AugmentParams

STILL = dict(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, jitter=(0.0, 0.0, 0.0, 0.0))
WEBCAM = dict(grey=0.2, motion_blur=0.5, gamma=0.5, noise=10.0, jpeg=0.5)
EVERYTHING = AugmentParams(rotation=15.0, erasing=0.5, **WEBCAM)


def colour_face(side=92, seed=0):
    blurred = cv2.GaussianBlur(np.random.default_rng(seed).normal(128, 90, (side, side, 3)), (0, 0), 2)
    return np.clip((blurred - 128) * 5 + 128, 0, 255).astype(np.uint8)


def grey_face(side=92):
    return colour_face(side)[..., :1].copy()


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
        assert view.shape == (80, 80, face.shape[2]) and view.dtype == np.uint8
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


def test_one_grey_channel_is_what_three_equal_ones_give(monkeypatch):
    monkeypatch.setattr(augmentation, "noise", lambda view, rng, sigma: view)  # drawn a channel
    face = grey_face()
    p = AugmentParams(rotation=15.0, erasing=0.5, motion_blur=0.5, gamma=0.5, noise=10.0)
    for seed in range(40):
        view = augment(face, np.random.default_rng(seed), 80, p)
        as_colour = augment(np.repeat(face, 3, axis=2), np.random.default_rng(seed), 80, p)
        difference = np.abs(view.astype(int) - as_colour)
        assert np.mean(difference > 1) < 0.03 and difference.max() <= 3, "gamma stretches a level of rounding"


def plain_view(face, rng, size, p):
    """The definition in float64, one pixel and one step at a time: what ``augment`` does in one pass."""
    top, left, h, w = crop_box(*face.shape[:2], rng, p.scale, p.ratio)
    flip, _, *u = rng.random(7)
    box = face[top : top + h, left : left + w].astype(float)
    ys, xs = (np.arange(size) + 0.5) * h / size - 0.5, (np.arange(size) + 0.5) * w / size - 0.5
    y0, x0 = np.floor(ys).astype(int), np.floor(xs).astype(int)
    fy, fx = (ys - y0)[:, None, None], (xs - x0)[None, :, None]

    def at(dy, dx):
        return box[np.clip(y0 + dy, 0, h - 1)][:, np.clip(x0 + dx, 0, w - 1)]

    view = (at(0, 0) * (1 - fx) + at(0, 1) * fx) * (1 - fy) + (at(1, 0) * (1 - fx) + at(1, 1) * fx) * fy
    view = view[:, ::-1] if flip < p.flip else view
    view = np.repeat(view, 3, axis=2) if view.shape[2] == 1 else view
    b, c, s = (max(0, 1 - v) + (1 + v - max(0, 1 - v)) * x for v, x in zip(p.jitter[:3], u, strict=False))
    mean_luma = (view @ LUMA).mean()
    view = s * view + (1 - s) * (view @ LUMA)[..., None]
    turn = p.jitter[3] * (2 * u[3] - 1) * 360
    rotation = cv2.Rodrigues(np.deg2rad(turn) * np.ones(3) / np.sqrt(3))[0]  # about the grey axis
    view = view @ rotation.T
    view = b * (c * view + (1 - c) * mean_luma)
    return np.clip(view, 0, 255)


@pytest.mark.parametrize("face", [colour_face(120), grey_face(120)], ids=["colour", "grey"])
def test_a_view_is_what_the_definition_gives_step_by_step(face):
    p = AugmentParams(jitter=(0.4, 0.4, 0.6, 0.1))
    for seed in range(60):
        view = augment(face, np.random.default_rng(seed), 96, p)
        expected = plain_view(face, np.random.default_rng(seed), 96, p)
        assert np.abs(view - expected).max() <= 2.5 and np.abs(view - expected).mean() < 0.5, seed


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
    boxes = np.array([crop_box(258, 258, rng, (0.7, 1.0), (0.75, 4 / 3)) for _ in range(4000)])
    top, left, h, w = boxes.T
    assert (top >= 0).all() and (left >= 0).all() and (top + h <= 258).all() and (left + w <= 258).all()
    area, aspect = h * w / 258**2, w / h
    rounding = 1 / 150
    assert 0.7 - rounding < area.min() < 0.71 and 0.98 < area.max() <= 1
    assert 0.75 - rounding < aspect.min() < 0.77 and 1.31 < aspect.max() < 4 / 3 + rounding
    assert abs(np.log(aspect).mean()) < 0.01 and abs((left + w / 2).mean() - 129) < 0.6
    touching = np.array([(top == 0).mean(), (top + h == 258).mean(), (left == 0).mean(), (left + w == 258).mean()])
    assert np.ptp(touching) < 0.03, "both ends of the play are drawn alike"
    assert crop_box(92, 92, rng, (1.0, 1.0), (2.0, 2.0)) == (23, 0, 46, 92)  # nothing fits


def test_crop_area_is_uniform_where_every_crop_fits():
    boxes = np.array([crop_box(258, 258, np.random.default_rng(s), (0.2, 0.5), (0.75, 4 / 3)) for s in range(3000)])
    area = boxes[:, 2] * boxes[:, 3] / 258**2
    share, _ = np.histogram(area, bins=np.linspace(0.2, 0.5, 7))
    assert abs(share - 500).max() < 90


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
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_brightness_contrast_saturation_agree_with_torchvision(name, factor):
    import torch

    import fer_lib  # noqa: F401  (lets torchvision load beside a CPU build of torch)

    transforms = pytest.importorskip("torchvision.transforms.v2.functional")
    image = colour_face()
    tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())
    theirs = getattr(transforms, f"adjust_{name}")(tensor, factor).numpy().transpose(1, 2, 0).astype(int)
    factors = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, name: factor}
    matrix, offset = colour_matrix(**factors, turn=0.0, mean_luma=(image @ LUMA).mean())
    ours = np.clip(np.rint(image @ matrix.T + offset), 0, 255)
    assert np.abs(ours - theirs).max() <= 2  # torchvision cuts, we round
    if factor == 1.0:
        np.testing.assert_array_equal(ours, image)


@pytest.mark.parametrize("turn", [-0.02, -0.01, 0.02])
def test_hue_turns_as_that_of_hsv_does_and_by_about_as_much(turn):
    """The docstring's figures: the hue of HSI for that of HSV."""
    steps = np.arange(0, 256, 15.0)
    cube = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3)
    skin = np.array([[241, 194, 125], [224, 172, 105], [198, 134, 66], [141, 85, 36], [255, 219, 172], [90, 56, 37]])
    matrix, offset = colour_matrix(1.0, 1.0, 1.0, turn, 100.0)
    assert offset == 0.0
    for colours, mean, largest in ((cube, 4.9, 16.5), (skin.astype(float), 4.1, 6.4)):
        hsv = [colorsys.rgb_to_hsv(*(c / 255)) for c in colours]
        expected = np.array([colorsys.hsv_to_rgb((h + turn) % 1.0, s, v) for h, s, v in hsv]) * 255
        difference = np.abs(np.clip(colours @ matrix.T, 0, 255) - expected)
        assert difference.mean() <= mean and difference.max() <= largest
    third, _ = colour_matrix(1.0, 1.0, 1.0, 1 / 3, 0.0)
    np.testing.assert_allclose(third @ [200.0, 10.0, 30.0], [30.0, 200.0, 10.0])  # a third turns R into G into B


def test_jitter_factors_span_their_ranges():
    flat = np.full((8, 8, 3), 100, np.uint8)
    p = AugmentParams(**{**STILL, "jitter": (0.2, 0.0, 0.0, 0.0)})
    levels = [int(augment(flat, np.random.default_rng(s), 8, p)[0, 0, 0]) for s in range(300)]
    assert min(levels) in (80, 81) and max(levels) in (119, 120) and abs(np.mean(levels) - 100) < 2
    p = AugmentParams(**{**STILL, "jitter": (3.0, 0.0, 0.0, 0.0)})
    levels = [int(augment(flat, np.random.default_rng(s), 8, p)[0, 0, 0]) for s in range(300)]
    assert min(levels) < 10 and max(levels) == 255  # never below 0, cut at 255


def test_other_arrays_are_refused():
    wrong = ((9, 9), np.uint8), ((9, 9, 2), np.uint8), ((9, 9, 3), np.float32), ((0, 9, 3), np.uint8)
    for bad in (np.zeros(*kind) for kind in wrong):
        with pytest.raises(DataError, match="packed face"):
            augment(bad, np.random.default_rng(0), 8, EVERYTHING)


# ---------------------------------------------------------------- the webcam set

VIEW = colour_face(96)


def test_the_webcam_set_is_off_by_default_and_draws_nothing_then():
    rng = np.random.default_rng(0)
    state = rng.bit_generator.state
    assert augmentation.degrade(VIEW, rng, AugmentParams()) is VIEW and rng.bit_generator.state == state


@pytest.mark.parametrize("effect", ["grey", "motion_blur", "jpeg"])
def test_a_webcam_effect_comes_as_often_as_asked(effect):
    p = AugmentParams(**{effect: 0.25})
    changed = [(augmentation.degrade(VIEW, np.random.default_rng(s), p) != VIEW).any() for s in range(400)]
    assert 65 < sum(changed) < 135


def test_grey_has_three_equal_channels():
    view = augmentation.degrade(VIEW, np.random.default_rng(0), AugmentParams(grey=1.0))
    assert (view == view[..., :1]).all() and np.abs(view[..., 0] - VIEW @ LUMA).max() <= 1


def test_motion_blur_smears_along_its_angle_only():
    dot = np.zeros((41, 41), np.uint8)
    dot[20, 20] = 255
    for angle, axis in ((0.0, 1), (np.pi / 2, 0)):
        ys, xs = np.nonzero(augmentation.motion_blur(dot, 8.0, angle))
        along, across = (xs, ys) if axis == 1 else (ys, xs)
        assert (across == 20).all() and (along.min(), along.max()) == (16, 24)
    np.testing.assert_array_equal(augmentation.motion_blur(VIEW, 0.0, 1.0), VIEW)
    flat = np.full((30, 30, 3), 77, np.uint8)
    assert (augmentation.motion_blur(flat, 9.3, 0.7) == 77).all()


def test_gamma_is_a_power_drawn_on_both_sides_of_one():
    np.testing.assert_array_equal(augmentation.gamma(VIEW, 1.0), VIEW)
    assert augmentation.gamma(np.array([[64]], np.uint8), 2.0) == round(255 * (64 / 255) ** 2)
    grey = np.full((4, 4), 100, np.uint8)
    levels = [
        int(augmentation.degrade(grey, np.random.default_rng(s), AugmentParams(gamma=0.5))[0, 0]) for s in range(400)
    ]
    low, high = 255 * (100 / 255) ** 1.5, 255 * (100 / 255) ** (1 / 1.5)
    assert low - 1 <= min(levels) < low + 2 and high - 2 < max(levels) <= high + 1
    assert 160 < sum(level > 100 for level in levels) < 240


def test_noise_has_the_spread_that_is_asked():
    flat = np.full((200, 200, 3), 128, np.uint8)
    noisy = augmentation.noise(flat, np.random.default_rng(0), 9.0).astype(float)
    assert abs(noisy.std() - 9.0) < 0.1 and abs(noisy.mean() - 128) < 0.1
    np.testing.assert_array_equal(augmentation.noise(flat, np.random.default_rng(0), 0.0), flat)


def test_jpeg_keeps_colours_and_loses_detail():
    smooth = cv2.GaussianBlur(VIEW, (0, 0), 6)
    assert np.abs(augmentation.jpeg(smooth, 95).astype(int) - smooth).mean() < 1.5
    loss = [np.abs(augmentation.jpeg(VIEW, q).astype(int) - VIEW).mean() for q in (80, 50, 20)]
    assert loss[0] < loss[1] < loss[2] and augmentation.jpeg(VIEW[..., 0], 50).shape == (96, 96)
