"""Every score against a second computation: exact fractions or 50-digit decimals by plain loops, and scikit-learn."""

import warnings
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest

from fer_lib.calibration import metrics

TOLERANCE = 1e-10


# --- cases: logits [N, K], y [N] -------------------------------------------------------------------------------------
def _random(n, k, scale=2.0, seed=0):
    rng = np.random.default_rng([n, k, seed])
    y = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k)) * scale
    logits[np.arange(n), y] += scale
    return logits, y


def _of_probs(rows):
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(np.array(rows, dtype=float)), -800.0)


def _cases():
    for k in range(2, 8):
        for n in (1, 2, 14, 15, 61, 257):
            yield f"random-{n}x{k}", *_random(n, k)
    logits, y = _random(90, 7)
    yield "all-correct", logits, logits.argmax(1)
    yield "all-wrong", logits, (logits.argmax(1) + 1) % 7
    yield "absent-classes", logits, np.where(np.isin(y, (0, 3, 6)), y, 3)
    yield "one-class-only", logits, np.full(90, 2)
    yield "two-present-never-predicted", np.tile([0.0, 0, 0, 0, 5, 0, 0], (9, 1)), np.arange(9) % 2
    yield "huge", np.sign(logits) * 1e4 + logits, y
    yield "certain", np.where(np.arange(7) == (y[:, None] + (np.arange(90) % 5 == 0)[:, None]) % 7, 1e4, -1e4), y
    yield "argmax-ties", np.round(logits / 2), y
    yield "all-equal", np.zeros((30, 7)), np.arange(30) % 7
    yield "confidence-ties", np.repeat(logits[:6], 15, axis=0), y
    yield "on-edges", _of_probs([[m / 15, 1 - m / 15] for m in range(8, 16)] * 3), np.arange(24) % 2
    yield "on-edges-decimal", _of_probs([[c, 1 - c] for c in (0.6, 0.8, 1.0, 0.2, 0.4)] * 4), np.arange(20) % 2
    big, labels = _random(200, 14, seed=3)
    yield "not-contiguous", big[::-3, ::2], labels[::-3] % 7
    yield "fortran-order", np.asfortranarray(logits), y
    yield "float32", logits.astype(np.float32), y.astype(np.int32)
    yield "uint8-labels", logits, y.astype(np.uint8)


CASES = [pytest.param(logits, y, id=name) for name, logits, y in _cases()]


# --- the second computation ------------------------------------------------------------------------------------------
def decimal_softmax(row):
    with localcontext() as context:
        context.prec, context.Emin, context.Emax = 50, -999_999, 999_999
        weights = [Decimal(float(z)).exp() for z in row]
        total = sum(weights)
        return [w / total for w in weights]


def decimal_nll(logits, y):
    with localcontext() as context:
        context.prec, context.Emin, context.Emax = 50, -999_999, 999_999
        return float(-sum(decimal_softmax(row)[k].ln() for row, k in zip(logits, y, strict=True)) / len(y))


def top(probs, y):
    """[(confidence, 1 or 0)] with the first of equal probabilities predicted."""
    pairs = []
    for row, label in zip(probs.tolist(), y.tolist(), strict=True):
        best = 0
        for k, p in enumerate(row):
            if p > row[best]:
                best = k
        pairs.append((min(row[best], 1.0), int(best == label)))
    return pairs


def binned(pairs, bins=15):
    """Non-empty bins as lists of pairs, by walking the borders for every row."""
    out = {}
    for confidence, hit in pairs:
        home = 0
        for m in range(1, bins):
            if confidence > m / bins:
                home = m
        out.setdefault(home, []).append((Fraction(confidence), hit))
    return list(out.values())


def oracle_ece(pairs):
    return float(sum(abs(sum(c - h for c, h in b)) for b in binned(pairs)) / len(pairs))


def oracle_mce(pairs):
    return float(max(abs(sum(c - h for c, h in b)) / len(b) for b in binned(pairs)))


def oracle_adaptive(pairs, bins=15):
    mean_hit = {}
    for c, h in pairs:
        mean_hit.setdefault(c, []).append(h)
    ordered = sorted(c for c, _ in pairs)
    size, extra = divmod(len(ordered), bins)
    total, at = Fraction(0), 0
    for b in range(bins):
        here = ordered[at : at + size + (b < extra)]
        at += len(here)
        total += abs(sum((Fraction(c) - Fraction(sum(mean_hit[c]), len(mean_hit[c])) for c in here), Fraction(0)))
    return float(total / len(ordered))


def oracle_squared_l2(pairs):
    total = Fraction(0)
    for b in binned(pairs):
        n = len(b)
        if n > 1:
            acc = Fraction(sum(h for _, h in b), n)
            total += n * ((sum(c for c, _ in b) / n - acc) ** 2 - acc * (1 - acc) / (n - 1))
    return float(total / len(pairs))


