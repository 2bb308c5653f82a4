"""The smoothing grid: each row equals the session's score under that setting."""

import numpy as np
import pytest
import session_factory

from fer_lib.errors import DataError
from fer_lib.live import smoothing_grid
from fer_lib.live.plots import tradeoff
from fer_lib.live.score import score
from fer_lib.live.session_files import UNKNOWN, read_frames
from fer_lib.live.smoothing import Smoother
from fer_lib.params import SmoothingParams, StudyParams

GRID = StudyParams(ema_alpha=[0.0, 0.7, 0.95], hysteresis_delta=[0.0, 0.08], vote_window=[1, 15], vote_min_count=[1, 8])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    frames = session_factory.simulate(seed=5, seconds=40)
    return session_factory.write_session(tmp_path_factory.mktemp("s") / "acted", *frames)


@pytest.fixture(scope="module")
def table(folder):
    return smoothing_grid.score_grid(folder, GRID)


def test_each_grid_row_equals_the_score_under_that_setting(folder, table):
    assert len(table) == 24 and len(table.drop_duplicates(list(SmoothingParams.model_fields))) == 24
    probs = read_frames(folder).probs
    for row in table.to_dict("records"):
        p = SmoothingParams(**{name: row[name] for name in SmoothingParams.model_fields})
        alone = score(folder, session_factory.smooth(probs, p))["smoothed"]
        for key in ("accuracy", "coverage", "flips", "flips_per_min"):
            assert row[key] == pytest.approx(alone[key]), (p, key)


def test_the_sessions_abstention_applies_to_every_setting(tmp_path):
    least = [0.45, 0.5, 0.55, 0.6, 0.5, 0.4, 0.65]
    p = SmoothingParams(ema_alpha=0.7, hysteresis_delta=0.08, vote_window=15, vote_min_count=8)
    info = {"smoothing": p.model_dump(), "model_facts": {"abstention": least}}
    acted = session_factory.simulate(seed=5, seconds=40)
    folder = session_factory.write_session(tmp_path / "s", *acted, info=info)
    smoother, shown = Smoother(p), []
    for row in acted[1]:
        smoothed = smoother.step(None if np.isnan(row).any() else row)
        unsure = smoothed.stable and smoothed.probs[smoothed.label] < least[smoothed.label]
        shown.append(UNKNOWN if unsure else smoothed.label)
    assert 0.1 < np.mean(np.array(shown) == UNKNOWN) < 0.9
    row, alone = (
        smoothing_grid.find_row(smoothing_grid.score_grid(folder, GRID), p),
        score(folder, np.array(shown))["smoothed"],
    )
    for key in ("accuracy", "coverage", "flips", "flips_per_min"):
        assert row[key] == pytest.approx(alone[key]), key


def test_the_front_contains_exactly_the_undominated_settings(table):
    def dominated(row):
        worse = (table["accuracy"] >= row["accuracy"]) & (table["flips_per_min"] <= row["flips_per_min"])
        strictly = (table["accuracy"] > row["accuracy"]) | (table["flips_per_min"] < row["flips_per_min"])
        return (worse & strictly).any()

    for _, row in table.iterrows():
        equal = table[(table["accuracy"] == row["accuracy"]) & (table["flips_per_min"] == row["flips_per_min"])]
        assert equal["on_front"].sum() == (0 if dominated(row) else 1)
    assert 1 < table["on_front"].sum() < len(table)


def test_a_suggestion_is_more_accurate_without_more_flips(table):
    raw = SmoothingParams(ema_alpha=0.0, hysteresis_delta=0.0, vote_window=1, vote_min_count=1)
    here, better = smoothing_grid.find_row(table, raw), smoothing_grid.suggest_setting(table, raw)
    assert better["accuracy"] > here["accuracy"] and better["flips_per_min"] <= here["flips_per_min"]
    assert better["accuracy"] == table["accuracy"].max()
    best = SmoothingParams(**{k: better[k].item() for k in ("ema_alpha", "hysteresis_delta")},
                           **{k: int(better[k]) for k in ("vote_window", "vote_min_count")})  # fmt: skip
    assert smoothing_grid.suggest_setting(table, best) is None
    assert smoothing_grid.find_row(table, SmoothingParams(ema_alpha=0.11)) is None
    assert smoothing_grid.suggest_setting(table, SmoothingParams(ema_alpha=0.11)) is None
    figure = tradeoff(table, here, better, "a study")
    assert "vote 1 of 1" in figure.axes[0].get_legend().get_texts()[1].get_text()


def test_sessions_and_grids_that_cannot_be_scored_are_refused(tmp_path):
    none = session_factory.write_session(tmp_path / "none", np.full(40, -1), np.full((40, 7), 1 / 7))
    with pytest.raises(DataError, match="no manual segment that counts, or no face: run fer score"):
        smoothing_grid.score_grid(none, GRID)
    with pytest.raises(ValueError, match="hysteresis_delta"):
        StudyParams(hysteresis_delta=[0.6])
