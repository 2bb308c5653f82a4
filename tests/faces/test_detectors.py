"""Detectors on real clips, and every way in which a model file can be the wrong one."""

import socket
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageSequence

from fer_lib.errors import DataError, FerError
from fer_lib.faces import yunet
from fer_lib.faces.align import eye_angle, eyes_level, transform_points
from fer_lib.faces.contract import FaceContract
from fer_lib.faces.detectors import Haar, YuNet, get_detector
from fer_lib.faces.yunet import YUNET_FILE

CLIPS = {
    "head-pose-face-detection-male.gif": (62, 1),
    "head-pose-face-detection-female-and-male.gif": (56, 2),
    "face-demographics-walking-and-pause.gif": (41, 3),
}


def frames(path):
    with Image.open(path) as clip:
        return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(clip)]


@pytest.fixture(scope="module")
def yunet_file():
    return Path(yunet.__file__).with_name(YUNET_FILE)


@pytest.fixture(scope="module")
def clip(shared_data):
    return frames(shared_data / "media" / "head-pose-face-detection-female-and-male.gif")


@pytest.mark.parametrize("name", CLIPS)
def test_yunet_counts_the_faces_in_every_frame(shared_data, yunet_file, name):
    n_frames, n_faces = CLIPS[name]
    detector = get_detector("yunet", yunet_file)
    found = [detector.detect(frame, refine=False) for frame in frames(shared_data / "media" / name)]
    assert [len(faces) for faces in found] == [n_faces] * n_frames
    for faces in found:
        assert [f.area for f in faces] == sorted((f.area for f in faces), reverse=True)
        for face in faces:
            top, left, bottom, right = face.box
            assert 0.6 <= face.score <= 1.0
            assert (face.points > (left - 5, top - 5)).all() and (face.points < (right + 5, bottom + 5)).all()
            right_eye, left_eye = face.points[:2]
            assert right_eye[0] < left_eye[0] and right_eye[1] < face.points[3, 1]


def test_a_tilted_head_is_levelled_by_the_detected_points(shared_data, yunet_file):
    """A planted tilt comes back in the points, which YuNet's first look at small faces alone does not achieve."""
    detector = get_detector("yunet", yunet_file)
    first, closer = [], []
    for frame in frames(shared_data / "media" / "head-pose-face-detection-male.gif")[::20]:
        straight = detector.detect(frame)[0]
        centre = tuple(float(v) for v in straight.points.mean(axis=0))
        for tilt in (-30.0, -15.0, 15.0, 30.0):
            turn = cv2.getRotationMatrix2D(centre, -tilt, 1.0)
            tilted = cv2.warpAffine(frame, turn, (frame.shape[1], frame.shape[0]), borderMode=cv2.BORDER_REPLICATE)
            face = nearest(detector.detect(tilted), centre)
            closer.append(abs(eye_angle(face.points) - eye_angle(straight.points) - tilt))
            rough = nearest(detector.detect(tilted, refine=False), centre)
            assert rough.box == face.box and rough.score == face.score
            first.append(abs(eye_angle(rough.points) - eye_angle(straight.points) - tilt))
            levelled, transform = eyes_level(tilted, face.points, (0, 0, max(tilted.shape)))
            points = transform_points(face.points, transform)
            assert abs(eye_angle(points)) < 1e-3
            assert abs(eye_angle(nearest(detector.detect(levelled), points.mean(axis=0)).points)) < 8
    assert np.mean(closer) < 4 < 10 < np.mean(first)


def test_a_large_face_is_looked_at_closer_in_the_small_picture(yunet_file, clip):
    """A face of a thousand pixels costs no image of several thousand: its points agree with the small image's."""
    detector = get_detector("yunet", yunet_file)
    top, left, bottom, right = detector.detect(clip[0])[0].box
    crop = FaceContract(image_size=224).face(clip[0], (top - 20, left - 20, bottom + 20, right + 20))
    small = nearest(detector.detect(crop), (129, 129))
    large = nearest(detector.detect(cv2.resize(crop, (2580, 2580), interpolation=cv2.INTER_CUBIC)), (1290, 1290))
    assert np.abs(small.points * 10 - large.points).max() < 150