def oracle_aurc(pairs):
    """At each coverage: all errors surer than the border, and the border tie's errors in proportion."""
    total = Fraction(0)
    falling = sorted((c for c, _ in pairs), reverse=True)
    for k, border in enumerate(falling, start=1):
        surer = [1 - h for c, h in pairs if c > border]
        tied = [1 - h for c, h in pairs if c == border]
        total += (sum(surer) + Fraction(sum(tied), len(tied)) * (k - len(surer))) / k
    return float(total / len(pairs))


def oracle_brier(probs, y):
    return float(
        sum(
            (Fraction(p) - (k == label)) ** 2
            for row, label in zip(probs.tolist(), y.tolist(), strict=True)
            for k, p in enumerate(row)
        )
        / len(y)
    )


def oracle_f1(pred, y, k):
    """Harmonic mean of precision and recall by counting, 0 where either is undefined or nil."""
    out = []
    for c in range(k):
        hit = sum(p == c and t == c for p, t in zip(pred, y, strict=True))
        claimed, real = sum(p == c for p in pred), sum(t == c for t in y)
        if hit == 0:
            out.append(Fraction(0))
            continue
        precision, recall = Fraction(hit, claimed), Fraction(hit, real)
        out.append(2 * precision * recall / (precision + recall))
    return out


@pytest.mark.parametrize(("logits", "y"), CASES)
def test_every_score_equals_its_second_computation(logits, y):
    k = logits.shape[1]
    seen = metrics.summary(logits, y)
    probs = metrics.softmax(logits)
    exact = np.array([[float(p) for p in decimal_softmax(row)] for row in logits])
    np.testing.assert_allclose(probs, exact, rtol=0, atol=1e-14)
    assert seen["nll"] == pytest.approx(decimal_nll(logits, y), rel=TOLERANCE, abs=TOLERANCE)

    pairs, labels = top(probs, y), y.tolist()
    pred = [max(range(k), key=lambda c: (row[c], -c)) for row in logits.tolist()]
    f1 = oracle_f1(pred, labels, k)
    present = sorted(f for c, f in enumerate(f1) if c in labels)
    expected = {
        "accuracy": Fraction(sum(p == t for p, t in zip(pred, labels, strict=True)), len(labels)),
        "macro_f1": sum(f1) / k,
        "macro_f1_present": sum(present) / len(present),
        "minority_f1": sum(present[:3]) / len(present[:3]),
        "ece": oracle_ece(pairs),
        "mce": oracle_mce(pairs),
        "adaptive_ece": oracle_adaptive(pairs),
        "squared_l2_ce": oracle_squared_l2(pairs),
        "aurc": oracle_aurc(pairs),
        "brier": oracle_brier(probs, y),
        "classwise_ece": sum(
            oracle_ece([(row[c], int(t == c)) for row, t in zip(probs.tolist(), labels, strict=True)]) for c in range(k)
        )
        / k,
    }
    for name, value in expected.items():
        assert seen[name] == pytest.approx(float(value), rel=0, abs=TOLERANCE), name
    assert list(seen["per_class_f1"].values()) == pytest.approx([float(f) for f in f1], abs=TOLERANCE)
    assert list(seen["per_class_n"].values()) == [labels.count(c) for c in range(k)]
    assert seen["n"] == len(labels)
    for true, row in enumerate(seen["confusion"]):
        for guess, count in enumerate(row):
            assert count == sum((p, t) == (guess, true) for p, t in zip(pred, labels, strict=True))


@pytest.mark.parametrize(("logits", "y"), CASES)
def test_scikit_learn_agrees_where_it_has_the_score(logits, y):
    import sklearn.metrics as oracle

    k = logits.shape[1]
    classes, pred, probs = np.arange(k), logits.argmax(1), metrics.softmax(logits)
    seen = metrics.summary(logits, y)
    np.testing.assert_array_equal(seen["confusion"], oracle.confusion_matrix(y, pred, labels=classes))
    f1 = oracle.f1_score(y, pred, labels=classes, average=None, zero_division=0)
    np.testing.assert_allclose(list(seen["per_class_f1"].values()), f1, rtol=0, atol=TOLERANCE)
    assert seen["accuracy"] == pytest.approx(oracle.accuracy_score(y, pred), abs=TOLERANCE)
    macro = oracle.f1_score(y, pred, labels=classes, average="macro", zero_division=0)
    assert seen["macro_f1"] == pytest.approx(macro, abs=TOLERANCE)
    present = oracle.f1_score(y, pred, labels=np.unique(y), average="macro", zero_division=0)
    assert seen["macro_f1_present"] == pytest.approx(present, abs=TOLERANCE)
    if (
        probs[np.arange(len(y)), y].min() > 1e-14
    ):  # scikit-learn clips probabilities, so it is right only above its clip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            assert seen["nll"] == pytest.approx(oracle.log_loss(y, probs, labels=classes), abs=TOLERANCE)
    if k > 2:
        brier = oracle.brier_score_loss(y, probs, labels=classes, scale_by_half=False)
    else:
        brier = 2 * oracle.brier_score_loss(y == 1, probs[:, 1], pos_label=True, labels=[False, True])
    assert seen["brier"] == pytest.approx(brier, abs=TOLERANCE)
