"""Negative learning compared with the formula in extended precision, with finite differences, and after a step."""

import numpy as np
import pytest
import torch

from fer_lib.models.losses import negative_loss


def reference_loss(z: np.ndarray, k: np.ndarray) -> np.ndarray:
    """-log(1 - p_k) by its formula, in extended precision."""
    z = z.astype(np.longdouble)
    e = np.exp(z - z.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    rest = np.array([np.delete(row, i).sum() for row, i in zip(p, k, strict=True)])  # 1 - p_k would lose digits
    return -np.log(rest)


def logits(n=64, scale=3.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, scale, (n, 7)), rng.integers(0, 7, n)


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0, 10.0])
def test_loss_equals_the_formula(scale):
    z, k = logits(scale=scale)
    loss = negative_loss(torch.from_numpy(z), torch.from_numpy(k)).numpy()
    np.testing.assert_allclose(loss, reference_loss(z, k).astype(float), rtol=1e-11, atol=1e-18)


def test_example_of_the_docstring():
    z = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    loss = negative_loss(z, torch.tensor([0]))
    loss.sum().backward()
    assert loss.item() == pytest.approx(np.log(1.5)) == pytest.approx(0.4055, abs=5e-5)
    np.testing.assert_allclose(z.grad.numpy(), [[1 / 3, -1 / 6, -1 / 6]], atol=1e-15)


def test_gradient_equals_the_paper_and_finite_differences():
    values, k = logits(n=12)
    z = torch.from_numpy(values).requires_grad_()
    negative_loss(z, torch.from_numpy(k)).sum().backward()
    p = np.exp(values) / np.exp(values).sum(1, keepdims=True)
    index = np.arange(len(k)), k
    rest = p.copy()
    rest[index] = 0
    expected = -p[index][:, None] * rest / rest.sum(1, keepdims=True)
    expected[index] = p[index]
    np.testing.assert_allclose(z.grad.numpy(), expected, atol=1e-14)
    np.testing.assert_allclose(z.grad.sum(1).numpy(), 0, atol=1e-15)
    h = 1e-6
    for j in range(7):
        forward = values.copy()
        forward[:, j] += h
        backward = values.copy()
        backward[:, j] -= h
        slope = (reference_loss(forward, k) - reference_loss(backward, k)).astype(float) / (2 * h)
        np.testing.assert_allclose(z.grad[:, j].numpy(), slope, atol=1e-8)
    leaf = torch.from_numpy(values).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: negative_loss(x, torch.from_numpy(k)), (leaf,))


@pytest.mark.parametrize("scale", [0.5, 2.0, 6.0])
def test_a_step_lowers_the_probability_of_the_class(scale):
    """Minimising -log p_k instead would raise it."""
    values, k = logits(scale=scale)
    z = torch.from_numpy(values).requires_grad_()
    negative_loss(z, torch.from_numpy(k)).sum().backward()
    before, after = (negative_loss(x, torch.from_numpy(k)) for x in (z.detach(), (z - 0.1 * z.grad).detach()))
    assert (after < before).all(), "-log(1 - p_k) falls, so p_k does"
    p = [x.softmax(1)[torch.arange(len(k)), torch.from_numpy(k)] for x in (z.detach(), (z - 0.1 * z.grad).detach())]
    resolvable = (p[0] > 1e-7) & (p[0] < 1 - 1e-7)  # the step changes p by more than its rounding
    assert resolvable.sum() > 32 and (p[1] < p[0])[resolvable].all()


@pytest.mark.parametrize(
    ("gap", "loss", "slope"), [(-40.0, np.exp(-40), np.exp(-40)), (0.0, np.log(2), 0.5), (90.0, 90.0, 1.0)]
)
def test_float32_is_exact_for_small_and_large_losses(gap, loss, slope):
    """Two classes apart by ``gap``: log(1 + e^gap).  The difference of two logsumexp would be 0 for gap -40."""
    z = torch.tensor([[gap, 0.0]], requires_grad=True)
    value = negative_loss(z, torch.tensor([0]))
    value.sum().backward()
    assert value.item() == pytest.approx(loss, rel=1e-6) and z.grad[0, 0].item() == pytest.approx(slope, rel=1e-6)
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(kind):
    values, k = logits()
    z = torch.from_numpy(values).to(kind)
    loss = negative_loss(z, torch.from_numpy(k))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, negative_loss(z.float(), torch.from_numpy(k)))
