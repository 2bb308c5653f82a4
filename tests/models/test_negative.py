"""Negative learning against the textbook formula in float64, finite differences, and what a step must do."""

import numpy as np
import pytest
import torch

from fer_lib.models.negative import negative_loss


def plain(z: np.ndarray, k: np.ndarray) -> np.ndarray:
    """-log(1 - p_k) as it is written, in extended precision."""
    z = z.astype(np.longdouble)
    e = np.exp(z - z.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    rest = np.array([np.delete(row, i).sum() for row, i in zip(p, k, strict=True)])  # 1 - p_k would lose digits
    return -np.log(rest)


def logits(n=64, scale=3.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, scale, (n, 7)), rng.integers(0, 7, n)


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0, 10.0])
def test_it_is_minus_the_logarithm_of_what_is_left(scale):
    z, k = logits(scale=scale)
    found = negative_loss(torch.from_numpy(z), torch.from_numpy(k)).numpy()
    np.testing.assert_allclose(found, plain(z, k).astype(float), rtol=1e-11, atol=1e-18)


def test_the_worked_example_of_its_docstring():
    z = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    loss = negative_loss(z, torch.tensor([0]))
    loss.sum().backward()
    assert loss.item() == pytest.approx(np.log(1.5)) == pytest.approx(0.4055, abs=5e-5)
    np.testing.assert_allclose(z.grad.numpy(), [[1 / 3, -1 / 6, -1 / 6]], atol=1e-15)


def test_the_gradient_is_the_one_of_the_paper_and_of_finite_differences():
    values, k = logits(n=12)
    z = torch.from_numpy(values).requires_grad_()
    negative_loss(z, torch.from_numpy(k)).sum().backward()
    p = np.exp(values) / np.exp(values).sum(1, keepdims=True)
    at = np.arange(len(k)), k
    rest = p.copy()
    rest[at] = 0
    expected = -p[at][:, None] * rest / rest.sum(1, keepdims=True)
    expected[at] = p[at]
    np.testing.assert_allclose(z.grad.numpy(), expected, atol=1e-14)
    np.testing.assert_allclose(z.grad.sum(1).numpy(), 0, atol=1e-15)
    h = 1e-6
    for j in range(7):
        moved = values.copy()
        moved[:, j] += h
        back = values.copy()
        back[:, j] -= h
        slope = (plain(moved, k) - plain(back, k)).astype(float) / (2 * h)
        np.testing.assert_allclose(z.grad[:, j].numpy(), slope, atol=1e-8)
    again = torch.from_numpy(values).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: negative_loss(x, torch.from_numpy(k)), (again,))


@pytest.mark.parametrize("scale", [0.5, 2.0, 6.0])
def test_a_step_lowers_the_probability_whatever_it_was(scale):
    """The earlier system minimised -log p_k, which raises it."""
    values, k = logits(scale=scale)
    z = torch.from_numpy(values).requires_grad_()
    negative_loss(z, torch.from_numpy(k)).sum().backward()
    before, after = (negative_loss(x, torch.from_numpy(k)) for x in (z.detach(), (z - 0.1 * z.grad).detach()))
    assert (after < before).all(), "-log(1 - p_k) falls, so p_k does"
    p = [x.softmax(1)[torch.arange(len(k)), torch.from_numpy(k)] for x in (z.detach(), (z - 0.1 * z.grad).detach())]
    told = (p[0] > 1e-7) & (p[0] < 1 - 1e-7)  # a step of the size of p itself can still be seen in p
    assert told.sum() > 32 and (p[1] < p[0])[told].all()


@pytest.mark.parametrize(
    ("gap", "loss", "slope"), [(-40.0, np.exp(-40), np.exp(-40)), (0.0, np.log(2), 0.5), (90.0, 90.0, 1.0)]
)
def test_float32_keeps_both_ends(gap, loss, slope):
    """Two classes apart by ``gap``: log(1 + e^gap).  By logsumexp minus logsumexp the small one would be 0."""
    z = torch.tensor([[gap, 0.0]], requires_grad=True)
    found = negative_loss(z, torch.tensor([0]))
    found.sum().backward()
    assert found.item() == pytest.approx(loss, rel=1e-6) and z.grad[0, 0].item() == pytest.approx(slope, rel=1e-6)
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(kind):
    values, k = logits()
    z = torch.from_numpy(values).to(kind)
    found = negative_loss(z, torch.from_numpy(k))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, negative_loss(z.float(), torch.from_numpy(k)))
