"""One step compared with its definition: micro-batches, gradient clipping, random draws and the moving average."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fer_lib.datasets.batches import Batch
from fer_lib.models.bundle import read_bundle
from fer_lib.params import TeacherParams
from fer_lib.training.checkpoint import load_checkpoint
from fer_lib.training.distributed import SingleProcess
from fer_lib.training.step import Stepper
from fer_lib.training.teacher import train_teacher

ROWS, LR = 28, 0.5
CPU = torch.device("cpu")


class CrossEntropy:
    """The loss of each row; ``outputs`` has the model's output for each micro-batch."""

    def __init__(self):
        self.outputs = []

    def loss(self, model, images, batch, epoch):
        self.outputs.append(model(images))
        return F.cross_entropy(self.outputs[-1], torch.from_numpy(batch.labels), reduction="none")

    def figures(self, epoch):
        return {}


class OneOfSeveral(SingleProcess):
    """Rank and size of a distributed context, without communication."""

    def __init__(self, rank, size):
        super().__init__(CPU)
        self.process_index, self.num_processes = rank, size


def stepper(model, context=None, lr=LR, **changes):
    p = TeacherParams(**{"batch_size": ROWS, "seed": 3, "precision": "fp32", "device": "cpu"} | changes)
    return Stepper(model, CrossEntropy(), torch.optim.SGD(model.parameters(), lr=lr), p, context or SingleProcess(CPU))


@pytest.fixture
def batch():
    """Rows sorted by class, as the sampler returns them."""
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(ROWS, 4, 4, 3)).astype(np.float32), np.repeat(np.arange(7), ROWS // 7)
    images += labels[:, None, None, None] / 4  # micro-batches with other classes then have other statistics
    return Batch(np.arange(ROWS), images.transpose(0, 3, 1, 2), labels, np.arange(ROWS))


def net(*middle):
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 16), *middle, nn.SiLU(), nn.Linear(16, 7))


def gradients(model):
    return [q.grad for q in model.parameters()]


def expected_gradients(model, batch, parts=1):
    """Gradients, loss and model for the mean loss of all rows; micro-batch k has every ``parts``-th row from row k."""
    clone = copy.deepcopy(model).train()
    images, y = torch.from_numpy(batch.images), torch.from_numpy(batch.labels)
    losses = torch.cat([F.cross_entropy(clone(images[k::parts]), y[k::parts], reduction="none") for k in range(parts)])
    losses.mean().backward()
    return gradients(clone), losses.mean().item(), clone


def assert_near(actual, expected, atol=1e-6):
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


# ---------------------------------------------------------------- micro-batches


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_micro_batches_have_the_gradient_of_the_batch(batch, parts):
    """Also when their sizes differ: 28 rows in 3 or 5 parts."""
    model = net()
    expected, loss, _ = expected_gradients(model, batch)
    assert max(g.abs().max() for g in expected) > 0.01
    before = [q.detach().clone() for q in model.parameters()]
    step = stepper(model, accum_steps=parts)
    step(batch, 0, 0.0)
    assert [len(z) for z in step.objective.outputs] == [len(range(k, ROWS, parts)) for k in range(parts)]
    assert_near(gradients(model), expected)
    assert_near(model.parameters(), [w - LR * g for w, g in zip(before, expected, strict=True)])
    progress = step.progress
    assert progress.loss_sum / progress.loss_n == pytest.approx(loss, abs=1e-6) and progress.loss_n == ROWS


def test_gradients_of_the_previous_step_are_cleared(batch):
    model = net()
    step = stepper(model, accum_steps=2)
    step(batch, 0, 0.0)
    expected, _, _ = expected_gradients(model, batch)
    step(batch, 1, 0.0)
    assert_near(gradients(model), expected)


@pytest.mark.parametrize("parts", [2, 4])
def test_batch_norm_normalises_each_micro_batch_alone(batch, parts):
    """Each micro-batch has every class.  Running statistics are updated once per micro-batch, in order."""
    model = net(nn.BatchNorm1d(16))
    expected, loss, reference = expected_gradients(model, batch, parts)
    unsplit, _, _ = expected_gradients(model, batch)
    step = stepper(model, accum_steps=parts)
    step(batch, 0, 0.0)
    assert_near(gradients(model), expected)
    assert step.progress.loss_sum / ROWS == pytest.approx(loss, abs=1e-6)
    assert max((a - b).abs().max() for a, b in zip(unsplit, expected, strict=True)) > 1e-3, "differs from one batch"
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(model[2], name), getattr(reference[2], name), rtol=0, atol=1e-6)
    assert model[2].num_batches_tracked == parts


# ---------------------------------------------------------------- clipping


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("share", [0.1, 0.5, 1.5])
def test_gradient_is_clipped_by_its_norm(batch, parts, share):
    """min(1, c / |g|) g, with |g| over all parameters and all micro-batches; a gradient shorter than c is unchanged."""
    model = net()
    expected, _, _ = expected_gradients(model, batch)
    norm = torch.cat([g.flatten() for g in expected]).norm().item()
    before = [q.detach().clone() for q in model.parameters()]
    stepper(model, accum_steps=parts, clip_grad=share * norm)(batch, 0, 0.0)
    clipped = [g * min(1.0, share) for g in expected]
    assert_near(gradients(model), clipped, atol=2e-6)
    assert_near(model.parameters(), [w - LR * g for w, g in zip(before, clipped, strict=True)], atol=2e-6)


