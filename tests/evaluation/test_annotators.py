"""Model and people: every figure by hand or by SciPy, and the rows on which people say nothing."""

import json
import math

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

from fer_lib.evaluation import annotators

NAN = [math.nan] * 7


def report_of(z, scaled, y, votes):
    """Of votes of which only shares are known."""
    return annotators.annotator_report(z, scaled, y, votes, np.full(len(votes), np.nan))


def logits_of(probs):
    return np.log(np.asarray(probs, float)) + np.arange(len(probs))[:, None]  # a constant a row changes nothing


@pytest.fixture
def drawn():
    rng = np.random.default_rng(3)
    votes = np.stack([rng.multinomial(10, p) for p in rng.dirichlet(np.full(7, 0.4), 50)])
    return rng.normal(0, 2, (50, 7)), rng.integers(0, 7, 50), votes / 10


def test_divergences_against_scipy(drawn):
    z, y, votes = drawn
    found = report_of(z, z / 2, y, votes)
    for kind, logits in (("raw", z), ("scaled", z / 2)):
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        kl = [entropy(v, q) for v, q in zip(votes, p, strict=True)]
        assert found["kl"][kind] == pytest.approx(np.mean(kl), rel=1e-12)
        js = [jensenshannon(v, q) ** 2 for v, q in zip(votes, p, strict=True)]
        assert found["js"][kind] == pytest.approx(np.mean(js), rel=1e-9)
    assert found["entropy"] == pytest.approx(np.mean([entropy(v) for v in votes]), rel=1e-12)
    assert json.loads(json.dumps(found)) == found


def test_annotators_against_votes_drawn_one_by_one(drawn):
    """The chances that the docstring defines, by drawing votes."""
    z, y, votes = drawn
    found, rng, draws = report_of(z, z, y, votes), np.random.default_rng(0), 4000
    one, other = (np.stack([rng.choice(7, draws, p=v) for v in votes]) for _ in range(2))
    close = dict(abs=0.005)
    assert found["annotators"]["label"] == pytest.approx((one == y[:, None]).mean(), **close)
    assert found["annotators"]["plurality"] == pytest.approx((one == votes.argmax(1)[:, None]).mean(), **close)
    assert found["annotators"]["each_other"] == pytest.approx((one == other).mean(), **close)
    assert found["model"]["vote"] == pytest.approx((one == z.argmax(1)[:, None]).mean(), **close)
    assert found["model"]["label"] == (z.argmax(1) == y).mean()


def test_three_rows_by_hand():
    probs = [
        [0.60, 0.20, 0.05, 0.05, 0.04, 0.03, 0.03],  # first Angry, then Disgust
        [0.10, 0.10, 0.50, 0.20, 0.04, 0.03, 0.03],  # first Fear, then Happy
        [0.02, 0.02, 0.02, 0.02, 0.02, 0.30, 0.60],  # first Neutral, then Surprise
    ]
    votes = [
        [0.5, 0.5, 0, 0, 0, 0, 0],  # a tie: half a point for Angry, and half for Disgust
        [0, 0, 0.2, 0.8, 0, 0, 0],  # Happy
        [1, 0, 0, 0, 0, 0, 0],  # Angry alone
    ]
    found = report_of(logits_of(probs), logits_of(probs), np.array([0, 3, 6]), np.array(votes))
    assert found["annotators"] == pytest.approx(
        {"label": (0.5 + 0.8 + 0) / 3, "plurality": (0.5 + 0.8 + 1) / 3, "each_other": (0.5 + 0.68 + 1) / 3}
    )
    assert found["model"] == pytest.approx(
        {"label": 2 / 3, "plurality": 0.5 / 3, "top2": (1 + 1 + 0) / 3, "vote": (0.5 + 0.2 + 0) / 3}
    )
    by_hand = [
        0.5 * math.log(0.5 / 0.6) + 0.5 * math.log(0.5 / 0.2),
        0.2 * math.log(0.2 / 0.5) + 0.8 * math.log(0.8 / 0.2),
        -math.log(0.02),
    ]
    assert found["kl"]["raw"] == pytest.approx(sum(by_hand) / 3)


def test_votes_that_were_counted_by_hand():
    """Ten votes a row as FERPlus counts them: three of the third are for no class; the fourth is of shares."""
    votes = np.array([[6, 1, 1, 1, 1, 0, 0], [0, 0, 0, 10, 0, 0, 0], [4, 0, 0, 0, 3, 0, 0], [0.5, 0.5, 0, 0, 0, 0, 0]])
    z, y = np.zeros((4, 7)), np.array([0, 3, 0, 1])
    found = annotators.annotator_report(z, z, y, votes, np.array([10, 10, 10, math.nan]))
    assert found["votes"] == {"counts": 3, "shares": 1}
    assert found["annotators"]["label"] == pytest.approx((0.6 + 1 + 4 / 7 + 0.5) / 4)
    assert found["annotators"]["label_of_all"] == pytest.approx((0.6 + 1 + 0.4) / 3)
    assert "label_of_all" not in report_of(z, z, y, votes)["annotators"]
    assert json.loads(json.dumps(found)) == found


def test_people_of_one_mind_and_a_model_that_agrees():
    votes = np.eye(7)[[3, 3, 3]]  # all votes on one class
    found = report_of(40 * votes, 40 * votes, np.array([3, 3, 3]), votes)
    assert found["kl"]["raw"] == pytest.approx(0.0, abs=1e-12) and found["entropy"] == 0.0
    assert set(found["annotators"].values()) == set(found["model"].values()) == {1.0}


def test_rows_without_votes_do_not_count(drawn):
    z, y, votes = drawn
    holed = np.vstack([votes, [NAN, [0.0] * 7]])
    more = np.vstack([z, np.zeros((2, 7))])
    found = report_of(more, more, np.append(y, [0, 0]), holed)
    assert (found["n"], found["n_without"]) == (50, 2)
    expected = report_of(z, z, y, votes) | {"n_without": 2}
    assert found == expected
    assert report_of(z, z, y, np.full((50, 7), np.nan)) is None
    assert report_of(z, z, y, 10 * votes)["kl"] == pytest.approx(report_of(z, z, y, votes)["kl"])  # counts


def test_a_sure_model_that_is_wrong_stays_finite():
    z = np.array([[2000.0, 0, 0, 0, 0, 0, 0]])
    assert report_of(z, z, np.array([1]), np.eye(7)[[1]])["kl"]["raw"] == pytest.approx(2000.0)
