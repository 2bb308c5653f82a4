"""Temperature fits against roots derived by hand, a fine grid, finite differences and their own optimality."""

import numpy as np
import pytest
from pydantic import ValidationError

from fer_lib.calibration import metrics
from fer_lib.calibration.temperature import Temperature, fit, scaled_nll
from fer_lib.errors import DataError, FerError


def rows(n=400, k=7, scale=4.0, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), y] += 1.5
    return logits * scale, y


@pytest.mark.parametrize(("lead", "right"), [(3.0, 70), (0.05, 99), (80.0, 51), (1e4, 90)])
def test_the_root_derived_by_hand(lead, right):
    """Logits (lead, 0), right in a share r: the minimum has sigmoid(lead / T) = r, so T = lead / log(r / (1 - r))."""
    logits, y = np.tile([lead, 0.0], (100, 1)), np.r_[np.zeros(right, int), np.ones(100 - right, int)]
    expected = lead / np.log(right / (100 - right))
    found = fit(logits, y, bounds=(1e-3, 1e5))
    assert found.global_temperature == pytest.approx(expected, rel=1e-10)
    assert found.flagged == (not 0.2 <= expected <= 20)
    assert found.argmax_changed == 0.0
    assert found.n == 100


@pytest.mark.parametrize("k", range(2, 8))
def test_nothing_on_a_fine_grid_is_better(k):
    logits, y = rows(k=k, seed=k)
    found = fit(logits, y).global_temperature
    grid = np.geomspace(1e-3, 1e3, 4001)
    values = [scaled_nll(np.full(k, 1 / t), logits, y)[0] for t in grid]
    best = int(np.argmin(values))
    assert grid[best - 1] < found < grid[best + 1]
    assert metrics.nll(logits / found, y) <= values[best] + 1e-15


def test_a_temperature_scales_with_its_logits():
    logits, y = rows()
    base = fit(logits, y).global_temperature
    assert fit(logits * 7.5, y).global_temperature == pytest.approx(7.5 * base, rel=1e-10)
    assert fit(logits + 100.0, y).global_temperature == pytest.approx(base, rel=1e-9)


def test_a_known_temperature_is_found_again():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(60_000, 7)) * 2
    y = (logits + rng.gumbel(size=logits.shape)).argmax(1)  # y ~ softmax(logits)
    assert fit(logits * 3.0, y).global_temperature == pytest.approx(3.0, rel=0.02)
    stretch = np.array([1.0, 2.0, 3.0, 0.5, 1.5, 4.0, 2.5])
    assert fit(logits * stretch, y, mode="vector").temperature_vector == pytest.approx(stretch, rel=0.06)


def test_the_gradient_is_the_finite_difference():
    logits, y = rows(n=50, scale=2.0)
    at = np.linspace(0.4, 1.6, 7)
    _, gradient = scaled_nll(at, logits, y)
    step = 1e-6
    for k in range(7):
        shift = step * np.eye(7)[k]
        numeric = (scaled_nll(at + shift, logits, y)[0] - scaled_nll(at - shift, logits, y)[0]) / (2 * step)
        assert gradient[k] == pytest.approx(numeric, abs=1e-8)


def test_two_temperatures_derived_by_hand():
    """Rows (a, 0) depend on the first temperature only, rows (0, c) on the second: two separate roots."""
    logits = np.r_[np.tile([4.0, 0.0], (100, 1)), np.tile([0.0, 9.0], (100, 1))]
    y = np.r_[np.zeros(80, int), np.ones(20, int), np.ones(60, int), np.zeros(40, int)]
    found = fit(logits, y, mode="vector")
    assert found.temperature_vector == pytest.approx([4 / np.log(80 / 20), 9 / np.log(60 / 40)], rel=1e-6)
    assert found.flagged  # 9 / log(1.5) = 22.2


@pytest.mark.parametrize("scale", [1e-2, 4.0, 1e2])
def test_the_vector_is_a_minimum_and_no_worse_than_one_temperature(scale):
    logits, y = rows(scale=scale)
    found = fit(logits, y, mode="vector")
    inverse = 1 / np.array(found.temperature_vector)
    value, gradient = scaled_nll(inverse, logits, y)
    assert np.abs(gradient * inverse).max() < 1e-6  # convex, so this is the minimum
    assert value <= metrics.nll(fit(logits, y).apply(logits), y) + 1e-12
    assert found.argmax_changed == pytest.approx((logits.argmax(1) != found.apply(logits).argmax(1)).mean())
    assert found.argmax_changed > 0


