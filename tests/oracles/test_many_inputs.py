"""Losses and gradients compared with their formulas in extended precision, on 10,000 random inputs and on edge inputs.

The tolerances are 1e-10 in float64 and 1e-5 in float32, absolute below 1 and relative above.
"""

import itertools

import numpy as np
import pytest
import torch

from fer_lib.models.losses import arcface_logits, decoupled_kl, distillation_kl, effective_number_weights, negative_loss

N = 10_000
TYPES = [(torch.float64, 1e-10), (torch.float32, 1e-5)]
each_type = pytest.mark.parametrize(("dtype", "tolerance"), TYPES, ids=["float64", "float32"])


def edge_rows() -> np.ndarray:
    """Ties, nearly equal logits, and logits of +-1e4 in one, two or all classes, float64 [E, 7]."""
    eye, rows = np.eye(7), [np.zeros(7), np.full(7, 1e4), np.full(7, -1e4), np.arange(7.0), 1e-7 * np.arange(7)]
    for size in (1.0, 40.0, 800.0, 1e4):  # a probability near 0 or 1; the largest gap is 2e4
        rows += [*(size * eye), *(-size * eye), *(size * (2 * eye - 1))]
        rows += [size * (eye[a] + eye[b]) for a, b in itertools.combinations(range(7), 2)]
    return np.stack(rows)


def inputs(dtype: torch.dtype, seed: int = 0):
    """Two sets of logits [M, 7] and labels int64 [M]: random ones of many scales, and pairs of edge rows."""
    rng = np.random.default_rng(seed)
    scale = 10 ** rng.uniform(-2, 2, (N, 1))
    a, b = rng.normal(0, 1, (2, N, 7)) * scale
    edges = edge_rows()
    at = np.array(list(itertools.product(range(len(edges)), range(7))))
    other = edges[rng.permutation(len(at)) % len(edges)]
    a, b = np.concatenate([a, edges[at[:, 0]], edges[at[:, 0]]]), np.concatenate([b, other, edges[at[:, 0]]])
    y = np.concatenate([rng.integers(0, 7, N), at[:, 1], at[:, 1]])
    return torch.from_numpy(a).to(dtype), torch.from_numpy(b).to(dtype), torch.from_numpy(y)


def extended(z: torch.Tensor) -> np.ndarray:
    return z.detach().numpy().astype(np.longdouble)


def log_sum_exp(z: np.ndarray) -> np.ndarray:
    """[M, 1]; -inf leaves a class out."""
    top = z.max(1, keepdims=True)
    return top + np.log(np.exp(z - top).sum(1, keepdims=True))


def without(z: np.ndarray, y: torch.Tensor) -> np.ndarray:
    """``z`` with -inf at the labels."""
    z = z.copy()
    z[np.arange(len(y)), y.numpy()] = -np.inf
    return z


def assert_near(ours: torch.Tensor, theirs: np.ndarray, tolerance: float, dtype: torch.dtype) -> None:
    assert ours.dtype == dtype and len(ours) > N and np.isfinite(theirs).all()
    np.testing.assert_allclose(ours.detach().numpy().astype(float), theirs.astype(float), tolerance, tolerance)


# ---------------------------------------------------------------- negative learning


@each_type
def test_negative_loss_and_its_gradient(dtype, tolerance):
    """L = logsumexp(z) - logsumexp_{j != k}(z); dL/dz_k = p_k, dL/dz_j = -p_k q_j (Kim 2019)."""
    z, _, k = inputs(dtype)
    z.requires_grad_()
    loss = negative_loss(z, k)
    loss.sum().backward()
    exact = extended(z)
    others = without(exact, k)
    assert_near(loss, (log_sum_exp(exact) - log_sum_exp(others))[:, 0], tolerance, dtype)
    index = np.arange(len(k)), k.numpy()
    p_k = np.exp(exact - log_sum_exp(exact))[index]
    gradient = -p_k[:, None] * np.exp(others - log_sum_exp(others))
    gradient[index] = p_k
    assert p_k.min() < 1e-300 and p_k.max() == 1, "the edges are there"
    assert_near(z.grad, gradient, tolerance, dtype)


@each_type
def test_a_step_lowers_the_probability(dtype, tolerance):
    """A step of gradient descent; where p_k is almost 0 or 1 it moves by less than the rounding, up or down."""
    z, _, k = inputs(dtype)
    z.requires_grad_()
    negative_loss(z, k).sum().backward()
    before, after = (x.softmax(1).gather(1, k[:, None])[:, 0] for x in (z.detach(), z.detach() - 0.1 * z.grad))
    assert (after <= before * (1 + 4 * torch.finfo(dtype).eps)).all()
    clear = (before > 1e-4) & (before < 1 - 1e-4)
    assert clear.sum() > N / 2 and (after < before)[clear].all()


# ---------------------------------------------------------------- distillation


@each_type
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distillation_and_its_gradient(dtype, tolerance, temperature):
    """T^2 sum_k p_k (log p_k - log q_k), and its gradient T (q - p) (Hinton 2015)."""
    student, teacher, _ = inputs(dtype, seed=1)
    student.requires_grad_()
    loss = distillation_kl(student, teacher, temperature)
    loss.sum().backward()
    zs, zt = extended(student) / temperature, extended(teacher) / temperature
    log_q, log_p = zs - log_sum_exp(zs), zt - log_sum_exp(zt)
    assert_near(loss, temperature**2 * (np.exp(log_p) * (log_p - log_q)).sum(1), tolerance, dtype)
    assert_near(student.grad, temperature * (np.exp(log_q) - np.exp(log_p)), tolerance, dtype)


