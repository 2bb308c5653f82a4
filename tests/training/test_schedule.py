"""Learning rate and margin schedules, and their edge cases."""

import math

import pytest

from fer_lib.training.loop import learning_rate
from fer_lib.training.teacher import as_epochs, margin


def rates(total, warmup, peak=1e-3, floor=1e-5):
    return [learning_rate(s, total_steps=total, warmup_steps=warmup, peak=peak, floor=floor) for s in range(total)]


def test_warm_up_is_linear_and_ends_at_the_peak():
    lr = rates(100, 10)
    assert lr[:10] == pytest.approx([1e-4 * (s + 1) for s in range(10)])
    assert lr[9] == lr[10] == 1e-3


def test_cosine_falls_from_the_peak_to_the_floor():
    lr = rates(111, 10)
    assert lr[-1] == pytest.approx(1e-5, abs=1e-18)
    assert lr[60] == pytest.approx((1e-3 + 1e-5) / 2)
    assert all(a > b for a, b in zip(lr[10:], lr[11:], strict=False))
    quarter = 1e-5 + (1e-3 - 1e-5) * 0.5 * (1 + math.cos(math.pi / 4))
    assert lr[35] == pytest.approx(quarter)


@pytest.mark.parametrize(("total", "warmup"), [(1, 0), (1, 1), (1, 5), (2, 1), (5, 50), (3, 3)])
def test_rates_of_short_runs_are_positive_and_at_most_the_peak(total, warmup):
    assert all(0 < rate <= 1e-3 for rate in rates(total, warmup))


def test_rate_after_the_last_step_is_the_floor():
    assert learning_rate(500, total_steps=100, warmup_steps=10, peak=1e-3, floor=1e-5) == pytest.approx(1e-5)


def test_margin_is_zero_then_linear_then_constant():
    margins = {epoch: margin(epoch, start=5, end=15, top=0.35) for epoch in (0, 4.999, 5, 10, 14, 15, 60)}
    assert margins[0] == margins[4.999] == margins[5] == 0.0
    assert margins[10] == pytest.approx(0.175) and margins[14] == pytest.approx(0.315)
    assert margins[15] == margins[60] == 0.35


def test_margin_without_ramp_or_with_top_zero():
    assert margin(3.0, start=3, end=3, top=0.2) == 0.2 and margin(2.9, start=3, end=3, top=0.2) == 0.0
    assert margin(0.0, start=0, end=0, top=0.2) == 0.2
    assert margin(9.0, start=0, end=1, top=0.0) == 0.0


@pytest.mark.parametrize(("value", "epochs"), [(0.0, 0.0), (0.25, 15.0), (0.999, 59.94), (1.0, 1.0), (5, 5), (15, 15)])
def test_lengths_below_one_are_fractions_of_the_run(value, epochs):
    assert as_epochs(value, 60) == pytest.approx(epochs)
