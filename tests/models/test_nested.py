"""Residual blocks and the prototype loss compared with their definitions."""

import numpy as np
import pytest
import torch

from fer_lib.models.classifier import FerClassifier, build_classifier
from fer_lib.models.nested import PrototypeLoss, ResidualBlock, uniformity
from fer_lib.params import NestedParams

CONFIG = dict(backbone="test_resnet", image_size=32, embed_dim=16, dropout=0.3, head="cosine", s=12.0)


def classifier(**changes) -> FerClassifier:
    torch.manual_seed(5)
    return build_classifier(CONFIG | changes)


@pytest.mark.parametrize("head", ["cosine", "linear"])
def test_new_blocks_change_no_bit_of_the_logits(head):
    plain, nested = classifier(head=head), classifier(head=head, blocks=3)
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for mode in (False, True):
        logits = []
        for model in (plain, nested):
            torch.manual_seed(9)  # of dropout
            logits.append(model.train(mode)(images))
        assert torch.equal(*logits) and logits[0].std() > 0
    assert {k for k in nested.state_dict() if k not in plain.state_dict()} == {
        f"blocks.{i}.inner.{j}.{name}" for i in range(3) for j in (0, 2) for name in ("weight", "bias")
    }


def test_config_names_blocks_only_when_there_are_any():
    assert classifier().config == CONFIG and classifier(blocks=2).config == CONFIG | {"blocks": 2}


def test_a_block_is_its_formula():
    block = ResidualBlock(4).double()
    first, last = block.inner[0], block.inner[2]
    assert not last.weight.any() and not last.bias.any()
    torch.nn.init.normal_(last.weight)
    torch.nn.init.normal_(last.bias)
    x = torch.randn(3, 4, dtype=torch.float64)
    hidden = x @ first.weight.T + first.bias
    expected = x + (hidden / (1 + torch.exp(-hidden))) @ last.weight.T + last.bias
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-12)


# ---------------------------------------------------------------- uniformity


def test_uniformity_equals_the_mean_over_pairs():
    z = np.random.default_rng(0).normal(size=(9, 5))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    pairs = [np.exp(-2 * ((z[i] - z[j]) ** 2).sum()) for i in range(9) for j in range(i)]
    assert uniformity(torch.tensor(z)).item() == pytest.approx(np.log(np.mean(pairs)), abs=1e-12)
    assert torch.autograd.gradcheck(uniformity, torch.tensor(z, requires_grad=True))


def test_uniformity_at_its_ends():
    one = torch.tensor([[1.0, 0.0]])
    assert uniformity(one.repeat(4, 1)) == 0 and uniformity(one) == 0
    assert uniformity(torch.cat([one, -one])).item() == pytest.approx(-8.0)


# ---------------------------------------------------------------- the prototype loss


def expected_loss(module, prototypes, embedding, logits, y, gate):
    """Loss of each row, the new prototypes and the sums, row by row in float64."""
    p = module.p
    weight, bias = (t.detach().double().numpy() for t in module.projection.parameters())
    z = embedding.astype(np.float64) @ weight.T + bias
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    doubt = 1 - probs[np.arange(len(y)), y]
    passed = gate(doubt) & prototypes.any(1)[y]
    distance = np.array([passed[i] * (1 - z[i] @ prototypes[y[i]]) for i in range(len(y))])
    pairs = [np.exp(-2 * ((z[i] - z[j]) ** 2).sum()) for i in range(len(y)) for j in range(i)]
    spread = np.log(np.mean(pairs))
    moved = prototypes.copy()
    for c in set(y.tolist()):
        moved[c] = p.prototype_decay * prototypes[c] + (1 - p.prototype_decay) * z[y == c].mean(0)
        moved[c] /= np.linalg.norm(moved[c])
    sums = [len(y), passed.sum(), distance.sum(), spread * len(y), doubt.sum()]
    return p.weight * (distance + spread), moved, sums


def over(threshold):
    return lambda doubt: doubt >= threshold


def top(share):
    def gate(doubt):
        return np.isin(np.arange(len(doubt)), np.argsort(-doubt)[: max(1, round(share * len(doubt)))])

    return gate


@pytest.mark.parametrize(
    "changes, gate",
    [
        ({}, over(0.2)),
        ({"gate_threshold": 0.9, "weight": 0.5, "prototype_decay": 0.5}, over(0.9)),
        ({"gate": "top"}, top(0.1)),
        ({"gate": "top", "gate_top": 0.4, "prototype_dim": 3}, top(0.4)),
    ],
)
def test_prototype_loss_follows_its_definition(changes, gate):
    torch.manual_seed(2)
    module = PrototypeLoss(8, NestedParams(kind="prototypes", **changes))
    rng, gated = np.random.default_rng(3), []
    prototypes = np.zeros((7, module.p.prototype_dim))
    for call in range(6):  # the first has no prototype yet; a batch lacks some classes
        embedding, logits = rng.normal(size=(20, 8)).astype(np.float32), 3 * rng.normal(size=(20, 7))
        y = rng.integers(0, 5 if call < 3 else 7, 20)
        expected, prototypes, expected_sums = expected_loss(module, prototypes, embedding, logits, y, gate)
        gated.append(expected_sums[1])
        losses, sums = module(torch.tensor(embedding), torch.tensor(logits), torch.tensor(y))
        np.testing.assert_allclose(losses.detach().numpy(), expected, atol=2e-6)
        np.testing.assert_allclose(module.prototypes.numpy(), prototypes, atol=2e-6)
        np.testing.assert_allclose(sums.numpy(), expected_sums, rtol=1e-5, atol=1e-5)
    assert gated[0] == 0, "no prototype, no pull"
    assert 0 < sum(gated) < 120, "the gate is 1 for some rows only"


def test_a_step_pulls_gated_rows_to_their_prototype():
    torch.manual_seed(2)
    module = PrototypeLoss(8, NestedParams(kind="prototypes", gate_threshold=0.5))
    embedding, y = torch.randn(12, 8), torch.arange(12) % 3
    logits = torch.full((12, 7), 0.0)
    module(embedding, logits, y)
    embedding.requires_grad_()
    sure = logits.clone()
    sure[:6] = 20.0 * torch.nn.functional.one_hot(y[:6], 7)  # p_y near 1: the gate is 0
    before = module.prototypes.clone()

    def distances():
        return 1 - (torch.nn.functional.normalize(module.projection(embedding)) * before[y]).sum(1)

    loss = module(embedding, sure, y)[0] - 0.1 * uniformity(torch.nn.functional.normalize(module.projection(embedding)))
    loss.sum().backward()
    assert not embedding.grad[:6].abs().max() > 1e-6 and (embedding.grad[6:].abs().max(1).values > 1e-3).all()
    start = distances().detach()
    with torch.no_grad():
        embedding -= embedding.grad
    assert (distances()[6:] < start[6:]).all()