@pytest.mark.parametrize("right", [True, False])
def test_a_bound_is_an_error_unless_allowed(right):
    logits, y = rows(n=60)
    y = logits.argmax(1) if right else logits.argmin(1)
    with pytest.raises(FerError, match=r"val/temperature \(60 rows\).*bound"):
        fit(logits, y)
    found = fit(logits, y, allow_bound=True)
    assert found.global_temperature == pytest.approx(1e-3 if right else 1e3)
    assert found.flagged
    assert "bound" in found.note


def test_the_vector_names_the_class_at_its_bound():
    logits, y = rows(n=300)
    y[y == 1] = 0  # Disgust is absent: its logits are best ignored
    logits[:, 1] = -np.abs(logits[:, 1])
    with pytest.raises(FerError, match="Disgust"):
        fit(logits, y, mode="vector")
    assert "Disgust" in fit(logits, y, mode="vector", allow_bound=True).note


def test_apply():
    logits = np.array([[1.0, 2.0], [3.0, -4.0]], dtype=np.float32)
    same = Temperature(mode="none").apply(logits)
    np.testing.assert_array_equal(same, logits)
    assert same.dtype == np.float64
    assert not np.shares_memory(same, logits)
    np.testing.assert_array_equal(Temperature(mode="fixed", global_temperature=2.0).apply(logits), logits / 2)
    vector = Temperature(mode="vector", temperature_vector=[1.0, 4.0])
    np.testing.assert_array_equal(vector.apply(logits), [[1, 0.5], [3, -1]])
    with pytest.raises(FerError, match="3 classes of logits, 2 temperatures"):
        vector.apply(np.zeros((1, 3)))


def test_a_temperature_of_another_view_is_refused():
    logits, y = rows(n=50)
    single, flip = fit(logits, y), fit(logits, y, mode="vector", view="flip", allow_bound=True)
    assert (single.view, flip.view) == ("none", "flip")
    assert Temperature.model_validate_json(flip.model_dump_json()) == flip, "the record names the view"
    np.testing.assert_array_equal(single.apply(logits), single.apply(logits, "none"))
    np.testing.assert_array_equal(flip.apply(logits, "flip"), logits / np.array(flip.temperature_vector))
    with pytest.raises(
        DataError, match=r"\(50 rows\) under the single view and the logits are of the flip average: fit a temperature"
    ):
        single.apply(logits, "flip")
    with pytest.raises(DataError, match="under the flip average and the logits are of the single view"):
        flip.apply(logits)
    older = {"mode": "global", "global_temperature": 2.0, "fitted_on": "val/temperature", "n": 9}  # names no view
    for any_view in (older, {"mode": "fixed", "global_temperature": 2.0}):
        for view in ("none", "flip"):
            np.testing.assert_array_equal(Temperature(**any_view).apply(logits, view), logits / 2)


def test_a_temperature_goes_through_json_and_is_frozen():
    logits, y = rows()
    for mode in ("global", "vector"):
        found = fit(logits, y, mode=mode, fitted_on="val/temperature of X")
        assert Temperature.model_validate_json(found.model_dump_json()) == found
        assert found.fitted_on == "val/temperature of X"
    with pytest.raises(ValidationError):
        found.n = 3


@pytest.mark.parametrize(
    "values",
    [
        {"mode": "global"},
        {"mode": "none", "global_temperature": 1.0},
        {"mode": "fixed", "global_temperature": 0.0},
        {"mode": "fixed", "global_temperature": float("nan")},
        {"mode": "vector", "global_temperature": 1.0},
        {"mode": "vector", "temperature_vector": [1.0, -1.0]},
        {"mode": "warm"},
    ],
)
def test_a_temperature_that_contradicts_itself_is_refused(values):
    with pytest.raises(ValidationError):
        Temperature(**values)


def test_bad_fits_are_refused():
    logits, y = rows(n=10)
    with pytest.raises(FerError, match="nothing to fit"):
        fit(logits, y, mode="fixed")
    with pytest.raises(FerError, match="bounds"):
        fit(logits, y, bounds=(2.0, 1.0))
    with pytest.raises(FerError, match="no rows"):
        fit(logits[:0], y[:0])
    logits[4, 2] = np.nan
    with pytest.raises(FerError, match="row 4"):
        fit(logits, y)
