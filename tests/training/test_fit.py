"""A complete fit: its files, its errors, and resumed runs that end with the weights of the unbroken run."""

import json
import shutil
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fer_lib.calibration import metrics
from fer_lib.datasets.evalset_ids import evalset_id, protocol_id
from fer_lib.datasets.facepack import open_or_build
from fer_lib.datasets.manifest import Manifest
from fer_lib.errors import DataError, FerError
from fer_lib.models.bundle import read_bundle
from fer_lib.models.classifier import build_classifier
from fer_lib.models.inference import predict_logits
from fer_lib.models.weights import tensors_sha256
from fer_lib.params import TeacherParams
from fer_lib.storage import atomic
from fer_lib.training import fit, loop
from fer_lib.training.checkpoint import checkpoint_bundle, load_checkpoint, save_checkpoint
from fer_lib.training.fit_inputs import make_contract, model_config, open_data
from fer_lib.training.plots import training_curves
from fer_lib.training.resume_check import fit_key
from fer_lib.training.step import Stepper
from fer_lib.training.teacher import TeacherObjective, train_teacher

SMALL = dict(
    backbone="test_resnet", image_size=32, embed_dim=16, dropout=0.3, epochs=3, batch_size=14, lr=2e-3,
    warmup_epochs=0.5, plain_epochs=1, ramp_end=2, arcface_s=12.0, ema_decay=0.9, clip_grad=1.0, accum_steps=2,
    augment={"rotation": 10.0, "erasing": 0.3}, max_train_batches=3, checkpoint_every=2, threads=1, device="cpu",
)  # fmt: skip


def params(**changes):
    return TeacherParams(**SMALL | changes)


def train(manifest, out, cache, p=None, **record):
    return list(train_teacher(p or params(), manifest, out, cache, **record))


def epochs_of(events):
    return [e for e in events if e["event"] == "epoch"]


def until_epoch(events):
    """Consume events until the next epoch is done."""
    while next(events)["event"] != "epoch":
        pass


