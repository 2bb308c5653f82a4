"""Students: every training mode, checks of their teachers, trainable parameters, and exposure records."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from fer_lib.datasets.batches import Batch
from fer_lib.datasets.manifest import Manifest
from fer_lib.datasets.provenance import TrainingExposure, read_exposure
from fer_lib.errors import BundleError, FerError
from fer_lib.models.bundle import derive_bundle, read_bundle, write_bundle
from fer_lib.models.classifier import build_classifier, trainable_parameters
from fer_lib.models.losses import cross_entropy, decoupled_kl, distillation_kl, mixup, soft_targets
from fer_lib.models.softlabels import export_softlabels
from fer_lib.models.softlabels_format import read_record, read_softlabels
from fer_lib.params import SoftLabelParams, StudentParams
from fer_lib.training.fit_inputs import open_data
from fer_lib.training.resume_check import fit_key
from fer_lib.training.student import LiveTeachers, StudentObjective, train_student

SMALL = dict(
    backbone="test_resnet", image_size=32, embed_dim=16, dropout=0.0, epochs=3, batch_size=32, lr=3e-3,
    warmup_epochs=0.0, threads=1, device="cpu", max_train_batches=3,
    augment={"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0.0},
)  # fmt: skip
CPU = torch.device("cpu")


def params(**changes):
    return StudentParams(**SMALL | changes)


@pytest.fixture(scope="module")
def softlabels(drawn_manifest, drawn_teachers, pack_cache, tmp_path_factory):
    out = tmp_path_factory.mktemp("softlabels")
    p = SoftLabelParams(weights=[0.6, 0.4], space="prob", batch_size=64)
    export_softlabels(p, drawn_manifest, drawn_teachers, out, pack_cache, CPU)
    return out


@pytest.fixture(scope="module")
def data(drawn_manifest, pack_cache):
    return open_data(drawn_manifest, params(), pack_cache)


MODES = {
    "ce": {"mode": "ce"},
    "kd": {"mode": "kd", "temperature": 4.0},
    "dkd": {"mode": "dkd", "dkd_beta": 2.0, "dkd_warmup_epochs": 0.0},
    "dkd_mixed": {"mode": "dkd_mixed"},
    "kd online": {"mode": "kd", "teacher_view": "online", "teacher_temperature": 2.0},
    "dkd online, mixup": {"mode": "dkd", "teacher_view": "online", "mixup": 0.4, "dkd_warmup_epochs": 0.0},
}


@pytest.mark.parametrize("mode", MODES)
def test_loss_falls_in_every_mode(drawn_manifest, pack_cache, softlabels, tmp_path, mode):
    p = params(**MODES[mode])
    events = list(train_student(p, drawn_manifest, tmp_path, pack_cache, softlabels))
    losses = [e["train"]["loss"] for e in events if e["event"] == "epoch"]
    assert len(losses) == 3 and losses[-1] < losses[0]
    best = read_bundle(tmp_path / "best")
    assert best.meta["kind"] == "student" and best.meta["model"]["head"] == "linear"
    sha256 = read_softlabels(softlabels, drawn_manifest.rows(split="train")).sha256
    assert best.meta["ids"].get("softlabels_sha256") == (None if mode == "ce" else sha256)
    counts = np.bincount(drawn_manifest.rows(split="train").labels, minlength=7)
    assert best.meta["training_prior"] == pytest.approx(counts / counts.sum())


class ConstantModel:
    """A model that returns the same logits for any images."""

    def __init__(self, logits):
        self.logits = logits

    def __call__(self, images):
        return self.logits


@pytest.fixture
def batch(data):
    rows = np.array([0, 5, 9, 31])
    return Batch(rows, None, data.train.manifest.labels[rows], rows)


@pytest.mark.parametrize("mode", ["kd", "dkd", "dkd_mixed"])
def test_loss_of_each_mode_equals_its_formula(drawn_manifest, softlabels, data, batch, mode):
    p = params(mode=mode, alpha=0.3, temperature=2.0, teacher_temperature=1.5, dkd_alpha=0.7, dkd_beta=2.0, epochs=8)
    student = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    objective = StudentObjective(p, data, CPU, softlabels)
    losses = objective.loss(ConstantModel(student), torch.empty(4, 1), batch, epoch=1.0)
    cached = read_softlabels(softlabels, drawn_manifest.rows(split="train")).logits
    teacher = torch.from_numpy(cached[batch.rows]).float() / 1.5
    y = torch.from_numpy(batch.labels)
    ce = cross_entropy(student, soft_targets(y))
    tckd, nckd = decoupled_kl(student, teacher, y, 2.0)
    expected = {
        "kd": 0.7 * ce + 0.3 * distillation_kl(student, teacher, 2.0),
        "dkd": ce + 0.5 * 4.0 * (0.7 * tckd + 2.0 * nckd),  # epoch 1 of a warm-up over 8 / 4
        "dkd_mixed": 0.7 * ce + 0.3 * 4.0 * (tckd + 4.0 * nckd),
    }[mode]
    torch.testing.assert_close(losses, expected)


@pytest.mark.parametrize("mode", ["ce", "kd", "dkd"])
def test_with_mixup_student_and_teachers_see_the_same_mixed_images(softlabels, data, batch, mode):
    """A row's loss is that of its label and of its partner's, weighted by their shares of the image."""
    p = params(mode=mode, mixup=0.4, teacher_view="online", teacher_temperature=1.5, dkd_warmup_epochs=0.0)
    objective, images = StudentObjective(p, data, CPU, softlabels), torch.rand(4, 3, 32, 32)
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 7))
    torch.manual_seed(3)
    losses = objective.loss(student, images, batch, epoch=1.0)
    torch.manual_seed(3)
    mixed, partner, share = mixup(images, 0.4)
    logits, y = student(mixed), torch.from_numpy(batch.labels)
    teacher = None if mode == "ce" else objective.teachers(mixed) / 1.5

    def expected(labels):
        ce = cross_entropy(logits, soft_targets(labels))
        if mode == "kd":
            return 0.5 * ce + 0.5 * distillation_kl(logits, teacher, 2.0)
        return ce + 4.0 * sum(decoupled_kl(logits, teacher, labels, 2.0)) if mode == "dkd" else ce

    assert share < 1.0 and not torch.equal(y, y[partner])
    torch.testing.assert_close(losses, share * expected(y) + (1.0 - share) * expected(y[partner]))


def test_the_length_of_a_training_follows_its_mode():
    lengths = {mode: StudentParams(mode=mode).epochs for mode in ("ce", "kd", "dkd", "dkd_mixed")}
    assert lengths == {"ce": 10, "kd": 20, "dkd": 10, "dkd_mixed": 10}
    assert StudentParams(mode="kd", epochs=0).epochs == 20 and StudentParams(mode="kd", epochs=7).epochs == 7
    with pytest.raises(ValueError, match="mode"):
        StudentParams(mode=["kd"])


def test_mixup_with_cached_logits_is_refused():
    with pytest.raises(ValueError, match="teacher_view: online"):
        params(mode="kd", mixup=0.2)


def test_dkd_warm_up_takes_at_most_a_quarter_of_the_run(data, softlabels):
    def weights(**changes):
        objective = StudentObjective(params(mode="dkd", **changes), data, CPU, softlabels)
        return [objective.warmup(e) for e in (0.0, 1.0, 5.0, 20.0, 39.0)], objective.figures(1.0)

    assert weights(epochs=40) == ([0.0, 0.1, 0.5, 1.0, 1.0], {"distillation_weight": 0.1})
    assert weights(epochs=400)[0] == pytest.approx([0.0, 0.05, 0.25, 1.0, 1.0])
    assert weights(epochs=40, dkd_warmup_epochs=0.0)[0] == [1.0] * 5


def test_live_teachers_predict_on_the_students_view(data, softlabels, drawn_teachers, drawn_manifest):
    """Images are resized and normalised for each teacher; the logits are combined with the recorded weights."""
    record = read_softlabels(softlabels, drawn_manifest.rows(split="train")).record
    live = LiveTeachers(record, data.contract, CPU)
    images = torch.from_numpy(data.contract.normalise(np.ascontiguousarray(data.contract.centre(data.train.faces[:6]))))
    a, b = (read_bundle(t) for t in drawn_teachers)
    assert (a.contract.image_size, b.contract.image_size) == (32, 40)
    with torch.no_grad():
        pixels = (
            images * torch.tensor(data.contract.std)[:, None, None] + torch.tensor(data.contract.mean)[:, None, None]
        )
        large = torch.nn.functional.interpolate(pixels, size=(40, 40), mode="bilinear", antialias=True)
        view = (large - torch.tensor(b.contract.mean)[:, None, None]) / torch.tensor(b.contract.std)[:, None, None]
        expected = (0.6 * a.model()(images).softmax(1) + 0.4 * b.model()(view).softmax(1)).log()
    torch.testing.assert_close(live(images), expected, rtol=1e-4, atol=1e-4)
    assert not live(images).requires_grad and not any(m.training for m in live.models)


def test_live_teachers_with_other_weights_or_contract_are_rejected(data, softlabels, drawn_teachers, tmp_path):
    record = read_record(softlabels)
    first = read_bundle(drawn_teachers[0])
    other = build_classifier(first.meta["model"]).state_dict()  # untrained
    same = dict(name=first.name, kind="teacher", model_config=first.meta["model"], temperature=None,
                training_prior=[1 / 7] * 7, ids={}, metrics={})  # fmt: skip
    clahe = first.contract.model_copy(update={"clahe": True})
    for name, weights, contract in (("weights", other, first.contract), ("contract", first.state_dict(), clahe)):
        write_bundle(tmp_path / name, state_dict=weights, contract=contract, **same)
        record["teachers"][0]["uri"] = str(tmp_path / name)
        with pytest.raises(BundleError, match=f"{name} holds other weights or another face contract than when"):
            LiveTeachers(record, data.contract, CPU)


@pytest.mark.parametrize("view", ["cached", "online"])
@pytest.mark.parametrize("setting, value", [("clahe", True), ("align", "eyes"), ("margin", 0.25)])
def test_teachers_with_other_crop_settings_are_rejected(drawn_manifest, softlabels, data, view, setting, value):
    """Another image size is allowed: the second teacher of the folder has one."""
    p = params(mode="kd", teacher_view=view)
    StudentObjective(p, data, CPU, softlabels)
    other = dataclasses.replace(data, contract=data.contract.model_copy(update={setting: value}))
    message = (
        f"{softlabels}: teacher teacher1 was trained on faces with .*the student with "
        f".*'{setting}': '?{value}.*give the student"
    )
    with pytest.raises(BundleError, match=message):
        StudentObjective(p, other, CPU, softlabels)


def test_distillation_without_soft_labels_is_an_error(drawn_manifest, pack_cache, tmp_path):
    with pytest.raises(FerError, match="mode 'kd' needs softlabels"):
        list(train_student(params(mode="kd"), drawn_manifest, tmp_path, pack_cache))
    with pytest.raises(BundleError, match="holds no soft labels"):
        list(train_student(params(mode="kd"), drawn_manifest, tmp_path, pack_cache, tmp_path / "nowhere"))


@pytest.fixture(scope="module")
def start(drawn_manifest, pack_cache, tmp_path_factory):
    out = tmp_path_factory.mktemp("start")
    list(train_student(params(epochs=1, max_train_batches=1), drawn_manifest, out, pack_cache))
    return out / "best"


@pytest.mark.parametrize("tune", ["all", "head", "bn", "last_block"])
def test_training_changes_only_the_trainable_parameters(drawn_manifest, pack_cache, start, tmp_path, tune):
    p = params(epochs=1, max_train_batches=2, tune=tune, weight_decay=0.3)
    list(train_student(p, drawn_manifest, tmp_path, pack_cache, init_from=str(start)))
    before, bundle = read_bundle(start).state_dict(), read_bundle(tmp_path / "best")
    after = bundle.state_dict()
    changes = {k for k in before if not torch.equal(before[k], after[k])}
    trainable = set(trainable_parameters(bundle.model(), tune))
    # running statistics change only where the weights of the norm are trained
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    with_statistics = {k.rpartition(".")[0] for k in before if k.endswith("running_mean")}
    norms = {k.rpartition(".")[0] for k in trainable} & with_statistics
    trainable |= {f"{n}.{s}" for n in norms for s in statistics}
    assert changes <= trainable, sorted(changes - trainable)[:5]
    assert changes >= {k for k in trainable if not k.endswith("embedding.0.bias")}, sorted(trainable - changes)[:5]
    if tune in ("head", "bn"):
        assert not any(k.startswith("backbone.") and k.endswith("conv1.weight") for k in changes)


def test_derived_bundle_can_start_a_student(drawn_manifest, pack_cache, start, tmp_path):
    """A derived bundle has the same weights, as after an evaluation."""
    derived = derive_bundle(read_bundle(start), tmp_path / "derived", metrics={"test": {"accuracy": 0.5}})
    p = params(epochs=1, max_train_batches=1)
    list(train_student(p, drawn_manifest, tmp_path / "out", pack_cache, init_from=str(derived.path)))
    ids = read_bundle(tmp_path / "out" / "best").meta["ids"]
    assert ids["starting_weights_sha256"] == read_bundle(start).weights_sha256


def test_exposure_includes_starting_weights_and_teachers(drawn_manifest, pack_cache, start, softlabels, tmp_path):
    complete = TrainingExposure.of(*(drawn_manifest.rows(split=s).frame["content_id"] for s in ("train", "val")))
    exposure = read_exposure(start)
    assert exposure.complete and exposure.trained_on.tolist() == complete.trained_on.tolist()
    assert exposure.selected_on.tolist() == complete.selected_on.tolist()
    frame = drawn_manifest.frame
    frame = frame[(frame["split"] != "train") | (frame.index % 2 == 0)].reset_index(drop=True)
    half = Manifest(frame, drawn_manifest.meta, drawn_manifest.path)
    half_exposure = TrainingExposure.of(*(half.rows(split=s).frame["content_id"] for s in ("train", "val")))
    assert len(half_exposure.trained_on) < len(complete.trained_on)
    for name, options, expected in (
        ("no ancestor", {}, half_exposure.trained_on),
        ("starting weights", {"init_from": str(start)}, complete.trained_on),
        ("teachers", {"softlabels": softlabels}, complete.trained_on),
    ):
        p = params(epochs=1, max_train_batches=1, mode="kd" if "softlabels" in options else "ce")
        list(train_student(p, half, tmp_path / name, pack_cache, **options))
        exposure = read_exposure(tmp_path / name / "best")
        assert exposure.complete and exposure.trained_on.tolist() == expected.tolist(), name


def test_the_cost_counts_starting_weights_and_teachers_once(
    drawn_manifest, drawn_teachers, pack_cache, start, softlabels, tmp_path
):
    """Plain, then KD from it, then DKD from that one: the two teachers of both count once."""
    from_start = dict(init_from=str(start), softlabels=softlabels)
    list(train_student(params(mode="kd", epochs=2, max_train_batches=2), drawn_manifest, tmp_path / "kd", pack_cache,
                       **from_start))  # fmt: skip
    p = params(mode="dkd", epochs=1, max_train_batches=3, batch_size=16)
    options = dict(init_from=str(tmp_path / "kd" / "best"), softlabels=softlabels)
    list(train_student(p, drawn_manifest, tmp_path / "dkd", pack_cache, **options))
    teachers = [read_bundle(t) for t in drawn_teachers]
    chain = [*teachers, read_bundle(start), read_bundle(tmp_path / "kd" / "best")]
    best = read_bundle(tmp_path / "dkd" / "best")
    cost = best.meta["cost"]
    assert cost["own"] | {"seconds": 0} == {"seconds": 0, "epochs": 1, "images": 3 * 16}
    assert cost["ancestors"] == {b.weights_sha256: b.meta["cost"]["own"] for b in chain}
    assert cost["cumulative"]["epochs"] == 2 + 2 + 1 + 2 + 1
    assert cost["cumulative"]["images"] == 2 * (2 * 4 * 28) + 32 + 2 * 2 * 32 + 3 * 16
    history = json.loads((tmp_path / "dkd" / "history.json").read_text())
    assert cost["own"]["seconds"] == history[-1]["timing"]["total_sec"] > 0
    assert cost["cumulative"]["seconds"] == pytest.approx(
        cost["own"]["seconds"] + sum(b.meta["cost"]["own"]["seconds"] for b in chain)
    )
    shutil.rmtree(tmp_path / "kd")  # the command again: the fit is finished, and its start has gone
    list(train_student(p, drawn_manifest, tmp_path / "dkd", pack_cache, softlabels=softlabels,
                       init_from=options["init_from"]))  # fmt: skip
    assert read_bundle(tmp_path / "dkd" / "best").meta["cost"] == cost


def test_fit_key_depends_on_what_the_weights_depend_on():
    """It ignores parameters that the mode does not read, and the path of the starting weights."""

    def key(weights="abc", **changes):
        return fit_key(StudentParams(**changes), {"starting_weights_sha256": weights, "run_id": "r"})

    assert key(temperature=2.0) == key(temperature=4.0, alpha=0.1)
    assert key(mode="kd", temperature=2.0) != key(mode="kd", temperature=4.0)
    assert key(mode="dkd", alpha=0.2) == key(mode="dkd", alpha=0.4) != key(mode="kd", alpha=0.4)
    assert key(pretrained="here/a.pt") == key(pretrained="there/a.pt") != key("abd", pretrained="here/a.pt")
