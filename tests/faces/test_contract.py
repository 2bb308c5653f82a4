"""The face contract against computations written another way."""

import json
from fractions import Fraction

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fer_lib.errors import DataError
from fer_lib.faces.contract import FaceContract, to_gray, to_rgb


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def crop_by_padding(image, box, margin):
    """The square crop by padding the whole image first, one pixel of the definition at a time."""
    top, left, bottom, right = box
    longer = max(bottom - top, right - left)
    side = int(longer * (1 + 2 * margin) + 0.5)
    pad = 2 * side + max(image.shape)
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    y = int(np.floor((top + bottom) / 2 - side / 2 + 0.5)) + pad
    x = int(np.floor((left + right) / 2 - side / 2 + 0.5)) + pad
    return padded[y : y + side, x : x + side]


BOXES = {
    "inside": (20, 10, 60, 50),
    "fractional": (20.4, 10.7, 61.2, 49.9),
    "wide": (30, 5, 50, 75),
    "tall": (5, 30, 90, 45),
    "leaves the top": (-15, 20, 25, 60),
    "leaves the bottom": (80, 20, 125, 60),
    "leaves the left": (30, -22, 70, 18),
    "leaves the right": (30, 65, 70, 101),
    "leaves two sides": (-9.5, -3.5, 30, 36),
    "holds the image": (-10, -12, 110, 95),
    "just touches": (-39.5, -39.5, 0.5, 0.5),
    "one pixel": (40, 40, 41, 41),
}


@pytest.mark.parametrize("margin", [0.0, 0.15, 0.5])
@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES.keys())
def test_square_crop_repeats_the_edge_outside(box, margin):
    image = noise(100, 80)
    expected = crop_by_padding(image, box, margin)
    got = FaceContract(image_size=48, margin=margin).steps(image, box)["square"]
    np.testing.assert_array_equal(got, expected)


@given(
    st.tuples(st.floats(-30, 90), st.floats(-30, 70), st.floats(0.5, 60), st.floats(0.5, 60)),
    st.sampled_from([0.0, 0.1, 0.37]),
)
@settings(max_examples=60, deadline=None)
def test_square_crop_on_any_box(values, margin):
    top, left, height, width = values
    box = (top, left, top + height, left + width)
    image = noise(100, 80)
    contract = FaceContract(image_size=48, margin=margin)
    if box[2] <= 0 or box[3] <= 0:
        with pytest.raises(DataError, match="outside the image"):
            contract.face(image, box)
        return
    expected = crop_by_padding(image, box, margin)
    square = contract.steps(image, box)["square"]
    if expected.size:
        np.testing.assert_array_equal(square, expected)
    else:  # boxes under half a pixel still give one
        assert square.shape == (1, 1, 3)


