"""Nested learning in a fit: when blocks are updated, what a checkpoint stores, and the prototype objective."""

import json

import numpy as np
import pytest
import torch
from test_fit import SMALL, Kill, assert_same_end, epochs_of, kill_at, read, train
from torch import nn
from torch.nn import functional as F

from fer_lib.adapt.objective import fit_params
from fer_lib.datasets.batches import Batch
from fer_lib.deploy.onnx_file import export_onnx
from fer_lib.errors import FerError
from fer_lib.models.bundle import ONNX, derive_bundle, read_bundle
from fer_lib.params import AdaptParams, StudentParams, TeacherParams
from fer_lib.training import fit, loop
from fer_lib.training.checkpoint import load_checkpoint
from fer_lib.training.distributed import SingleProcess
from fer_lib.training.fit_inputs import model_config
from fer_lib.training.nested import BlockUpdates
from fer_lib.training.resume_check import fit_key
from fer_lib.training.step import Stepper
from fer_lib.training.student import train_student

BLOCKS, PROTOTYPES = {"kind": "blocks", "intervals": [1, 2, 4]}, {"kind": "prototypes"}
NEGATIVE = {"method": "negl"}  # its state is stored beside that of the prototypes


def params(nested, **changes):
    return TeacherParams(**SMALL | {"nested": nested} | changes)


# ---------------------------------------------------------------- one step compared with its definition


class Net(nn.Module):
    """A small model with blocks."""

    def __init__(self, blocks):
        super().__init__()
        self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 7)
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(5, 5), nn.SiLU()) for _ in range(blocks)))

    def forward(self, x):
        return self.last(self.blocks(self.first(x.flatten(1))))


class CrossEntropy:
    def loss(self, model, images, batch, epoch):
        return F.cross_entropy(model(images), torch.from_numpy(batch.labels), reduction="none")


def batch(step):
    rng = np.random.default_rng(step)
    images = rng.normal(size=(14, 1, 2, 3)).astype(np.float32)
    return Batch(np.arange(14), images, np.repeat(np.arange(7), 2), np.arange(14))


def stepper(intervals, clip_grad=0.0, accum_steps=1):
    torch.manual_seed(4)
    model = Net(len(intervals))
    nested = {"kind": "blocks", "intervals": intervals}
    p = TeacherParams(batch_size=14, nested=nested, clip_grad=clip_grad, accum_steps=accum_steps, precision="fp32")
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.1, fused=True)
    updates = BlockUpdates(model, optimiser, p)
    return model, Stepper(model, CrossEntropy(), optimiser, p, SingleProcess(torch.device("cpu")), updates)


def flat(parameters):
    return torch.cat([q.detach().flatten() for q in parameters])


def gradients(model, step):
    loss = F.cross_entropy(model(torch.from_numpy(batch(step).images)), torch.from_numpy(batch(step).labels))
    return dict(
        zip((n for n, _ in model.named_parameters()), torch.autograd.grad(loss, model.parameters()), strict=True)
    )


@pytest.mark.parametrize("accum_steps", [1, 2])
@pytest.mark.parametrize("bound", [0.0, 0.05])
def test_a_block_takes_an_adam_step_by_the_sum_of_its_gradients(bound, accum_steps):
    """AdamW written out (Loshchilov & Hutter 2019), with one counter per block."""
    intervals, lr, decay = [1, 4, 6], 0.02, 0.1
    model, take_step = stepper(intervals, bound, accum_steps)
    sums, moments, counts, clipped = {}, {}, {}, 0
    for step in range(13):
        current, new = gradients(model, step), {}
        for level, interval in {None: 1, **dict(enumerate(intervals))}.items():
            own = [n for n in current if n.startswith(f"blocks.{level}.") or level is None and "blocks" not in n]
            for name in own:
                sums[name] = sums.get(name, 0.0) + current[name].double()
            if (step + 1) % interval:
                continue
            counts[level] = t = counts.get(level, 0) + 1
            norm = torch.cat([sums[name].flatten() for name in own]).norm().item()
            shrink = min(1.0, bound / norm) if bound else 1.0
            clipped += shrink < 0.9
            for name in own:
                g, w = shrink * sums.pop(name), model.get_parameter(name).detach().double()
                m, v = moments.get(name, (0.0, 0.0))
                m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
                moments[name] = m, v
                new[name] = w * (1 - lr * decay) - lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
        before = {name: q.detach().clone() for name, q in model.named_parameters()}
        take_step(batch(step), step, 0.0)
        for name, q in model.named_parameters():
            if name in new:
                torch.testing.assert_close(q.detach().double(), new[name], rtol=0, atol=1e-4 if bound else 2e-5)
            else:
                assert torch.equal(q, before[name]), f"{name} has no update at step {step}"
    assert counts == {None: 13, 0: 13, 1: 3, 2: 2} and bool(clipped) == bool(bound)
    steps = {int(take_step.optimiser.state[q]["step"]) for q in model.blocks[2].parameters()}
    assert steps == {2}


