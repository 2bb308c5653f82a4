"""Energy and entropy by plain sums, and the share of new rows above a limit."""

import math

import numpy as np
import pytest
from scipy.stats import entropy

from fer_lib.calibration import uncertainty
from fer_lib.calibration.metrics import softmax
from fer_lib.errors import DataError


def test_energy_and_entropy_are_those_of_plain_sums():
    z = np.random.default_rng(0).normal(0, 3, (50, 7))
    expected = [-math.log(sum(math.exp(v) for v in row)) for row in z]
    np.testing.assert_allclose(uncertainty.energy(z), expected, rtol=1e-12)
    assert uncertainty.energy(z + 1000)[0] == pytest.approx(expected[0] - 1000)
    probs = softmax(z)
    np.testing.assert_allclose(uncertainty.entropy(probs), [entropy(row) for row in probs], rtol=1e-12)
    assert uncertainty.entropy(np.eye(7)).tolist() == [0.0] * 7
    with pytest.raises(DataError, match="not finite"):
        uncertainty.energy([[np.nan, 1.0]])


def test_a_new_row_of_the_same_kind_is_above_the_limit_as_often_as_its_rank_says():
    rng, n, share, draws = np.random.default_rng(1), 217, 0.05, 200
    rank = math.ceil((n + 1) * (1 - share))
    above = []
    for _ in range(draws):
        z = rng.normal(0, 2, (n + 500, 7))
        limit = uncertainty.fit_energy_limit(z[:n], share)
        above.append((uncertainty.energy(z[n:]) > limit.value).mean())
    assert (limit.n, limit.share) == (n, share)
    exact = 1 - rank / (n + 1)
    assert exact <= share and np.mean(above) == pytest.approx(exact, abs=4 * np.std(above) / draws**0.5)


def test_too_few_rows_give_no_limit():
    z = np.random.default_rng(2).normal(size=(98, 7))
    assert uncertainty.fit_energy_limit(z) is None
    assert uncertainty.fit_energy_limit(np.vstack([z, z[:1]])) is not None


@pytest.mark.parametrize(
    ("confidence", "energy", "expected"),
    [
        (0.5, -2.0, []),
        (0.49, -2.0, ["ambiguous"]),
        (0.9, -1.9, ["unlike what this model was trained on"]),
        (0.3, 5.0, ["unlike what this model was trained on", "ambiguous"]),
        (0.9, None, []),
    ],
)
def test_the_two_notes_are_independent(confidence, energy, expected):
    limit = uncertainty.EnergyLimit(value=-2.0, share=0.01, n=500)
    assert uncertainty.notes(confidence, energy, limit) == expected
    without = [note for note in expected if note == uncertainty.AMBIGUOUS]
    assert uncertainty.notes(confidence, energy, None) == without
