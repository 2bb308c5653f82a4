"""The synthetic session: consistent files, deterministic, labelled by its script; and the session of a blank name."""

import os
import shutil

import numpy as np
import pytest
import session_factory

from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.live import synthetic_session
from fer_lib.live.recording import recorded_frames
from fer_lib.live.score import MIN_SEGMENT, correct, score, segments
from fer_lib.live.session_files import PER_FRAME, read_faces, read_frames, read_recorded, read_session
from fer_lib.live.sessions import newest_labelled, select_session, session_id
from fer_lib.params import SmoothingParams


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return synthetic_session.write_synthetic_session(tmp_path_factory.mktemp("d") / "drawn", seed=3)


def test_every_expression_is_shown_once_and_the_label_lags(folder):
    script, frames = synthetic_session.make_script(3), read_frames(folder)
    assert frames.manual.tolist() == [m.manual for m in script]
    runs = segments(frames.manual, frames.time_sec)
    assert sorted(s.label for s in runs) == list(range(7))
    for s in runs:
        assert s.seconds > MIN_SEGMENT and len(s.scored) > 25
        assert {script[i].label for i in s.scored} == {s.label}, "scored frames show the labelled expression"
        assert min(script[i].strength for i in s.scored) == 1.0, "the trimmed 250 ms cover onset and label lag"
    assert (
        len(synthetic_session.make_script(3, rounds=2)) > 1.9 * len(script)
        and synthetic_session.make_script(4) != script
    )


def test_the_files_are_consistent(folder):
    frames, faces = read_frames(folder), read_faces(folder)
    visible = np.flatnonzero(~np.isnan(frames.probs).any(axis=1))
    assert sorted(faces) == visible.tolist() and 0 < len(frames.probs) - len(visible) < 15
    assert read_recorded(folder) == frames.frame_index.tolist()
    about = read_session(folder)
    assert about["drawn"] and about["size"] == list(synthetic_session.SIZE)
    assert frames.pred.tolist() == session_factory.smooth(frames.probs, SmoothingParams(**about["smoothing"])).tolist()
    assert (frames.detector, frames.model) == ("drawn", "student_dkd") and len(frames.ckpt) == 12
    result = score(folder)
    assert result["n_used"] > 200 and result["segments_scored"] == 7
    assert all(result["raw"]["support"][name] for name in EMOTIONS)


def test_the_video_stores_the_images_without_loss(folder):
    images, faces = synthetic_session.render_frames(3, synthetic_session.make_script(3))
    recorded = list(recorded_frames(folder))
    assert [number for number, _ in recorded] == list(range(len(images)))
    for (_, recorded_image), image in zip(recorded[::7], images[::7], strict=True):
        assert np.abs(recorded_image.astype(int) - image).max() <= 2, "lossless but for the colour conversion"
    there = read_faces(folder)
    assert all(there[i].box == face.box for i, face in enumerate(faces) if face is not None)
    height, width = images[0].shape[:2]
    for face in there.values():
        top, left, bottom, right = face.box
        assert -9 < top < bottom < height + 9 and -9 < left < right < width + 9 and 100 < bottom - top < 140


def test_a_synthetic_session_is_deterministic_and_replaces_the_old_one(folder, tmp_path):
    again = synthetic_session.write_synthetic_session(tmp_path / "again", seed=3, record=False)
    assert session_id(again) == session_id(folder)
    assert not (again / "raw.mkv").exists() and not (again / "recorded.csv").exists()
    correct(again, [(10, 20, "Sad")])
    assert session_id(again) == session_id(folder), "corrections do not change the log"
    synthetic_session.write_synthetic_session(again, seed=4, record=False)
    assert session_id(again) != session_id(folder) and not (again / "corrections.csv").exists()


def set_mtime(folder, seconds):
    os.utime(folder / PER_FRAME, (seconds, seconds))
    return folder


def test_a_blank_name_selects_the_newest_labelled_session(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("FER_HOME", str(tmp_path))
    live = tmp_path / "mlruns" / "live"
    assert newest_labelled(live) is None
    session, text = select_session("", tmp_path / "own")
    assert session == tmp_path / "own" and "a drawn session" in text and "--record raw" in text
    old = set_mtime(shutil.copytree(folder, live / "old"), 1000)
    newer = set_mtime(shutil.copytree(folder, live / "newer"), 2000)
    broken = set_mtime(shutil.copytree(folder, live / "broken"), 3000)
    (broken / PER_FRAME).write_text("nonsense\n")
    set_mtime(broken, 3000)
    bare = shutil.copytree(folder, live / "bare")
    head, *rows = [line.split(",") for line in (bare / PER_FRAME).read_text().splitlines()]
    unlabelled = [[*cells[:2], "", *cells[3:]] for cells in rows]
    (bare / PER_FRAME).write_text("".join(",".join(cells) + "\n" for cells in [head, *unlabelled]))
    set_mtime(bare, 4000)
    (live / "no_session").mkdir()
    assert newest_labelled(live) == newer
    session, text = select_session("", tmp_path / "own")
    assert session == newer and "newest labelled session of mlruns/live, newer" in text
    assert select_session(str(old), tmp_path / "own") == (old, f"the session {old}")
    correct(bare, [(5, 60, "Happy")])
    assert newest_labelled(live) == bare, "a correction is a label too"


def test_an_unwritable_folder_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="a file stands where a folder should be"):
        synthetic_session.write_synthetic_session(tmp_path / "file" / "session", record=False)
