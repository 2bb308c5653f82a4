"""YuNet through ONNX Runtime against OpenCV's own implementation of the same file."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageSequence

from fer_lib.faces import yunet
from fer_lib.faces.yunet import YUNET_FILE, YuNet, _decoded, _padded

CLIPS = (
    "head-pose-face-detection-male.gif",
    "head-pose-face-detection-female-and-male.gif",
    "face-demographics-walking-and-pause.gif",
)


@pytest.fixture(scope="module")
def model():
    return Path(yunet.__file__).with_name(YUNET_FILE)


@pytest.fixture(scope="module")
def pictures(shared_data):
    found = []
    for name in CLIPS:
        with Image.open(shared_data / "media" / name) as clip:
            found += [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(clip)][::15]
    return found


def by_opencv(model, image, min_score, nms):
    size = (image.shape[1], image.shape[0])
    net = cv2.FaceDetectorYN.create(
        "onnx", np.frombuffer(model.read_bytes(), np.uint8), np.empty(0, np.uint8), size, min_score, nms
    )
    rows = net.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
    return np.zeros((0, 15), np.float32) if rows is None else rows


@pytest.mark.parametrize(("min_score", "nms"), [(0.6, 0.3), (0.9, 0.3), (0.1, 0.3), (0.05, 0.7)])
def test_rows_are_those_of_opencv(model, pictures, min_score, nms):
    """The same faces in the same order, to a hundredth of a pixel; low thresholds keep many overlapping boxes."""
    detector, n, several = YuNet(model, min_score, nms), 0, 0
    for picture in pictures:
        ours, theirs = detector._run(picture), by_opencv(model, picture, min_score, nms)
        assert ours.shape == theirs.shape and ours.dtype == np.float32
        assert np.abs(ours - theirs).max(initial=0.0) < 0.01
        n, several = n + len(ours), several + (len(ours) > 3)
    assert n >= len(pictures) * (min_score < 0.9)
    assert several > 0 or min_score >= 0.1


@pytest.mark.parametrize("size", [(360, 640), (161, 97), (64, 64), (65, 127), (100, 900), (480, 641)], ids=str)
def test_pictures_of_any_size(model, pictures, size):
    detector = YuNet(model, 0.3)
    picture = cv2.resize(pictures[0], size[::-1], interpolation=cv2.INTER_AREA)
    ours, theirs = detector._run(picture), by_opencv(model, picture, 0.3, 0.3)
    assert ours.shape == theirs.shape and np.abs(ours - theirs).max(initial=0.0) < 0.01


@pytest.mark.parametrize("size", [(7, 900), (32, 32), (31, 33), (1, 1), (900, 20)], ids=str)
def test_a_strip_has_no_face_though_opencv_sees_some(model, pictures, size):
    """Where the coarsest grid is one cell high or wide OpenCV's answer changes from call to call, up to 1e35 pixels."""
    detector, strip = YuNet(model, 0.3), cv2.resize(pictures[0], size[::-1], interpolation=cv2.INTER_AREA)
    assert all(detector._run(strip).shape == (0, 15) for _ in range(5))


def test_padding_is_black_below_and_to_the_right():
    image = np.full((33, 64, 3), 9, np.uint8)
    padded = _padded(image)
    assert padded.shape == (64, 64, 3) and (padded[:33] == 9).all() and (padded[33:] == 0).all()
    assert _padded(padded) is padded, "nothing to add"


def test_a_cell_is_decoded_by_hand():
    """Cell 5 of a grid four wide, stride 16: column 1, row 1."""
    cls, obj = np.zeros((8, 1), np.float32), np.ones((8, 1), np.float32)
    bbox, kps = np.zeros((8, 4), np.float32), np.zeros((8, 10), np.float32)
    cls[5], obj[5], bbox[5] = 0.81, 1.7, (0.5, 0.25, 0.0, np.log(2.0))
    kps[5] = np.arange(10) / 10
    (row,) = _decoded(cls, obj, bbox, kps, 16, 4, 0.6)
    assert row[:4] == pytest.approx([24 - 8, 20 - 16, 16, 32])
    assert row[4:14] == pytest.approx([16 * (k / 10 + 1) for k in range(10)])
    assert row[14] == pytest.approx(0.9), "a score above one counts as one"
    assert _decoded(cls, obj, bbox, kps, 16, 4, 0.91).shape == (0, 15)


def test_one_detector_serves_several_threads(model, pictures):
    detector = YuNet(model)
    alone = [detector.detect(picture) for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(detector.detect, pictures * 3))
    for one, other in zip(alone * 3, together, strict=True):
        assert [(f.box, f.score) for f in one] == [(f.box, f.score) for f in other]