def test_clipping_with_a_large_bound_changes_no_bit(batch):
    weights = []
    for bound in (0.0, 1e6):
        model = net()
        stepper(model, clip_grad=bound)(batch, 0, 0.0)
        weights.append(list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


# ---------------------------------------------------------------- random draws


class DropoutMask(nn.Module):
    """Outputs the mask of its dropout, [N, 7 * 32]."""

    def __init__(self):
        super().__init__()
        self.scale, self.dropout = nn.Parameter(torch.ones(224)), nn.Dropout(0.5)

    def forward(self, images):
        return self.dropout(self.scale.expand(len(images), -1))


def masks(batch, step, context=None, **changes):
    """The units that each micro-batch of a step drops, bool; the generators start from a random state."""
    model = DropoutMask()
    take_step = stepper(model, context, lr=0.0, **changes)
    torch.manual_seed(np.random.default_rng().integers(2**32))
    torch.rand(7)
    take_step(batch, step, 0.0)
    return [(z == 0).detach() for z in take_step.objective.outputs]


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("parts", [1, 2])
def test_dropout_masks_are_a_function_of_seed_and_step(batch, parts):
    first = masks(batch, 12, accum_steps=parts)
    assert 0.4 < first[0].double().mean() < 0.6
    assert same(first, masks(batch, 12, accum_steps=parts)), "as after a resume"
    others = [masks(batch, step, accum_steps=parts, seed=seed) for step, seed in ((13, 3), (12, 4), (2, 31), (1, 32))]
    everything = [first, *others]
    assert not any(same(a, b) for i, a in enumerate(everything) for b in everything[:i])
    rows = first[0]
    assert not torch.equal(rows[0], rows[1]), "each row has its own mask"


def test_each_micro_batch_has_its_own_dropout_mask(batch):
    one, two = masks(batch, 5, accum_steps=2)
    assert not torch.equal(one, two)
    [unsplit] = masks(batch, 5)
    assert torch.equal(unsplit[: len(one)], one), "a function of seed, step and micro-batch number only"


@pytest.mark.parametrize("processes, accum_steps", [(2, 1), (2, 2), (3, 2)])
def test_several_processes_draw_the_masks_of_one(batch, processes, accum_steps):
    """Micro-batch k of a process is micro-batch k * processes + rank of one process with as many micro-batches."""
    expected = masks(batch, 5, accum_steps=processes * accum_steps)
    for rank in range(processes):
        share = slice(rank, None, processes)
        part = Batch(batch.rows[share], batch.images[share], batch.labels[share], batch.step_rows)
        actual = masks(part, 5, OneOfSeveral(rank, processes), accum_steps=accum_steps)
        assert same(actual, expected[rank::processes])


def test_repeated_step_has_the_same_loss_to_the_bit(batch):
    def loss(step, seed=3):
        take_step = stepper(net(nn.Dropout(0.5)), seed=seed, accum_steps=2)
        torch.rand(step + seed)
        take_step(batch, step, 0.0)
        return take_step.progress.loss_sum

    assert loss(8) == loss(8) and len({loss(8), loss(9), loss(8, seed=4)}) == 3


# ---------------------------------------------------------------- the moving average


def test_moving_average_follows_its_recursion(drawn_manifest, pack_cache, tmp_path, monkeypatch):
    """e_n = d_n e_(n-1) + (1 - d_n) w_n with d_n = min(decay, 1 - n^(-2/3)), so e_1 = w_1.

    Running statistics are averaged too.  The best bundle holds the average.
    """
    real, after = Stepper.__call__, []

    def record(self, batch, step, epoch):
        real(self, batch, step, epoch)
        after.append({k: v.double() for k, v in self.model.state_dict().items() if v.is_floating_point()})

    monkeypatch.setattr(Stepper, "__call__", record)
    p = TeacherParams(
        backbone="test_resnet", image_size=32, embed_dim=16, epochs=1, batch_size=14, lr=3e-3, warmup_epochs=0.0,
        plain_epochs=0, ramp_end=0, ema_decay=0.6, max_train_batches=6, threads=1, device="cpu", onnx="none",
    )  # fmt: skip
    list(train_teacher(p, drawn_manifest, tmp_path, pack_cache))
    decays = [min(0.6, 1 - n ** (-2 / 3)) for n in range(1, 7)]
    assert len(after) == 6 and decays[0] == 0 < decays[1] < decays[2] < decays[3] == 0.6
    expected = dict.fromkeys(after[0], 0.0)
    for d, weights in zip(decays, after, strict=True):
        expected = {k: d * expected[k] + (1 - d) * w for k, w in weights.items()}
    tensors, _ = load_checkpoint(tmp_path / "checkpoint_last")
    best = read_bundle(tmp_path / "best").state_dict()
    for name, average in expected.items():
        torch.testing.assert_close(tensors[f"ema.{name}"].double(), average, rtol=1e-5, atol=1e-6, msg=name)
        assert torch.equal(tensors[f"ema.{name}"], best[name]), name
        assert torch.equal(tensors[f"model.{name}"].double(), after[-1][name]), "training continues from the weights"
    gaps = [(average - after[-1][name]).abs().max() for name, average in expected.items()]
    assert max(gaps) > 1e-3, "average and weights differ"