def test_resize_takes_area_to_shrink_and_cubic_to_grow():
    contract = FaceContract(image_size=48)
    large, small = noise(200, 200), noise(30, 30)
    np.testing.assert_array_equal(contract.face(large), cv2.resize(large, (55, 55), interpolation=cv2.INTER_AREA))
    np.testing.assert_array_equal(contract.face(small), cv2.resize(small, (55, 55), interpolation=cv2.INTER_CUBIC))
    # A whole multiple of R shrinks to plain means of blocks.
    blocks = noise(165, 165)
    means = blocks.reshape(55, 3, 55, 3, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(contract.face(blocks) - means).max() <= 0.5 + 1e-9


def test_r_is_within_half_a_pixel_of_the_rule():
    for size in range(8, 1025):
        r = FaceContract(image_size=size).resize
        assert abs(r - Fraction(115, 100) * size) <= Fraction(1, 2)
    assert [FaceContract(image_size=s).resize for s in (48, 64, 80, 96, 224, 320, 384)] == [
        55,
        74,
        92,
        110,
        258,
        368,
        442,
    ]


def test_whole_picture_is_centred_and_takes_no_margin():
    image = noise(40, 55)  # square of 55, seven rows above and eight below
    expected = np.pad(image, ((7, 8), (0, 0), (0, 0)), mode="edge")
    got = FaceContract(image_size=48, margin=0.3).face(image)
    np.testing.assert_array_equal(got, expected)


def test_centre_is_the_middle():
    contract = FaceContract(image_size=224)
    faces = noise(2 * 258, 258).reshape(2, 258, 258, 3)
    np.testing.assert_array_equal(contract.centre(faces), faces[:, 17:241, 17:241])
    np.testing.assert_array_equal(contract.centre(faces[0]), faces[0, 17:241, 17:241])
    with pytest.raises(DataError, match="258 x 258"):
        contract.centre(faces[:, :224, :224])


def test_normalise_agrees_with_float64():
    contract = FaceContract(image_size=8, mean=(0.1, 0.5, 0.9), std=(0.2, 0.25, 1.5))
    faces = noise(24, 8).reshape(3, 8, 8, 3)
    expected = np.stack([(faces[..., c] / 255 - contract.mean[c]) / contract.std[c] for c in range(3)], axis=1)
    got = contract.normalise(faces)
    assert got.dtype == np.float32 and got.shape == (3, 3, 8, 8) and got.flags.c_contiguous
    np.testing.assert_allclose(got, expected, atol=2e-6)


@pytest.mark.parametrize("clahe", [False, True])
@pytest.mark.parametrize("side", [9, 48, 112, 200, 258, 300])
def test_one_channel_is_what_three_equal_ones_give(side, clahe):
    contract = FaceContract(image_size=224, clahe=clahe)
    square = noise(side, side)[..., :1].copy()
    face = contract.finish(square)
    assert face.shape == (258, 258, 1) and face.flags.c_contiguous
    three = contract.finish(np.repeat(square, 3, axis=2))
    if clahe:  # by way of LAB, pixel by pixel
        lab = cv2.cvtColor(FaceContract(image_size=224).finish(np.repeat(square, 3, axis=2)), cv2.COLOR_RGB2LAB)
        lab[..., 0] = cv2.createCLAHE(2.0, (8, 8)).apply(lab[..., 0].copy())
        np.testing.assert_array_equal(face[..., 0], cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)[..., 1])
    np.testing.assert_array_equal(np.repeat(face, 3, axis=2), three)
    np.testing.assert_array_equal(to_gray(three), face)
    np.testing.assert_array_equal(contract.channels_last(face), contract.channels_last(three))


def test_only_equal_channels_are_thinned():
    face = np.repeat(noise(20, 20)[..., :1], 3, axis=2)
    assert to_gray(face).shape == (20, 20, 1) and to_gray(to_gray(face)).shape == (20, 20, 1)
    for pixel in ((0, 0), (10, 7), (19, 19)):
        for channel in range(3):
            other = face.copy()
            other[(*pixel, channel)] ^= 1
            assert to_gray(other) is other
    np.testing.assert_array_equal(to_rgb(to_gray(face)), face)
    assert to_rgb(face) is face


def test_batch_is_its_parts():
    contract = FaceContract(image_size=32, clahe=True, margin=0.1)
    items = [(noise(60, 50, 1), None, None), (noise(90, 90, 2), (10, 20, 50, 55), None)]
    faces = np.stack([contract.face(*item) for item in items])
    np.testing.assert_array_equal(contract.batch(items), contract.normalise(contract.centre(faces)))
    assert contract.batch([]).shape == (0, 3, 32, 32)


def test_clahe_touches_lightness_only():
    image = cv2.GaussianBlur(noise(120, 120), (0, 0), 4)
    plain = FaceContract(image_size=96).face(image)
    equalised = FaceContract(image_size=96, clahe=True).face(image)
    lab_plain, lab = (cv2.cvtColor(f, cv2.COLOR_RGB2LAB).astype(int) for f in (plain, equalised))
    assert lab[..., 0].std() > 1.3 * lab_plain[..., 0].std()
    assert np.abs(lab[..., 1:] - lab_plain[..., 1:]).mean() < 1.5
    expected = cv2.createCLAHE(2.0, (8, 8)).apply(np.ascontiguousarray(lab_plain[..., 0].astype(np.uint8)))
    assert np.abs(lab[..., 0] - expected).mean() < 1.0