@each_type
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_decoupled_terms_and_their_sum(dtype, tolerance, temperature):
    """TCKD and NCKD by their definition, KL = TCKD + (1 - p_y) NCKD, and the gradient of KL (Zhao 2022).

    The gradient is less exact in float32 where log(1 - p_y) is about -2e4: torch's logsumexp derives it from a result
    that is rounded to 1e-3.
    """
    student, teacher, y = inputs(dtype, seed=2)
    student.requires_grad_()
    tckd, nckd = decoupled_kl(student, teacher, y, temperature)
    zs, zt = extended(student) / temperature, extended(teacher) / temperature
    log_q, log_p, index = zs - log_sum_exp(zs), zt - log_sum_exp(zt), (np.arange(len(y)), y.numpy())
    log_q_not, log_p_not = log_sum_exp(without(log_q, y)), log_sum_exp(without(log_p, y))
    p_not = np.exp(log_p_not)[:, 0]
    target = np.exp(log_p[index]) * (log_p[index] - log_q[index]) + p_not * (log_p_not - log_q_not)[:, 0]
    gap = (log_p - log_p_not) - (log_q - log_q_not)
    gap[index] = 0
    rest = (np.exp(without(log_p, y) - log_p_not) * gap).sum(1)
    assert_near(tckd, target, tolerance, dtype)
    assert_near(nckd, rest, tolerance, dtype)
    divergence = tckd + torch.from_numpy(p_not.astype(float)).to(dtype) * nckd
    assert_near(divergence, (np.exp(log_p) * (log_p - log_q)).sum(1), tolerance, dtype)
    divergence.sum().backward()
    exact, sharp = (np.exp(log_q) - np.exp(log_p)) / temperature, (log_q_not < -100)[:, 0]
    error = np.abs(extended(student.grad) - exact).max(1)
    assert sharp.sum() > 40 and error[~sharp].max() < tolerance
    assert error.max() < (1e-3 if dtype == torch.float32 else tolerance)


# ---------------------------------------------------------------- ArcFace


@each_type
@pytest.mark.parametrize(("s", "m"), [(30.0, 0.35), (7.5, 0.5), (64.0, 0.0)])
def test_arcface_margin(dtype, tolerance, s, m):
    """s cos(theta + m), and s (cos theta - m sin m) beyond pi - m, with theta by atan2 (Deng 2019).

    ``eps`` is almost 0: by default it flattens the sine within 1e-7 of +-1 on purpose.  sqrt(1 - c^2) loses half of the
    digits near +-1, and the target jumps at pi - m: float32 is compared beyond 1e-3 of these points, and at +-1.
    """
    near = 1e-9 if dtype == torch.float64 else 1e-3
    edge = -np.cos(m)
    rng = np.random.default_rng(3)
    points = np.array([-1.0, 1.0, 0.0, -0.0, 1e-30, 0.5, -0.5, 1 - near, near - 1, edge + 2e-3, edge - 2e-3])
    edges = np.stack([np.roll(points, i) for i in range(7)], 1)
    cosine = np.concatenate([rng.uniform(near - 1, 1 - near, (N, 7)), edges])
    c, y = torch.from_numpy(cosine.clip(-1, 1)).to(dtype), torch.from_numpy(rng.integers(0, 7, len(cosine)))
    target = (torch.arange(len(c)), y)
    c[target] = torch.where((c[target] - edge).abs() < near, c[target] + 3 * near, c[target])
    exact = extended(c)
    theta = np.arctan2(np.sqrt((1 - exact) * (1 + exact)), exact)
    expected = s * exact
    margin = s * np.where(theta > np.longdouble(np.pi) - m, exact - m * np.sin(m), np.cos(theta + m))
    expected[target[0].numpy(), y.numpy()] = margin[target[0].numpy(), y.numpy()]
    ours = arcface_logits(c, y, s, m, eps=1e-30)
    beyond = theta[target[0].numpy(), y.numpy()] > np.pi - m
    assert ours.dtype == dtype and (m == 0.0 or beyond.sum() > 5)
    np.testing.assert_allclose(ours.numpy().astype(float), expected.astype(float), tolerance, tolerance)


# ---------------------------------------------------------------- effective numbers


def test_effective_number_weights():
    """7 (1 - b) / (1 - b^n_c), over their sum (Cui 2019); in float64 alone, as the function returns Python's floats."""
    rng = np.random.default_rng(4)
    counts = np.floor(10 ** rng.uniform(0, 9, (N, 7))).astype(np.int64)
    counts[rng.random((N, 7)) < 0.1] = 0
    counts[:4] = [[1] * 7, [10**9] * 7, [1, 10**9, 1, 10**9, 1, 10**9, 1], [0, 0, 0, 0, 0, 0, 3]]
    counts = counts[counts.any(1)]
    betas = rng.choice([0.0, 0.5, 0.9, 0.999, 0.9999, 1 - 1e-7, 1 - 1e-10], len(counts))
    ours = np.array([effective_number_weights(n, b) for n, b in zip(counts.tolist(), betas.tolist(), strict=True)])
    complement = 1 - betas.astype(np.longdouble)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        raw = np.where(betas[:, None] == 0, 1, complement / -np.expm1(counts * np.log1p(-complement)))
    raw = np.where(counts == 0, 0, raw)
    expected = 7 * raw / raw.sum(1, keepdims=True)
    assert len(counts) > 0.99 * N and np.isfinite(expected).all()
    np.testing.assert_allclose(ours, expected.astype(float), rtol=1e-10, atol=0)
