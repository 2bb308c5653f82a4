"""Prior correction against Bayes' rule in fractions."""

from fractions import Fraction

import numpy as np
import pytest

from fer_lib.calibration.metrics import softmax
from fer_lib.calibration.prior_shift import UNIFORM, prior_correction
from fer_lib.errors import DataError

TRAIN = [Fraction(n, 100) for n in (30, 5, 10, 25, 10, 15, 5)]
TARGET = [Fraction(n, 100) for n in (4, 6, 10, 20, 20, 20, 20)]


def test_it_is_bayes_rule():
    likelihood = [Fraction(n, 50) for n in (3, 9, 1, 40, 7, 2, 30)]
    posteriors = {}
    for name, prior in {"train": TRAIN, "target": TARGET}.items():
        joint = [p * x for p, x in zip(prior, likelihood, strict=True)]
        posteriors[name] = [float(j / sum(joint)) for j in joint]
    logits = np.log([posteriors["train"]]) + 3.0
    moved = softmax(logits + prior_correction([float(x) for x in TRAIN], [float(x) for x in TARGET]))
    assert moved[0] == pytest.approx(posteriors["target"], abs=1e-12)


def test_the_same_prior_changes_nothing_and_an_unseen_class_stays():
    assert not prior_correction(UNIFORM, UNIFORM).any()
    unseen = [0.0, 0.5, 0.1, 0.1, 0.1, 0.1, 0.1]
    assert prior_correction(unseen, UNIFORM)[0] == 0.0 and np.isfinite(prior_correction(unseen, UNIFORM)).all()


@pytest.mark.parametrize(
    "bad, words",
    [([0.5, 0.5], "7 shares"), ([0.2] * 7, "sums to 1.4"), ([0.0, 0.4, 0.2, 0.1, 0.1, 0.1, 0.1], "above 0"),
     ([float("nan"), *[1 / 6] * 6], "above 0")],
)  # fmt: skip
def test_what_is_no_prior_is_refused(bad, words):
    with pytest.raises(DataError, match=words):
        prior_correction(UNIFORM, bad)