def nearest(faces, centre):
    return min(faces, key=lambda face: np.linalg.norm(face.points.mean(axis=0) - centre))


def test_boxes_scale_with_the_picture(yunet_file, clip):
    detector = get_detector("yunet", yunet_file)
    small = detector.detect(clip[0])
    large = detector.detect(np.asarray(Image.fromarray(clip[0]).resize((1920, 1080), Image.Resampling.BICUBIC)))
    assert len(small) == len(large) == 2
    for a, b in zip(small, large, strict=True):
        assert np.abs(np.array(a.box) * 4 - np.array(b.box)).max() < 0.15 * (b.box[2] - b.box[0])
        assert np.abs(a.points * 4 - b.points).max() < 0.15 * (b.box[2] - b.box[0])


def test_small_face_crops_are_enlarged_first(yunet_file, clip):
    detector = get_detector("yunet", yunet_file)
    box = detector.detect(clip[0])[0].box
    crop = FaceContract(image_size=48).face(clip[0], box)[3:51, 3:51]
    faces = detector.detect(crop)
    assert len(faces) == 1 and faces[0].points.max() < 50


def test_nothing_is_found_on_nothing(yunet_file):
    for detector in (get_detector("yunet", yunet_file), get_detector("haar")):
        assert detector.detect(np.full((240, 320, 3), 127, np.uint8)) == []
        assert detector.detect(np.zeros((1, 1, 3), np.uint8)) == []
        with pytest.raises(DataError, match="uint8 RGB"):
            detector.detect(np.zeros((20, 20), np.uint8))


def test_haar_needs_no_file(shared_data):
    detector = get_detector("haar")
    clip = frames(shared_data / "media" / "head-pose-face-detection-male.gif")
    found = [detector.detect(frame) for frame in clip[::6]]
    assert sum(len(faces) == 1 for faces in found) >= 0.8 * len(found)
    assert all(f.points is None and f.score == 1.0 for faces in found for f in faces)


def test_haar_and_yunet_agree_where_a_face_is(shared_data, yunet_file):
    frame = frames(shared_data / "media" / "head-pose-face-detection-male.gif")[0]
    by_haar, by_yunet = Haar().detect(frame)[0].box, YuNet(yunet_file).detect(frame)[0].box
    centre = (by_yunet[0] + by_yunet[2]) / 2, (by_yunet[1] + by_yunet[3]) / 2
    assert by_haar[0] < centre[0] < by_haar[2] and by_haar[1] < centre[1] < by_haar[3]


WRONG = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:8f2383e4\nsize 232589\n", "Git LFS pointer"),
    "html": (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "HTML page"),
    "other": (b"\x08\x07" + b"x" * 5000, "another file \\(5,002 bytes"),
    "empty": (b"", "an empty file"),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", ["yunet", "auto"])
def test_a_named_wrong_file_is_refused(tmp_path, monkeypatch, kind, name):
    content, says = WRONG[kind]
    path = tmp_path / "yunet.onnx"
    path.write_bytes(content)
    with pytest.raises(FerError, match=says) as error:
        get_detector(name, path)
    assert str(path) in str(error.value)
    monkeypatch.setenv("FER_YUNET", str(path))
    with pytest.raises(FerError, match=says):
        get_detector(name)


def test_one_changed_byte_is_noticed(tmp_path, yunet_file):
    model = bytearray(yunet_file.read_bytes())
    model[1000] ^= 1
    (tmp_path / "m.onnx").write_bytes(model)
    with pytest.raises(FerError, match="another file"):
        get_detector("yunet", tmp_path / "m.onnx")


def test_a_missing_named_file_and_an_unknown_name(tmp_path):
    with pytest.raises(FerError, match="gone.onnx.*check the path"):
        get_detector("auto", tmp_path / "gone.onnx")
    with pytest.raises(FerError, match="choose auto, yunet, dnn or haar"):
        get_detector("mtcnn")


def test_the_packages_own_file_is_used_without_a_network(monkeypatch, clip):
    def refuse(*_, **__):
        raise AssertionError("a connection")

    monkeypatch.delenv("FER_YUNET", raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    for name in ("auto", "yunet"):
        detector = get_detector(name)
        assert detector.name == "yunet" and len(detector.detect(clip[0])) == 2
