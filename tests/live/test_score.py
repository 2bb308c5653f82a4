"""Protocol-Lite against a plain Python count, and the errors of sessions that cannot be scored."""

import json
import shutil

import numpy as np
import pytest
import session_factory
from sklearn.metrics import f1_score

from fer_lib.cli import main as cli
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.live.score import CORRECTIONS, correct, flips, read_truth, score, segments
from fer_lib.live.session_files import read_frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    info = {"smoothing": {"ema_alpha": 0.7, "hysteresis_delta": 0.08, "vote_window": 15, "vote_min_count": 8},
             "fps": 61.5, "latency_ms": {"p50": 9.0, "p95": 14.0}, "dropped": 3}  # fmt: skip
    manual, probs = session_factory.simulate()
    return session_factory.write_session(tmp_path_factory.mktemp("s") / "session", manual, probs, info=info)


def scored_frames(time, truth):
    """The scored frames, in plain Python from the protocol's definition."""
    positions, i = [], 0
    while i < len(truth):
        j = i
        while j + 1 < len(truth) and truth[j + 1] == truth[i]:
            j += 1
        if truth[i] >= 0 and time[j] - time[i] >= 0.6 - 1e-6:
            positions += [k for k in range(i, j + 1) if time[i] + 0.25 - 1e-6 <= time[k] <= time[j] - 0.25 + 1e-6]
        i = j + 1
    return positions


def test_the_score_equals_a_plain_python_count(folder):
    frames, result = read_frames(folder), score(folder)
    time, truth = frames.time_sec.tolist(), frames.manual.tolist()
    used = scored_frames(time, truth)
    assert 500 < result["n_used"] == len(used) < result["n_expected"] == sum(y >= 0 for y in truth)
    raw = [-1 if np.isnan(p).any() else max(range(7), key=p.tolist().__getitem__) for p in frames.probs]
    for name, labels in (("raw", raw), ("smoothed", frames.pred.tolist())):
        own, y = [labels[k] for k in used], [truth[k] for k in used]
        scores = result[name]
        assert scores["accuracy"] == pytest.approx(sum(a == b for a, b in zip(own, y, strict=True)) / len(y))
        assert scores["coverage"] == pytest.approx(sum(a >= 0 for a in own) / len(y)) and scores["coverage"] < 1
        f1 = f1_score(y, own, labels=range(7), average=None, zero_division=0)
        assert list(scores["per_class_f1"].values()) == pytest.approx(f1.tolist())
        present = sorted(set(y))
        assert scores["macro_f1"] == pytest.approx(f1.mean())
        assert scores["macro_f1_present"] == pytest.approx(f1[present].mean())
        assert [scores["support"][e] for e in EMOTIONS] == [y.count(k) for k in range(7)]
        confusion = [[sum((a if a >= 0 else 7) == c and b == r for a, b in zip(own, y, strict=True)) for c in range(8)]
                     for r in range(7)]  # fmt: skip
        assert scores["confusion"] == confusion
        changes, last, labelled_seconds = 0, None, 0.0
        for k, label in enumerate(labels):
            if label >= 0:
                changes += last is not None and last != label
                last = label
                labelled_seconds += time[k + 1] - time[k] if k + 1 < len(time) else time[k] - time[k - 1]
        assert scores["flips"] == changes and scores["flips_per_min"] == pytest.approx(
            changes / (labelled_seconds / 60)
        )
    assert result["smoothed"]["flips_per_min"] < result["raw"]["flips_per_min"] / 10
    assert result["smoothed"]["accuracy"] > result["raw"]["accuracy"], "at the default settings, on faces that last"
    assert (result["fps"], result["dropped"], result["latency_ms"]["p95"]) == (61.5, 3, 14.0)
    json.dumps(result, allow_nan=False)


def make_runs(*parts):
    """Labels and times of ``(label, frames)`` at 25 frames a second."""
    truth = np.concatenate([np.full(n, label, np.int8) for label, n in parts])
    return truth, np.arange(len(truth)) / 25.0


@pytest.mark.parametrize(
    ("frames", "scored"),
    [
        (15, 0),  # 0.56 s
        (16, 2),  # 0.60 s, of which 0.25 to 0.35 s: frames 7 and 8
        (17, 3), (51, 37), (1, 0),
    ],
)  # fmt: skip
def test_segments_of_600_ms_count_without_250_ms_at_either_end(frames, scored):
    truth, time = make_runs((-1, 5), (3, frames), (-1, 4))
    [segment] = segments(truth, time)
    assert (segment.first, segment.last, segment.label) == (5, 4 + frames, 3) and len(segment.scored) == scored
    assert scored_frames(time.tolist(), truth.tolist()) == segment.scored.tolist()


def test_a_long_segment_may_have_no_scored_frame():
    truth, time = np.array([2, 2, 2, 2], np.int8), np.array([0.0, 0.1, 0.9, 1.0])
    [segment] = segments(truth, time)
    assert segment.seconds == 1.0 and len(segment.scored) == 0


def test_a_label_change_or_gap_starts_a_new_segment():
    result = segments(*make_runs((3, 30), (4, 30), (-1, 1), (4, 30)))
    assert [(s.label, s.first, s.last) for s in result] == [(3, 0, 29), (4, 30, 59), (4, 61, 90)]


