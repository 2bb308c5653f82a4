"""What goes wrong with cameras, files, models and disks: each a clear message, and logs that are closed properly."""

import errno
import hashlib
import json
import os
import shutil

import cv2
import numpy as np
import pytest
from living import PLAIN, QUICK, handed, session_of, write_video
from road import command, fer

from fer_lib.deploy.packaged import FOLDER
from fer_lib.errors import BundleError, DataError
from fer_lib.live import log as logging
from fer_lib.live import recording, session_files
from fer_lib.live.capture import Capture
from fer_lib.live.recording import recorded_pictures
from fer_lib.live.session import until_end
from fer_lib.live.session_files import read_frames, read_session
from fer_lib.live.synthetic_session import Moment, pictures
from fer_lib.models.bundle import META
from fer_lib.params import LiveParams


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home of its own for what the command keeps."""
    (tmp_path / "home" / "params").mkdir(parents=True)
    (tmp_path / "home" / "notebooks").mkdir()
    monkeypatch.setenv("FER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def refused(tmp_path, *options):
    """What the command says; it must leave no session behind."""
    out = tmp_path / "refused"
    ended = fer("live", "--headless", "--model", "packaged", "--detector", "haar", "--output", str(out), *options)
    assert not out.exists(), "nothing was begun, so nothing is left"
    return ended


def test_no_camera(home, tmp_path):
    ended = refused(tmp_path, "--source", "63")
    assert ended.code == 1 and "camera 63 cannot be opened" in ended.err and "--source" in ended.err


def test_a_number_that_no_camera_has(home, tmp_path):
    ended = refused(tmp_path, "--source", "99999999999999")
    assert ended.code == 1 and "there is no such file" in ended.err and "camera's number" in ended.err


def test_a_file_for_a_detector_that_reads_none(home, clip, tmp_path):
    ended = refused(tmp_path, "--source", str(clip), "--detector-model", str(tmp_path / "some.onnx"))
    assert ended.code == 1 and "haar reads no file" in ended.err and "some.onnx" in ended.err


def test_a_folder_that_was_there_stays(home, tmp_path):
    (tmp_path / "refused").mkdir()
    with pytest.raises(DataError, match="there is no such file"):
        session_of(LiveParams(**PLAIN, source=str(tmp_path / "none.mp4")), tmp_path / "refused")
    assert (tmp_path / "refused").is_dir()


def test_no_such_file(home, tmp_path):
    ended = refused(tmp_path, "--source", str(tmp_path / "none.mp4"))
    assert ended.code == 1 and "there is no such file" in ended.err


@pytest.mark.parametrize("content", [b"", b"this is no video\n" * 50, bytes(5000)], ids=["empty", "text", "zeros"])
def test_a_file_that_is_no_video(home, tmp_path, content):
    (tmp_path / "clip.mp4").write_bytes(content)
    ended = refused(tmp_path, "--source", str(tmp_path / "clip.mp4"))
    assert ended.code == 1 and "no video that OpenCV can read" in ended.err and "clip.mp4" in ended.err


def test_a_video_without_a_frame(home, tmp_path, at_rest):
    whole = write_video(tmp_path / "whole.avi", at_rest[:3], code="MJPG").read_bytes()
    start = whole.index(b"movi")
    (tmp_path / "bare.avi").write_bytes(whole[: start + 4])
    ended = refused(tmp_path, "--source", str(tmp_path / "bare.avi"))
    assert ended.code == 1 and ("holds no frame" in ended.err or "no video" in ended.err)


def test_a_directory_for_a_source(home, tmp_path):
    ended = refused(tmp_path, "--source", str(tmp_path))
    assert ended.code == 1 and "there is no such file" in ended.err


def test_six_values_of_logit_bias(home, clip, tmp_path):
    (tmp_path / "logit_bias.json").write_text("[0, 0, 0, 0, 0, 0]")
    ended = refused(tmp_path, "--source", str(clip), "--logit-bias", str(tmp_path / "logit_bias.json"))
    assert ended.code == 1 and "logit_bias.json" in ended.err and "6 values, not 7" in ended.err
    for text, said in (("{", "logit_bias.json"), ('{"Angry": 1}', "Neutral missing"), ("[0,0,0,0,0,0,NaN]", "finite"),
                       ('[0,0,0,0,0,0,"1"]', "numbers"), ("7", "seven numbers")):  # fmt: skip
        (tmp_path / "logit_bias.json").write_text(text)
        ended = refused(tmp_path, "--source", str(clip), "--logit-bias", str(tmp_path / "logit_bias.json"))
        assert ended.code == 1 and said in ended.err
    ended = refused(tmp_path, "--source", str(clip), "--logit-bias", str(tmp_path / "nowhere.json"))
    assert ended.code == 1 and "nowhere.json" in ended.err


def test_a_model_of_another_class_order(home, clip, tmp_path):
    bundle = shutil.copytree(FOLDER, tmp_path / "other")
    meta = json.loads((bundle / META).read_text())
    meta["classes"] = meta["classes"][1:] + meta["classes"][:1]
    body = {k: v for k, v in meta.items() if k != "checksum"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    (bundle / META).write_text(json.dumps(body | {"checksum": hashlib.sha256(text).hexdigest()}))
    with pytest.raises(BundleError, match="class order"):
        session_of(LiveParams(**PLAIN, source=str(clip), model=str(bundle)), tmp_path / "s")
    ended = refused(tmp_path, "--source", str(clip), "--model", str(bundle))
    assert ended.code == 1 and "class order" in ended.err


def test_a_folder_that_cannot_be_written(home, clip, tmp_path):
    (tmp_path / "file").write_text("")
    ended = refused(tmp_path, "--source", str(clip), "--output", str(tmp_path / "file" / "session"))
    assert ended.code == 1 and "cannot write" in ended.err and "choose another output folder" in ended.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--detector", "mtcnn"), "mtcnn"), (("--detect-every", "0"), "detect_every"),
        (("--abstain", "2"), "abstention"), (("--abstain", "0.1,0.2"), "abstention"),
        (("--smoothing", "0.7,0.08"), "--smoothing"),
        (("--smoothing", "0.7,0.08,15,x"), "--smoothing"), (("--temperature", "0"), "temperature"),
        (("--web",), "--headless and --web"), (("--recrod", "raw"), "recrod"), (("--source", "browser"), "--web"),
    ],
)  # fmt: skip
def test_wrong_options_exit_with_2_and_are_named(home, tmp_path, options, said):
    ended = refused(tmp_path, *options)
    assert ended.code == 2 and said in ended.err


def test_the_second_session_is_told_who_is_at_work(home, at_rest, clip, tmp_path):
    said = []

    def second(session, index):
        if index == 3:
            words = ("live", "--headless", "--model", "packaged", "--detector", "haar", "--source", str(clip))
            said.append(command("fer_lib.cli.main", *words, "--output", str(tmp_path / "s"), home=home, cwd=home))

    summary = handed(tmp_path / "s", at_rest[:6], second)
    assert said[0].code == 1 and f"the session in {tmp_path / 's'}" in said[0].err and "pid" in said[0].err
    assert summary["frames"] == 6


def test_pictures_of_odd_and_of_changing_size(at_rest, tmp_path):
    odd = [cv2.resize(image, (209, 161)) for image in at_rest[:6]]
    mixed = odd[:3] + [cv2.resize(at_rest[0], (301, 173))] + odd[3:]
    summary = handed(tmp_path / "s", mixed, record="raw", detect_every=3)
    assert summary["frames"] == 7 and summary["recorded"]["raw.mkv"] == {"frames": 6, "of_other_size": 1}
    with recorded_pictures(tmp_path / "s") as kept:
        kept = dict(kept)
    assert sorted(kept) == [0, 1, 2, 4, 5, 6]
    assert all(np.array_equal(kept[i], mixed[i]) for i in kept), "to the bit, odd columns included"
    thin = handed(tmp_path / "thin", [np.zeros((1, 1, 3), np.uint8)] * 3)
    assert thin["frames"] == 3


def test_nobody_for_a_minute(tmp_path):
    bare = np.full((120, 160, 3), 96, np.uint8)
    handed(tmp_path / "s", [bare] * 1500, smoothing=QUICK, detect_every=30)
    frames = read_frames(tmp_path / "s")
    assert len(frames.frame_index) == 1500 and np.isnan(frames.probs).all() and (frames.pred == -1).all()
    row = (tmp_path / "s" / "per_frame.csv").read_text().splitlines()[700]
    assert row.startswith("699,27.96,,(unstable),,,,,,,,haar,"), "probabilities are empty"


def test_twenty_faces(yunet, tmp_path):
    face = pictures(3, [Moment(6, 0.0, -1)])[0][0]
    tile = cv2.resize(face, (156, 120))
    rows = [np.hstack([tile] * 5)] * 4
    crowd = np.vstack(rows)
    large = crowd.copy()
    big = cv2.resize(face, (312, 240))
    large[:240, :312] = big
    seen = []
    handed(tmp_path / "s", [crowd, crowd, large, large], lambda session, i: seen.append(session.newest.take(0)),
           detector="yunet", detector_model=str(yunet), detect_scale=1.0)  # fmt: skip
    assert len(seen[2].faces) == 20 and len({t.number for t in seen[2].faces}) == 20
    assert {t.number for t in seen[2].faces} == {t.number for t in seen[1].faces}
    largest = seen[3].faces[0].face
    top, left, bottom, right = largest.box
    assert bottom < 245 and right < 320 and largest.area > 1.8 * seen[3].faces[1].face.area
    frames = read_frames(tmp_path / "s")
    assert not np.isnan(frames.probs).any(), "the largest is scored"


def test_a_disk_that_fills_up_ends_it_with_what_came_before(at_rest, tmp_path, monkeypatch):
    add = logging.SessionLog.add

    def full(self, frame):
        if frame.index == 10:
            with logging.explained(self.folder):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        add(self, frame)

    monkeypatch.setattr(logging.SessionLog, "add", full)
    with pytest.raises(DataError, match="cannot write .*free some space"):
        handed(tmp_path / "s", at_rest)
    assert len(read_frames(tmp_path / "s").frame_index) == 10
    assert "cannot write" in read_session(tmp_path / "s")["end"]


@pytest.mark.parametrize("name", [session_files.RAW_VIDEO, session_files.ANNOTATED_VIDEO])
def test_a_video_that_the_disk_refuses_is_told_and_counted(at_rest, tmp_path, monkeypatch, name):
    class Full:
        """As FFmpeg on a full disk: it writes no further and says nothing."""

        def __init__(self, video):
            self.video, self.left = video, 11

        def write(self, image):
            self.left -= 1
            if self.left >= 0:
                self.video.write(image)

        def release(self):
            self.video.release()

    begin = recording.VideoFile.__init__

    def full(self, *args):
        begin(self, *args)
        self._video = Full(self._video)

    monkeypatch.setattr(recording.VideoFile, "__init__", full)
    with pytest.raises(DataError, match=rf"{name} holds 11 of 40 pictures.*is the disk full"):
        handed(tmp_path / "s", at_rest, record="raw" if name == session_files.RAW_VIDEO else "annotated")
    about = read_session(tmp_path / "s")
    assert about["recorded"][name]["frames"] == 11 and "holds 11 of 40 pictures" in about["end"]
    assert len(read_frames(tmp_path / "s").frame_index) == 40


def test_a_video_whose_end_is_cut_off_is_read_as_far_as_it_goes(at_rest, tmp_path):
    whole = write_video(tmp_path / "whole.mkv", at_rest).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: int(len(whole) * 0.6)])
    session = session_of(LiveParams(**PLAIN, source=str(tmp_path / "cut.mkv")), tmp_path / "s")
    session.start()
    summary = until_end(session)
    assert 10 < summary["frames"] < 40 == len(at_rest)
    said = f"cut.mkv was over after {summary['frames']} of the 40 frames that it promises: it may be cut short"
    assert summary["end"] == said


def test_a_capture_can_be_closed_at_any_time(clip):
    for taken in (0, 1, 5):
        capture = Capture(str(clip))
        for _, _ in zip(range(taken), capture, strict=False):
            pass
        capture.close()
        capture.close()
        assert list(capture) == []
