"""Smoothing: each rule in plain Python against the stepwise and the batch implementation."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from session_factory import smooth

from fer_lib.live.smoothing import UNSTABLE, Smoother
from fer_lib.params import SmoothingParams

ONE = np.eye(7)


def by_hand(rows, a, delta, window, least):
    """The smoothing rules in plain Python."""
    e, label, last, shown = None, None, [], []
    for p in rows:
        if p is None:
            shown.append(-1)
            continue
        e = list(p) if e is None else [a * x + (1.0 - a) * y for x, y in zip(e, p, strict=True)]
        top = max(range(7), key=lambda k: (e[k], -k))
        if label is None or e[top] >= e[label] + delta:
            label = top
        last = (last + [label])[-window:]
        counts = Counter(last)
        most = max(counts.values())
        best = label if counts[label] == most else min(k for k in counts if counts[k] == most)
        shown.append(best if most >= least else -1)
    return shown


def session(seed, length, faces=0.9, calm=0.8):
    rng = np.random.default_rng(seed)
    centre = np.repeat(rng.integers(0, 7, length // 5 + 1), 5)[:length]
    probs = rng.dirichlet(np.full(7, 0.6), length)
    probs = (1 - calm) * probs + calm * (0.5 * ONE[centre] + 0.5 / 7)
    probs /= probs.sum(axis=1, keepdims=True)
    probs[rng.random(length) > faces] = np.nan
    return probs


def stepwise(probs, p):
    smoother = Smoother(p)
    return [smoother.step(None if np.isnan(row).any() else row).label for row in probs]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000), length=st.integers(1, 160), faces=st.sampled_from([0.0, 0.5, 1.0]),
    a=st.sampled_from([0.0, 0.3, 0.7, 0.99]), delta=st.sampled_from([0.0, 0.02, 0.08, 0.5]),
    window=st.sampled_from([1, 2, 15, 101]), least=st.sampled_from([1, 2, 8, 200]),
)  # fmt: skip
def test_labels_follow_the_rules(seed, length, faces, a, delta, window, least):
    probs = session(seed, length, faces, calm=0.3)
    p = SmoothingParams(ema_alpha=a, hysteresis_delta=delta, vote_window=window, vote_min_count=least)
    expected = by_hand([None if np.isnan(r).any() else r.tolist() for r in probs], a, delta, window, least)
    assert stepwise(probs, p) == expected
    whole = smooth(probs, p)
    assert whole.dtype == np.int8 and whole.tolist() == expected


def test_batch_and_stepwise_smoothing_agree_on_a_long_session():
    probs = session(3, 4000)
    for p in (SmoothingParams(), SmoothingParams(ema_alpha=0.9, hysteresis_delta=0.0, vote_window=31)):
        labels = smooth(probs, p)
        assert labels.tolist() == stepwise(probs, p) and len(set(labels.tolist())) == 8


def test_a_label_is_stable_after_eight_frames_and_survives_a_lost_face():
    smoother = Smoother(SmoothingParams())
    steps = [smoother.step(ONE[3]) for _ in range(8)]
    assert [s.stable for s in steps] == [False] * 7 + [True] and [s.votes for s in steps] == list(range(1, 9))
    assert steps[-1].label == 3 and steps[-2].label == UNSTABLE
    lost = smoother.step(None)
    assert (lost.probs, lost.label, lost.stable) == (None, UNSTABLE, False)
    assert smoother.step(ONE[3]).votes == 9, "what was before the face was lost still counts"


def test_the_margin_must_be_reached_to_change_the_label():
    p = SmoothingParams(ema_alpha=0.0, hysteresis_delta=0.25, vote_window=1, vote_min_count=1)
    rows = np.zeros((3, 7))
    rows[0, 0] = 1.0
    rows[1, 0], rows[1, 1] = 0.375, 0.625  # ahead by exactly 0.25
    rows[2, 0], rows[2, 1] = 0.624, 0.376  # ahead by 0.248
    assert smooth(rows, p).tolist() == stepwise(rows, p) == [0, 1, 1]


def test_smoothing_without_a_face_or_a_frame():
    assert smooth(np.full((4, 7), np.nan), SmoothingParams()).tolist() == [-1] * 4
    assert smooth(np.zeros((0, 7)), SmoothingParams()).shape == (0,)


def test_new_parameters_apply_at_once():
    smoother = Smoother(SmoothingParams(ema_alpha=0.0, hysteresis_delta=0.0))
    for k in [0] * 9 + [1] * 2:
        shown = smoother.step(ONE[k])
    assert shown.label == 0 and shown.votes == 9
    smoother.p = SmoothingParams(ema_alpha=0.0, hysteresis_delta=0.0, vote_window=3, vote_min_count=2)
    shown = smoother.step(ONE[1])
    assert (shown.label, shown.votes) == (1, 3), "of the window the newest labels stay"


@pytest.mark.parametrize("wrong", [{"ema_alpha": 1.0}, {"hysteresis_delta": -0.1}, {"vote_window": 0}])
def test_parameters_outside_their_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SmoothingParams(**wrong)
