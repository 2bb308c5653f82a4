"""The files of a session: written with their columns, read back unchanged, and refused when invalid."""

import csv
import json

import numpy as np
import pytest

from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.faces.detectors import Face
from fer_lib.live import session_files
from fer_lib.live.log import SessionLog, check_unused
from fer_lib.live.session_files import FrameRecord, read_faces, read_frames, read_session
from fer_lib.params import SmoothingParams

HEAD = {"input": "=clip.avi", "detector": "yunet", "ckpt": "ab12", "model": "student"}


def frame(index, manual=-1, pred=-1, face=True, source="key"):
    rng = np.random.default_rng(index)
    probs = rng.dirichlet(np.ones(7)) if face else None
    points = rng.uniform(0, 100, (5, 2)).astype(np.float32) if index % 2 else None
    scored = Face((1.5, -2.0, 30.25, 40.0), 0.9, points) if face else None
    return FrameRecord(index, index / 30, manual, source, pred, probs, scored)


@pytest.fixture
def written(tmp_path):
    """Twelve frames: Happy (3) by hand on 2..5, Sad (4) on 8..9 and 11; no face on 6 and 7."""
    manual = {2: 3, 3: 3, 4: 3, 5: 3, 8: 4, 9: 4, 11: 4}
    pred = {3: 3, 4: 0, 5: 3, 8: -2, 9: 4, 11: 4}
    log = SessionLog(tmp_path, HEAD, "2026-01-02T03:04:05+00:00", SmoothingParams(), True)
    frames = [frame(i, manual.get(i, -1), pred.get(i, -1), i not in (6, 7)) for i in range(12)]
    for one in frames:
        log.add(one)
    log.set_smoothing(SmoothingParams(ema_alpha=0.5), False)
    log.close()
    return tmp_path, frames


def rows(file):
    with open(file, newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream))


def test_files_have_their_columns_in_order(written):
    folder, _ = written
    heads = {
        "per_frame.csv": "frame_index,time_sec,manual_label,pred_label,prob_Angry,prob_Disgust,prob_Fear,prob_Happy,"
        "prob_Sad,prob_Surprise,prob_Neutral,detector,model,ckpt",
        "events.csv": "label,start_frame,end_frame,start_time_sec,end_time_sec,source",
        "demoresultssummary.csv": "time,input,detector,ckpt,model,frames_logged,events_logged,ema_alpha,"
        "hysteresis_delta,vote_window,vote_min_count",
        "per_class_correctness.csv": "label,frames_with_manual,frames_with_manual_and_pred,correct_frames,accuracy",
    }
    for name, head in heads.items():
        assert (folder / name).read_bytes().startswith(head.encode() + b"\n")
    assert json.loads((folder / "thresholds.json").read_text()) == {
        "ema_alpha": 0.5, "hysteresis_delta": 0.08, "vote_window": 15, "vote_min_count": 8, "show_emo_ratio": False,
    }  # fmt: skip


def test_frames_are_read_back_unchanged(written):
    folder, frames = written
    loaded = read_frames(folder)
    assert loaded.frame_index.tolist() == list(range(12)) and loaded.frame_index.dtype == np.int64
    assert np.allclose(loaded.time_sec, [f.time for f in frames], atol=1e-6)
    assert loaded.manual.tolist() == [f.manual for f in frames] and loaded.manual.dtype == np.int8
    assert loaded.pred.tolist() == [f.pred for f in frames] and loaded.pred.dtype == np.int8
    for probs, one in zip(loaded.probs, frames, strict=True):
        assert np.isnan(probs).all() if one.probs is None else np.array_equal(probs, one.probs)
    assert (loaded.detector, loaded.model, loaded.ckpt, loaded.truncated) == ("yunet", "student", "ab12", 0)
    faces = read_faces(folder)
    assert sorted(faces) == [i for i in range(12) if i not in (6, 7)]
    assert faces[3].box == (1.5, -2.0, 30.25, 40.0) and faces[2].points is None
    assert np.array_equal(faces[3].points, frames[3].face.points)


def test_events_are_runs_of_equal_labels_and_correctness_is_counted(written):
    folder, _ = written
    assert [row[:3] for row in rows(folder / "events.csv")[1:]] == [
        ["Happy", "2", "5"], ["Sad", "8", "9"], ["Sad", "11", "11"],
    ]  # fmt: skip
    counts = {row[0]: row[1:] for row in rows(folder / "per_class_correctness.csv")[1:]}
    assert list(counts) == [*EMOTIONS, "__overall__"]
    assert counts["Happy"] == ["4", "3", "2", "0.666667"]
    assert counts["Sad"] == ["3", "2", "2", "1.000000"]
    assert counts["Fear"] == ["0", "0", "0", ""]
    assert counts["__overall__"] == ["7", "5", "4", "0.800000"]
    summary = dict(zip(*rows(folder / "demoresultssummary.csv"), strict=True))
    assert summary["frames_logged"] == "12" and summary["events_logged"] == "3" and summary["ema_alpha"] == "0.5"
    assert summary["input"] == "'=clip.avi", "a formula cell is neutralised"


