"""Losses compared with independent computations: by angles, in plain Python, with 60 digits, and by torch."""

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fer_lib.models.losses import (
    arcface_logits,
    cross_entropy,
    decoupled_kl,
    distillation_kl,
    effective_number_weights,
    logit_adjustment,
    mixup,
    soft_targets,
)


def random_logits(n=40, scale=4.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    draw = torch.randn(2, n, 7, generator=g, dtype=torch.float64) * scale
    return draw[0], draw[1], torch.randint(0, 7, (n,), generator=g)


def arcface_by_angles(cosine, y, s, m):
    out = [[s * c for c in row] for row in cosine.tolist()]
    for row, label in zip(out, y.tolist(), strict=True):
        c = row[label] / s
        theta = math.acos(max(-1.0, min(1.0, c)))
        row[label] = s * (c - m * math.sin(m)) if theta > math.pi - m else s * math.cos(theta + m)
    return torch.tensor(out, dtype=torch.float64)


@pytest.mark.parametrize("m", [0.0, 0.1, 0.35, 0.5, 1.2])
@pytest.mark.parametrize("s", [7.5, 30.0])
def test_arcface_adds_the_margin_to_the_target_angle(s, m):
    edges = [-1.0, 1.0, 0.0, math.cos(math.pi - m) - 1e-6, math.cos(math.pi - m) + 1e-6, -1 + 1e-9, 1 - 1e-9]
    columns = torch.cat([torch.linspace(-1, 1, 201, dtype=torch.float64), torch.tensor(edges, dtype=torch.float64)])
    columns = columns.clamp(-1, 1)
    cosine = torch.stack([columns.roll(k * 31) for k in range(7)], 1)
    y = torch.arange(len(columns)) % 7
    ours = arcface_logits(cosine, y, s, m, eps=1e-28)
    theirs = arcface_by_angles(cosine, y, s, m)
    target = torch.arange(len(y)), y
    other = torch.ones_like(ours, dtype=torch.bool)
    other[target] = False
    assert torch.equal(ours[other], (s * cosine)[other])
    # near 0 and pi, acos has only half of the digits
    assert (ours - theirs)[target].abs().max() < (1e-10 if m < 1 else 1e-9)
    beyond = cosine[target].arccos() > math.pi - m
    assert m == 0.0 or beyond.any()
    assert (ours[target] <= s * cosine[target]).all(), "a margin never makes the target easier"


def test_arcface_with_default_epsilon_is_close_and_differentiable():
    cosine = torch.tensor([[1.0, -1.0, 0.3, 0.0, 0.9, -0.94, 0.5]], dtype=torch.float32).repeat(7, 1).requires_grad_()
    y = torch.arange(7)
    ours = arcface_logits(cosine, y, 30.0, 0.35)
    assert ours.dtype == torch.float32
    exact = arcface_by_angles(cosine.detach().double(), y, 30.0, 0.35)
    assert (ours - exact).abs().max() < 30 * math.sin(0.35) * math.sqrt(1e-7) + 1e-5
    cross_entropy(ours, soft_targets(y)).sum().backward()
    assert torch.isfinite(cosine.grad).all() and (cosine.grad.diag() < 0).all()
    half = arcface_logits(cosine.detach().bfloat16(), y, 30.0, 0.35)
    assert half.dtype == torch.float32


def test_arcface_gradient():
    cosine = (torch.rand(6, 7, dtype=torch.float64) * 1.9 - 0.95).requires_grad_()
    y = torch.tensor([0, 1, 2, 3, 4, 5])
    assert torch.autograd.gradcheck(lambda c: arcface_logits(c, y, 10.0, 0.35), cosine, fast_mode=True)


def test_soft_targets_mix_labels_votes_and_smoothing():
    y = torch.tensor([2, 0, 6])
    votes = torch.full((3, 7), math.nan)
    votes[0] = torch.tensor([0.0, 0.0, 0.5, 0.25, 0.0, 0.25, 0.0])
    votes[2] = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    targets = soft_targets(y, smoothing=0.1, votes=votes, votes_weight=0.4)
    base = 0.1 / 7
    expected = torch.full((3, 7), base)
    expected[0] += 0.9 * torch.tensor([0, 0, 0.6 + 0.2, 0.1, 0, 0.1, 0])
    expected[1, 0] += 0.9  # no votes: only the label
    expected[2] += 0.9 * torch.tensor([0.4, 0, 0, 0, 0, 0, 0.6])
    torch.testing.assert_close(targets, expected)
    torch.testing.assert_close(targets.sum(1), torch.ones(3))
    assert torch.equal(soft_targets(y, votes=votes, votes_weight=0.0), F.one_hot(y, 7).float())


def test_cross_entropy_equals_torch():
    logits, _, y = random_logits()
    for smoothing in (0.0, 0.1, 1.0):
        ours = cross_entropy(logits, soft_targets(y, smoothing).double())
        theirs = F.cross_entropy(logits, y, label_smoothing=smoothing, reduction="none")
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)  # the targets are float32
    soft = torch.softmax(random_logits(seed=3)[0], 1)
    by_hand = [-sum(t * math.log(math.exp(z) / sum(map(math.exp, row))) for t, z in zip(ts, row, strict=True))
               for ts, row in zip(soft.tolist(), logits.tolist(), strict=True)]  # fmt: skip
    torch.testing.assert_close(
        cross_entropy(logits, soft), torch.tensor(by_hand, dtype=torch.float64), rtol=1e-6, atol=0
    )
    torch.testing.assert_close(cross_entropy(logits, soft).mean(), F.cross_entropy(logits, soft), rtol=0, atol=1e-12)


