"""The SSD detector: its output read on arrays, the road through OpenCV on a tiny net, and every wrong file."""

import math

import caffe_net
import numpy as np
import pytest

from fer_lib.errors import DataError, FerError
from fer_lib.faces.detectors import SSD_FILE, Ssd, faces_of, get_detector

PICTURE = np.zeros((100, 200, 3), np.uint8)


def output(*rows):
    return np.array(rows, np.float32).reshape(1, 1, -1, 7)


def test_boxes_are_scaled_cut_and_sorted():
    found = faces_of(output((0, 1, 0.9, 0.1, 0.2, 0.3, 0.6), (0, 1, 0.6, -0.2, 0.5, 0.5, 1.4)), PICTURE)
    assert [face.score for face in found] == [pytest.approx(0.6), pytest.approx(0.9)], "the larger one first"
    assert found[1].box == pytest.approx((20, 20, 60, 60)) and found[0].box == pytest.approx((50, 0, 100, 100))
    assert all(face.points is None and isinstance(face.box[0], float) for face in found)


def test_what_is_no_face_is_left_out():
    rows = [
        (0, 1, 0.49, 0.1, 0.1, 0.5, 0.5),  # unsure
        (0, 0, 0.99, 0.1, 0.1, 0.5, 0.5),  # background
        (0, 2, 0.99, 0.1, 0.1, 0.5, 0.5),  # a class that there is not
        (0, 1, 0.99, 0.5, 0.1, 0.5, 0.5),  # no width
        (0, 1, 0.99, 0.6, 0.1, 0.5, 0.5),  # inside out
        (0, 1, 0.99, 1.1, 0.1, 1.5, 0.5),  # off the image
        (0, 1, math.nan, 0.1, 0.1, 0.5, 0.5),
        (0, 1, 0.99, 0.1, math.inf, 0.5, 0.5),
        (0, 0, 0.0, 0.0, 0.0, 0.0, 0.0),  # OpenCV's way to say nothing
    ]
    assert faces_of(output(*rows), PICTURE) == faces_of(output(), PICTURE) == []
    assert len(faces_of(output(rows[0]), PICTURE, min_score=0.4)) == 1
    assert faces_of(output((0, 1, 0.5, 0.0, 0.0, 1.0, 1.0)), PICTURE)[0].box == (0.0, 0.0, 100.0, 200.0)


def test_a_net_is_run_on_the_picture_squeezed_to_300_with_the_mean_taken_off(tmp_path):
    detector = get_detector("dnn", caffe_net.write(tmp_path))
    assert detector.name == "dnn"
    image = np.zeros((400, 600, 3), np.uint8)
    image[:134, 400:] = (0, 0, 154)  # RGB; the first of three rows of cells, the last column
    [face] = detector.detect(image)
    assert face.box == pytest.approx((0, 400, 400 / 3, 600), abs=1.0)
    logit = 0.1 * (154 - 104)  # how blue above the mean of blue
    assert face.score == pytest.approx(1 / (1 + math.exp(-logit)), abs=0.01)
    for other in ((154, 0, 0), (0, 154, 0), (0, 0, 103)):
        image[:134, 400:] = other
        assert detector.detect(image) == []
    image[:] = (0, 0, 255)
    assert len(detector.detect(image, refine=False)) == 9
    with pytest.raises(DataError, match="uint8 RGB"):
        detector.detect(np.zeros((20, 20), np.uint8))


def test_the_prototxt_is_the_one_of_the_same_name_or_the_only_one(tmp_path):
    model = caffe_net.write(tmp_path)
    (tmp_path / "blue.prototxt").rename(tmp_path / "deploy.prototxt")
    assert Ssd(str(model)).name == "dnn"
    (tmp_path / "other.prototxt").write_text("")
    with pytest.raises(FerError, match=r"deploy.prototxt, other.prototxt: name the one that belongs to it blue.proto"):
        Ssd(model)
    (tmp_path / "blue.prototxt").write_text(caffe_net.NET)
    assert Ssd(model).name == "dnn"
    for file in tmp_path.glob("*.prototxt"):
        file.unlink()
    with pytest.raises(FerError, match=r"no \*.prototxt.*put https://.*deploy.prototxt there"):
        Ssd(model)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:2a56a11a\nsize 5351047\n"
WRONG = {
    "a pointer": (".caffemodel", LFS, "blue.caffemodel is a Git LFS pointer"),
    "a page": (".caffemodel", b" <html>Sign in</html>", "blue.caffemodel is an HTML page"),
    "nothing": (".caffemodel", b"", "blue.caffemodel is an empty file"),
    "no weights": (".caffemodel", b"\x08\x07" + b"x" * 500, "blue.caffemodel with blue.prototxt is no net that OpenCV"),
    "cut off": (".caffemodel", caffe_net.weights()[:-30], "is no net that OpenCV can run"),
    "a page for the net": (".prototxt", b"<!DOCTYPE html>", "blue.prototxt is an HTML page"),
    "words for the net": (".prototxt", b"layer { type: Conv", "is no net that OpenCV can run"),
    "another net": (".prototxt", caffe_net.FIRST_TWO.encode(), r"no SSD face detector: it gives \[1, 4, 3, 3\]"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_file_is_refused_and_says_what_it_is(tmp_path, kind):
    suffix, content, says = WRONG[kind]
    model = caffe_net.write(tmp_path)
    model.with_suffix(suffix).write_bytes(content)
    with pytest.raises(FerError, match=says) as error:
        get_detector("dnn", model)
    assert str(tmp_path) in str(error.value) and "https://github.com/opencv" in str(error.value)


def test_a_path_is_needed_and_must_lead_to_a_file(tmp_path):
    with pytest.raises(FerError, match=f"needs the path of its file {SSD_FILE}, with the prototxt beside it"):
        get_detector("dnn")
    with pytest.raises(FerError, match="gone.caffemodel cannot be read.*check the path"):
        get_detector("dnn", tmp_path / "gone.caffemodel")
    with pytest.raises(FerError, match="cannot be read"):
        get_detector("dnn", tmp_path)
    for name in ("auto", "yunet"):
        with pytest.raises(FerError, match=f"which the detector {name} does not read: choose dnn"):
            get_detector(name, tmp_path / "blue.caffemodel")
