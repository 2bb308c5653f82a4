"""Tables and sentences contain the score's values."""

import numpy as np
import pytest
import session_factory

from fer_lib.emotions import EMOTIONS
from fer_lib.live import smoothing_grid
from fer_lib.live.score import score
from fer_lib.live.score_view import class_table, confusion_table, grid_text, score_table, score_text, speed_text
from fer_lib.params import SmoothingParams, StudyParams


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    manual, probs = session_factory.simulate(seed=2, seconds=30)
    manual[manual == 1] = -1  # no Disgust
    return session_factory.write_session(tmp_path_factory.mktemp("s") / "acted", manual, probs)


def test_tables_contain_the_score(folder):
    result = score(folder)
    table = score_table(result)
    assert table.loc["accuracy", "raw"] == result["raw"]["accuracy"]
    assert table.loc["flips per minute", "smoothed"] == result["smoothed"]["flips_per_min"] and len(table) == 5
    classes = class_table(result)
    assert "Disgust" not in classes.index and classes["frames"].sum() == result["n_used"]
    assert classes.loc["Happy", "F1 smoothed"] == result["smoothed"]["per_class_f1"]["Happy"]
    assert classes.loc["Happy", "recall raw"] == result["raw"]["per_class_recall"]["Happy"]
    confusion = confusion_table(result)
    assert confusion.to_numpy().sum() == result["n_used"] and list(confusion.columns) == [*EMOTIONS, "none"]
    assert f"{result['smoothed']['accuracy']:.1%} of {result['n_used']:,} frames" in score_text(result)


def test_the_speed_line(folder):
    result = score(folder)
    assert speed_text(result) == "no frame rate was recorded"
    full = result | {"fps": 30.06, "latency_ms": {"p50": 8.0, "p95": 11.25}, "dropped": 4, "corrected": True,
                     "truncated_lines": 1, "segments": 9, "segments_scored": 7}  # fmt: skip
    assert speed_text(full) == (
        "30.1 frames/s; latency p50 8.0 ms, p95 11.2 ms; 2 of 9 segments are too short to count; "
        "4 frames were dropped; corrections.csv was applied; the last, incomplete line was left out"
    )


def test_the_grid_sentence(folder):
    grid = StudyParams(ema_alpha=[0.0, 0.7], hysteresis_delta=[0.0], vote_window=[1, 15], vote_min_count=[1, 8])
    table = smoothing_grid.score_grid(folder, grid)
    raw = SmoothingParams(ema_alpha=0.0, hysteresis_delta=0.0, vote_window=1, vote_min_count=1)
    here, better = smoothing_grid.find_row(table, raw), smoothing_grid.suggest_setting(table, raw)
    sentence = grid_text(table, here, better)
    assert sentence.startswith("ema_alpha ") and f"{better['accuracy']:.1%} of the frames" in sentence
    assert "check it on another session" in sentence
    assert grid_text(table, here, None) == "none of 8 settings is more accurate without more flips"
    assert grid_text(table, None, None) == "8 settings; the session's own is not among them"
    assert np.isfinite(table["accuracy"]).all()