def plain_softmax(row, temperature):
    top = max(row)
    e = [math.exp((z - top) / temperature) for z in row]
    return [x / sum(e) for x in e]


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_distillation_kl_equals_plain_python_and_torch(temperature):
    student, teacher, _ = random_logits()
    ours = distillation_kl(student, teacher, temperature)
    by_hand = []
    for zs, zt in zip(student.tolist(), teacher.tolist(), strict=True):
        q, p = plain_softmax(zs, temperature), plain_softmax(zt, temperature)
        by_hand.append(temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    torch.testing.assert_close(ours, torch.tensor(by_hand, dtype=torch.float64), rtol=0, atol=1e-10)
    theirs = torch.nn.KLDivLoss(reduction="batchmean")(
        F.log_softmax(student / temperature, 1), F.softmax(teacher / temperature, 1)
    )
    assert abs(float(ours.mean() - temperature**2 * theirs)) < 1e-10
    assert float(distillation_kl(teacher, teacher, temperature).abs().max()) < 1e-12


def decimal_dkd(student, teacher, y, temperature):
    """(TCKD, NCKD, p_t) by the formulas of Zhao 2022, with 60 digits for sharp logits."""
    with localcontext() as context:
        context.prec = 60

        def probs(row):
            e = [(Decimal(z) / Decimal(temperature)).exp() for z in row]
            rest = sum(x for k, x in enumerate(e) if k != y)
            return [x / sum(e) for x in e], [x / rest for x in e], rest / sum(e)

        q, q_rest, q_not = probs(student)
        p, p_rest, p_not = probs(teacher)
        tckd = p[y] * (p[y] / q[y]).ln() + p_not * (p_not / q_not).ln()
        nckd = sum(p_rest[k] * (p_rest[k] / q_rest[k]).ln() for k in range(7) if k != y)
        return float(tckd), float(nckd), float(p[y])


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_decoupled_terms_equal_decimal_arithmetic(temperature):
    student, teacher, y = random_logits(n=12)
    tckd, nckd = decoupled_kl(student, teacher, y, temperature)
    for i in range(len(y)):
        t, n, _ = decimal_dkd(student[i].tolist(), teacher[i].tolist(), int(y[i]), temperature)
        assert abs(float(tckd[i]) - t) < 1e-10 and abs(float(nckd[i]) - n) < 1e-10


@pytest.mark.parametrize("scale", [0.1, 4.0, 40.0])
def test_decoupled_terms_add_up_to_the_divergence(scale):
    student, teacher, y = random_logits(scale=scale, seed=7)
    for temperature in (1.0, 2.0, 6.0):
        tckd, nckd = decoupled_kl(student, teacher, y, temperature)
        p_rest = 1.0 - torch.softmax(teacher / temperature, 1).gather(1, y[:, None]).squeeze(1)
        divergence = distillation_kl(student, teacher, temperature) / temperature**2
        torch.testing.assert_close(tckd + p_rest * nckd, divergence, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sharp_logits_stay_finite(dtype):
    rows = torch.eye(7, dtype=dtype) * 2e4 - 1e4
    for shift in range(7):
        student = rows.roll(shift, 1).clone().requires_grad_()
        y = torch.arange(7)
        tckd, nckd = decoupled_kl(student, rows, y, 2.0)
        kl = distillation_kl(student, rows, 2.0)
        assert torch.isfinite(tckd).all() and torch.isfinite(nckd).all() and torch.isfinite(kl).all()
        (tckd + 4.0 * nckd + kl).sum().backward()
        assert torch.isfinite(student.grad).all()
        t, n, _ = decimal_dkd(student[0].tolist(), rows[0].tolist(), 0, 2.0)
        assert t == pytest.approx(10000.0 * (shift > 0), abs=1e-6)  # T = 2 halves the gap of 2e4
        assert tckd[0].item() == pytest.approx(t, rel=1e-6, abs=1e-6)
        assert nckd[0].item() == pytest.approx(n, rel=1e-6, abs=1e-6)


def test_decoupled_gradients():
    student, teacher, y = random_logits(n=5, scale=2.0)
    student.requires_grad_()
    teacher.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: decoupled_kl(a, b, y, 2.0), (student, teacher), fast_mode=True)
    assert torch.autograd.gradcheck(lambda a, b: distillation_kl(a, b, 2.0), (student, teacher), fast_mode=True)


@pytest.mark.parametrize("beta", [0.9, 0.999, 0.9999])
def test_class_weights_equal_the_formula(beta):
    counts = [1, 2, 5, 40, 300, 4000, 17]
    raw = [(1 - beta) / (1 - beta**n) for n in counts]
    expected = [w * 7 / sum(raw) for w in raw]
    assert effective_number_weights(counts, beta) == pytest.approx(expected, rel=1e-9)


def test_class_weights_are_exact_for_huge_counts_and_beta_near_one():
    counts = [10**9, 10**6, 10, 1, 436, 3995, 7215]
    for beta in (0.9999, 1 - 1e-10):
        with localcontext() as context:
            context.prec = 60
            b = Decimal(beta)
            raw = [(1 - b) / (1 - b**n) for n in counts]
            expected = [float(w * 7 / sum(raw)) for w in raw]
        weights = effective_number_weights(counts, beta)
        assert weights == pytest.approx(expected, rel=1e-12)
        assert sum(weights) == pytest.approx(7.0, abs=1e-12)


def test_class_weights_for_beta_zero_and_absent_classes():
    assert effective_number_weights([5, 80, 1, 1, 1, 1, 1], 0.0) == [1.0] * 7
    absent = effective_number_weights([0, 10, 10, 10, 10, 10, 10])
    assert absent[0] == 0.0 and absent[1:] == pytest.approx([7 / 6] * 6)
    rising = effective_number_weights([100, 90, 80, 70, 60, 50, 40])
    assert rising == sorted(rising)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_loss_equals_the_formula_of_the_paper(gamma):
    logits, other, y = random_logits(scale=6.0)
    targets = F.softmax(other, 1)
    losses = cross_entropy(logits, targets, gamma)
    for z, t, ours in zip(logits.tolist(), targets.tolist(), losses.tolist(), strict=True):
        with localcontext() as context:
            context.prec = 50
            exps = [Decimal(v).exp() for v in z]
            p = [e / sum(exps) for e in exps]
            expected = -sum(Decimal(w) * (1 - q) ** Decimal(gamma) * q.ln() for w, q in zip(t, p, strict=True))
        assert ours == pytest.approx(float(expected), rel=1e-10)
    assert torch.equal(cross_entropy(logits, targets, 0.0), cross_entropy(logits, targets))


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_of_a_certain_prediction_is_zero_with_finite_gradient(gamma):
    logits = torch.tensor([[200.0, 0, 0, 0, 0, 0, 0], [0.0, 200, 0, 0, 0, 0, 0]]).requires_grad_()
    losses = cross_entropy(logits, F.one_hot(torch.tensor([0, 0]), 7).float(), gamma)
    assert losses[0].item() == 0.0 and losses[1].item() == pytest.approx(200.0)
    losses.sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_logit_adjustment_gives_scores_for_equal_priors():
    """For logits log p(x | y), the softmax of the adjusted logits is the posterior by Bayes' rule."""
    prior, likelihood = [0.5, 0.2, 0.1, 0.1, 0.05, 0.05, 0.0], [0.3, 0.1, 0.9, 0.2, 0.7, 0.4, 0.8]
    adjusted = torch.tensor(likelihood).log() + logit_adjustment(prior, 1.0)
    joint = [p * x for p, x in zip(prior, likelihood, strict=True)]
    torch.testing.assert_close(F.softmax(adjusted, 0), torch.tensor([j / sum(joint) for j in joint]))
    assert torch.equal(logit_adjustment(prior, 0.5), 0.5 * logit_adjustment(prior, 1.0))


def test_mixup_mixes_images_by_its_share():
    images = torch.rand(9, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    shares = []
    for seed in range(400):
        torch.manual_seed(seed)
        mixed, partner, share = mixup(images, 0.4)
        assert sorted(partner.tolist()) == list(range(9)) and 0.5 <= share <= 1.0
        for i in range(9 if seed < 5 else 0):
            expected = share * images[i].double() + (1 - share) * images[partner[i]].double()
            torch.testing.assert_close(mixed[i].double(), expected, atol=1e-6, rtol=0)
        shares.append(share)
    samples = np.random.default_rng(0).beta(0.4, 0.4, 100_000)
    assert np.mean(shares) == pytest.approx(np.maximum(samples, 1 - samples).mean(), abs=0.03)
    torch.manual_seed(7)
    first = mixup(images, 0.4)
    torch.manual_seed(7)
    assert torch.equal(mixup(images, 0.4)[0], first[0])