def test_partial_sums_are_the_state_of_a_checkpoint():
    model, take_step = stepper([1, 4])
    sums = {}
    for step in range(6):
        for name, g in gradients(model, step).items():
            sums[name] = sums.get(name, 0.0) + g if step >= 4 else 0.0
        take_step(batch(step), step, 0.0)
    state = take_step.updates.state
    assert set(state) == {"nested.sum_1_0", "nested.sum_1_1"}, "a block that is updated at every step has no sum"
    for key, name in zip(state, ("blocks.1.0.weight", "blocks.1.0.bias"), strict=True):
        torch.testing.assert_close(state[key], sums[name], rtol=0, atol=1e-7)


# ---------------------------------------------------------------- a fit with blocks


def test_intervals_of_one_equal_the_plain_optimiser_to_the_bit(drawn_manifest, pack_cache, tmp_path, monkeypatch):
    """The same net, blocks included.  Clipping is off, because it clips each block alone."""
    ones = {"kind": "blocks", "intervals": [1, 1, 1]}
    states = {}
    for name, nested in (("nested", ones), ("groups", ones | {"lr_scale": [1.0, 1.0, 1.0]}), ("plain", ones)):
        with monkeypatch.context() as m:
            if name == "plain":
                m.setattr(loop, "BlockUpdates", lambda *_: None)
            train(drawn_manifest, tmp_path / name, pack_cache, params(nested, clip_grad=0.0))
        states[name] = load_checkpoint(tmp_path / name / "checkpoint_last")[0]
    assert any(k.startswith("model.blocks.") and v.any() for k, v in states["plain"].items() if ".2." in k)
    assert set(states["nested"]) == set(states["plain"])
    assert all(torch.equal(states["nested"][k], v) for k, v in states["plain"].items())
    models = [k for k in states["plain"] if k.startswith(("model.", "ema."))]
    assert all(torch.equal(states["groups"][k], states["plain"][k]) for k in models)


@pytest.fixture(scope="module")
def unbroken(drawn_manifest, pack_cache, tmp_path_factory):
    """The unbroken run with blocks: (its folder, its events).  Sums remain between epochs and at its end."""
    out = tmp_path_factory.mktemp("blocks")
    return out, train(drawn_manifest, out, pack_cache, params(BLOCKS))


@pytest.mark.parametrize("step", [3, 5])
def test_run_killed_between_two_updates_ends_as_the_unbroken_one(
    drawn_manifest, pack_cache, unbroken, tmp_path, monkeypatch, step
):
    p = params(BLOCKS, checkpoint_minutes=1e-9)
    with monkeypatch.context() as m:
        kill_at(m, step)
        with pytest.raises(Kill):
            train(drawn_manifest, tmp_path, pack_cache, p)
    sums = {k: v for k, v in load_checkpoint(tmp_path / "checkpoint_last")[0].items() if "nested.sum" in k}
    assert len(sums) == 8 and sums["objective.nested.sum_2_2"].any()
    assert train(drawn_manifest, tmp_path, pack_cache, p)[0]["resumed_at_step"] == step
    assert_same_end(tmp_path, unbroken[0])


def test_share_of_updates_is_logged(unbroken):
    shares = [e["train"]["nested_applied_frac"] for e in epochs_of(unbroken[1])]
    assert shares == pytest.approx([(3 + 1 + 0) / 9, (3 + 2 + 1) / 9, (3 + 1 + 1) / 9])
    assert read(unbroken[0], "alignmentreport")["protocol"]["nested"]["intervals"] == [1, 2, 4]


def test_an_epoch_without_update_is_a_warning(drawn_manifest, pack_cache, tmp_path):
    p = params({"kind": "blocks", "intervals": [4]}, epochs=2)
    events = train(drawn_manifest, tmp_path, pack_cache, p)
    assert [e["train"]["nested_applied_frac"] for e in epochs_of(events)] == pytest.approx([0, 1 / 3])
    [note] = [e for e in events if e["event"] == "note"]
    assert note["level"] == "warning" and "epoch 1: nested learning was applied to nothing" in note["message"]
    assert note in train(drawn_manifest, tmp_path, pack_cache, p), "a resumed fit is a new run"


