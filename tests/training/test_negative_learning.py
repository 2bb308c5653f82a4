"""Negative learning in a fit: rows, classes and means; SelNLPL; teachers, students, resumed fits, files, warnings."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_fit import Kill, assert_same_end, kill_at, until_epoch
from test_student import SMALL as STUDENT
from test_student import ConstantModel

from fer_lib.datasets.batches import Batch, keyed_rng
from fer_lib.datasets.manifest import Manifest
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError, FerError
from fer_lib.models.softlabels import export_softlabels
from fer_lib.models.softlabels_format import read_softlabels
from fer_lib.params import NegativeParams, SoftLabelParams, StudentParams, TeacherParams
from fer_lib.training import loop
from fer_lib.training.fit_inputs import open_data
from fer_lib.training.negative import NL, SEL_NL, SEL_PL, NegativeLearning, confusions, draw_class
from fer_lib.training.results import FinishedFit, fit_result
from fer_lib.training.student import StudentObjective, train_student
from fer_lib.training.teacher import TeacherObjective, train_teacher

CPU = torch.device("cpu")
ALL = {"method": "negl", "ratio": 1.0, "class_ratios": {}, "entropy": 0.0}  # applied to every row


def learning(n=40, epochs=10, negatives=None, teacher=None, labels=None, **options):
    """The object for ``n`` rows without images, and their labels."""
    labels = np.arange(n) % 7 if labels is None else labels
    negatives = np.full(n, -1) if negatives is None else negatives
    rows = SimpleNamespace(sample_ids=[f"{i:020x}" for i in range(n)], labels=labels, negatives=negatives)
    rows = type("Rows", (SimpleNamespace,), {"__len__": lambda self: n})(**vars(rows))
    p = TeacherParams(negative={"method": "negl"} | options, epochs=epochs, seed=4)
    return NegativeLearning(p, SimpleNamespace(train=SimpleNamespace(manifest=rows)), CPU, teacher), labels


def apply(negative, logits, labels, epoch=0.0, rows=None, partner=None):
    """The two losses where that of the labels is 2 for each row."""
    rows = np.arange(len(labels)) if rows is None else rows
    loss = torch.full((len(rows),), 2.0)
    return negative(logits, torch.from_numpy(labels), loss, rows, epoch, partner)


def classes(negative, logits, labels, epoch=0.0, partner=None):
    """The class of each row, read off the gradient, which is positive at k alone; -1 where nothing is applied."""
    leaf = logits.clone().requires_grad_()
    apply(negative, leaf, labels, epoch, partner=partner)[1].sum().backward()
    return torch.where((leaf.grad > 0).any(1), leaf.grad.argmax(1), -1).numpy()


def random_logits(n, scale=1.0, seed=0):
    return torch.randn(n, 7, generator=torch.Generator().manual_seed(seed)) * scale


# ---------------------------------------------------------------- rows, classes and the mean


def draws_of(negative):
    return negative.p.negative.draws


def expected_term(negative, logits, labels, epoch, rows, ratios, entropy):
    """The loss of each row before its weight by the definition, row by row in float64; and shares of gate and rows."""
    losses, gates = np.zeros(len(rows)), 0
    for i, row in enumerate(rows):
        z = logits[i].double().numpy()
        p = np.exp(z) / np.exp(z).sum()
        u, *draws = keyed_rng(4, "negative", epoch, negative.sample_ids[row]).random(1 + draws_of(negative), np.float32)
        gate = -(p * np.log(p)).sum() / np.log(7) >= entropy
        gates += gate
        if gate and u < ratios[labels[i]]:
            wrong = [c for c in range(7) if c != labels[i]]
            losses[i] = np.mean([-np.log(1 - p[wrong[int(v * 6)]]) for v in draws])
    applied = (losses > 0).sum()
    return losses * len(rows) / max(applied, 1), gates / len(rows), applied / len(rows)


@pytest.mark.parametrize("entropy, draws", [(0.0, 1), (0.7, 1), (0.7, 5)])
def test_loss_equals_the_definition(entropy, draws):
    negative, labels = learning(200, entropy=entropy, draws=draws)
    logits = random_logits(200, scale=1.5)
    ratios = [0.5, 0.25, 0.25, 0.5, 0.25, 0.5, 0.5]
    term, gates, applied = expected_term(negative, logits, labels, 3, range(200), ratios, entropy)
    label_loss, added = apply(negative, logits, labels, epoch=3.4)
    assert torch.equal(label_loss, torch.full((200,), 2.0))
    np.testing.assert_allclose(added.numpy(), 0.05 * term, rtol=1e-5, atol=1e-7)
    assert 0.05 < applied < 0.45 and (gates == 1.0 if entropy == 0.0 else 0.2 < gates < 0.8)
    assert added.mean().item() == pytest.approx(0.05 * (term[term > 0] / 200 * (term > 0).sum()).mean(), rel=1e-5)
    figures = negative.figures(3.99)
    assert figures["negl_applied_frac"] == pytest.approx(applied) and figures["negl_gate_share"] == pytest.approx(gates)
    assert figures["negl_loss"] == pytest.approx(term.sum() / 200, rel=1e-5)
    assert negative.figures(3.99) == figures, "a second call changes nothing"


def test_ratio_depends_on_the_class_of_the_label():
    negative, labels = learning(7000, entropy=0.0)
    k = classes(negative, random_logits(7000), labels)
    shares = [float((k[labels == c] >= 0).mean()) for c in range(7)]
    expected = [0.25 if name in ("Disgust", "Fear", "Sad") else 0.5 for name in EMOTIONS]
    assert shares == pytest.approx(expected, abs=0.05)


def test_only_unsure_predictions_pass_the_gate():
    negative, labels = learning(7, **ALL | {"entropy": 0.7})
    sharp = torch.eye(7)[labels] * 20
    assert (classes(negative, sharp, labels) == -1).all()
    assert (classes(negative, torch.zeros(7, 7), labels) >= 0).all(), "entropy ln 7"
    assert apply(negative, sharp, labels)[1].tolist() == [0.0] * 7
    assert negative.figures(0.0)["negl_gate_share"] == pytest.approx(1 / 3)


def frequencies(negative, logits, labels, **options):
    k = classes(negative, logits, labels, **options)
    assert (k >= 0).all()
    counts = np.zeros((7, 7))
    np.add.at(counts, (labels, k), 1)
    return counts / counts.sum(1, keepdims=True)


def test_uniform_classes_are_wrong_and_equally_frequent():
    negative, labels = learning(14000, **ALL)
    share = frequencies(negative, random_logits(14000), labels)
    assert (share.diagonal() == 0).all()
    assert share[~np.eye(7, dtype=bool)] == pytest.approx(np.full(42, 1 / 6), abs=0.04)


def test_classes_follow_the_confusions_of_the_teacher():
    rng = np.random.default_rng(0)
    labels = np.arange(14000) % 7
    answers = np.where(rng.random(14000) < 0.6, labels, (labels + rng.choice([1, 3], 14000, p=[0.8, 0.2])) % 7)
    answers[labels == 5] = 5  # no errors
    matrix = confusions(labels, np.eye(7)[answers])
    assert (matrix.diagonal() == 0).all() and matrix[5].tolist() == [1, 1, 1, 1, 1, 0, 1]
    assert all(matrix[c].sum() == (answers != labels)[labels == c].sum() for c in (0, 1, 2, 3, 4, 6))
    negative, _ = learning(14000, labels=labels, teacher=np.eye(7)[answers], **ALL | {"draw": "confusion"})
    share = frequencies(negative, random_logits(14000), labels)
    np.testing.assert_allclose(share, matrix / matrix.sum(1, keepdims=True), atol=0.04)


def test_lowest_classes_are_those_of_the_own_prediction():
    for lowest in (1, 3, 6):
        negative, labels = learning(700, **ALL | {"draw": "lowest", "lowest": lowest})
        logits = random_logits(700)
        k = classes(negative, logits, labels)
        others = logits.scatter(1, torch.from_numpy(labels)[:, None], torch.inf)
        ranks = others.argsort(1).argsort(1)[torch.arange(700), torch.from_numpy(k)]
        assert set(ranks.tolist()) == set(range(lowest))


def test_negative_labels_of_the_manifest_are_used():
    negatives = np.array([3, -1, 2, 3, 0, -1, 1])
    negative, labels = learning(7, negatives=negatives, **ALL | {"draw": "neg_label"})
    k = classes(negative, random_logits(7), labels)
    assert k.tolist() == [3, -1, -1, -1, 0, -1, 1], "not where there is none, and not the label"
    assert negative.figures(0.0)["negl_applied_frac"] == pytest.approx(3 / 7)


@pytest.mark.parametrize("draw", ["uniform", "confusion", "lowest", "neg_label"])
def test_with_mixup_the_class_is_wrong_for_both_partners(draw):
    rng = np.random.default_rng(1)
    labels, partner = np.arange(700) % 7, torch.from_numpy(rng.integers(0, 7, 700))
    options = ALL | {"draw": draw, "lowest": 6}
    negative, _ = learning(
        700, labels=labels, negatives=rng.integers(0, 7, 700), teacher=rng.normal(size=(700, 7)), **options
    )
    alone = classes(negative, random_logits(700), labels)
    k = classes(negative, random_logits(700), labels, partner=partner)
    assert (alone == partner.numpy()).any() and not (k == partner.numpy()).any() and not (k == labels).any()
    assert ((k >= 0).all()) == (draw != "neg_label") and (k >= 0).any()


def test_draws_depend_on_seed_epoch_and_sample_alone():
    negative, labels = learning(90, entropy=0.0)
    logits = random_logits(90)
    whole = classes(negative, logits, labels)
    for part in (slice(0, None, 2), slice(1, None, 2), slice(89, None, -1)):
        rows = np.arange(90)[part].copy()
        leaf = logits[rows].requires_grad_()
        apply(negative, leaf, labels[rows], rows=rows)[1].sum().backward()
        k = torch.where((leaf.grad > 0).any(1), leaf.grad.argmax(1), -1).numpy()
        assert (k == whole[rows]).all()
    assert (classes(negative, logits, labels, epoch=0.97) == whole).all()
    assert (classes(negative, logits, labels, epoch=1.0) != whole).any()
    negative.p = negative.p.model_copy(update={"seed": 5})
    assert (classes(negative, logits, labels) != whole).any()


def test_drawn_class_has_a_weight():
    weights = torch.tensor([[0, 3, 0, 1], [0, 0, 0, 0], [5, 0, 0, 0], [0, 0, 0, 2]])
    for value, first in ((0.0, 1), (0.7499999, 1), (0.75, 3), (1 - 2**-24, 3)):
        k, drawable = draw_class(weights, torch.full((4,), value))
        assert k.tolist() == [first, 3, 0, 3] and drawable.tolist() == [True, False, True, True]


def test_draws_without_their_source_are_refused():
    with pytest.raises(FerError, match="draw: confusion needs a teacher's predictions .*softlabels.*uniform or lowest"):
        learning(draw="confusion")
    with pytest.raises(DataError, match="no train row has a neg_label: use a manifest with"):
        learning(draw="neg_label")


# ---------------------------------------------------------------- SelNLPL


def test_phases_are_shares_of_the_epochs():
    def phases(epochs, **options):
        negative, _ = learning(epochs=epochs, method="selnlpl", **options)
        return [negative.phase(number) for number in range(epochs)]

    assert phases(10) == [NL] * 6 + [SEL_NL] * 2 + [SEL_PL] * 2
    assert phases(15) == [NL] * 9 + [SEL_NL] * 3 + [SEL_PL] * 3
    assert phases(1) == [NL] and phases(4, shares=(0.25, 0.5, 0.25)) == [NL, SEL_NL, SEL_NL, SEL_PL]


def test_selnlpl_selects_by_the_running_mean_of_ten_epochs():
    """Compared with lists of every p_y: views are pooled over the ten epochs before the running one."""
    n, epochs = 60, 40
    negative, labels = learning(n, epochs=epochs, method="selnlpl", shares=(0.4, 0.3, 0.3))
    rng, seen, phases = np.random.default_rng(3), [], {}
    for number in range(epochs):
        earlier = [pair for epoch in seen[-10:] for pair in epoch]
        seen.append([])
        sums = np.zeros((2, n))
        for row, p in earlier:
            sums[:, row] += p, 1
        mean = np.divide(sums[0], sums[1], out=np.zeros(n), where=sums[1] > 0)
        phase = negative.phase(number)
        counts = np.zeros(2)
        for step in range(2):  # some rows twice in an epoch, some not at all, and one row never before epoch 30
            rows = rng.choice(n - (number < 30), 30)
            logits = torch.from_numpy(rng.normal(0, 2, (30, 7)) + 2.5 * (rows % 3)[:, None] * np.eye(7)[labels[rows]])
            loss, added = apply(negative, logits, labels[rows], number + step / 2, rows)
            assert not added.any()
            wanted = {NL: rows >= 0, SEL_NL: mean[rows] >= 1 / 7, SEL_PL: mean[rows] > 0.5}[phase]
            clear = np.abs(mean[rows] - 1 / 7) + np.abs(mean[rows] - 0.5) > 1e-5
            assert ((loss.numpy() > 0) == wanted)[clear].all()
            assert not wanted.any() or phase != SEL_PL or loss.mean().item() == pytest.approx(2.0), "mean of the rest"
            phases.setdefault(phase, []).append(wanted.mean())
            counts += wanted.sum(), 30
            seen[-1] += zip(rows.tolist(), logits.softmax(1).numpy()[np.arange(30), labels[rows]], strict=True)
        figures = negative.figures(number + 0.5)
        assert figures["negl_applied_frac"] == figures["negl_gate_share"] == pytest.approx(counts[0] / counts[1])
        assert (figures["negl_loss"] is None) == (phase == SEL_PL)
    assert np.mean(phases[NL]) == 1 and 0.5 < np.mean(phases[SEL_NL]) < 0.99 and 0.2 < np.mean(phases[SEL_PL]) < 0.8


def test_selnlpl_repeats_fewer_of_the_wrong_labels_than_cross_entropy():
    """A linear model of 7 informative features and 100 of noise, by which it can learn 40 % wrong labels by heart."""
    n, epochs, repeated = 700, 60, {}
    for method in ("none", "selnlpl"):
        rng = np.random.default_rng(0)
        truth = np.arange(n) % 7
        informative = 2 * np.eye(7)[truth] + rng.normal(0, 0.5, (n, 7))
        inputs = torch.from_numpy(np.concatenate([informative, rng.normal(0, 1, (n, 100))], 1)).float()
        labels = np.where(rng.random(n) < 0.4, (truth + rng.integers(1, 7, n)) % 7, truth)
        negative, y = learning(n, epochs, labels=labels, method="selnlpl")[0], torch.from_numpy(labels)
        torch.manual_seed(0)
        model = torch.nn.Linear(107, 7)
        optimiser = torch.optim.Adam(model.parameters(), lr=0.003)
        for number in range(epochs):
            for step, rows in enumerate(np.array_split(rng.permutation(n), 10)):
                logits = model(inputs[rows])
                loss = torch.nn.functional.cross_entropy(logits, y[rows], reduction="none")
                if method == "selnlpl":
                    loss, _ = negative(logits, y[rows], loss, rows, number + step / 10)
                optimiser.zero_grad()
                loss.mean().backward()
                optimiser.step()
            if method == "selnlpl":
                figures = negative.figures(number + 0.9)
        repeated[method] = (model(inputs).argmax(1).numpy() == labels)[labels != truth].mean()
    assert 0.2 < figures["negl_applied_frac"] < 0.8, "selected by the running mean"
    assert repeated["selnlpl"] < 0.6 * repeated["none"]


# ---------------------------------------------------------------- teachers and students


def student(**changes):
    return StudentParams(**STUDENT | {"seed": 4} | changes)


@pytest.fixture(scope="module")
def softlabels(drawn_manifest, drawn_teachers, pack_cache, tmp_path_factory):
    out = tmp_path_factory.mktemp("softlabels")
    export_softlabels(SoftLabelParams(weights=[0.6, 0.4]), drawn_manifest, drawn_teachers, out, pack_cache, CPU)
    return out


@pytest.fixture(scope="module")
def data(drawn_manifest, pack_cache):
    return open_data(drawn_manifest, student(), pack_cache)


def spread_rows(data):
    """Twenty rows of all classes; the manifest is sorted by class."""
    return np.linspace(0, len(data.train.manifest) - 1, 20).astype(np.int64)


MODES = [{"mode": "ce"}, {"mode": "kd", "alpha": 0.3}, {"mode": "dkd", "dkd_warmup_epochs": 0.0}, {"mode": "dkd_mixed"}]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode["mode"])
@pytest.mark.parametrize("draw", ["uniform", "confusion"])
def test_the_loss_is_added_to_that_of_every_mode(data, softlabels, mode, draw):
    rows = spread_rows(data)
    batch, model = Batch(rows, None, data.train.manifest.labels[rows], rows), ConstantModel(random_logits(20))
    plain = StudentObjective(student(**mode), data, CPU, softlabels).loss(model, torch.empty(20, 1), batch, 1.0)
    options = ALL | {"draw": draw, "weight": 0.3}
    objective = StudentObjective(student(**mode, negative=options), data, CPU, softlabels)
    loss = objective.loss(model, torch.empty(20, 1), batch, 1.0)
    teacher = read_softlabels(softlabels, data.train.manifest).logits if draw == "confusion" else None
    alone = NegativeLearning(student(negative=options), data, CPU, teacher)
    _, added = alone(model.logits, torch.from_numpy(batch.labels), torch.zeros(20), rows, 1.0)
    torch.testing.assert_close(loss, plain + added, rtol=1e-6, atol=1e-6)
    assert added.min() > 0 and objective.figures(1.0)["negl_applied_frac"] == 1.0


def test_a_student_with_mixup_adds_the_loss_once(data):
    rows = spread_rows(data)
    batch, model = Batch(rows, None, data.train.manifest.labels[rows], rows), ConstantModel(random_logits(20))
    losses, options = [], ALL | {"weight": 0.3}
    for negative in ({}, options):
        torch.manual_seed(0)
        objective = StudentObjective(student(mixup=0.4, negative=negative), data, CPU, None)
        losses.append(objective.loss(model, torch.rand(20, 3, 4, 4), batch, 1.0))
    torch.manual_seed(0)
    y = torch.from_numpy(batch.labels)
    partner = y[partner_of_mixup(0.4)]
    alone = NegativeLearning(student(negative=options), data, CPU)
    _, added = alone(model.logits, y, torch.zeros(20), rows, 1.0, partner)
    torch.testing.assert_close(losses[1], losses[0] + added, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode["mode"])
def test_selnlpl_replaces_the_loss_of_the_labels_alone(data, softlabels, mode):
    rows = spread_rows(data)
    batch, model = Batch(rows, None, data.train.manifest.labels[rows], rows), ConstantModel(random_logits(20))
    plain = StudentObjective(student(**mode), data, CPU, softlabels)
    objective = StudentObjective(student(**mode, negative={"method": "selnlpl"}), data, CPU, softlabels)
    alone = NegativeLearning(student(negative={"method": "selnlpl"}), data, CPU)
    y = torch.from_numpy(batch.labels)
    replaced, _ = alone(model.logits, y, torch.zeros(20), rows, 1.0)
    labels = plain.label_loss(model.logits, y, plain.targets(y, torch.from_numpy(rows)))
    share = {"kd": 0.7, "dkd_mixed": 0.5}.get(mode["mode"], 1.0)
    expected = plain.loss(model, torch.empty(20, 1), batch, 1.0) + share * (replaced - labels)
    torch.testing.assert_close(objective.loss(model, torch.empty(20, 1), batch, 1.0), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head", ["cosine", "linear"])
@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_a_teacher_uses_its_logits_without_a_margin(data, head, mixup):
    rows, cosine = spread_rows(data), random_logits(20).tanh()
    batch = Batch(rows, None, data.train.manifest.labels[rows], rows)
    losses, partners = [], []
    for options in ({}, ALL | {"weight": 0.3}):
        p = TeacherParams(head=head, mixup=mixup, plain_epochs=0, ramp_end=0, seed=4, negative=options)
        torch.manual_seed(0)
        objective = TeacherObjective(p, data, CPU)
        losses.append(objective.loss(lambda images, scaled: cosine, torch.rand(20, 3, 4, 4), batch, 1.0))
    y = torch.from_numpy(batch.labels)
    if mixup:
        torch.manual_seed(0)
        partners.append(y[partner_of_mixup(mixup)])
    alone = NegativeLearning(TeacherParams(seed=4, negative=ALL | {"weight": 0.3}), data, CPU)
    logits = 30.0 * cosine if head == "cosine" else cosine
    _, added = alone(logits, y, torch.zeros(20), rows, 1.0, *partners)
    assert added.max() > 0
    torch.testing.assert_close(losses[1], losses[0] + added, rtol=1e-5, atol=1e-5)


def partner_of_mixup(alpha):
    from fer_lib.models.losses import mixup

    return mixup(torch.rand(20, 3, 4, 4), alpha)[1]


def test_a_ce_student_reads_the_soft_labels_that_it_needs(drawn_manifest, pack_cache, softlabels, tmp_path):
    p = student(epochs=1, max_train_batches=1, negative={"method": "negl", "draw": "confusion", "entropy": 0.0})
    with pytest.raises(FerError, match="draw: confusion needs a teacher's predictions"):
        list(train_student(p, drawn_manifest, tmp_path / "without", pack_cache))
    list(train_student(p, drawn_manifest, tmp_path / "with", pack_cache, softlabels))
    fit = FinishedFit(p, tmp_path / "with")
    assert fit.best.meta["ids"]["softlabels_sha256"] and fit.history[0]["train"]["negl_applied_frac"] > 0


# ---------------------------------------------------------------- resumed fits, files, warnings

FITS = {
    "teacher with mixup": TeacherParams(
        backbone="test_resnet", image_size=32, embed_dim=16, dropout=0.3, epochs=3, batch_size=14, accum_steps=2,
        lr=2e-3, warmup_epochs=0.0, plain_epochs=1, ramp_end=2, arcface_s=4.0, mixup=0.4, max_train_batches=3,
        threads=1, device="cpu", negative={"method": "negl", "weight": 1.0, "entropy": 0.2, "draw": "lowest"},
    ),
    "student with kd": student(
        epochs=5, max_train_batches=2, mode="kd", accum_steps=2, dropout=0.3, lr=1e-2,
        negative={"method": "selnlpl", "draw": "confusion", "shares": (0.2, 0.6, 0.2)},
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=FITS)
def case(request, drawn_manifest, pack_cache, softlabels, tmp_path_factory):
    """The function that trains, and the folder of the unbroken fit."""
    p = FITS[request.param]

    def train(out, **changes):
        changed = p.model_copy(update=changes)
        if isinstance(p, TeacherParams):
            return train_teacher(changed, drawn_manifest, out, pack_cache)
        return train_student(changed, drawn_manifest, out, pack_cache, softlabels)

    out = tmp_path_factory.mktemp("unbroken")
    list(train(out))
    return SimpleNamespace(train=train, unbroken=out, params=p)


@pytest.mark.parametrize("step", [3, 5])
def test_a_fit_killed_within_an_epoch_ends_as_the_unbroken_one(case, tmp_path, monkeypatch, step):
    with monkeypatch.context() as m:
        kill_at(m, step)
        with pytest.raises(Kill):
            list(case.train(tmp_path, checkpoint_minutes=1e-9))
    list(case.train(tmp_path))
    assert_same_end(tmp_path, case.unbroken)
    history = FinishedFit(case.params, case.unbroken).history
    assert all(row["train"]["negl_applied_frac"] > 0 for row in history[:-1])
    if case.params.negative.method == "selnlpl":
        assert history[0]["train"]["negl_gate_share"] == 1 > history[3]["train"]["negl_gate_share"], "rows are selected"


def test_a_fit_killed_during_validation_ends_as_the_unbroken_one(case, tmp_path, monkeypatch):
    """Its checkpoint has the figures of the epoch, which are computed again."""

    def kill(*arguments):
        raise Kill

    with monkeypatch.context() as m:
        m.setattr(loop, "validate", kill)
        with pytest.raises(Kill):
            list(case.train(tmp_path, checkpoint_minutes=1e-9))
    list(case.train(tmp_path))
    assert_same_end(tmp_path, case.unbroken)


def test_files_of_a_fit_say_what_was_applied(case):
    config = json.loads((case.unbroken / "neglconfig.json").read_text())
    assert NegativeParams(config=str(case.unbroken / "neglconfig.json")) == case.params.negative
    assert set(config) == set(NegativeParams.model_fields) - {"config"}
    text = (case.unbroken / "neglrules.md").read_text()
    words = {"negl": ["plus 1 times", "Disgust 0.25", "0.2 ln 7", "the 3 classes"],
             "selnlpl": ["the first 20%", "teacher takes train faces", "above 0.5"]}  # fmt: skip
    assert all(word in text for word in words[case.params.negative.method])
    fit = FinishedFit(case.params, case.unbroken)
    for row in fit.history:
        assert f"| {row['epoch'] + 1} | {row['train']['negl_gate_share']:.4f} |" in text
    artifacts = fit_result(fit).artifacts
    assert {case.unbroken / "neglconfig.json", case.unbroken / "neglrules.md"} <= set(artifacts)


def test_an_epoch_without_an_applied_row_is_a_warning(drawn_manifest, pack_cache, tmp_path):
    p = student(epochs=2, max_train_batches=1, negative={"method": "negl", "ratio": 0.0, "class_ratios": {}})
    events = train_student(p, drawn_manifest, tmp_path, pack_cache)
    until_epoch(events)
    note = next(events)
    assert note["level"] == "warning" and note["message"].startswith(
        "epoch 1: negative learning was applied to nothing"
    )
    events.close()
    resumed = [e for e in train_student(p, drawn_manifest, tmp_path, pack_cache) if e["event"] != "step"]
    assert [e["event"] for e in resumed] == ["start", "note", "epoch", "note", "end"], "also those before the resume"
    assert [e["message"][:7] for e in resumed if e["event"] == "note"] == ["epoch 1", "epoch 2"]


def test_a_fit_without_negative_learning_has_no_figures_nor_files(drawn_manifest, pack_cache, tmp_path):
    p = student(epochs=1, max_train_batches=1, negative={"draw": "neg_label"})
    list(train_student(p, drawn_manifest, tmp_path, pack_cache))
    fit = FinishedFit(p, tmp_path)
    assert not any(key.startswith("negl") for key in fit.history[0]["train"])
    assert not list(tmp_path.glob("negl*")) and not any(
        path.name.startswith("negl") for path in fit_result(fit).artifacts
    )


def test_a_manifest_with_negative_labels_trains(drawn_manifest, pack_cache, tmp_path):
    frame = drawn_manifest.frame.copy()
    frame["neg_label"] = [float((y + 1) % 7) if i % 2 else np.nan for i, y in enumerate(frame["label"])]
    manifest = Manifest(frame, drawn_manifest.meta, drawn_manifest.path)
    p = student(epochs=1, negative=ALL | {"draw": "neg_label"})
    list(train_student(p, manifest, tmp_path, pack_cache))
    assert 0.2 < FinishedFit(p, tmp_path).history[0]["train"]["negl_applied_frac"] < 0.8
