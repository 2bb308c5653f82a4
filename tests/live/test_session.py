"""A session against a plain pipeline, user input while it runs, and its files after the end."""

import json
import threading
import time

import cv2
import numpy as np
import pytest
from live_sessions import DEFAULTS, QUICK, SteppedSource, open_session, run_images, run_session

from fer_lib.calibration.metrics import softmax
from fer_lib.deploy.packaged import packaged_bundle
from fer_lib.faces.detectors import get_detector
from fer_lib.live import capture as capture_module
from fer_lib.live import session_writer
from fer_lib.live.session import Session, wait_until_end
from fer_lib.live.session_files import UNKNOWN, read_faces, read_frames, read_recorded, read_session
from fer_lib.live.smoothing import UNSTABLE, Smoother
from fer_lib.params import LiveParams


def decode(clip):
    video, images = cv2.VideoCapture(str(clip)), []
    while (read := video.read())[0]:
        images.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    return images


def test_a_session_equals_the_plain_pipeline(clip, tmp_path):
    summary = run_session(tmp_path / "s", clip)
    logged, faces = read_frames(tmp_path / "s"), read_faces(tmp_path / "s")
    bundle, detector, smoother = packaged_bundle(), get_detector("haar"), Smoother(QUICK)
    run = bundle.session()
    images = decode(clip)
    assert logged.frame_index.tolist() == list(range(len(images))) and summary["frames"] == len(images) == 60
    assert np.allclose(logged.time_sec, np.arange(60) / 25, atol=1e-3)
    with_face = 0
    for i, image in enumerate(images):
        boxes = detector.detect(image)
        probs = None
        if boxes:
            assert faces[i].box == boxes[0].box
            tensor = bundle.contract.batch([(image, boxes[0].box, None)])
            logits = run.run(["logits"], {"faces": tensor})[0].astype(np.float64)
            probs = softmax(bundle.temperature.apply(logits))[0]
            assert np.array_equal(logged.probs[i], probs)
            with_face += 1
        else:
            assert np.isnan(logged.probs[i]).all() and i not in faces
        assert logged.pred[i] == smoother.step(probs).label
    assert 30 <= with_face <= 50 and (logged.pred[25:35] == UNSTABLE).all(), "no face: unstable"
    assert (logged.pred >= 0).any(), "and a label after enough frames with a face"


def test_session_json_and_the_other_files_are_written(clip, tmp_path):
    summary = run_session(tmp_path / "s", clip)
    about = read_session(tmp_path / "s")
    assert about == json.loads(json.dumps(summary))
    assert about["end"] == "it was over or ended by hand" and about["ended"] >= about["started"]
    assert about["dropped"] == about["views_skipped"] == 0 and about["fps"] > 0
    assert set(about["latency_ms"]) == {"p50", "p95", "p99"} and about["source"]["frames_promised"] == 60
    assert about["size"] == [208, 160] and about["source"]["fingerprint"] == session_writer.fingerprint(clip)
    assert about["model_facts"]["weights_sha256"] == packaged_bundle().weights_sha256
    assert about["params"]["detector"] == "haar" and 0 < about["first_frame_sec"] < 60
    names = {f.name for f in (tmp_path / "s").iterdir()}
    assert {"per_frame.csv", "events.csv", "demoresultssummary.csv", "thresholds.json", "per_class_correctness.csv",
            "faces.csv", "session.json"} <= names  # fmt: skip
    assert not any(n.startswith("raw") or n.startswith("annotated") for n in names), "no video by default"


def test_labels_and_settings_apply_from_the_next_frame(at_rest, tmp_path):
    def press_keys(session, index):
        keys = {3: "4", 8: "c", 10: "1", 12: "[", 14: "o", 15: "n", 16: "v", 17: "="}
        if index in keys:
            assert session.controls.key(keys[index])

    run_images(tmp_path / "s", at_rest[:20], press_keys)
    logged = read_frames(tmp_path / "s")
    assert logged.manual.tolist() == [-1] * 3 + [3] * 5 + [-1] * 2 + [0] * 10
    events = (tmp_path / "s" / "events.csv").read_text().splitlines()[1:]
    assert [row.split(",")[:3] + row.split(",")[-1:] for row in events] == [["Happy", "3", "7", "key"],
                                                                          ["Angry", "10", "19", "key"]]  # fmt: skip
    assert json.loads((tmp_path / "s" / "thresholds.json").read_text()) == {
        "ema_alpha": 0.45,
        "hysteresis_delta": 0.04,
        "vote_window": 3,
        "vote_min_count": 2,
        "show_emo_ratio": False,
    }
    about = read_session(tmp_path / "s")
    assert about["smoothing"]["ema_alpha"] == 0.45 and about["params"]["smoothing"]["ema_alpha"] == 0.5


