"""Replays: the same model gives identical results, another one uses the same faces and labels."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from live_sessions import run_images, run_replay, run_session
from road import fer

from fer_lib.deploy.packaged import FOLDER
from fer_lib.errors import DataError
from fer_lib.live.score import correct, read_truth
from fer_lib.live.session_files import RAW_VIDEO, read_faces, read_frames, read_session
from fer_lib.live.sessions import same_source
from fer_lib.models.bundle import META
from fer_lib.params import SmoothingParams


def label(session, index):
    if index in (2, 30):
        session.controls.key("7" if index == 2 else "c")


@pytest.fixture(scope="module")
def recorded(at_rest, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded") / "s"
    run_images(folder, at_rest, label, record="raw")
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The packaged model under another temperature, so that its probabilities differ."""
    bundle = shutil.copytree(FOLDER, tmp_path_factory.mktemp("other") / "cool")
    meta = json.loads((bundle / META).read_text())
    meta["temperature"] |= {"global_temperature": 0.5}
    body = {k: v for k, v in meta.items() if k != "checksum"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    (bundle / META).write_text(json.dumps(body | {"checksum": hashlib.sha256(text).hexdigest()}))
    return bundle


def assert_same(ours, theirs):
    for name in ("frame_index", "manual", "pred"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
    assert np.array_equal(ours.probs, theirs.probs, equal_nan=True) and np.allclose(ours.time_sec, theirs.time_sec)


def test_a_replay_with_the_same_model_is_identical(recorded, tmp_path):
    out = run_replay(recorded, "packaged", tmp_path / "again")
    assert_same(read_frames(out), read_frames(recorded))
    ours, theirs = read_faces(out), read_faces(recorded)
    assert {k: f.box for k, f in ours.items()} == {k: f.box for k, f in theirs.items()}
    about = read_session(out)
    assert about["replay_of"] == "s" and about["frames_without_picture"] == 0
    assert read_frames(out).manual.tolist().count(6) == 28


def test_a_replay_can_be_replayed_with_the_original_frames(recorded, tmp_path):
    shutil.copytree(recorded, tmp_path / "s")
    first = run_replay(tmp_path / "s", "packaged")
    second = run_replay(first, "packaged")
    assert_same(read_frames(second), read_frames(recorded))
    assert read_session(second)["replay_of"] == "s" and not (first / RAW_VIDEO).exists()


def test_copies_and_replays_of_a_session_show_the_same_frames(recorded, other, at_rest, clip, tmp_path):
    original = shutil.copytree(recorded, tmp_path / "s")
    copied = shutil.copytree(recorded, tmp_path / "copied")
    cool, again = run_replay(original, str(other)), run_replay(original, "packaged")
    for one, another in ((original, copied), (original, cool), (cool, original), (cool, again), (again, cool)):
        assert same_source(one, another), (one.name, another.name)
    run_images(tmp_path / "t", at_rest[:9])
    run_session(tmp_path / "file", clip)
    run_session(tmp_path / "once more", clip, smoothing=SmoothingParams(ema_alpha=0.1))
    assert same_source(tmp_path / "file", tmp_path / "once more")
    for stranger in ("t", "file"):
        assert not same_source(original, tmp_path / stranger) and not same_source(tmp_path / stranger, cool)


def test_a_session_of_a_file_is_replayed_without_a_recording(clip, tmp_path):
    run_session(tmp_path / "s", clip)
    out = run_replay(tmp_path / "s", "packaged")
    assert out == tmp_path / "s-packaged"
    assert_same(read_frames(out), read_frames(tmp_path / "s"))


def test_a_replay_with_another_model_uses_the_same_faces_and_labels(recorded, other, tmp_path):
    correct(recorded, [(5, 9, "Sad")])
    out = run_replay(recorded, str(other), tmp_path / "cool")
    ours, theirs = read_frames(out), read_frames(recorded)
    assert not np.array_equal(ours.probs, theirs.probs, equal_nan=True)
    faces = ~np.isnan(theirs.probs).any(axis=1)
    assert np.array_equal(faces, ~np.isnan(ours.probs).any(axis=1))
    assert (ours.probs[faces].max(axis=1) >= theirs.probs[faces].max(axis=1) - 1e-12).all(), "it is surer"
    assert np.array_equal(read_truth(out, ours), read_truth(recorded, theirs)), "labels with their corrections"
    (recorded / "corrections.csv").unlink()


def test_a_replay_can_use_other_smoothing(recorded, tmp_path):
    out = run_replay(recorded, "packaged", tmp_path / "raw", SmoothingParams(
        ema_alpha=0.0, hysteresis_delta=0.0, vote_window=1, vote_min_count=1))  # fmt: skip
    frames = read_frames(out)
    faces = ~np.isnan(frames.probs).any(axis=1)
    assert (frames.pred[faces] == frames.probs[faces].argmax(axis=1)).all()


def test_a_session_without_images_cannot_be_replayed(recorded, clip, at_rest, tmp_path):
    bare = shutil.copytree(recorded, tmp_path / "bare")
    (bare / RAW_VIDEO).unlink()
    with pytest.raises(DataError, match="--record raw"):
        run_replay(bare, "packaged", tmp_path / "x")
    moved = shutil.copy(clip, tmp_path / "moved.mkv")
    run_session(tmp_path / "s", moved)
    with open(moved, "ab") as stream:
        stream.write(b"x")
    with pytest.raises(DataError, match="missing or has changed"):
        run_replay(tmp_path / "s", "packaged", tmp_path / "x")
    assert not (tmp_path / "x").exists()
    with pytest.raises(DataError, match="exists already"):
        run_replay(recorded, "packaged", tmp_path / "s")


def test_frames_missing_from_a_truncated_recording_are_counted(recorded, tmp_path):
    cut = shutil.copytree(recorded, tmp_path / "cut")
    video = (cut / RAW_VIDEO).read_bytes()
    (cut / RAW_VIDEO).write_bytes(video[: int(len(video) * 0.7)])
    out = run_replay(cut, "packaged", tmp_path / "out")
    about, frames = read_session(out), read_frames(out)
    assert about["frames_without_picture"] == 40 - len(frames.frame_index) and 10 < len(frames.frame_index) < 40


def test_a_frame_whose_face_row_is_lost_is_left_out(recorded, tmp_path):
    cut = shutil.copytree(recorded, tmp_path / "cut")
    lines = (cut / "faces.csv").read_text().splitlines(keepends=True)
    (cut / "faces.csv").write_text("".join(lines[:-3]))
    frames = read_frames(run_replay(cut, "packaged", tmp_path / "out"))
    lost = {int(line.split(",")[0]) for line in lines[-3:]}
    assert set(read_frames(recorded).frame_index) - set(frames.frame_index) == lost
    assert read_session(tmp_path / "out")["frames_without_picture"] == 3


def test_a_session_without_valid_smoothing_is_refused(recorded, tmp_path):
    for smoothing in ({}, {"smoothing": None}):
        broken = shutil.copytree(recorded, tmp_path / "broken", dirs_exist_ok=True)
        about = {k: v for k, v in read_session(recorded).items() if k != "smoothing"} | smoothing
        (broken / "session.json").write_text(json.dumps(about))
        with pytest.raises(DataError, match="session.json has no valid entry 'smoothing'"):
            run_replay(broken, "packaged", tmp_path / "out")


def test_the_replay_command_writes_the_session(recorded, tmp_path):
    ended = fer("live", "replay", str(recorded), "--out", str(tmp_path / "out"))
    assert ended.code == 0 and f"written: {tmp_path / 'out'}" in ended.out
    assert_same(read_frames(tmp_path / "out"), read_frames(recorded))
    ended = fer("live", "replay", str(tmp_path / "nothing"))
    assert ended.code == 1 and "per_frame.csv" in ended.err


def test_record_both_writes_both_videos(at_rest, tmp_path):
    import cv2

    summary = run_images(tmp_path / "s", at_rest[:8], record="both")
    assert summary["recorded"]["raw.mkv"]["frames"] == summary["recorded"]["annotated.avi"]["frames"] == 8
    done, image = cv2.VideoCapture(str(tmp_path / "s" / "annotated.avi")).read()
    assert done and image.shape == (160, 208, 3)