def test_an_incomplete_last_line_is_dropped_and_counted(written):
    folder, _ = written
    file = folder / "per_frame.csv"
    data = file.read_bytes()
    for cut in range(1, len(data.splitlines(keepends=True)[-1])):
        file.write_bytes(data[:-cut])
        loaded = read_frames(folder)
        assert len(loaded.frame_index) == 11 and loaded.truncated == 1
    faces = folder / "faces.csv"
    faces.write_bytes(faces.read_bytes()[:-3])
    assert sorted(read_faces(folder)) == [0, 1, 2, 3, 4, 5, 8, 9, 10]


def changed(line, cell, value):
    def change(lines):
        cells = lines[line].split(",")
        cells[cell] = value
        lines[line] = ",".join(cells)

    return change


WRONG = {
    "a number twice": (changed(4, 0, "2"), "line 5.*must rise"),
    "time runs back": (changed(4, 1, "0.001"), "line 5.*must rise"),
    "no time": (changed(4, 1, "nan"), "line 5.*must rise"),
    "an unknown label": (changed(6, 2, "Joyful"), "line 7.*'Joyful'"),
    "an unknown prediction": (changed(6, 3, ""), "line 7"),
    "a probability missing": (changed(3, 7, ""), "line 4.*sum to 1"),
    "probabilities of 2": (changed(3, 7, "1.9"), "line 4.*sum to 1"),
    "a word for a number": (changed(3, 7, "high"), "line 4.*high"),
    "cells missing": (lambda lines: lines.__setitem__(5, "5,0.2,,Happy"), "line 6.*4 cells"),
    "too many cells": (lambda lines: lines.__setitem__(5, lines[5] + ",x"), "line 6.*15 cells"),
    "other columns": (lambda lines: lines.__setitem__(0, lines[0].replace("Angry", "Joy")), "not with the columns"),
    "a cell of 200,000 characters": (changed(3, 4, "1" * 200_000), "no CSV|line 4"),
    "no frame": (lambda lines: lines.__delitem__(slice(1, None)), "holds no frame"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_invalid_rows_are_refused_with_file_and_line(written, kind):
    folder, _ = written
    change, message = WRONG[kind]
    file = folder / "per_frame.csv"
    lines = file.read_text().splitlines()
    change(lines)
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=message) as error:
        read_frames(folder)
    assert "per_frame.csv" in str(error.value)


def test_missing_and_existing_sessions_are_reported(tmp_path, written):
    with pytest.raises(DataError, match="holds no live session"):
        read_session(tmp_path / "nothing")
    (tmp_path / "session.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="cannot be read"):
        read_session(tmp_path)
    (tmp_path / "session.json").write_text("[1]")
    with pytest.raises(DataError, match="no JSON object"):
        read_session(tmp_path)
    with pytest.raises(DataError, match="holds a session already"):
        check_unused(written[0])
    with pytest.raises(FileExistsError, match="per_frame.csv"):
        SessionLog(written[0], HEAD, "now", SmoothingParams(), True)


@pytest.mark.parametrize(
    "forged",
    [
        {"source": "clip.avi"}, {"source": {"fingerprint": [1]}}, {"source": {"fps": float("inf")}}, {"size": 5},
        {"size": [31]}, {"size": [0, 24]}, {"model_facts": 5}, {"model_facts": {"abstention": [0.5]}},
        {"model_facts": {"abstention": "none"}}, {"smoothing": 5}, {"smoothing": {"ema_alpha": 7}}, {"fps": "25"},
        {"fps": float("nan")}, {"fps": 10**400}, {"latency_ms": 5}, {"latency_ms": {"p50": "fast"}}, {"dropped": [1]},
        {"replay_of": 5}, {"replay_of": "s" * 5000}, {"replay_of": "a\0"}, {"replay_of": "../s"},
    ],
    ids=repr,
)  # fmt: skip
def test_a_forged_session_json_is_refused(tmp_path, forged):
    (tmp_path / "session.json").write_text(json.dumps(forged))
    with pytest.raises(DataError, match=f"session.json cannot be read .{next(iter(forged))}.*record the session again"):
        read_session(tmp_path)


@pytest.mark.parametrize("value", ["nan", "inf", "1e999"])
@pytest.mark.parametrize("column", [1, 5, 6])
def test_a_face_that_is_not_finite_is_refused(written, column, value):
    folder, _ = written
    lines = (folder / "faces.csv").read_text().splitlines()
    cells = lines[2].split(",")
    cells[column] = value
    (folder / "faces.csv").write_text("\n".join([*lines[:2], ",".join(cells), *lines[3:]]) + "\n")
    with pytest.raises(DataError, match="faces.csv: line 3 is not what a session writes .a value is not finite"):
        read_faces(folder)


def test_rows_reach_the_disk_while_the_session_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("fer_lib.live.log.FLUSH_SECONDS", 0.0)
    log = SessionLog(tmp_path, HEAD, "now", SmoothingParams(), True)
    for i in range(3):
        log.add(frame(i, manual=3))
        assert len(read_frames(tmp_path).frame_index) == i + 1, "before close, as after a kill"
        assert [row[2] for row in rows(tmp_path / "events.csv")[1:]] == [str(i)], "the open event"
    log.close()
    assert session_files.FACES in {file.name for file in tmp_path.iterdir()}
