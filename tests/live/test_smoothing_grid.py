"""The smoothing study: each row is what a session scored by itself under that setting would say."""

import drawn_session
import numpy as np
import pytest

from fer_lib.errors import DataError
from fer_lib.live import smoothing_grid
from fer_lib.live.plots import trade
from fer_lib.live.score import score
from fer_lib.live.session_files import UNKNOWN, read_frames
from fer_lib.live.smoothing import Smoother, smooth
from fer_lib.params import SmoothingParams, StudyParams

GRID = StudyParams(ema_alpha=[0.0, 0.7, 0.95], hysteresis_delta=[0.0, 0.08], vote_window=[1, 15], vote_min_count=[1, 8])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return drawn_session.write(tmp_path_factory.mktemp("s") / "acted", *drawn_session.acted(seed=5, seconds=40))


@pytest.fixture(scope="module")
def table(folder):
    return smoothing_grid.study(folder, GRID)


def test_each_row_is_what_the_score_says_under_that_setting(folder, table):
    assert len(table) == 24 and len(table.drop_duplicates(list(SmoothingParams.model_fields))) == 24
    probs = read_frames(folder).probs
    for row in table.to_dict("records"):
        p = SmoothingParams(**{name: row[name] for name in SmoothingParams.model_fields})
        alone = score(folder, smooth(probs, p))["smoothed"]
        for key in ("accuracy", "coverage", "flips", "flips_per_min"):
            assert row[key] == pytest.approx(alone[key]), (p, key)


def test_a_session_that_abstained_does_so_under_every_setting(tmp_path):
    least = [0.45, 0.5, 0.55, 0.6, 0.5, 0.4, 0.65]
    p = SmoothingParams(ema_alpha=0.7, hysteresis_delta=0.08, vote_window=15, vote_min_count=8)
    about = {"smoothing": p.model_dump(), "model_facts": {"abstention": least}}
    acted = drawn_session.acted(seed=5, seconds=40)
    folder = drawn_session.write(tmp_path / "s", *acted, about=about)
    smoother, shown = Smoother(p), []
    for row in acted[1]:
        found = smoother.step(None if np.isnan(row).any() else row)
        unsure = found.stable and found.probs[found.label] < least[found.label]
        shown.append(UNKNOWN if unsure else found.label)
    assert 0.1 < np.mean(np.array(shown) == UNKNOWN) < 0.9
    row, alone = (
        smoothing_grid.row_of(smoothing_grid.study(folder, GRID), p),
        score(folder, np.array(shown))["smoothed"],
    )
    for key in ("accuracy", "coverage", "flips", "flips_per_min"):
        assert row[key] == pytest.approx(alone[key]), key


def test_the_front_holds_who_is_beaten_by_nobody(table):
    def beaten(row):
        worse = (table["accuracy"] >= row["accuracy"]) & (table["flips_per_min"] <= row["flips_per_min"])
        strictly = (table["accuracy"] > row["accuracy"]) | (table["flips_per_min"] < row["flips_per_min"])
        return (worse & strictly).any()

    for _, row in table.iterrows():
        twins = table[(table["accuracy"] == row["accuracy"]) & (table["flips_per_min"] == row["flips_per_min"])]
        assert twins["on_front"].sum() == (0 if beaten(row) else 1)
    assert 1 < table["on_front"].sum() < len(table)


def test_a_suggestion_is_as_calm_and_more_accurate(table):
    nervous = SmoothingParams(ema_alpha=0.0, hysteresis_delta=0.0, vote_window=1, vote_min_count=1)
    here, better = smoothing_grid.row_of(table, nervous), smoothing_grid.suggestion(table, nervous)
    assert better["accuracy"] > here["accuracy"] and better["flips_per_min"] <= here["flips_per_min"]
    assert better["accuracy"] == table["accuracy"].max()
    best = SmoothingParams(**{k: better[k].item() for k in ("ema_alpha", "hysteresis_delta")},
                           **{k: int(better[k]) for k in ("vote_window", "vote_min_count")})  # fmt: skip
    assert smoothing_grid.suggestion(table, best) is None
    assert smoothing_grid.row_of(table, SmoothingParams(ema_alpha=0.11)) is None
    assert smoothing_grid.suggestion(table, SmoothingParams(ema_alpha=0.11)) is None
    figure = trade(table, here, better, "a study")
    assert "vote 1 of 1" in figure.axes[0].get_legend().get_texts()[1].get_text()


def test_what_cannot_be_studied_is_told(tmp_path):
    none = drawn_session.write(tmp_path / "none", np.full(40, -1), np.full((40, 7), 1 / 7))
    with pytest.raises(DataError, match="no manual segment that counts, or no face: fer score"):
        smoothing_grid.study(none, GRID)
    with pytest.raises(ValueError, match="hysteresis_delta"):
        StudyParams(hysteresis_delta=[0.6])
