"""Eyes are level after alignment, wherever the face lies."""

import math

import cv2
import numpy as np
import pytest

from fer_lib.errors import DataError
from fer_lib.faces.align import eye_angle, eyes_level, transform_points
from fer_lib.faces.contract import FaceContract

UPRIGHT = np.array([[-20, -12], [20, -12], [0, 4], [-14, 22], [14, 22]], np.float64)


def face_drawn_at(angle, centre=(100.0, 90.0), size=(200, 180)):
    """An image with a red and a blue disc for eyes, the face tilted by ``angle`` degrees, and its five points."""
    rad = math.radians(angle)
    turn = np.array([[math.cos(rad), -math.sin(rad)], [math.sin(rad), math.cos(rad)]])
    points = UPRIGHT @ turn.T + centre
    image = np.full((size[1], size[0], 3), 40, np.uint8)
    for point, colour in zip(points[:2], ((250, 0, 0), (0, 0, 250)), strict=True):
        fixed = tuple(int(round(v * 256)) for v in point)
        cv2.circle(image, fixed, 7 * 256, colour, -1, cv2.LINE_AA, 8)
    return image, points


def centroid(image, channel):
    """(x, y) of what is red or blue in the image, from the pixels alone."""
    weight = np.clip(image[..., channel].astype(float) - image[..., 1] - 30, 0, None)
    ys, xs = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([(weight * xs).sum(), (weight * ys).sum()]) / weight.sum()


@pytest.mark.parametrize("angle", [-75, -40, -12.5, -3, 0, 1, 8, 27, 60])
def test_eyes_are_level_in_pixels(angle):
    image, points = face_drawn_at(angle)
    assert eye_angle(points) == pytest.approx(angle, abs=1e-9)
    box = (45, 55, 135, 145)
    turned, transform = eyes_level(image, points, (-10, 0, 200))
    aligned = FaceContract(image_size=224, align="eyes").face(image, box, points)
    for picture in (turned, aligned):
        red, blue = centroid(picture, 0), centroid(picture, 2)
        assert abs(math.degrees(math.atan2(blue[1] - red[1], blue[0] - red[0]))) < 0.5
    np.testing.assert_allclose(transform_points(points, transform)[0], centroid(turned, 0), atol=0.15)
    assert turned.shape == (200, 200, 3)


def test_the_square_turns_about_its_own_centre():
    image, points = face_drawn_at(30)
    square, transform = eyes_level(image, points, square=(45, 55, 90))
    assert square.shape == (90, 90, 3)
    np.testing.assert_allclose(transform_points([[99.5, 89.5]], transform), [[44.5, 44.5]], atol=1e-9)
    scale = np.sqrt(np.abs(np.linalg.det(transform[:, :2])))
    assert scale == pytest.approx(1.0)
    np.testing.assert_allclose(transform_points(points, transform)[1], centroid(square, 2), atol=0.15)


def test_level_eyes_change_nothing():
    image = np.random.default_rng(0).integers(0, 256, (100, 80, 3), dtype=np.uint8)
    points = UPRIGHT + (40, 50)
    for box in (None, (10, 10, 60, 60), (-20, -10, 40, 50)):
        level = FaceContract(image_size=48, align="eyes").face(image, box, points)
        np.testing.assert_array_equal(level, FaceContract(image_size=48).face(image, box))


def test_without_points_or_without_alignment_the_face_stays():
    image, points = face_drawn_at(25)
    plain = FaceContract(image_size=48).face(image)
    np.testing.assert_array_equal(FaceContract(image_size=48, align="eyes").face(image), plain)
    np.testing.assert_array_equal(FaceContract(image_size=48).face(image, None, points), plain)
    assert (FaceContract(image_size=48, align="eyes").face(image, None, points) != plain).any()


def test_coincident_eyes_have_no_tilt_and_broken_points_are_refused():
    points = UPRIGHT.copy()
    points[1] = points[0]
    assert eye_angle(points) == 0.0
    for bad in (points[:4], np.full((5, 2), np.nan), np.zeros((2, 5))):
        with pytest.raises(DataError, match="points"):
            eye_angle(bad)