def test_learning_rate_of_a_block_is_scaled(drawn_manifest, pack_cache, tmp_path):
    """The first step of Adam moves each weight by the learning rate."""
    p = params(
        {"kind": "blocks", "intervals": [1, 1], "lr_scale": [0.5, 2.0]}, epochs=1, max_train_batches=1, warmup_epochs=0,
        weight_decay=0.0, lr=1e-3, min_lr=1e-3, clip_grad=0.0,
    )  # fmt: skip
    train(drawn_manifest, tmp_path, pack_cache, p)
    tensors = load_checkpoint(tmp_path / "checkpoint_last")[0]
    for block, rate in ((0, 5e-4), (1, 2e-3)):
        assert tensors[f"model.blocks.{block}.inner.2.weight"].abs().median().item() == pytest.approx(rate, rel=1e-3)


def test_bundle_with_blocks_predicts_and_exports(unbroken, tmp_path):
    best, images = read_bundle(unbroken[0] / "best"), torch.randn(5, 3, 32, 32)
    assert best.meta["model"]["blocks"] == 3
    onnx = export_onnx(best, tmp_path / ONNX)
    session = derive_bundle(best, tmp_path / "bundle", extra_files={ONNX: onnx}).session()
    with torch.no_grad():
        logits = best.model()(images).numpy()
        np.testing.assert_allclose(session.run(None, {"faces": images.numpy()})[0], logits, atol=1e-4)
        best.model().blocks = nn.Sequential()
        assert np.abs(best.model()(images).numpy() - logits).max() > 1e-3, "the blocks have learned"


def test_adaptation_takes_the_blocks_of_its_base(unbroken):
    base = read_bundle(unbroken[0] / "best")
    assert model_config(fit_params(AdaptParams(), base)) == base.meta["model"] | {"dropout": 0.3, "backbone_args": {}}


def test_blocks_are_added_to_a_plain_start_and_never_dropped(
    drawn_manifest, pack_cache, unbroken, tmp_path, monkeypatch
):
    small = dict(epochs=1, max_train_batches=1)
    train(drawn_manifest, tmp_path / "plain", pack_cache, params({"kind": "off"}, **small))
    start, images, logits = read_bundle(tmp_path / "plain" / "best"), torch.randn(4, 3, 32, 32), []
    assert "blocks" not in start.meta["model"]

    def record(model, *arguments, **options):
        with torch.no_grad():
            logits.extend((model.eval()(images), start.model()(images)))
        return real(model, *arguments, **options)

    real = fit.fit
    monkeypatch.setattr(fit, "fit", record)
    events = train(drawn_manifest, tmp_path / "nested", pack_cache, params(BLOCKS, **small), init_from=str(start.path))
    assert events[-1]["event"] == "end" and torch.equal(*logits), "added blocks are the identity"
    for name, nested in (("off", {"kind": "off"}), ("fewer", BLOCKS | {"intervals": [1, 2]})):
        with pytest.raises(FerError, match="is another model: it has .*'blocks': 3.*these parameters ask for"):
            best = str(unbroken[0] / "best")
            train(drawn_manifest, tmp_path / name, pack_cache, params(nested, **small), init_from=best)


# ---------------------------------------------------------------- the prototype objective


@pytest.fixture(scope="module")
def pulled(drawn_manifest, pack_cache, tmp_path_factory):
    """The unbroken run with the prototype loss and negative learning: (its folder, its events)."""
    out = tmp_path_factory.mktemp("prototypes")
    return out, train(drawn_manifest, out, pack_cache, params(PROTOTYPES, negative=NEGATIVE))


def test_figures_of_the_gate_are_logged(pulled):
    rows = [e["train"] for e in epochs_of(pulled[1])]
    for row in rows:
        assert 0 < row["nested_applied_frac"] <= 1 and 0 < row["nested_distance"] < 2 and 0 < row["nested_doubt"] < 1
        assert -8 < row["nested_uniformity"] < 0
        pull = row["nested_distance"] * row["nested_applied_frac"]
        assert row["nested_loss"] == pytest.approx(0.1 * (pull + row["nested_uniformity"]), rel=1e-4)
    assert rows[0]["nested_applied_frac"] < rows[1]["nested_applied_frac"], "the first micro-batch had no prototype"
    tensors = load_checkpoint(pulled[0] / "checkpoint_last")[0]
    assert tensors["objective.nested.sums"][0, 0] == 42, "the rows of the last epoch"
    assert "objective.negative_counts" in tensors and rows[-1]["negl_gate_share"] is not None
    earlier = load_checkpoint(pulled[0] / "checkpoint_epoch002")[0]
    for name in ("projection.weight", "projection.bias", "prototypes"):
        assert not torch.equal(tensors[f"objective.nested.{name}"], earlier[f"objective.nested.{name}"]), name


