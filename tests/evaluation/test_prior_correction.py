"""A prior correction on rows whose posteriors and class shares are known: what it finds, gains and costs."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from fer_lib.calibration import metrics
from fer_lib.calibration.prior_shift import UNIFORM
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.evaluation.prior_correction import correct_prior

TRAIN = np.array(UNIFORM)
SHARES = {"happy": [0.05, 0.05, 0.05, 0.7, 0.05, 0.05, 0.05], "sad": [0.1, 0.0, 0.1, 0.1, 0.6, 0.05, 0.05]}


@pytest.fixture(scope="module")
def rows():
    """Exact logits [N, 7] under equal shares of rows of two sources, their labels and sources; "sad" has no Disgust."""
    rng = np.random.default_rng(5)
    y = np.concatenate([rng.choice(7, 2000, p=shares) for shares in SHARES.values()])
    x = rng.normal(size=(len(y), 7)) + 1.5 * np.eye(7)[y]
    log_likelihood = -0.5 * ((x[:, None, :] - 1.5 * np.eye(7)) ** 2).sum(axis=2)
    return log_likelihood, y, np.repeat(list(SHARES), 2000)


def test_em_finds_the_shares_of_each_source_and_the_gain_has_a_paired_interval(rows):
    scaled, y, sources = rows
    done = correct_prior(scaled, sources, TRAIN, "em")
    for source, shares in SHARES.items():
        about = done.by_source[source]
        assert about["converged"] and about["iterations"] > 1 and list(about["target_prior"]) == list(EMOTIONS)
        np.testing.assert_allclose(list(about["target_prior"].values()), shares, atol=0.05)
    for keep in (np.ones(len(y), bool), sources == "sad"):
        report = done.report(scaled, y, keep, resamples=200, seed=1)
        before, after = scaled.argmax(1)[keep], done.logits.argmax(1)[keep]
        gain = report["difference"]["accuracy"]
        assert gain["value"] == pytest.approx((after == y[keep]).mean() - (before == y[keep]).mean())
        assert 0.05 < gain["lo"] < gain["value"] < gain["hi"], "these rows show the gain beyond chance"
        assert report["corrected"] == metrics.summary(done.logits[keep], y[keep])
        assert report["mcnemar"]["p"] < 1e-6 and report["difference"]["nll"]["hi"] < 0
    present = [k for k in range(7) if k != EMOTIONS.index("Disgust")]
    f1 = [f1_score(y[keep], pred, labels=present, average="macro", zero_division=0) for pred in (before, after)]
    assert report["difference"]["macro_f1_present"]["value"] == pytest.approx(f1[1] - f1[0])
    assert abs(f1[1] - f1[0]) > 0.01, "a change that a wrong factor would show"


def test_shares_that_are_wrong_cost_and_the_training_prior_changes_nothing(rows):
    scaled, y, sources = rows
    every = np.ones(len(y), bool)
    wrong = correct_prior(scaled, sources, TRAIN, [0.4, 0.4, 0.04, 0.04, 0.04, 0.04, 0.04])
    assert wrong.report(scaled, y, every, 200, 1)["difference"]["accuracy"]["hi"] < -0.05
    np.testing.assert_array_equal(correct_prior(scaled, sources, TRAIN, "uniform").logits, scaled)
    assert not np.shares_memory(wrong.logits, scaled)
    with pytest.raises(DataError, match="7 shares above 0"):
        correct_prior(scaled, sources, TRAIN, [0.5, 0.5])