def test_q_ends_the_session_with_complete_logs(at_rest, tmp_path):
    summary = run_images(tmp_path / "s", at_rest, lambda session, i: i == 9 and session.controls.key("q"))
    frames = read_frames(tmp_path / "s")
    assert summary["frames"] == len(frames.frame_index) == 9 and summary["ended"]


def test_a_slow_viewer_or_disk_does_not_block_the_session(at_rest, tmp_path, monkeypatch):
    add, slow = session_writer.SessionLog.add, threading.Event()

    def late(self, frame):
        slow.wait(2)  # the disk blocks until every frame is predicted
        add(self, frame)

    monkeypatch.setattr(session_writer.SessionLog, "add", late)
    indices = []

    def look(session, index):
        indices.append(index)
        if index == 1:
            session.latest_view.take(0)  # and no more
        if index == len(at_rest) - 1:
            slow.set()

    summary = run_images(tmp_path / "s", at_rest, look)
    assert indices == list(range(len(at_rest))) and summary["frames"] == len(at_rest)
    assert len(read_frames(tmp_path / "s").frame_index) == len(at_rest), "nothing was dropped from the logs"
    assert len(at_rest) - 3 <= summary["views_skipped"] < len(at_rest)


def test_a_slow_disk_drops_frames_of_the_video_but_no_rows(at_rest, tmp_path, monkeypatch):
    add, slow = session_writer.VideoFile.add, threading.Event()

    def late(self, index, image):
        slow.wait(20)
        add(self, index, image)

    monkeypatch.setattr(session_writer.VideoFile, "add", late)
    source = SteppedSource(at_rest, lambda index: index == len(at_rest) - 1 and slow.set())
    source.is_camera = True
    session = source.session = open_session(LiveParams(**DEFAULTS, record="raw"), tmp_path / "s", source)
    session.start()
    summary = wait_until_end(session)
    recorded, lost = read_recorded(tmp_path / "s"), summary["pictures_not_recorded"]
    assert lost >= len(at_rest) - session_writer.VIEW_QUEUE_SIZE - 3 and len(recorded) + lost == len(at_rest)
    assert summary["recorded"]["raw.mkv"]["frames"] == len(recorded) and recorded == sorted(recorded)
    assert len(read_frames(tmp_path / "s").frame_index) == len(at_rest), "every row"


class Camera:
    """A stand-in for cv2.VideoCapture: ``count`` images, one every ``every`` seconds, then none."""

    def __init__(self, images, every, count):
        self.images, self.every, self.count, self.count_read, self.start = images, every, count, 0, time.monotonic()

    def read(self):
        if self.count_read >= self.count:
            return False, None
        time.sleep(max(0.0, self.start + self.count_read * self.every - time.monotonic()))
        self.count_read += 1
        return True, cv2.cvtColor(self.images[self.count_read % len(self.images)], cv2.COLOR_RGB2BGR)

    def get(self, _):
        return 1 / self.every

    def release(self):
        pass


def test_an_unplugged_camera_is_reported_and_its_frames_are_logged(at_rest, tmp_path, monkeypatch):
    monkeypatch.setattr(capture_module, "_open", lambda source, is_camera: Camera(at_rest, 0.03, 60))
    monkeypatch.setattr(capture_module, "CAMERA_TIMEOUT", 0.3)
    with pytest.raises(Exception, match="camera 0 sends no more frames.*The frames before it are in") as error:
        run_session(tmp_path / "s")
    assert type(error.value).__name__ == "FerError"
    frames, about = read_frames(tmp_path / "s"), read_session(tmp_path / "s")
    assert 3 < len(frames.frame_index) <= 60 and about["end"].startswith("camera 0 sends no more frames")
    assert len(frames.frame_index) + about["dropped"] <= 60 and about["frames"] == len(frames.frame_index)


def test_a_session_with_a_hanging_camera_can_be_ended(at_rest, tmp_path, monkeypatch):
    class Hanging(Camera):
        def read(self):
            if self.count_read == 200:
                unplugged.wait(60)
            return super().read()

    unplugged = threading.Event()
    monkeypatch.setattr(capture_module, "_open", lambda source, is_camera: Hanging(at_rest, 0.01, 1000))
    monkeypatch.setattr(capture_module, "CAMERA_TIMEOUT", 0.5)
    session = open_session(LiveParams(**DEFAULTS, source="0"), tmp_path / "s")
    session.start()
    assert session.latest_view.take(20) is not None
    while session.latest_view.take(1.0) is not None:  # until it hangs
        pass
    session.controls.key("q")
    start = time.monotonic()
    summary = wait_until_end(session)
    unplugged.set()
    assert time.monotonic() - start < 2.5 and summary["end"] == "it was over or ended by hand"
    assert len(read_frames(tmp_path / "s").frame_index) == summary["frames"] > 1


