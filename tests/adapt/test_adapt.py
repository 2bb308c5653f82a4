"""A model adapted to a buffer: the loss as written, what is trained, what its norms do, resume, and what is refused."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from fer_lib.adapt import data as adapt_data
from fer_lib.adapt import promotion
from fer_lib.adapt.data import counts_table, find_data, training_set
from fer_lib.adapt.objective import AdaptObjective, fit_params, train_adapt
from fer_lib.calibration.temperature import Temperature
from fer_lib.datasets.batches import Batch
from fer_lib.datasets.facepack import open_or_build
from fer_lib.datasets.manifest import Manifest
from fer_lib.datasets.provenance import content_numbers, read_exposure
from fer_lib.deploy.packaged import packaged_bundle
from fer_lib.errors import BundleError, DataError
from fer_lib.evaluation.suites import measure_suite
from fer_lib.live.replay import replay
from fer_lib.models.bundle import derive_bundle, read_bundle
from fer_lib.models.classifier import trainable_parameters
from fer_lib.models.inference import predict_logits
from fer_lib.params import AdaptParams, StudentParams
from fer_lib.training.fit_inputs import open_data
from fer_lib.training.student import train_student

CPU = torch.device("cpu")


def params(**changes):
    base = dict(epochs=2, batch_size=16, lr=1e-3, threads=1, device="cpu", augment={"scale": (1.0, 1.0), "flip": 0.0})
    return AdaptParams(**base | changes)


@pytest.fixture(scope="module")
def base(drawn_manifest, pack_cache, tmp_path_factory):
    out = tmp_path_factory.mktemp("base")
    p = StudentParams(backbone="test_resnet", image_size=32, embed_dim=16, epochs=8, batch_size=28, lr=5e-3,
                      warmup_epochs=0.0, threads=1, device="cpu", name="student")  # fmt: skip
    list(train_student(p, drawn_manifest, out, pack_cache))
    found = Temperature(mode="fixed", global_temperature=1.0)  # that of seven val rows would make it sure of nothing
    return derive_bundle(read_bundle(out / "best"), out / "bundle", temperature=found)


@pytest.fixture(scope="module")
def drawn(base, tmp_path_factory):
    """What notebook 11 learns from when nothing is named, of half the length."""
    out = tmp_path_factory.mktemp("material")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapt_data, "DRAWN_ROUNDS", 1)
        return find_data(params(), [], "", base, out), out


@pytest.fixture(scope="module")
def training(drawn, drawn_manifest, base, tmp_path_factory):
    return training_set(params(), drawn[0].buffers, drawn_manifest, base, tmp_path_factory.mktemp("set") / "rows")


def test_without_a_buffer_a_drawn_session_is_learned_from_and_another_gates(drawn, base):
    found, out = drawn
    assert not found.trained_on and found.session == out / "gate_session"
    report = json.loads((found.buffers[0] / "buffer.json").read_text())
    assert report["ckpt"] == base.weights_sha256[:12], "the base judged it, for it learns from its own answers"
    kinds = {kind: sum(counts.values()) for kind, counts in report["counts"].items()}
    assert kinds["positive"] and kinds["corrected"] + kinds["negative"], kinds
    again = find_data(params(), [], "", base, out)
    assert again == found, "what is there is taken again"


def test_a_session_that_was_learned_from_is_known(drawn, base, tmp_path):
    found, out = drawn
    folder = str(found.buffers[0])
    own = find_data(params(), [folder], "", base, tmp_path)
    assert own.session == out / "session-judged" and own.trained_on
    original = find_data(params(), [folder], str(out / "session"), base, tmp_path)
    assert original.trained_on, "the session whose replay was learned from"
    copy = shutil.copytree(own.session, tmp_path / "elsewhere")
    assert find_data(params(), [folder], str(copy), base, tmp_path).trained_on, "a copy of it"
    other = replay(out / "session", packaged_bundle(), "packaged", tmp_path / "other")
    assert find_data(params(), [folder], str(other), base, tmp_path).trained_on, "what another model made of it"
    assert not find_data(params(), [folder], str(out / "gate_session"), base, tmp_path).trained_on
    alone = find_data(params(offline_only=True), [folder], "", base, tmp_path)
    assert alone.session is None and not alone.trained_on
    with pytest.raises(DataError, match="is no buffer.*fer live buffer SESSION"):
        find_data(params(), [str(out / "session")], "", base, tmp_path)
    with pytest.raises(DataError, match="is not there: name one by gate_session"):
        find_data(params(), [folder], str(tmp_path / "gone"), base, tmp_path)


def test_a_candidate_keeps_the_bias_and_the_abstention_of_its_base(base, tmp_path):
    bias, least = [0.5, 0, 0, -0.25, 0, 0, 0], [0.3, 0.3, 0.4, 0.5, 0.3, 0.3, 0.6]
    wary = derive_bundle(base, tmp_path / "wary", logit_bias=bias, abstention=least)
    assert promotion.inherit_policy(base, base, tmp_path) is base and not (tmp_path / "candidate").exists()
    found = promotion.inherit_policy(base, wary, tmp_path)
    assert found.logit_bias.tolist() == bias and found.abstention.tolist() == least
    assert found.weights_sha256 == base.weights_sha256 and found.temperature == base.temperature
    only = promotion.inherit_policy(base, derive_bundle(base, tmp_path / "biased", logit_bias=bias), tmp_path)
    assert only.logit_bias.tolist() == bias and only.abstention is None


def test_the_training_set_is_buffer_replay_and_val(training, drawn, drawn_manifest):
    frame, buffered = training.frame, Manifest.read(drawn[0].buffers[0] / "manifest.parquet")
    live = frame[frame["source"] == "live"]
    assert set(live["sample_id"]) == set(buffered.sample_ids) and set(live["split"]) == {"train"}
    replayed = frame[(frame["split"] == "train") & (frame["source"] != "live")]
    train = drawn_manifest.frame[drawn_manifest.frame["split"] == "train"]
    assert len(replayed) == min(len(buffered), len(replayed)) and set(replayed["sample_id"]) <= set(train["sample_id"])
    counts = np.bincount(replayed["label"], minlength=7)
    whole = np.bincount(train["label"], minlength=7)
    most = -(-len(buffered) // 7)
    assert (counts <= most).all() and (counts[whole <= most // 2] == whole[whole <= most // 2]).all()
    val = drawn_manifest.rows(split="val").frame
    mine = frame[frame["split"] == "val"].set_index("sample_id")
    assert set(mine.index) == set(val["sample_id"]), "no test row, and every val row"
    assert (mine.loc[val["sample_id"], "val_role"].to_numpy() == val["val_role"].to_numpy()).all()
    assert all(training.resolve(row).is_file() for row in frame["image_path"])
    table = counts_table(drawn[0].buffers, training)
    assert table.loc["replayed", "total"] == len(replayed) and table.loc["val", "total"] == len(val)
    assert table.loc[[i for i in table.index if i.startswith("buffered")], "total"].sum() == len(buffered)


def test_replay_is_a_share_and_the_same_every_time(drawn, drawn_manifest, base, tmp_path):
    n = len(Manifest.read(drawn[0].buffers[0] / "manifest.parquet"))
    for share in (0.0, 0.5):
        made = training_set(params(replay=share), drawn[0].buffers, drawn_manifest, base, tmp_path / "one")
        again = training_set(params(replay=share), drawn[0].buffers, drawn_manifest, base, tmp_path / "two")
        rows = (made.frame["split"] == "train") & (made.frame["source"] != "live")
        assert made.sha256 == again.sha256 and rows.sum() <= round(share * n) and bool(rows.any()) == (share > 0)
    other = training_set(params(replay=0.5, seed=2), drawn[0].buffers, drawn_manifest, base, tmp_path / "two")
    assert other.sha256 != made.sha256


class Fixed:
    def __init__(self, logits):
        self.logits = logits

    def __call__(self, images):
        return self.logits


@pytest.fixture(scope="module")
def data(training, base, pack_cache):
    return open_data(training, fit_params(params(), base), pack_cache)


def test_the_loss_is_the_one_that_is_written(data, base):
    """Over a step of two micro-batches, of which one holds nothing but negatives; in float64, by the definitions."""
    rows = data.train.manifest
    weight, negative = rows.weights, rows.negatives
    assert set(weight) == {0.0, 1.0} and ((negative >= 0) == (weight == 0)).all()
    sure, unsure = np.flatnonzero(weight == 1)[:5], np.flatnonzero(weight == 0)[:4]
    step = np.concatenate([unsure[:3], sure, unsure[3:]])
    z = np.random.default_rng(0).normal(0, 2, (len(step), 7))
    objective = AdaptObjective(fit_params(params(negl_weight=0.05), base), data, CPU)
    total = 0.0
    for part in (slice(0, 3), slice(3, None)):
        batch = Batch(step[part], None, rows.labels[step[part]], step)
        loss = objective.loss(Fixed(torch.from_numpy(z[part]).float()), None, batch, 0.0)
        assert loss.shape == (len(step[part]),)
        total += loss.sum().item() / len(step)  # what the stepper makes of it
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    ce = np.mean([-np.log(p[i, rows.labels[r]]) for i, r in enumerate(step) if weight[r]])
    negl = np.mean([-np.log(1 - p[i, negative[r]]) for i, r in enumerate(step) if negative[r] >= 0])
    assert total == pytest.approx(ce + 0.05 * negl, rel=1e-5)
    figures = objective.figures(0)
    assert figures["negl_loss"] == pytest.approx(negl, rel=1e-5) and objective.figures(0)["negl_loss"] is None
    sampled = [data.sampler.rows(i)[0] for i in range(data.sampler.steps_per_epoch)]
    assert figures["negl_applied_frac"] == pytest.approx((negative[np.concatenate(sampled)] >= 0).mean())


def test_a_label_of_a_row_for_negative_learning_is_never_learned(data, base):
    rows = np.flatnonzero(data.train.manifest.weights == 0)[:6]
    z = torch.randn(6, 7, generator=torch.Generator().manual_seed(1)).requires_grad_()
    objective = AdaptObjective(fit_params(params(), base), data, CPU)
    not_these = torch.from_numpy(data.train.manifest.negatives[rows])
    for labels in (data.train.manifest.labels[rows], (data.train.manifest.labels[rows] + 1) % 7):
        loss = objective.loss(Fixed(z), None, Batch(rows, None, labels, rows), 0.0).sum()
        (grad,) = torch.autograd.grad(loss, z)
        others = z.masked_fill(F.one_hot(not_these, 7).bool(), -torch.inf)
        plain = (torch.logsumexp(z, 1) - torch.logsumexp(others, 1)).sum()
        expected = 0.05 * torch.autograd.grad(plain, z)[0]
        torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-7)


def test_the_prior_is_of_labels_that_count(data):
    rows = data.train.manifest
    counts = np.bincount(rows.labels[rows.weights > 0], minlength=7)
    assert data.prior == pytest.approx(counts / counts.sum())


@pytest.mark.parametrize("policy", ["frozen", "update"])
@pytest.mark.parametrize("tune", ["head", "bn", "both"])
def test_only_what_is_tuned_changes_and_norms_do_as_told(training, base, pack_cache, tmp_path, tune, policy):
    p = params(tune=tune, bn_policy=policy, epochs=1, weight_decay=0.1)
    list(train_adapt(p, base, training, tmp_path, pack_cache))
    best = read_bundle(tmp_path / "best")
    before, after = base.state_dict(), best.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    statistics = {k for k in before if k.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")}
    norms = {k.rpartition(".")[0] for k in statistics}
    affine = {f"{n}.{w}" for n in norms for w in ("weight", "bias")} & set(before)
    head = {k for k in before if not k.startswith("backbone.")} - statistics
    may = {"head": head, "bn": affine, "both": head | affine}[tune]
    assert set(trainable_parameters(base.model(), {"head": "head", "bn": "norms", "both": "bn"}[tune])) == may
    assert changed - statistics <= may and changed - statistics, sorted(changed - statistics - may)[:5]
    assert changed & statistics == (statistics if policy == "update" else set())
    assert best.contract == base.contract and best.meta["model"] == base.meta["model"]
    ids = best.meta["ids"]
    assert ids["starting_weights_sha256"] == base.weights_sha256 and best.meta["kind"] == "student"


def test_what_it_learned_from_and_the_base_before_is_remembered(training, base, pack_cache, tmp_path):
    list(train_adapt(params(epochs=1), base, training, tmp_path, pack_cache))
    seen, before = read_exposure(tmp_path / "best"), read_exposure(base.path)
    assert seen.complete and set(before.trained_on) <= set(seen.trained_on)
    live = training.frame.loc[training.frame["source"] == "live", "content_id"]
    assert set(content_numbers(live)) <= set(seen.trained_on)


def test_an_adaptation_to_a_drawn_session_counts_as_drawn(training, base, pack_cache, tmp_path):
    assert training.meta["drawn"] == {"live": True, "tree": False} and not base.training_data.drawn
    list(train_adapt(params(), base, training, tmp_path / "a", pack_cache))
    learned = read_bundle(tmp_path / "a" / "best").training_data
    assert learned.drawn and set(learned.sources) == {"live", "tree"}
    assert learned.sources["tree"].rows == base.training_data.sources["tree"].rows, "of the base, not of the replay"


def test_negative_learning_lowers_what_is_not(training, base, pack_cache, tmp_path):
    """With no positive at all and a large weight, the mean probability of the named classes falls."""
    frame = training.frame
    only = frame[(frame["split"] == "val") | frame["neg_label"].notna()].copy()
    wrong = only["neg_label"].notna()  # classes that the model does hold possible, or there is little to lower
    pack = open_or_build(
        Manifest(only[wrong].reset_index(drop=True), training.meta, training.path), base.contract, pack_cache
    )
    p0 = torch.from_numpy(predict_logits(base.model(), pack)).softmax(1)
    second = p0.topk(2, 1).indices[:, 1]
    only.loc[wrong, "neg_label"] = second.numpy().astype(float)
    manifest = Manifest(only.reset_index(drop=True), training.meta, training.path)
    p = params(negl_weight=1.0, epochs=4, lr=3e-3, tune="both", batch_size=8)
    events = list(train_adapt(p, base, manifest, tmp_path, pack_cache))
    history = [e for e in events if e["event"] == "epoch"]
    assert [e["train"]["negl_applied_frac"] for e in history] == [1.0] * 4
    assert history[-1]["train"]["negl_loss"] < history[0]["train"]["negl_loss"]
    from fer_lib.training.checkpoint import checkpoint_bundle

    last = checkpoint_bundle(tmp_path / "checkpoint_last", tmp_path / "last").model()
    p1 = torch.from_numpy(predict_logits(last, pack)).softmax(1)
    at = torch.arange(len(second)), second
    assert p1[at].mean() < p0[at].mean()


def test_negative_learning_that_meets_no_row_is_a_warning(training, base, pack_cache, tmp_path):
    frame = training.frame
    manifest = Manifest(frame[frame["neg_label"].isna()].reset_index(drop=True), training.meta, training.path)
    events = list(train_adapt(params(), base, manifest, tmp_path / "one", pack_cache))
    warnings = [e["message"] for e in events if e["event"] == "note"]
    assert len(warnings) == 2 and "was applied to no row" in warnings[0] and "epoch 1" in warnings[0]
    assert all(e["train"]["negl_loss"] is None for e in events if e["event"] == "epoch")
    quiet = list(train_adapt(params(negl_weight=0.0), base, manifest, tmp_path / "two", pack_cache))
    assert not [e for e in quiet if e["event"] == "note"]
    nothing = frame[(frame["split"] == "val") | frame["neg_label"].notna()].reset_index(drop=True)
    with pytest.raises(DataError, match="no train row can be learned from"):
        list(train_adapt(params(negl_weight=0.0), base, Manifest(nothing, training.meta, training.path),
                         tmp_path / "three", pack_cache))  # fmt: skip


def test_a_killed_adaptation_ends_with_the_weights_of_an_unbroken_one(training, base, pack_cache, tmp_path):
    p = params(epochs=3, tune="both", bn_policy="update")
    whole = list(train_adapt(p, base, training, tmp_path / "whole", pack_cache))
    for event in (events := train_adapt(p, base, training, tmp_path / "killed", pack_cache)):
        if event["event"] == "epoch":
            events.close()
            break
    rest = list(train_adapt(p, base, training, tmp_path / "killed", pack_cache))
    assert rest[0]["resumed_at_step"] > 0 and rest[-1]["best_macro_f1"] == whole[-1]["best_macro_f1"]
    one, other = (read_bundle(tmp_path / n / "best") for n in ("whole", "killed"))
    assert one.weights_sha256 == other.weights_sha256
    rows = [json.loads((tmp_path / n / "history.json").read_text()) for n in ("whole", "killed")]
    assert [r["train"] for r in rows[0]] == [r["train"] for r in rows[1]]


def test_backbone_arguments_of_the_base_are_those_of_its_adaptation(base):
    args = {"act_layer": "relu"}
    other = type(base)(
        base.path, base.meta | {"model": base.meta["model"] | {"backbone_args": args}}, base.contract, None
    )
    assert fit_params(params(), other).backbone_args == args and fit_params(params(), base).backbone_args == {}


def test_what_cannot_be_adapted_is_told(training, drawn, drawn_manifest, base, tmp_path, pack_cache):
    with pytest.raises(BundleError, match="ONNX alone, as the packaged model does.*a student phase"):
        fit_params(params(), packaged_bundle())
    other = derive_bundle(base, tmp_path / "other")
    strange = type(base)(other.path, other.meta, base.contract.model_copy(update={"clahe_clip": 3.0}), None)
    with pytest.raises(BundleError, match="can't be trained with .clahe_clip differ"):
        fit_params(params(), strange)
    wide = type(base)(other.path, other.meta, base.contract.model_copy(update={"margin": 0.8}), None)
    with pytest.raises(DataError, match=r"keeps 0.5 of a box's side.*reads 0.80.*-p context=0.85"):
        training_set(params(), drawn[0].buffers, drawn_manifest, wide, tmp_path / "set")
    turned = type(base)(other.path, other.meta, base.contract.model_copy(update={"align": "eyes", "margin": 0.3}), None)
    with pytest.raises(DataError, match="-p context="):
        training_set(params(), drawn[0].buffers, drawn_manifest, turned, tmp_path / "set")


def test_a_plain_fit_refuses_a_buffers_guesses(training, pack_cache, tmp_path):
    p = StudentParams(
        backbone="test_resnet", image_size=32, embed_dim=16, epochs=1, batch_size=16, threads=1, device="cpu"
    )
    with pytest.raises(DataError, match="training rows carry a weight.*notebook 11_adapt"):
        list(train_student(p, training, tmp_path, pack_cache))
    p = p.model_copy(update={"exclude_sources": ["live"], "max_train_batches": 1})
    assert list(train_student(p, training, tmp_path, pack_cache))[-1]["event"] == "end"


def test_both_are_measured_on_the_same_rows_and_the_same_session(
    training, drawn, drawn_manifest, base, pack_cache, tmp_path
):
    p = params(allow_leaks=[], gates={"offline": [{"suite": "val"}, {"suite": "test"}], "resamples": 100})
    list(train_adapt(p, base, training, tmp_path / "fit", pack_cache))
    candidate, cache = read_bundle(tmp_path / "fit" / "best"), tmp_path / "mlruns" / "cache"
    session, replays = drawn[0].session, tmp_path / "replays"
    result = promotion.run_gates(p, base, candidate, drawn_manifest, session, drawn[0].trained_on, replays, cache, CPU)
    val, test, live = result["gates"]
    held = drawn_manifest.frame[
        (drawn_manifest.frame["split"] == "val") & (drawn_manifest.frame["val_role"] != "select")
    ]
    assert val["n_used"] == val["n_expected"] == len(held) and val["leaks"]["rows"] == 0
    assert test["n_used"] == (drawn_manifest.frame["split"] == "test").sum()
    assert live["gate"] == "session" and live["n_used"] > 0 and result["mark"] == ""
    assert result["base"]["weights_sha256"] == base.weights_sha256 != result["candidate"]["weights_sha256"]
    assert result["passed"] == all(g["passed"] for g in (val, test, live))
    openings = (tmp_path / "mlruns" / "test_openings.jsonl").read_text()
    [opening] = map(json.loads, openings.splitlines())
    assert opening["suite"] == "test" and opening["purpose"] == "gate", "val rows are no opening"
    assert opening["evalset_id"] == test["evalset_id"] and opening["n"] == test["n_expected"]
    assert (tmp_path / "test_openings.jsonl").read_text() == openings, "the phase's own copy"
    with open(tmp_path / "gates.json", "w") as file:
        json.dump(result, file, allow_nan=False)
    itself = promotion.run_gates(p, base, base, drawn_manifest, session, True, replays, cache, CPU)
    assert not itself["passed"] and [g["passed"] for g in itself["gates"]] == [True, True, False], "equal is not up"
    assert itself["learned_from_gate_session"]


def test_rows_that_were_learned_from_do_not_gate(training, drawn_manifest, base, pack_cache, tmp_path):
    """Val rows of another manifest that stood in the base's train."""
    frame = drawn_manifest.frame.copy()
    moved = frame.index[frame["split"] == "train"][:8]
    frame.loc[moved, ["split", "val_role"]] = ["val", "temperature"]
    other = Manifest(pd.DataFrame(frame), drawn_manifest.meta, drawn_manifest.path)
    models = {"base": base, "candidate": base}
    with pytest.raises(DataError, match="8 of the .* val rows .* known to be in train too.*allow_leaks"):
        measure_suite(models, other, "val", params(), pack_cache, tmp_path, CPU)
    _, leaks = measure_suite(models, other, "val", params(allow_leaks=["tree"]), pack_cache, tmp_path, CPU)
    assert leaks["rows"] == 8 and leaks["allowed"] == ["tree"]
