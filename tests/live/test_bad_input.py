"""Errors of cameras, files, models and disks: each gives one message and closes the logs."""

import errno
import hashlib
import json
import os
import shutil

import cv2
import numpy as np
import pytest
from failing_models import failing_bundle
from live_sessions import DEFAULTS, QUICK, open_session, run_images, write_video
from road import command, fer

from fer_lib.deploy.packaged import FOLDER
from fer_lib.errors import BundleError, DataError
from fer_lib.faces import decode
from fer_lib.live import capture, recording, session_files
from fer_lib.live import log as log_module
from fer_lib.live.capture import Capture
from fer_lib.live.recording import recorded_frames
from fer_lib.live.session import wait_until_end
from fer_lib.live.session_files import read_frames, read_session
from fer_lib.live.synthetic_session import Moment, render_frames
from fer_lib.models.bundle import META
from fer_lib.params import LiveParams


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A FER_HOME for the command."""
    (tmp_path / "home" / "params").mkdir(parents=True)
    (tmp_path / "home" / "notebooks").mkdir()
    monkeypatch.setenv("FER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def run_refused(tmp_path, *options):
    """Run the command, which must leave no session folder."""
    out = tmp_path / "refused"
    ended = fer("live", "--headless", "--model", "packaged", "--detector", "haar", "--output", str(out), *options)
    assert not out.exists(), "no session has started, so no folder may remain"
    return ended


def test_a_missing_camera_is_an_error(home, tmp_path):
    ended = run_refused(tmp_path, "--source", "63")
    assert ended.code == 1 and "camera 63 sends no frame" in ended.err and "--source" in ended.err


def test_a_too_long_camera_number_is_taken_as_a_file_name(home, tmp_path):
    ended = run_refused(tmp_path, "--source", "99999999999999")
    assert ended.code == 1 and "there is no such file" in ended.err and "camera's number" in ended.err


def test_frames_above_the_cap_are_refused_before_one_is_decoded(tmp_path, monkeypatch):
    """A film of 2.7 MB with frames of 12,000 x 12,000 pixels took 2.3 GB."""
    assert 3840 * 2160 < capture.MAX_PIXELS < decode.MAX_PIXELS
    film = write_video(tmp_path / session_files.RAW_VIDEO, [np.zeros((48, 64, 3), np.uint8)])
    (tmp_path / session_files.RECORDED).write_text("frame_index\n0\n")
    session_files.write_session(tmp_path, {})
    assert len(list(recorded_frames(tmp_path))) == 1
    monkeypatch.setattr(capture, "MAX_PIXELS", 48 * 64 - 1)
    message = f"{session_files.RAW_VIDEO} has frames of 64 x 48 pixels, above the cap of 3,071: scale it down"
    with pytest.raises(DataError, match=message):
        Capture(str(film))
    with pytest.raises(DataError, match=message):
        list(recorded_frames(tmp_path))


def test_a_model_file_for_a_detector_without_one_is_refused(home, clip, tmp_path):
    ended = run_refused(tmp_path, "--source", str(clip), "--detector-model", str(tmp_path / "some.onnx"))
    assert ended.code == 1 and "haar reads no file" in ended.err and "some.onnx" in ended.err


def test_an_existing_folder_is_not_removed_after_an_error(home, tmp_path):
    (tmp_path / "refused").mkdir()
    with pytest.raises(DataError, match="there is no such file"):
        open_session(LiveParams(**DEFAULTS, source=str(tmp_path / "none.mp4")), tmp_path / "refused")
    assert (tmp_path / "refused").is_dir()


def test_a_missing_source_file_is_an_error(home, tmp_path):
    ended = run_refused(tmp_path, "--source", str(tmp_path / "none.mp4"))
    assert ended.code == 1 and "there is no such file" in ended.err


@pytest.mark.parametrize("content", [b"", b"this is no video\n" * 50, bytes(5000)], ids=["empty", "text", "zeros"])
def test_a_source_file_that_is_no_video_is_refused(home, tmp_path, content):
    (tmp_path / "clip.mp4").write_bytes(content)
    ended = run_refused(tmp_path, "--source", str(tmp_path / "clip.mp4"))
    assert ended.code == 1 and "sends no frame: OpenCV cannot decode it" in ended.err and "clip.mp4" in ended.err


def test_a_video_without_a_frame_is_refused(home, tmp_path, at_rest):
    whole = write_video(tmp_path / "whole.avi", at_rest[:3], code="MJPG").read_bytes()
    start = whole.index(b"movi")
    (tmp_path / "bare.avi").write_bytes(whole[: start + 4])
    ended = run_refused(tmp_path, "--source", str(tmp_path / "bare.avi"))
    assert ended.code == 1 and "bare.avi sends no frame" in ended.err


def test_a_directory_as_source_is_refused(home, tmp_path):
    ended = run_refused(tmp_path, "--source", str(tmp_path))
    assert ended.code == 1 and "there is no such file" in ended.err


def test_an_invalid_logit_bias_file_is_refused(home, clip, tmp_path):
    (tmp_path / "logit_bias.json").write_text("[0, 0, 0, 0, 0, 0]")
    ended = run_refused(tmp_path, "--source", str(clip), "--logit-bias", str(tmp_path / "logit_bias.json"))
    assert ended.code == 1 and "logit_bias.json" in ended.err and "7 items after validation, not 6" in ended.err
    invalid = {
        "{": "logit_bias.json", '{"Angry": 1}': "with all seven", "[0,0,0,0,0,0,NaN]": "6: Input should be a finite",
        '[0,0,0,0,0,0,"1"]': "6: Input should be a valid number", "7": "valid list",
    }  # fmt: skip
    for content, text in invalid.items():
        (tmp_path / "logit_bias.json").write_text(content)
        ended = run_refused(tmp_path, "--source", str(clip), "--logit-bias", str(tmp_path / "logit_bias.json"))
        assert ended.code == 1 and text in ended.err
    ended = run_refused(tmp_path, "--source", str(clip), "--logit-bias", str(tmp_path / "nowhere.json"))
    assert ended.code == 1 and "nowhere.json" in ended.err


def test_a_model_with_another_class_order_is_refused(home, clip, tmp_path):
    bundle = shutil.copytree(FOLDER, tmp_path / "other")
    meta = json.loads((bundle / META).read_text())
    meta["classes"] = meta["classes"][1:] + meta["classes"][:1]
    body = {k: v for k, v in meta.items() if k != "checksum"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    (bundle / META).write_text(json.dumps(body | {"checksum": hashlib.sha256(text).hexdigest()}))
    with pytest.raises(BundleError, match="class order"):
        open_session(LiveParams(**DEFAULTS, source=str(clip), model=str(bundle)), tmp_path / "s")
    ended = run_refused(tmp_path, "--source", str(clip), "--model", str(bundle))
    assert ended.code == 1 and "class order" in ended.err


def test_a_model_that_fails_on_a_face_ends_the_session_with_one_message(torch_bundle, at_rest, tmp_path):
    bundle = failing_bundle(torch_bundle, tmp_path / "model", "index", base=0)  # it runs on a black face
    out = tmp_path / "session"
    with pytest.raises(BundleError, match=f"the model in {bundle.path} fails on faces .*use another model"):
        run_images(out, [np.full_like(at_rest[0], 96)] * 3 + at_rest[:20], model=str(bundle.path))
    assert read_session(out)["end"].startswith(f"it failed: the model in {bundle.path} fails on faces")
    assert len(read_frames(out).frame_index) == 3, "the frames before stay"


def test_an_unwritable_output_folder_is_an_error(home, clip, tmp_path):
    (tmp_path / "file").write_text("")
    ended = run_refused(tmp_path, "--source", str(clip), "--output", str(tmp_path / "file" / "session"))
    assert ended.code == 1 and "cannot use" in ended.err and "choose another output folder" in ended.err


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--detector", "mtcnn"), "mtcnn"), (("--detect-every", "0"), "detect_every"),
        (("--abstain", "2"), "abstention"), (("--abstain", "0.1,0.2"), "abstention"),
        (("--smoothing", "0.7,0.08"), "--smoothing"),
        (("--smoothing", "0.7,0.08,15,x"), "--smoothing"), (("--temperature", "0"), "temperature"),
        (("--web",), "--headless and --web"), (("--recrod", "raw"), "recrod"), (("--source", "browser"), "--web"),
    ],
)  # fmt: skip
def test_wrong_options_exit_with_2_and_name_the_option(home, tmp_path, options, text):
    ended = run_refused(tmp_path, *options)
    assert ended.code == 2 and text in ended.err


def test_a_second_session_in_a_folder_names_the_process_of_the_first(home, at_rest, clip, tmp_path):
    results = []

    def start_second(session, index):
        if index == 3:
            words = ("live", "--headless", "--model", "packaged", "--detector", "haar", "--source", str(clip))
            results.append(command("fer_lib.cli.main", *words, "--output", str(tmp_path / "s"), home=home, cwd=home))

    summary = run_images(tmp_path / "s", at_rest[:6], start_second)
    assert results[0].code == 1 and f"the session in {tmp_path / 's'}" in results[0].err and "pid" in results[0].err
    assert summary["frames"] == 6


def test_frames_of_odd_and_changing_size_are_recorded(at_rest, tmp_path):
    odd = [cv2.resize(image, (209, 161)) for image in at_rest[:6]]
    mixed = odd[:3] + [cv2.resize(at_rest[0], (301, 173))] + odd[3:]
    summary = run_images(tmp_path / "s", mixed, record="raw", detect_every=3)
    assert summary["frames"] == 7 and summary["recorded"]["raw.mkv"] == {"frames": 6, "of_other_size": 1}
    recorded = dict(recorded_frames(tmp_path / "s"))
    assert sorted(recorded) == [0, 1, 2, 4, 5, 6]
    assert all(np.array_equal(recorded[i], mixed[i]) for i in recorded), "lossless, including odd columns"
    thin = run_images(tmp_path / "thin", [np.zeros((1, 1, 3), np.uint8)] * 3)
    assert thin["frames"] == 3


def test_a_minute_without_a_face_is_logged(tmp_path):
    bare = np.full((120, 160, 3), 96, np.uint8)
    run_images(tmp_path / "s", [bare] * 1500, smoothing=QUICK, detect_every=30)
    frames = read_frames(tmp_path / "s")
    assert len(frames.frame_index) == 1500 and np.isnan(frames.probs).all() and (frames.pred == -1).all()
    row = (tmp_path / "s" / "per_frame.csv").read_text().splitlines()[700]
    assert row.startswith("699,27.96,,(unstable),,,,,,,,haar,"), "probabilities are empty"


def test_twenty_faces_are_tracked_and_the_largest_is_scored(yunet, tmp_path):
    face = render_frames(3, [Moment(6, 0.0, -1)])[0][0]
    tile = cv2.resize(face, (156, 120))
    rows = [np.hstack([tile] * 5)] * 4
    crowd = np.vstack(rows)
    large = crowd.copy()
    big = cv2.resize(face, (312, 240))
    large[:240, :312] = big
    views = []
    options = dict(detector="yunet", detector_model=str(yunet), detect_scale=1.0)

    def read_view(session, index):
        views.append(session.latest_view.take(0))

    run_images(tmp_path / "s", [crowd, crowd, large, large], read_view, **options)
    assert len(views[2].faces) == 20 and len({t.number for t in views[2].faces}) == 20
    assert {t.number for t in views[2].faces} == {t.number for t in views[1].faces}
    largest = views[3].faces[0].face
    top, left, bottom, right = largest.box
    assert bottom < 245 and right < 320 and largest.area > 1.8 * views[3].faces[1].face.area
    frames = read_frames(tmp_path / "s")
    assert not np.isnan(frames.probs).any(), "the largest is scored"


def test_a_full_disk_ends_the_session_and_keeps_the_earlier_rows(at_rest, tmp_path, monkeypatch):
    add = log_module.SessionLog.add

    def full(self, frame):
        if frame.index == 10:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # a stream's error names no file
        add(self, frame)

    monkeypatch.setattr(log_module.SessionLog, "add", full)
    with pytest.raises(DataError, match="cannot write .*free some space"):
        run_images(tmp_path / "s", at_rest)
    assert len(read_frames(tmp_path / "s").frame_index) == 10
    assert "cannot write" in read_session(tmp_path / "s")["end"]


@pytest.mark.parametrize("name", [session_files.RAW_VIDEO, session_files.ANNOTATED_VIDEO])
def test_a_video_cut_short_by_a_full_disk_is_reported(at_rest, tmp_path, monkeypatch, name):
    class Full:
        """Like FFmpeg on a full disk: it stops writing without an error."""

        def __init__(self, video):
            self.video, self.left = video, 11

        def write(self, image):
            self.left -= 1
            if self.left >= 0:
                self.video.write(image)

        def release(self):
            self.video.release()

    init = recording.VideoFile.__init__

    def init_full(self, *args):
        init(self, *args)
        self._video = Full(self._video)

    monkeypatch.setattr(recording.VideoFile, "__init__", init_full)
    with pytest.raises(DataError, match=rf"{name} holds only 11 of 40 frames.*check whether the disk is full"):
        run_images(tmp_path / "s", at_rest, record="raw" if name == session_files.RAW_VIDEO else "annotated")
    about = read_session(tmp_path / "s")
    assert about["recorded"][name]["frames"] == 11 and "holds only 11 of 40 frames" in about["end"]
    assert len(read_frames(tmp_path / "s").frame_index) == 40


def test_a_truncated_video_is_read_to_its_last_frame(at_rest, tmp_path):
    whole = write_video(tmp_path / "whole.mkv", at_rest).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: int(len(whole) * 0.6)])
    session = open_session(LiveParams(**DEFAULTS, source=str(tmp_path / "cut.mkv")), tmp_path / "s")
    session.start()
    summary = wait_until_end(session)
    assert 10 < summary["frames"] < 40 == len(at_rest)
    note = f"cut.mkv ended after {summary['frames']} of the 40 frames that its header gives: it may be cut short"
    assert summary["end"] == note


def test_a_capture_can_be_closed_at_any_time(clip):
    for count in (0, 1, 5):
        capture = Capture(str(clip))
        for _, _ in zip(range(count), capture, strict=False):
            pass
        capture.close()
        capture.close()
        assert list(capture) == []