def test_flips_are_counted_over_labelled_frames():
    time = np.arange(6) * 10.0
    assert flips(np.array([3, -1, 3, 4, -1, 3]), time) == {
        "flips": 2, "labelled_minutes": pytest.approx(40 / 60), "flips_per_min": pytest.approx(3.0)
    }  # fmt: skip
    assert flips(np.full(6, -1), time)["flips_per_min"] == 0 and flips(np.array([3]), np.zeros(1))["flips"] == 0


def test_corrections_change_the_truth_and_invalid_ones_are_refused(folder, tmp_path):
    own = shutil.copytree(folder, tmp_path / "own")
    frames, before = read_frames(own), score(own)
    first, last = next((s.first, s.last) for s in segments(frames.manual, frames.time_sec))
    label = EMOTIONS[(frames.manual[first] + 1) % 7]
    correct(own, [(first, last, label)])
    after, truth = score(own), read_truth(own, frames)
    assert (
        set(truth[first : last + 1]) == {EMOTIONS.index(label)}
        and (truth[last + 1 :] == frames.manual[last + 1 :]).all()
    )
    assert after["evalset_id"] != before["evalset_id"] and after["corrected"] and not before["corrected"]
    before_errors = (own / CORRECTIONS).read_text()
    for wrong, message in (
        ((0, 9, "Joy"), "line 3.*Joy"),
        ((90_000, 90_001, "Sad"), "frames 90000 to 90001 are not in"),
    ):
        with pytest.raises(DataError, match=message):
            correct(own, [wrong])
    assert (own / CORRECTIONS).read_text() == before_errors
    correct(own, [(first, last, "")])
    assert (read_truth(own, frames)[first : last + 1] == -1).all(), "a later line wins, an empty label takes it away"
    (own / CORRECTIONS).write_text("frame,label\n1,Sad\n")
    with pytest.raises(DataError, match="the first line must be start_frame,end_frame,label"):
        score(own)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"start_frame,end_frame,label\n0,1,Sad\xff\n", "no UTF-8 text"),
        (b"start_frame,end_frame,label\n0,1," + b"x" * 200_000 + b"\n", "no CSV"),
        (b"", "the first line must be"),
    ],
)
def test_corrections_of_another_kind_are_a_message(folder, tmp_path, content, message):
    own = shutil.copytree(folder, tmp_path / "own")
    (own / CORRECTIONS).write_bytes(content)
    for call in (lambda: score(own), lambda: correct(own, [(0, 1, "Sad")])):
        with pytest.raises(DataError, match=f"{CORRECTIONS}.*{message}"):
            call()
    assert (own / CORRECTIONS).read_bytes() == content


def test_a_session_and_its_replays_share_an_evalset_id(tmp_path):
    manual, probs = np.full(40, 3), np.full((40, 7), 1 / 7)
    smoothing = {"smoothing": {}}

    def evalset(name, source=None, **changes):
        info = smoothing | {"source": source}
        folder = session_factory.write_session(tmp_path / name, manual, probs, info=info, **changes)
        return score(folder)["evalset_id"]

    ours = evalset("ours", {"path": "/a/clip.avi", "fingerprint": "1-ab"})
    assert evalset("replayed", {"path": "/a/clip.avi", "fingerprint": "1-ab"}) == ours
    assert evalset("another file", {"path": "/a/clip.avi", "fingerprint": "1-cd"}) != ours
    camera = evalset("camera", {"is_camera": True}, time=np.arange(40) / 25 + 1e-5)
    assert len({ours, camera, evalset("later", {"is_camera": True}, time=np.arange(40) / 25 + 2e-5)}) == 3


def test_sessions_that_cannot_be_scored_give_the_reason(tmp_path):
    probs = np.full((40, 7), 1 / 7)
    none = session_factory.write_session(tmp_path / "none", np.full(40, -1), probs)
    with pytest.raises(DataError, match="none of its 0 manual segments.*keys 1 to 7"):
        score(none)
    short = session_factory.write_session(tmp_path / "short", np.repeat([1, -1, 2, -1], 10), probs)
    with pytest.raises(DataError, match="none of its 2 manual segments counts, the longest lasts 0.36 s"):
        score(short)
    with pytest.raises(DataError, match="holds no live session|per_frame.csv"):
        score(tmp_path)


def test_a_session_without_a_face_scores_zero(tmp_path):
    empty = session_factory.write_session(tmp_path / "empty", np.full(40, 3), np.full((40, 7), np.nan))
    result = score(empty)
    assert result["raw"]["accuracy"] == result["smoothed"]["accuracy"] == result["face_share"] == 0.0
    assert result["raw"]["coverage"] == 0 and result["raw"]["macro_f1_present"] == 0


def test_the_score_command_prints_a_table_and_writes_json_and_plots(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as ended:
        cli.main(["score", str(folder), "--out", str(tmp_path / "out"), "--study"])
    output = capsys.readouterr().out
    assert ended.value.code == 0 and "61.5 frames/s; latency p50 9.0 ms, p95 14.0 ms" in output
    assert "3 frames were dropped" in output and "study: " in output and "macro-F1 over those present" in output
    assert {f.name for f in (tmp_path / "out").iterdir()} == {
        "score.json", "timeline.png", "per_class.png", "study.csv", "study.png"
    }  # fmt: skip
    assert json.loads((tmp_path / "out" / "score.json").read_text()) == json.loads(json.dumps(score(folder)))


def test_the_score_command_names_a_missing_folder(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["score", str(tmp_path / "nowhere")])
    assert ended.value.code == 1 and "nowhere" in capsys.readouterr().err