def test_prototype_loss_is_part_of_the_training_alone(pulled, drawn_manifest, pack_cache, tmp_path):
    best = read_bundle(pulled[0] / "best")
    assert "blocks" not in best.meta["model"] and not [k for k in best.state_dict() if "proto" in k]
    without = {}
    for name, nested in (("plain", {"kind": "off"}), ("zero", PROTOTYPES | {"weight": 0.0})):
        train(drawn_manifest, tmp_path / name, pack_cache, params(nested, clip_grad=0.0))
        without[name] = read_bundle(tmp_path / name / "best")
    assert without["zero"].weights_sha256 == without["plain"].weights_sha256 != best.weights_sha256


def test_a_student_has_the_figures_of_the_gate_too(drawn_manifest, pack_cache, tmp_path):
    names = (
        "backbone",
        "image_size",
        "embed_dim",
        "batch_size",
        "warmup_epochs",
        "max_train_batches",
        "threads",
        "device",
    )
    p = StudentParams(**{name: SMALL[name] for name in names}, epochs=1, nested=PROTOTYPES | {"gate": "top"})
    [row] = epochs_of(train_student(p, drawn_manifest, tmp_path, pack_cache))
    assert 0 < row["train"]["nested_applied_frac"] < 0.2 and row["train"]["nested_loss"] < 0


@pytest.mark.parametrize("step", [2, 4])
def test_run_with_prototypes_killed_within_an_epoch_ends_as_the_unbroken_one(
    drawn_manifest, pack_cache, pulled, tmp_path, monkeypatch, step
):
    p = params(PROTOTYPES, negative=NEGATIVE, checkpoint_minutes=1e-9)
    with monkeypatch.context() as m:
        kill_at(m, step)
        with pytest.raises(Kill):
            train(drawn_manifest, tmp_path, pack_cache, p)
    assert train(drawn_manifest, tmp_path, pack_cache, p)[0]["resumed_at_step"] == step
    assert_same_end(tmp_path, pulled[0])


def test_run_with_prototypes_killed_during_validation_ends_as_the_unbroken_one(
    drawn_manifest, pack_cache, pulled, tmp_path, monkeypatch
):
    """The figures of an epoch are computed a second time."""

    def kill(*arguments):
        raise Kill

    p = params(PROTOTYPES, negative=NEGATIVE, checkpoint_minutes=1e-9)
    with monkeypatch.context() as m:
        m.setattr(loop, "validate", kill)
        with pytest.raises(Kill):
            train(drawn_manifest, tmp_path, pack_cache, p)
    assert load_checkpoint(tmp_path / "checkpoint_last")[1]["step"] == 3
    train(drawn_manifest, tmp_path, pack_cache, p)
    assert_same_end(tmp_path, pulled[0])


def test_a_gate_that_no_row_passes_is_a_warning(drawn_manifest, pack_cache, tmp_path):
    p = params(PROTOTYPES | {"gate_threshold": 1.0}, epochs=1, max_train_batches=1)
    events = train(drawn_manifest, tmp_path, pack_cache, p)
    [note] = [e for e in events if e["event"] == "note" and "nested" in e["message"]]
    assert "no row passed the gate" in note["message"] and note["level"] == "warning"
    [row] = epochs_of(events)
    assert row["train"]["nested_applied_frac"] == 0 and row["train"]["nested_distance"] is None
    assert json.loads((tmp_path / "history.json").read_text())[0]["train"]["nested_distance"] is None


# ---------------------------------------------------------------- parameters


@pytest.mark.parametrize("changes", [{"processes": 2, "accum_steps": 1}, {"compile": True}, {"mixup": 0.2}])
def test_settings_that_prototypes_exclude_are_refused(changes):
    name = next(iter(changes))
    with pytest.raises(ValueError, match=f"prototype loss .* can't be used with {name}.*use nested"):
        params(PROTOTYPES, **changes)
    params(BLOCKS, **changes)


def test_one_rate_per_interval():
    with pytest.raises(ValueError, match="lr_scale has 2 values for 3 intervals"):
        params({"kind": "blocks", "lr_scale": [1.0, 0.5]})


@pytest.mark.parametrize("model", [TeacherParams, StudentParams])
def test_nested_learning_that_is_off_is_no_part_of_a_checkpoint_key(model):
    off, unset, on = model(nested={"intervals": [2]}), model(), model(nested={"kind": "blocks"})
    assert fit_key(off, {}) == fit_key(unset, {}) != fit_key(on, {})
    assert "nested" in model.unused_fields({}) and "nested" not in model.unused_fields(on.model_dump())