@pytest.mark.parametrize("clahe", [False, True])
def test_grey_stays_grey(clahe):
    grey = np.repeat(noise(60, 60)[..., :1], 3, axis=2)
    for image in (grey, noise(60, 60)):
        face = FaceContract(image_size=64, clahe=clahe, grey=True).face(image)
        assert (face == face[..., :1]).all()
    face = FaceContract(image_size=64, clahe=clahe).face(grey)
    assert (face == face[..., :1]).all()
    np.testing.assert_array_equal(face, FaceContract(image_size=64, clahe=clahe, grey=True).face(grey))


def test_grey_is_rec601_luma():
    image = noise(74, 74)  # R of 64: no resampling
    luma = image @ np.array([0.299, 0.587, 0.114])
    assert np.abs(FaceContract(image_size=64, grey=True).face(image)[..., 0] - luma).max() <= 0.51


def test_json_round_trip_and_stable_id():
    contract = FaceContract(image_size=80, align="eyes", margin=0.1, clahe=True, mean=(0.5, 0.5, 0.5), std=(0.5,) * 3)
    text = json.dumps(contract.model_dump(mode="json"))
    again = FaceContract.model_validate(json.loads(text))
    assert again == contract and again.id == contract.id
    assert FaceContract.model_validate_json(contract.model_dump_json()) == contract
    shuffled = dict(reversed(json.loads(text).items()))
    assert FaceContract.model_validate(shuffled).id == contract.id
    # Written into bundles: these change only together with CONTRACT_VERSION.
    assert FaceContract().id == "ae54f809048b"
    assert FaceContract(margin=0).id == FaceContract(margin=0.0).id


def test_every_field_changes_the_id():
    changes = dict(
        image_size=225, align="eyes", margin=0.01, clahe=True, clahe_clip=2.5, clahe_tile=4,
        mean=(0.5, 0.456, 0.406), std=(0.229, 0.224, 0.226), grey=True,
    )  # fmt: skip
    assert set(changes) == set(FaceContract.model_fields)
    ids = {FaceContract(**{k: v}).id for k, v in changes.items()} | {FaceContract().id}
    assert len(ids) == len(changes) + 1
    assert all(len(i) == 12 and int(i, 16) >= 0 for i in ids)


def test_contract_is_frozen_and_strict():
    with pytest.raises(ValidationError):
        FaceContract().margin = 0.5
    for bad in (dict(imagesize=3), dict(std=(0.2, 0.0, 0.2)), dict(align="eye"), dict(margin=-0.1), dict(mean=(0.5,))):
        with pytest.raises(ValidationError):
            FaceContract(**bad)


@pytest.mark.parametrize(
    ("box", "says"),
    [
        ((10, 10, 10, 30), "empty"),
        ((30, 10, 20, 30), "empty"),
        ((10, float("nan"), 20, 30), "finite"),
        ((10, 10, float("inf"), 30), "finite"),
        ((100, 0, 140, 40), "outside the image"),
        ((0, 81, 40, 120), "outside the image"),
        ((-9000, -9000, 9000, 9000), "far larger"),
    ],
)
def test_broken_boxes_are_named(box, says):
    with pytest.raises(DataError, match=says):
        FaceContract(image_size=48).face(noise(100, 80), box)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((9, 9), np.uint8),
        np.zeros((9, 9, 4), np.uint8),
        np.zeros((9, 9, 3)),
        np.zeros((0, 9, 3), np.uint8),
        "x.jpg",
    ],
    ids=["grey", "four channels", "float", "empty", "path"],
)
def test_other_arrays_are_refused(image):
    with pytest.raises(DataError, match="image"):
        FaceContract().face(image)


def test_the_picture_is_left_alone():
    image = noise(100, 80)
    before = image.copy()
    contract = FaceContract(image_size=48, clahe=True, align="eyes")
    points = np.array([[30, 40], [50, 44], [40, 50], [33, 60], [48, 62]], np.float32)
    stages = contract.steps(image, (20, 20, 70, 65), points)
    assert list(stages) == ["raw", "box", "aligned", "clahe", "crop"]
    assert all(s.dtype == np.uint8 and s.shape[2] == 3 for s in stages.values())
    np.testing.assert_array_equal(image, before)
    assert (stages["box"] != image).any()
    face = contract.face(image, (20, 20, 70, 65), points)
    np.testing.assert_array_equal(stages["crop"], contract.centre(face))
    assert list(FaceContract(image_size=48).steps(image)) == ["raw", "square", "crop"]
