"""Tracking: constant numbers, re-detection after misses, and a stable first face."""

import cv2
import numpy as np

from fer_lib.faces.detector_interface import Face
from fer_lib.live.tracker import MAX_MISSED, Tracker, iou


class Script:
    """A detector with prescribed faces per frame; it records the image sizes."""

    name, note = "script", ""

    def __init__(self, *steps):
        self.steps, self.sizes = list(steps), []

    def detect(self, image, refine=True):
        self.sizes.append(image.shape[:2])
        return [Face(tuple(float(v) for v in box), 1.0) for box in self.steps.pop(0)]


A, B = (10, 10, 60, 60), (10, 100, 62, 152)  # B is a little larger
BARE = np.zeros((120, 200, 3), np.uint8)


def numbers(tracker, count):
    return [[t.number for t in tracker.step(BARE)] for _ in range(count)]


def test_numbers_do_not_depend_on_the_detection_order():
    tracker = Tracker(Script([A, B], [B, A], [A], [A, B]))
    tracks = [{t.number: t.face.box for t in tracker.step(BARE)} for _ in range(4)]
    assert tracks[0] == tracks[1] == tracks[3] and len(tracks[0]) == 2 and list(tracks[2].values()) == [A]


def test_a_face_missed_too_often_gets_a_new_number():
    for missing, same in ((MAX_MISSED, True), (MAX_MISSED + 1, False)):
        result = numbers(Tracker(Script([A], *[[]] * missing, [A])), missing + 2)
        assert result[1 : 1 + missing] == [[]] * missing and (result[0] == result[-1]) is same


def test_the_first_face_changes_only_for_a_clearly_larger_one():
    jitter = (10, 100, 64, 154)  # 54 x 54 against 50 x 50: 1.17 times
    large = (10, 100, 66, 156)  # 1.25 times
    tracker = Tracker(Script([A], [A, jitter], [A, large], [A, jitter]))
    assert numbers(tracker, 4) == [[1], [1, 2], [2, 1], [2, 1]]


def test_boxes_follow_the_optical_flow_between_detections():
    rng = np.random.default_rng(0)
    texture = cv2.resize(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC)
    tracker = Tracker(Script([(80, 100, 160, 180)]), every=10)
    for step in range(6):
        moved = cv2.warpAffine(texture, np.float32([[1, 0, 4 * step], [0, 1, 2 * step]]), (320, 240))
        [face] = tracker.step(moved)
        assert face.number == 1
        expected = (80 + 2 * step, 100 + 4 * step, 160 + 2 * step, 180 + 4 * step)
        assert iou(face.face.box, expected) > 0.9


def test_boxes_of_a_reduced_image_are_scaled_back():
    script = Script([(5, 10, 30, 40)])
    [face] = Tracker(script, scale=0.5).step(BARE)
    assert script.sizes == [(60, 100)] and face.face.box == (10.0, 20.0, 60.0, 80.0)


def test_a_new_frame_size_triggers_detection():
    script = Script([A], [B])
    tracker = Tracker(script, every=100)
    tracker.step(BARE)
    [face] = tracker.step(np.zeros((130, 210, 3), np.uint8))
    assert len(script.sizes) == 2 and face.face.box == B


def test_a_face_outside_the_image_is_dropped():
    tracker = Tracker(Script([(10, 150, 60, 198)]), every=50)
    rng = np.random.default_rng(1)
    texture = cv2.resize(rng.integers(0, 256, (15, 25, 3), dtype=np.uint8), (200, 120), interpolation=cv2.INTER_CUBIC)
    counts = []
    for step in range(40):
        moved = cv2.warpAffine(texture, np.float32([[1, 0, 3 * step], [0, 1, 0]]), (200, 120))
        counts.append(len(tracker.step(moved)))
    assert counts[0] == 1 and all(t.face.box[1] < 200 for t in tracker.step(texture))