def read(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


@pytest.fixture(scope="module", autouse=True)
def slow_steps():
    """A ``step`` event after every step, so no test depends on the clock."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "TELL_EVERY", -1.0)
        yield


@pytest.fixture(scope="module")
def unbroken(drawn_manifest, pack_cache, tmp_path_factory):
    """The unbroken run: (its folder, its events)."""
    out = tmp_path_factory.mktemp("unbroken")
    return out, train(drawn_manifest, out, pack_cache)


# ---------------------------------------------------------------- events and files


def test_events_of_a_fit(unbroken):
    _, events = unbroken
    assert [e["event"] for e in events] == ["start", *["step", "step", "step", "epoch"] * 3, "end"]
    start, epochs, end = events[0], epochs_of(events), events[-1]
    assert start == {
        "event": "start", "resumed_at_step": 0, "epochs_done": 0, "total_steps": 9, "steps_per_epoch": 3,
        "warmup_steps": 2,
    }  # fmt: skip
    margins = [0.0, 0.35 * 2 / 3, 0.35]  # at the last steps: the ramp goes from 1 to 2, an epoch has three steps
    assert [e["train"]["arcface_margin"] for e in epochs] == pytest.approx(margins)
    assert [e["epoch"] for e in epochs] == [0, 1, 2] and all(e["val"]["nll"] > 0 for e in epochs)
    assert (
        epochs[-1]["lr"] == pytest.approx(1e-5) and 0 < epochs[0]["train"]["coverage"] < epochs[2]["train"]["coverage"]
    )
    f1 = [e["val"]["macro_f1"] for e in epochs]
    assert end["best_macro_f1"] == max(f1) and end["best_epoch"] == f1.index(max(f1))


def test_bundles_record_training_data_of_fit_and_starting_model(unbroken, drawn_manifest, pack_cache, tmp_path):
    out, _ = unbroken
    rows = len(drawn_manifest.rows(split="train"))
    expected = {"sources": {"tree": {"rows": rows, "drawn": False}}, "smoke": False, "complete": True}
    for bundle in (read_bundle(out / "best"), checkpoint_bundle(out / "checkpoint_last", tmp_path / "last")):
        assert bundle.meta["training_data"] == expected and bundle.training_data.rows == rows
    drawn = Manifest(drawn_manifest.frame, {**drawn_manifest.meta, "drawn": {"tree": True}}, drawn_manifest.path)
    train(drawn, tmp_path / "toy", pack_cache, params(smoke=True, epochs=1, max_train_batches=1))
    start = read_bundle(tmp_path / "toy" / "best")
    assert start.training_data.drawn and start.training_data.smoke
    out, p = tmp_path / "resumed", params(epochs=2, max_train_batches=1)
    events = train_teacher(p, drawn_manifest, out, pack_cache, init_from=str(start.path))
    until_epoch(events)
    events.close()
    shutil.rmtree(tmp_path / "toy")
    train(drawn_manifest, out, pack_cache, p, init_from=str(start.path))  # resumes without the starting model
    record = read_bundle(out / "best").training_data
    assert record.drawn and record.smoke and record.complete, "the drawn faces of the starting model are recorded"


KEYS = {
    "alignmentreport": {
        "time": None, "device": {"backend", "detail"}, "paths": {"manifest", "manifest_sha256"}, "seed": None,
        "model": {"name", "pretrained", "weights_sha256", "image_size", "embed_dim"},
        "data": {"rows_total_before_filter", "rows_total_after_filter", "source_counts_after_filter", "train_rows",
                 "val_rows", "class_counts", "source_filter", "n_expected", "n_used"},
        "protocol": {"plain_logits_warmup_epochs", "margin_ramp_start", "margin_ramp_end", "arcface_m_max",
                     "arcface_s"},
        "optim": {"name", "lr", "weight_decay", "lr_warmup_epochs", "min_lr", "total_steps", "warmup_steps"},
        "batching": {"batch_size", "accum_steps", "min_per_class", "cb_beta"},
        "aug": {"clahe", "clahe_clip", "clahe_tile"}, "calibration": {"eval_every", "temperature_scaling"},
        "init": {"init_from", "resume"},
    },
    "reliabilitymetrics": {
        "epoch": None, "evalset_id": None, "protocol_id": None, "n_expected": None, "n_used": None,
        "raw": {"accuracy", "macro_f1", "per_class_f1", "nll", "ece", "brier"},
        "temperature_scaled": {"mode", "global_temperature", "temperature_vector", "accuracy", "macro_f1",
                               "per_class_f1", "nll", "ece", "brier"},
    },
    "calibration": dict.fromkeys(
        ("epoch", "mode", "global_temperature", "temperature_vector", "fitted_on", "view", "n", "note")),
    "environment": {"time": None, "python": None, "git": {"commit", "dirty"}, "packages": {"torch", "timm", "numpy"},
                    "torch": None, "device": {"backend"}, "lock_sha256": None},
}  # fmt: skip


@pytest.mark.parametrize("name", KEYS)
def test_reports_have_their_keys(unbroken, name):
    content = read(unbroken[0], name)
    for key, below in KEYS[name].items():
        assert key in content and (below is None or below <= set(content[key])), f"{key}: {content.get(key)}"


def test_history_has_its_keys(unbroken):
    rows = read(unbroken[0], "history")
    assert [r["epoch"] for r in rows] == [0, 1, 2]
    for row in rows:
        assert {"epoch", "train", "val", "calibration", "lr", "timing"} <= set(row)
        assert {"loss", "arcface_margin", "coverage"} <= set(row["train"])
        assert {"accuracy", "macro_f1", "per_class_f1", "nll", "ece"} <= set(row["val"])
        identity = ("evalset_id", "protocol_id", "n_expected", "n_used")
        assert all(row["val"][key] == read(unbroken[0], "reliabilitymetrics")[key] for key in identity)
        assert set(row["calibration"]) == {"mode", "temperature"}
        timing = {"epoch_sec", "total_sec", "images_per_sec", "data_wait_share", "peak_memory_gb"}
        assert set(row["timing"]) == timing and 0 <= row["timing"]["data_wait_share"] < 1
        assert 0.1 < row["timing"]["peak_memory_gb"] < 64
    assert rows[-1] == {k: v for k, v in unbroken[1][-2].items() if k != "event"}


def test_metrics_of_the_best_bundle_belong_to_its_weights(unbroken, drawn_manifest, pack_cache):
    out, _ = unbroken
    best = read_bundle(out / "best")
    pack = open_or_build(drawn_manifest.rows(split="val"), best.contract, pack_cache)
    logits = predict_logits(best.model(), pack)
    roles, labels = pack.manifest.frame["val_role"].to_numpy(str), pack.manifest.labels
    select = roles == "select"
    raw = metrics.summary(logits[select], labels[select])
    scaled = metrics.summary(best.temperature.apply(logits[select]), labels[select])
    for key in ("accuracy", "macro_f1", "nll", "ece", "brier"):
        assert best.meta["metrics"]["val_select"][key] == pytest.approx(raw[key], abs=1e-6)
        assert best.meta["metrics"]["val_select_scaled"][key] == pytest.approx(scaled[key], abs=1e-6)
        assert read(out, "reliabilitymetrics")["raw"][key] == pytest.approx(raw[key], abs=1e-6)
    assert best.temperature.fitted_on == "val/temperature" and best.temperature.n == (roles == "temperature").sum()
    assert read(out, "calibration")["view"] == best.temperature.view == "none", "a bundle predicts on the single view"
    assert read(out, "calibration")["global_temperature"] == best.temperature.global_temperature
    assert (
        best.meta["metrics"]["val_select"]["n_used"] == best.meta["metrics"]["val_select"]["n_expected"] == select.sum()
    )
    ids = best.meta["ids"]
    rows = drawn_manifest.rows(split="val", val_role="select")
    assert ids["evalset_id"] == evalset_id(rows.sample_ids, rows.labels, "val/select", 0)
    assert ids["protocol_id"] == protocol_id(ids["evalset_id"], best.contract, "none")
    assert ids["manifest_sha256"] == drawn_manifest.sha256 and ids["weights_sha256"] == best.weights_sha256
    assert best.meta["training_prior"] == pytest.approx([1 / 7] * 7), "balanced batches"


def test_numbered_checkpoints_are_evaluated(unbroken):
    out, events = unbroken
    assert sorted(p.name for p in out.glob("checkpoint_*")) == ["checkpoint_epoch002", "checkpoint_last"]
    numbered, last = (load_checkpoint(out / n)[1] for n in ("checkpoint_epoch002", "checkpoint_last"))
    assert numbered["step"] == 6 and numbered["metrics"] == epochs_of(events)[1]["val"]
    assert last["step"] == 9 and last["metrics"] == epochs_of(events)[2]["val"]


def test_only_a_smoke_run_writes_smoke_results(unbroken, drawn_manifest, pack_cache, tmp_path):
    p = params(epochs=1, max_train_batches=1, smoke=True)
    end = train(drawn_manifest, tmp_path, pack_cache, p)[-1]
    results, metrics = read(tmp_path, "smoke_results"), read(tmp_path, "reliabilitymetrics")
    assert results["smoke"] is True and results["best_macro_f1"] == end["best_macro_f1"] == metrics["raw"]["macro_f1"]
    assert all(results[key] == metrics[key] for key in ("evalset_id", "protocol_id", "n_expected", "n_used"))
    assert not (unbroken[0] / "smoke_results.json").exists()


def test_epochs_between_evaluations_have_no_val_scores(drawn_manifest, pack_cache, tmp_path):
    p = params(epochs=4, eval_every=3, checkpoint_every=2, max_train_batches=1)
    events = train(drawn_manifest, tmp_path, pack_cache, p)
    without_val = [e["val"] is None for e in epochs_of(events)]
    assert without_val == [True, False, False, False]  # 2: numbered checkpoint, 3: eval_every, 4: the last


def test_votes_and_class_weights_enter_the_loss(drawn_manifest, pack_cache):
    frame = drawn_manifest.frame.copy()
    frame["soft_label"] = [None] * len(frame)
    row = int(np.flatnonzero(frame["split"] == "train")[0])
    frame.at[row, "soft_label"] = [0.0, 0.0, 0.0, 0.5, 0.5, 0.0, 0.0]
    manifest = Manifest(frame, drawn_manifest.meta, drawn_manifest.path)
    p = params(imbalance="class_weights", plain_epochs=0, ramp_end=0, soft_label_weight=0.5)
    data = open_data(manifest, p, pack_cache)
    objective = TeacherObjective(p, data, torch.device("cpu"))
    rows = np.flatnonzero(np.isin(data.train.manifest.sample_ids, frame.loc[row, "sample_id"]))
    assert len(rows) == 1
    rows = np.append(rows, (rows[0] + 1) % len(data.train.manifest))
    y = data.train.manifest.labels[rows]
    cosine = torch.tensor(np.random.default_rng(0).uniform(-0.9, 0.9, (2, 7)), dtype=torch.float32)
    losses = objective.loss(lambda images, scaled: cosine, torch.empty(2, 1), loop.Batch(rows, None, y, rows), 5.0)
    for i in range(2):
        z = 12.0 * cosine[i].double().numpy()
        z[y[i]] = 12.0 * np.cos(np.arccos(cosine[i, y[i]].double().item()) + 0.35)
        log_p = z - np.log(np.exp(z).sum())
        target = np.eye(7)[y[i]]
        if i == 0:
            target = 0.5 * target + 0.5 * np.array(frame.at[row, "soft_label"])
        assert losses[i].item() == pytest.approx(-(target * log_p).sum() * data.class_weights[y[i]], rel=1e-4)
    counts = np.bincount(data.train.manifest.labels, minlength=7)
    assert data.prior == pytest.approx(counts * data.class_weights / (counts * data.class_weights).sum())


@pytest.fixture
def optimisers(monkeypatch):
    """The (net, optimiser) pairs that the loop creates."""
    pairs, real = [], loop.create_optimizer_v2

    def record(net, **options):
        pairs.append((net, real(net, **options)))
        return pairs[-1][1]

    monkeypatch.setattr(loop, "create_optimizer_v2", record)
    return pairs


def test_norms_and_biases_have_no_weight_decay(drawn_manifest, pack_cache, tmp_path, optimisers):
    next(train_teacher(params(weight_decay=0.3), drawn_manifest, tmp_path, pack_cache))
    [(net, optimiser)] = optimisers
    decays = {id(q): group["weight_decay"] for group in optimiser.param_groups for q in group["params"]}
    norms = torch.nn.BatchNorm1d, torch.nn.BatchNorm2d
    pairs = {
        (isinstance(module, norms) or name == "bias", decays.pop(id(q)))
        for module in net.modules()
        for name, q in module.named_parameters(recurse=False)
    }
    assert pairs == {(True, 0.0), (False, 0.3)} and not decays and isinstance(optimiser, torch.optim.AdamW)


def test_exempt_parameters_of_a_backbone_have_no_weight_decay(drawn_manifest, pack_cache, tmp_path, optimisers):
    next(train_teacher(params(backbone="test_vit", weight_decay=0.3), drawn_manifest, tmp_path, pack_cache))
    [(net, optimiser)] = optimisers
    by_id = {id(q): group["weight_decay"] for group in optimiser.param_groups for q in group["params"]}
    decay = {name: by_id[id(q)] for name, q in net.named_parameters()}
    assert decay["backbone.pos_embed"] == decay["backbone.cls_token"] == 0.0
    assert decay["backbone.blocks.0.attn.qkv.weight"] == decay["embedding.0.weight"] == decay["head.weight"] == 0.3


def test_disk_space_is_checked_for_the_test_pack_too(drawn_manifest, tmp_path, monkeypatch):
    """The check precedes the first face, although test rows are packed only after training."""
    p, n = params(), {split: len(drawn_manifest.rows(split=split)) for split in ("train", "val", "test")}
    face = make_contract(p).resize ** 2 * 3
    usage = type("Usage", (), {"free": sum(n.values()) * face - 1})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    counts = rf"{n['train']} \+ {n['val']} \+ {n['test']} faces at"
    with pytest.raises(DataError, match=rf"face packs of {counts}.*pack: none"):
        open_data(drawn_manifest, p, tmp_path)
    assert not list(tmp_path.iterdir())
    open_or_build(drawn_manifest.rows(split="test"), make_contract(p), tmp_path)
    assert len(open_data(drawn_manifest, p, tmp_path).val.faces) == n["val"], "an existing pack needs no more space"


def test_test_images_are_never_read(drawn_manifest, pack_cache, tmp_path):
    """Neither by training nor for a face pack."""
    for path in drawn_manifest.frame["image_path"][drawn_manifest.frame["split"] != "test"]:
        (tmp_path / "only" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "only" / path).write_bytes(drawn_manifest.resolve(path).read_bytes())
    manifest = Manifest(drawn_manifest.frame, {**drawn_manifest.meta, "root": str(tmp_path / "only")}, None)
    events = train(manifest, tmp_path / "out", tmp_path / "cache", params(epochs=1, max_train_batches=1))
    assert events[-1]["event"] == "end"
    with pytest.raises(DataError, match="can't be used"):
        open_or_build(manifest.rows(split="test"), read_bundle(tmp_path / "out" / "best").contract, tmp_path / "cache")


def test_margin_ramp_beyond_the_run_is_a_warning(drawn_manifest, pack_cache, tmp_path):
    p = params(epochs=1, max_train_batches=1, plain_epochs=5, ramp_end=15)
    note = next(train_teacher(p, drawn_manifest, tmp_path, pack_cache))
    assert (
        note["event"] == "note" and note["level"] == "warning" and "ends at epoch 15, the run at 1" in note["message"]
    )
    p = params(epochs=1, max_train_batches=1, plain_epochs=0.3, ramp_end=0.6)
    assert next(train_teacher(p, drawn_manifest, tmp_path, pack_cache))["event"] == "start"


# ---------------------------------------------------------------- resumed runs


class Kill(BaseException):
    """Stands for the end of a process: nothing in the library may catch it."""


def kill_at(monkeypatch, step):
    """End the loop just before step number ``step`` of this process."""
    real, steps = Stepper.__call__, []

    def step_or_kill(*arguments):
        if len(steps) == step:
            raise Kill
        steps.append(1)
        return real(*arguments)

    monkeypatch.setattr(Stepper, "__call__", step_or_kill)


def assert_same_end(out, unbroken):
    ours, theirs = load_checkpoint(out / "checkpoint_last"), load_checkpoint(unbroken / "checkpoint_last")
    assert set(ours[0]) == set(theirs[0])
    different = [k for k, v in theirs[0].items() if not torch.equal(ours[0][k], v)]
    assert not different, different[:5]
    assert read_bundle(out / "best").weights_sha256 == read_bundle(unbroken / "best").weights_sha256
    rows = [[{k: v for k, v in row.items() if k != "timing"} for row in read(f, "history")] for f in (out, unbroken)]
    assert rows[0] == rows[1]
    assert {p.name for p in out.iterdir()} == {p.name for p in unbroken.iterdir()}


@pytest.mark.parametrize("step, loading", [(2, {}), (4, {"workers": 0}), (8, {"workers": 4, "pack": "none"})])
def test_run_killed_within_an_epoch_ends_as_the_unbroken_one(
    drawn_manifest, pack_cache, unbroken, tmp_path, monkeypatch, step, loading
):
    """Also when it resumes with another pack kind and number of workers, which change no pixel."""
    p = params(checkpoint_minutes=1e-9)  # after every step
    with monkeypatch.context() as m:
        kill_at(m, step)
        with pytest.raises(Kill):
            train(drawn_manifest, tmp_path, pack_cache, p)
    assert not [t for t in threading.enumerate() if t.name.startswith("fer-batches")]
    assert load_checkpoint(tmp_path / "checkpoint_last")[1]["step"] == step
    events = train(drawn_manifest, tmp_path, pack_cache, p.model_copy(update=loading))
    assert events[0]["resumed_at_step"] == step and read(tmp_path, "alignmentreport")["init"]["resume"]
    assert_same_end(tmp_path, unbroken[0])


def test_run_killed_twice_ends_as_the_unbroken_one(drawn_manifest, pack_cache, unbroken, tmp_path, monkeypatch):
    """First between two epochs, then within one, with a damaged history and a checkpoint that is half replaced."""
    events = train_teacher(params(), drawn_manifest, tmp_path, pack_cache)
    until_epoch(events)
    events.close()
    with monkeypatch.context() as m:
        kill_at(m, 2)  # checkpoints are ten minutes apart: nothing of this epoch is on disk
        with pytest.raises(Kill):
            train(drawn_manifest, tmp_path, pack_cache)
    (tmp_path / "history.json").write_text('[{"epoch": 0}, {"epo')  # possible after a power failure
    last = tmp_path / "checkpoint_last"
    last.rename(atomic.previous(last))
    resumed = train_teacher(params(), drawn_manifest, tmp_path, pack_cache)
    assert next(resumed)["resumed_at_step"] == 3
    assert [row["epoch"] for row in read(tmp_path, "history")] == [0], "repaired before the first event"
    list(resumed)
    assert_same_end(tmp_path, unbroken[0])


def test_sgd_has_nesterov_momentum_and_resumes_to_the_bit(drawn_manifest, pack_cache, tmp_path, monkeypatch):
    made, real = [], loop.create_optimizer_v2
    monkeypatch.setattr(loop, "create_optimizer_v2", lambda *a, **o: made.append(real(*a, **o)) or made[-1])
    nested = {"kind": "blocks", "intervals": [1, 3]}  # the second block has no momentum before step 3
    p = params(optimizer="sgd", momentum=0.8, lr=0.05, epochs=2, checkpoint_minutes=1e-9, nested=nested)
    train(drawn_manifest, tmp_path / "whole", pack_cache, p)
    assert isinstance(made[0], torch.optim.SGD)
    assert {(group["momentum"], group["nesterov"]) for group in made[0].param_groups} == {(0.8, True)}
    with monkeypatch.context() as m:
        kill_at(m, 4)
        with pytest.raises(Kill):
            train(drawn_manifest, tmp_path / "killed", pack_cache, p)
    assert any(k.endswith(".momentum_buffer") for k in load_checkpoint(tmp_path / "killed" / "checkpoint_last")[0])
    train(drawn_manifest, tmp_path / "killed", pack_cache, p)
    assert_same_end(tmp_path / "killed", tmp_path / "whole")
    report = read(tmp_path / "whole", "alignmentreport")["optim"]
    assert (report["name"], report["momentum"]) == ("sgd", 0.8)
    assert fit_key(p, {}) != fit_key(p.model_copy(update={"momentum": 0.9}), {})


def test_run_killed_during_validation_loses_no_step(drawn_manifest, pack_cache, unbroken, tmp_path, monkeypatch):
    real, calls = loop.validate, []

    def validate_or_kill(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise Kill
        return real(*arguments)

    p = params(checkpoint_minutes=1e-9)
    with monkeypatch.context() as m:
        m.setattr(loop, "validate", validate_or_kill)
        with pytest.raises(Kill):
            train(drawn_manifest, tmp_path, pack_cache, p)
    last = load_checkpoint(tmp_path / "checkpoint_last")[1]
    assert last["step"] == 6 and last["metrics"] is None and len(last["history"]) == 1
    events = train(drawn_manifest, tmp_path, pack_cache, p)
    assert events[0]["resumed_at_step"] == 6 and events[0]["epochs_done"] == 1
    assert [e["epoch"] for e in epochs_of(events)] == [1, 2]
    assert_same_end(tmp_path, unbroken[0])


def test_resume_with_other_numerics_is_a_warning(drawn_manifest, pack_cache, tmp_path):
    events = train_teacher(params(), drawn_manifest, tmp_path, pack_cache)
    until_epoch(events)
    events.close()
    resumed = train(drawn_manifest, tmp_path, pack_cache, params(threads=2))
    [note] = [e for e in resumed if e["event"] == "note"]
    assert note["level"] == "warning" and "resumed with other numerics (threads 1 -> 2)" in note["message"]


def test_resume_of_a_checkpoint_without_fused_optimiser_is_a_warning(drawn_manifest, pack_cache, tmp_path):
    events = train_teacher(params(), drawn_manifest, tmp_path, pack_cache)
    until_epoch(events)
    events.close()
    tensors, meta = load_checkpoint(tmp_path / "checkpoint_last")
    assert meta["numerics"].pop("optimiser") == "fused AdamW"
    save_checkpoint(tmp_path / "checkpoint_last", tensors, meta)
    [note] = [e for e in train(drawn_manifest, tmp_path, pack_cache, params()) if e["event"] == "note"]
    assert "(optimiser AdamW, operation by operation -> fused AdamW)" in note["message"]


def test_finished_run_trains_no_step(drawn_manifest, pack_cache, unbroken, tmp_path):
    train(drawn_manifest, tmp_path, pack_cache)
    events = train(drawn_manifest, tmp_path, pack_cache)
    assert [e["event"] for e in events] == ["start", "end"] and events[0]["resumed_at_step"] == 9
    assert_same_end(tmp_path, unbroken[0])


def test_checkpoint_of_other_parameters_is_rejected(drawn_manifest, pack_cache, unbroken):
    out, _ = unbroken
    with pytest.raises(FerError, match="checkpoint_last belongs to other parameters or data"):
        train(drawn_manifest, out, pack_cache, params(lr=1e-3))
    other_rows = Manifest(drawn_manifest.frame.iloc[1:], drawn_manifest.meta, drawn_manifest.path)
    with pytest.raises(FerError, match="belongs to other parameters or data"):
        train(other_rows, out, pack_cache)


def test_other_starting_weights_in_the_same_folder_are_rejected(drawn_manifest, pack_cache, unbroken, tmp_path):
    """A resume would continue from the old weights under the new name."""
    torch.save(fit.build_classifier(dict(SMALL_CONFIG)).backbone.state_dict(), tmp_path / "a.pt")
    best, out = str(unbroken[0] / "best"), tmp_path / "none"
    shutil.copytree(unbroken[0], out)
    for p, record in [(params(pretrained="hub"), {}), (params(pretrained=str(tmp_path / "a.pt")), {}),
                      (params(), {"init_from": best})]:  # fmt: skip
        with pytest.raises(FerError, match=f"{out} holds a training that started from none; .* another output_dir"):
            train(drawn_manifest, out, pack_cache, p, **record)
    other = tmp_path / "init_from"
    train(drawn_manifest, other, pack_cache, params(epochs=1), init_from=best)
    with pytest.raises(FerError, match=f"started from init_from {best}; these parameters ask for none"):
        train(drawn_manifest, other, pack_cache, params(epochs=1))
    with pytest.raises(FerError, match=f"started from init_from {best}; these parameters ask for {other / 'best'}"):
        train(drawn_manifest, other, pack_cache, params(epochs=1), init_from=str(other / "best"))
    for damaged in ('{"source": ', "[]", "[" * 100_000):
        (out / "starting_weights.json").write_text(damaged)
        with pytest.raises(FerError, match=r"starting_weights.json is damaged .*; give this run another output_dir"):
            train(drawn_manifest, out, pack_cache)


def test_resume_does_not_load_starting_weights(drawn_manifest, pack_cache, tmp_path, monkeypatch):
    first = tmp_path / "w.pt"
    torch.save(fit.build_classifier(dict(SMALL_CONFIG)).backbone.state_dict(), first)
    p = params(epochs=2, max_train_batches=1, pretrained=str(first))
    events = train_teacher(p, drawn_manifest, tmp_path / "out", pack_cache)
    until_epoch(events)
    events.close()
    first.unlink()
    monkeypatch.setattr(fit, "load_pretrained", lambda *a: pytest.fail("loaded again"))
    assert train(drawn_manifest, tmp_path / "out", pack_cache, p)[0]["resumed_at_step"] == 1
    assert read(tmp_path / "out", "alignmentreport")["model"]["pretrained"] == str(first)


SMALL_CONFIG = dict(backbone="test_resnet", image_size=32, embed_dim=16, dropout=0.3, head="cosine", s=12.0)


# ---------------------------------------------------------------- starting weights and errors


def test_init_from_starts_with_the_weights_of_the_bundle(drawn_manifest, pack_cache, unbroken, tmp_path, monkeypatch):
    digests, real = [], loop.fit

    def record(model, *arguments, **options):
        digests.append(tensors_sha256(model.state_dict()))
        return real(model, *arguments, **options)

    monkeypatch.setattr(fit, "fit", record)
    start = read_bundle(unbroken[0] / "best")
    train(drawn_manifest, tmp_path, pack_cache, params(epochs=1, max_train_batches=1), init_from=str(start.path))
    assert digests == [start.weights_sha256]
    assert read_bundle(tmp_path / "best").meta["ids"]["starting_weights_sha256"] == start.weights_sha256
    assert read(tmp_path, "alignmentreport")["init"]["init_from"] == str(start.path)


@pytest.mark.parametrize("change", [{"embed_dim": 8}, {"arcface_s": 20.0}, {"backbone": "test_resnet.r160_in1k"}])
def test_init_from_another_model_is_rejected(drawn_manifest, pack_cache, unbroken, tmp_path, change):
    with pytest.raises(FerError, match="is another model: it has"):
        train(drawn_manifest, tmp_path, pack_cache, params(**change), init_from=str(unbroken[0] / "best"))


def test_origin_and_terms_of_a_file_of_weights_are_in_the_bundle(drawn_manifest, pack_cache, tmp_path):
    p = params(epochs=1, max_train_batches=1, pretrained=str(tmp_path / "w.safetensors"))
    state = {k: v.clone() for k, v in build_classifier(model_config(p)).backbone.state_dict().items()}
    about = {"name": "faces", "origin": "npm faces 1.0", "licence": "MIT", "terms": "research use"}
    save_file(state, tmp_path / "w.safetensors", about)
    train(drawn_manifest, tmp_path / "a", pack_cache, p)
    best = read_bundle(tmp_path / "a" / "best")
    assert best.training_data.starting_weights.model_dump() == about
    p = params(epochs=1, max_train_batches=1)
    train(drawn_manifest, tmp_path / "b", pack_cache, p, init_from=str(best.path))
    assert read_bundle(tmp_path / "b" / "best").training_data.starting_weights.model_dump() == about


def test_backbone_arguments_are_in_the_bundle_the_report_and_the_identity(drawn_manifest, pack_cache, tmp_path):
    p = params(backbone="test_efficientnet", backbone_args={"pad_type": "same"}, epochs=1, max_train_batches=1)
    train(drawn_manifest, tmp_path / "a", pack_cache, p)
    best = read_bundle(tmp_path / "a" / "best")
    assert best.meta["model"]["backbone_args"] == {"pad_type": "same"}
    assert type(best.model().backbone.conv_stem).__name__ == "Conv2dSame"
    assert read(tmp_path / "a", "alignmentreport")["model"]["backbone_args"] == {"pad_type": "same"}
    plain = p.model_copy(update={"backbone_args": {}})
    with pytest.raises(FerError, match=r"is another model: it has .*'pad_type': 'same'"):
        train(drawn_manifest, tmp_path / "b", pack_cache, plain, init_from=str(best.path))
    assert fit_key(p, {}) != fit_key(plain, {})


def test_weights_that_are_not_finite_are_not_saved(drawn_manifest, pack_cache, tmp_path, monkeypatch):
    """A finite loss may have a gradient that is not finite."""
    real = Stepper.__call__

    def diverge(self, batch, step, epoch):
        real(self, batch, step, epoch)
        if step == 4:
            self.parameters[0].data.fill_(float("nan"))

    monkeypatch.setattr(Stepper, "__call__", diverge)
    with pytest.raises(FerError, match=r"a weight became infinite or not a number in epoch 1\.67: lower lr"):
        train(drawn_manifest, tmp_path, pack_cache, params(checkpoint_minutes=1e-9))
    tensors, meta = load_checkpoint(tmp_path / "checkpoint_last")
    assert meta["step"] == 4 and all(t.isfinite().all() for t in tensors.values())


def test_error_of_a_loss_that_is_not_finite_names_the_epoch(drawn_manifest, pack_cache, tmp_path, monkeypatch):
    real = TeacherObjective.loss

    def diverge(self, model, images, batch, epoch):
        return real(self, model, images, batch, epoch) * (float("nan") if epoch >= 1.3 else 1.0)

    monkeypatch.setattr(TeacherObjective, "loss", diverge)
    with pytest.raises(FerError, match=r"became nan in epoch 1\.33: lower lr"):
        train(drawn_manifest, tmp_path, pack_cache)
    tensors, meta = load_checkpoint(tmp_path / "checkpoint_last")
    assert meta["step"] == 3 and all(torch.isfinite(v).all() for v in tensors.values())


def test_misspelt_backbone_is_rejected_before_faces_are_packed(drawn_manifest, tmp_path):
    with pytest.raises(FerError, match="is not a timm"):
        train(drawn_manifest, tmp_path / "out", tmp_path / "cache", params(backbone="test_resnettt"))
    assert not (tmp_path / "cache").exists()


def test_manifest_without_val_select_rows_is_rejected(drawn_manifest, pack_cache, tmp_path):
    frame = drawn_manifest.frame.copy()
    frame.loc[frame["val_role"] == "select", "val_role"] = "temperature"
    with pytest.raises(DataError, match="none of its .* val rows has the role select"):
        train(Manifest(frame, drawn_manifest.meta, drawn_manifest.path), tmp_path, pack_cache)
    without_val = drawn_manifest.frame[drawn_manifest.frame["split"] != "val"]
    with pytest.raises(DataError, match="no rows with split 'val'"):
        train(Manifest(without_val, drawn_manifest.meta, drawn_manifest.path), tmp_path, pack_cache)


def test_max_val_batches_changes_the_evaluation_set_id(drawn_manifest, pack_cache, unbroken, tmp_path):
    """Scores of the first batches do not carry the id of the complete val/select."""
    p = params(epochs=1, max_train_batches=1, max_val_batches=1)
    frame = drawn_manifest.frame.copy()
    train(drawn_manifest, tmp_path, pack_cache, p)
    best = read_bundle(tmp_path / "best")
    metrics, val = best.meta["metrics"]["val_select"], frame[frame["split"] == "val"]
    rows = val.iloc[:14]
    rows = rows[rows["val_role"] == "select"]
    assert metrics["n_used"] == len(rows) < metrics["n_expected"] == (val["val_role"] == "select").sum()
    assert best.meta["ids"]["evalset_id"] != read_bundle(unbroken[0] / "best").meta["ids"]["evalset_id"]
    assert best.meta["ids"]["evalset_id"] == evalset_id(rows["sample_id"].tolist(), rows["label"], "val/select", 0)


def test_image_left_out_by_a_tolerance_changes_counts_and_ids(drawn_manifest, unbroken, tmp_path):
    root = tmp_path / "images"
    for path in drawn_manifest.frame["image_path"]:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(drawn_manifest.resolve(path).read_bytes())
    missing = drawn_manifest.rows(split="val", val_role="select").frame["image_path"][0]
    (root / missing).unlink()
    manifest = Manifest(drawn_manifest.frame, {**drawn_manifest.meta, "root": str(root), "tolerance": 1}, None)
    train(manifest, tmp_path / "out", tmp_path / "cache", params(epochs=1, max_train_batches=1))
    metrics = read_bundle(tmp_path / "out" / "best").meta["metrics"]["val_select"]
    assert metrics["n_used"] == metrics["n_expected"] - 1
    ids = read_bundle(tmp_path / "out" / "best").meta["ids"]
    assert ids["evalset_id"] != read_bundle(unbroken[0] / "best").meta["ids"]["evalset_id"]


def test_rows_of_a_manifest_have_its_tolerance(tmp_path, drawn_manifest):
    from fer_lib.datasets.build import build_manifest
    from fer_lib.params import ManifestParams

    built = build_manifest(ManifestParams(tolerance=3), drawn_manifest.root, tmp_path)
    assert Manifest.read(built.path).rows(split="val").meta["tolerance"] == 3


def test_training_curves_skip_epochs_without_validation(unbroken):
    history = read(unbroken[0], "history")
    history[1]["val"] = None
    figure = training_curves(history, 2, "teacher")
    loss, val, schedule = figure.axes
    assert [line.get_label() for line in loss.lines] == ["train", "val", "best epoch"]
    assert list(loss.lines[0].get_xdata()) == [1, 2, 3] and list(loss.lines[1].get_xdata()) == [1, 3]
    assert len(val.lines) == 4 and len(schedule.lines) == 2