@pytest.mark.parametrize("error", [cv2.error("a bad packet"), MemoryError(), OSError("a bad cable")], ids=str)
def test_a_source_error_is_reported(at_rest, clip, tmp_path, monkeypatch, error):
    class Broken(Camera):
        def read(self):
            if self.count_read == 10:
                raise error
            return super().read()

    monkeypatch.setattr(capture_module, "_open", lambda source, is_camera: Broken(at_rest, 0.001, 1000))
    message = str(error) or "MemoryError"
    with pytest.raises(
        Exception, match=f"clip.mkv cannot be read further after frame 9: {message}. The frames before it are in"
    ):
        run_session(tmp_path / "s", clip)
    assert len(read_frames(tmp_path / "s").frame_index) == 10


def test_frames_of_a_fast_camera_are_dropped_and_counted(at_rest, tmp_path, monkeypatch):
    monkeypatch.setattr(capture_module, "_open", lambda source, is_camera: Camera(at_rest, 0.001, 1000))
    monkeypatch.setattr(capture_module, "CAMERA_TIMEOUT", 0.2)
    label = Session._label_frame
    monkeypatch.setattr(Session, "_label_frame", lambda self, *args: (time.sleep(0.03), label(self, *args)))
    with pytest.raises(Exception, match="sends no more frames"):
        run_session(tmp_path / "s")
    frames, about = read_frames(tmp_path / "s"), read_session(tmp_path / "s")
    assert about["dropped"] > 50 and (np.diff(frames.frame_index) >= 1).all()
    assert frames.frame_index[-1] >= 100, "the latest frame is read, not a queued one"


def test_a_paced_file_plays_at_its_own_speed_after_a_late_start(clip, tmp_path):
    capture = capture_module.Capture(str(clip), paced=True)
    time.sleep(0.6)  # as while nobody has opened the page
    start = time.perf_counter()
    frames = [(f.time, f.captured_at, time.perf_counter()) for f, _ in zip(capture, range(15), strict=False)]
    capture.close()
    for at, captured_at, read_at in frames:
        assert read_at - start >= at - 0.01 and start <= captured_at <= read_at, "no frame is early, none has waited"
    session = open_session(LiveParams(**DEFAULTS, source=str(clip), paced=True), tmp_path / "s")
    time.sleep(1.0)
    session.start()
    summary = wait_until_end(session)
    assert summary["fps"] < 30 and summary["seconds"] >= 59 / 25, "25 frames a second"
    unread = capture_module.Capture(str(clip), paced=True)
    unread.close()
    assert list(unread) == []


def test_a_label_below_its_threshold_is_unknown(at_rest, tmp_path):
    run_images(tmp_path / "all", at_rest[:20], abstention=[1.0] * 7)
    frames = read_frames(tmp_path / "all")
    run_images(tmp_path / "none", at_rest[:20], abstention=[0.0] * 7)
    plain = read_frames(tmp_path / "none")
    assert (plain.pred >= 0).any() and (frames.pred == np.where(plain.pred >= 0, UNKNOWN, plain.pred)).all()
    assert "Unknown" in (tmp_path / "all" / "per_frame.csv").read_text()


def test_temperature_and_bias_come_from_options(at_rest, tmp_path):
    file = tmp_path / "logit_bias.json"
    file.write_text(json.dumps([0, 0, 0, 50.0, 0, 0, 0]))
    run_images(tmp_path / "bias", at_rest[:5], logit_bias=str(file))
    assert (read_frames(tmp_path / "bias").probs[0].argmax() == 3) and read_frames(tmp_path / "bias").probs[0][3] > 0.99
    run_images(tmp_path / "own", at_rest[:5])
    run_images(tmp_path / "flat", at_rest[:5], temperature=1e4)
    own, flat = (read_frames(tmp_path / name).probs[0] for name in ("own", "flat"))
    assert np.allclose(flat, 1 / 7, atol=1e-3) and own.max() > 0.2


def test_a_folder_holds_one_session(at_rest, clip, tmp_path):
    errors = []

    def second(session, index):
        if index == 2:
            try:
                open_session(LiveParams(**DEFAULTS, source=str(clip)), tmp_path / "s")
            except Exception as error:
                errors.append(error)

    run_images(tmp_path / "s", at_rest[:5], second)
    [error] = errors
    assert "is being run by another process" in str(error) or "holds a session already" in str(error)
    with pytest.raises(Exception, match="holds a session already.*another --output"):
        open_session(LiveParams(**DEFAULTS, source=str(clip)), tmp_path / "s")
    assert len(read_frames(tmp_path / "s").frame_index) == 5, "the first session is unchanged"
