"""Learning rate and margin at their edges."""

import math

import pytest

from fer_lib.training.schedule import as_epochs, learning_rate, margin


def rates(total, warmup, peak=1e-3, floor=1e-5):
    return [learning_rate(s, total_steps=total, warmup_steps=warmup, peak=peak, floor=floor) for s in range(total)]


def test_warm_up_is_linear_and_ends_on_the_peak():
    found = rates(100, 10)
    assert found[:10] == pytest.approx([1e-4 * (s + 1) for s in range(10)])
    assert found[9] == found[10] == 1e-3


def test_the_cosine_ends_on_the_floor_and_halves_in_the_middle():
    found = rates(111, 10)
    assert found[-1] == pytest.approx(1e-5, abs=1e-18)
    assert found[60] == pytest.approx((1e-3 + 1e-5) / 2)
    assert all(a > b for a, b in zip(found[10:], found[11:], strict=False))
    quarter = 1e-5 + (1e-3 - 1e-5) * 0.5 * (1 + math.cos(math.pi / 4))
    assert found[35] == pytest.approx(quarter)


@pytest.mark.parametrize(("total", "warmup"), [(1, 0), (1, 1), (1, 5), (2, 1), (5, 50), (3, 3)])
def test_short_runs_stay_between_nothing_and_the_peak(total, warmup):
    assert all(0 < rate <= 1e-3 for rate in rates(total, warmup))


def test_a_step_beyond_the_end_stays_on_the_floor():
    assert learning_rate(500, total_steps=100, warmup_steps=10, peak=1e-3, floor=1e-5) == pytest.approx(1e-5)


def test_the_margin_waits_rises_and_stays():
    at = lambda epoch: margin(epoch, start=5, end=15, top=0.35)  # noqa: E731
    assert [at(e) for e in (0, 4.999, 5)] == [0.0, 0.0, 0.0]
    assert at(10) == pytest.approx(0.175) and at(14) == pytest.approx(0.315)
    assert at(15) == at(60) == 0.35


def test_a_margin_without_ramp_or_height():
    assert margin(3.0, start=3, end=3, top=0.2) == 0.2 and margin(2.9, start=3, end=3, top=0.2) == 0.0
    assert margin(0.0, start=0, end=0, top=0.2) == 0.2
    assert margin(9.0, start=0, end=1, top=0.0) == 0.0


@pytest.mark.parametrize(("value", "epochs"), [(0.0, 0.0), (0.25, 15.0), (0.999, 59.94), (1.0, 1.0), (5, 5), (15, 15)])
def test_lengths_below_one_are_fractions_of_the_run(value, epochs):
    assert as_epochs(value, 60) == pytest.approx(epochs)
