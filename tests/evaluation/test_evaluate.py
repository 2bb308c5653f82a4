"""An evaluation against predictions made again from its own bundles, with leaks that were planted and counted."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import entropy
from sklearn.metrics import f1_score

from fer_lib.calibration import metrics
from fer_lib.calibration.temperature import Temperature
from fer_lib.datasets.build import build_manifest
from fer_lib.datasets.facepack import open_or_build
from fer_lib.datasets.manifest import Manifest
from fer_lib.datasets.provenance import EXPOSURE_FILE, TrainingExposure, read_exposure
from fer_lib.deploy.predict import Predictor
from fer_lib.errors import BundleError, DataError, FerError
from fer_lib.evaluation.evaluate import evaluate, subjects
from fer_lib.evaluation.leaks import checked_leaks, known_leaks, leak_warnings
from fer_lib.evaluation.table import annotators_table, models_table, predictions, results_table
from fer_lib.faces.contract import FaceContract
from fer_lib.faces.decode import decode
from fer_lib.importers import import_all
from fer_lib.models.bundle import derive_bundle, read_bundle, write_bundle
from fer_lib.models.classifier import build_classifier
from fer_lib.models.inference import predict_logits
from fer_lib.models.softlabels import export_softlabels
from fer_lib.params import EvaluateParams, ManifestParams, SoftLabelParams, SourceSpec

CONTRACT = FaceContract(image_size=32)
LEAKS = 6
ALLOWED = ["fer2013"]


def bundle(folder, name, seed):
    torch.manual_seed(seed)
    config = dict(backbone="test_resnet", image_size=32, embed_dim=16, dropout=0.0, head="linear", s=1.0)
    weights = build_classifier(config).state_dict()
    return write_bundle(
        folder / "best", name=name, kind="teacher", model_config=config, state_dict=weights,
        contract=CONTRACT, temperature=None, training_prior=[1 / 7] * 7, ids={"epoch": 0},
        metrics={"val_select": {"accuracy": 0.5, "macro_f1": 0.4}},
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A manifest with planted leaks, two untrained models and their ensemble, measured once."""
    torch.set_num_threads(1)
    base = tmp_path_factory.mktemp("evaluation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FER_HOME", str(base))
        import_all([SourceSpec(source="fer2013", faces=350, leaks=2 * LEAKS)], base / "imports")
    manifest = build_manifest(ManifestParams(), base / "imports", base / "manifest")
    for seed, name in enumerate(("one", "two")):
        bundle(base / name, name, seed)
    cache = base / "runs" / "cache"
    cache.mkdir(parents=True)
    soft = base / "softlabels-0123"
    bests = [base / "one" / "best", base / "two" / "best"]
    export_softlabels(SoftLabelParams(weights=[0.25, 0.75]), manifest, bests, soft, cache, "cpu")
    p = EvaluateParams(resamples=100, smoke=True, allow_leaks=ALLOWED)
    result = evaluate(p, manifest, [base / "one", base / "two"], [soft], base / "out", cache, "cpu")
    return base, manifest, result


def test_every_view_and_set_counts_its_rows(made):
    _, manifest, result = made
    n = len(manifest.rows(split="test"))
    every = {"evalset_id": "", "n_expected": n, "n_used": n, "removed": 0, "leaked": LEAKS}
    assert result["sets"]["all"] | {"evalset_id": ""} == every
    clean = result["sets"]["leak_free"]
    assert clean["n_used"] == n - LEAKS and clean["removed"] == LEAKS and clean["leaked"] == 0
    assert set(result["models"]) == {"one", "two", "ensemble"}
    protocols = set()
    for model in result["models"].values():
        for sets in model["views"].values():
            for name, report in sets.items():
                assert report["evalset_id"] == result["sets"][name]["evalset_id"]
                protocols.add(report["protocol_id"])
    assert len(protocols) == 2 * 2 * 2  # sets x views x (single models share one, the ensemble has its own)


def test_the_figures_are_those_of_predictions_made_again(made):
    base, manifest, result = made
    test = manifest.rows(split="test")
    images = [decode(test.resolve(path)) for path in test.frame["image_path"]]
    sealed = read_bundle(base / "out" / "bundles" / "one")
    probs = Predictor(sealed, runtime="torch").probs(images)
    report = result["models"]["one"]["views"]["none"]["all"]
    y = test.labels
    assert report["scaled"]["accuracy"] == pytest.approx((probs.argmax(1) == y).mean(), abs=1e-12)
    mine = f1_score(y, probs.argmax(1), average="macro", labels=range(7), zero_division=0)
    assert report["scaled"]["macro_f1"] == pytest.approx(mine, abs=1e-12)
    assert report["scaled"]["nll"] == pytest.approx(-np.log(probs[np.arange(len(y)), y]).mean(), abs=1e-6)
    assert sealed.meta["metrics"]["test"]["macro_f1"] == report["scaled"]["macro_f1"]
    assert sealed.meta["metrics"]["test"]["protocol_id"] == report["protocol_id"]


def test_the_ensemble_is_the_weighted_sum_of_logits_and_the_flip_their_mean(made):
    base, _, _ = made
    load = {
        (name, view): np.load(base / "out" / "predictions" / f"{name}-{view}.npz")["logits"]
        for name in ("one", "two", "ensemble")
        for view in ("none", "flip")
    }
    for view in ("none", "flip"):
        expected = 0.25 * load["one", view] + 0.75 * load["two", view]
        np.testing.assert_allclose(load["ensemble", view], expected, atol=1e-12)
    assert not np.allclose(load["one", "none"], load["one", "flip"])


def test_the_temperature_never_sees_a_test_row(made):
    base, manifest, result = made
    fitted = Temperature.model_validate(result["models"]["one"]["views"]["none"]["all"]["temperature"])
    assert fitted.fitted_on == "val/temperature"
    assert fitted.n == len(manifest.rows(split="val", val_role="temperature"))
    leak_free = result["models"]["one"]["views"]["none"]["leak_free"]["temperature"]
    assert leak_free == fitted.model_dump()


@pytest.mark.parametrize("view", ["none", "flip"])
def test_each_view_has_the_temperature_of_its_own_logits(made, view):
    """Against a minimum found by searching the NLL of that view's own logits of val/temperature."""
    base, manifest, result = made
    sealed = read_bundle(base / "out" / "bundles" / "two")
    held = open_or_build(manifest.rows(split="val", val_role="temperature"), CONTRACT, base / "runs" / "cache")
    logits, y = predict_logits(sealed.model(), held, flip_average=view == "flip"), held.manifest.labels

    def nll(log_t):
        return -metrics.log_softmax(logits / np.exp(log_t))[np.arange(len(y)), y].mean()

    expected = np.exp(minimize_scalar(nll, bounds=(-6.0, 6.0), method="bounded", options={"xatol": 1e-10}).x)
    views = {v: sets["all"]["temperature"] for v, sets in result["models"]["two"]["views"].items()}
    assert views[view]["global_temperature"] == pytest.approx(expected, rel=1e-4) and views[view]["view"] == view
    gap = views["flip"]["global_temperature"] / views["none"]["global_temperature"] - 1
    assert abs(gap) > 0.01, "the two can be told apart here"
    assert sealed.temperature.view == "none", "a bundle predicts on the single view"


def test_a_stored_temperature_of_the_other_view_is_refused(made):
    base, _, result = made
    swapped = json.loads(json.dumps(result))
    views = swapped["models"]["two"]["views"]
    views["flip"]["all"]["temperature"] = views["none"]["all"]["temperature"]
    with pytest.raises(DataError, match="under the single view and the logits are of the flip average"):
        predictions(base / "out", swapped, "two", "flip")


def test_each_opening_of_the_test_rows_is_written_down(made):
    base, manifest, result = made
    lines = [json.loads(line) for line in (base / "runs" / "test_openings.jsonl").read_text().splitlines()]
    assert [line["manifest_sha256"] for line in lines] == [manifest.sha256]
    assert {name: len(weights) for name, weights in lines[0]["weights"].items()} == {"one": 1, "two": 1, "ensemble": 2}
    found = result["sets"]["all"]
    assert (lines[0]["evalset_id"], lines[0]["n"]) == (found["evalset_id"], found["n_expected"])
    assert lines[0]["purpose"] == "evaluation" and lines[0]["split"] == lines[0]["suite"] == "test"
    assert (base / "out" / "test_openings.jsonl").read_text() == (base / "runs" / "test_openings.jsonl").read_text()


def test_the_table_and_the_predictions_agree(made):
    base, _, result = made
    table = results_table(result)
    assert isinstance(table, pd.DataFrame) and len(table) == 3 * 2 * 2
    raw, scaled, y = predictions(base / "out", result, "two", "flip")
    line = table[(table["model"] == "two") & (table["view"] == "flip") & (table["rows"] == "all")].iloc[0]
    assert line["accuracy"] == pytest.approx((raw.argmax(1) == y).mean())
    np.testing.assert_allclose(scaled.sum(1), 1.0)


def test_the_table_of_models_has_their_start_votes_and_cost(made, tmp_path):
    base, manifest, result = made
    unknown = models_table(result).set_index("model")
    assert (
        unknown.loc["one", "kind"] == "teacher"
        and unknown.loc["ensemble", "parameters"] == 2 * (unknown.loc["one", "parameters"])
    )
    assert unknown[["starting weights", "rows with votes", "epochs in all"]].isna().all(axis=None), "made by hand"
    first = read_bundle(base / "one" / "best")
    own = {"seconds": 60.0, "epochs": 3, "images": 900}
    cost = {"own": own, "cumulative": own, "ancestors": {}}
    derive_bundle(first, tmp_path / "a" / "best", name="a", cost=cost)
    child = read_bundle(base / "two" / "best")
    ids = {"starting_weights_sha256": first.weights_sha256}
    more = {"own": {"seconds": 30.0, "epochs": 2, "images": 100}, "ancestors": {first.weights_sha256: own}}
    more["cumulative"] = {"seconds": 90.0, "epochs": 5, "images": 1000}
    derive_bundle(child, tmp_path / "b" / "best", name="b", ids=ids, cost=more)
    for name, votes, weight in (("a", 12, 0.5), ("b", 12, 0.0)):
        report = {"ids": ids if name == "b" else {}, "model": {"pretrained": "hub" if name == "a" else "init_from"},
                  "data": {"rows_with_votes": votes}, "protocol": {"soft_label_weight": weight}}  # fmt: skip
        (tmp_path / name / "alignmentreport.json").write_text(json.dumps(report))
    p = EvaluateParams(split="val", resamples=100, smoke=True, allow_leaks=ALLOWED, views=["none"], calibration="none")
    cache = base / "runs" / "cache"
    found = evaluate(p, manifest, [tmp_path / "a", tmp_path / "b"], [], tmp_path / "out", cache, "cpu")
    table = models_table(found).set_index("model")
    assert table["starting weights"].tolist() == ["hub", "a"] and table["rows with votes"].tolist() == [12, 0]
    assert table["epochs in all"].tolist() == [3, 5] and table["images in all"].tolist() == [900, 1000]
    assert table["training in all, s"].tolist() == [60.0, 90.0]


def test_a_known_leak_is_refused_unless_its_source_is_named_and_then_it_is_said(made, tmp_path):
    base, manifest, result = made
    nameless = {"chosen_on": 0, "unrecorded": ["ensemble", "one", "two"]}  # weights by hand, of which nothing is known
    assert result["leaks"] == {"rows": LEAKS, "by_source": {"fer2013": LEAKS}, "allowed": ALLOWED, **nameless}
    sealed = read_bundle(base / "out" / "bundles" / "one").meta["metrics"]["test"]
    assert sealed["leaked"] == LEAKS
    openings = base / "runs" / "test_openings.jsonl"
    opened = openings.read_text()
    for leak_free in (True, False):  # leaving them out of a second table does not make the first one honest
        p = EvaluateParams(resamples=100, smoke=True, leak_free=leak_free)
        with pytest.raises(DataError, match=rf"{LEAKS} of .* test rows .*fer2013 {LEAKS}.*allow_leaks: \[fer2013\]"):
            evaluate(p, manifest, [base / "one"], [], tmp_path / "out", base / "runs" / "cache", "cpu")
    assert openings.read_text() == opened and not (tmp_path / "out").exists(), "refused before anything is measured"
    with pytest.raises(DataError, match="no source 'fer2014' .closest: 'fer2013'"):
        checked_leaks(manifest, manifest.rows(split="test"), "test", ["fer2014"], {})


def without(manifest, ids, **meta):
    frame = manifest.frame[~manifest.frame["sample_id"].isin(ids)].reset_index(drop=True)
    return Manifest(frame, {**manifest.meta, **meta}, manifest.path)


def test_a_near_copy_that_an_audit_recorded_is_a_known_leak_too(made):
    _, manifest, _ = made
    exact = known_leaks(manifest, "test").trained_on
    assert len(exact) == LEAKS
    clean = without(manifest, exact)
    [first, second, third, *_] = clean.rows(split="test").sample_ids
    trained, chosen = (clean.rows(split=s).frame["content_id"][0] for s in ("train", "val"))
    twins = {first: [trained, "f" * 64], second: ["e" * 64], third: [chosen], "gone": [trained]}
    audited = without(clean, [], twins=twins)
    known = known_leaks(audited, "test")
    assert (known.trained_on, known.selected_on) == ({first}, {third}) and known.all == {first, third}
    assert not known_leaks(audited, "val").selected_on, "choosing is what val rows are for"
    with pytest.raises(DataError, match="1 of the .* in train too and 1 in val"):
        checked_leaks(audited, audited.rows(split="test"), "test", [], {})
    found, said = checked_leaks(audited, audited.rows(split="test"), "test", ALLOWED, {})
    assert found == known and (said["rows"], said["chosen_on"], said["allowed"]) == (1, 1, ALLOWED)


def test_what_a_model_learned_elsewhere_leaks_into_a_manifest_that_was_cleaned_since(made, tmp_path):
    base, manifest, _ = made
    train, val = manifest.rows(split="train"), manifest.rows(split="val")
    twins = train.frame["content_id"].isin(manifest.rows(split="test").frame["content_id"])
    clean = without(manifest, train.frame.loc[twins, "sample_id"])
    assert len(known_leaks(clean, "test").all) == 0, "the manifest alone shows nothing any more"
    seen = tmp_path / EXPOSURE_FILE
    TrainingExposure.of(train.frame["content_id"], val.frame["content_id"]).write(seen)
    own = derive_bundle(read_bundle(base / "one" / "best"), tmp_path / "own", extra_files={EXPOSURE_FILE: seen})
    (tmp_path / "runs" / "cache").mkdir(parents=True)
    p = EvaluateParams(resamples=100, smoke=True, views=["none"])
    with pytest.raises(DataError, match=rf"{LEAKS} of the .* here or where a model was trained .fer2013 {LEAKS}"):
        evaluate(p, clean, [own.path], [], tmp_path / "out", tmp_path / "runs" / "cache", "cpu")
    allowed = p.model_copy(update={"allow_leaks": ALLOWED})
    result = evaluate(allowed, clean, [own.path], [], tmp_path / "out", tmp_path / "runs" / "cache", "cpu")
    assert result["leaks"]["rows"] == LEAKS and result["leaks"]["unrecorded"] == []
    assert result["sets"]["leak_free"]["removed"] == LEAKS
    assert read_exposure(tmp_path / "out" / "bundles" / "one").trained_on.size == train.frame["content_id"].nunique()
    TrainingExposure.of(clean.rows(split="train").frame["content_id"], val.frame["content_id"]).write(seen)
    derive_bundle(own, own.path, extra_files={EXPOSURE_FILE: seen})
    result = evaluate(p, clean, [own.path], [], tmp_path / "out2", tmp_path / "runs" / "cache", "cpu")
    assert result["leaks"]["rows"] == 0 and "leak_free" not in result["sets"]


def test_a_manifest_of_test_rows_alone_can_be_measured_where_no_temperature_is_fitted(made, tmp_path):
    base, manifest, result = made
    frame = manifest.frame[manifest.frame["split"] == "test"].reset_index(drop=True)
    alone = Manifest(frame, manifest.meta, manifest.path)
    (tmp_path / "runs" / "cache").mkdir(parents=True)
    p = EvaluateParams(resamples=100, smoke=True, views=["none"])
    with pytest.raises(DataError, match="no val rows of the role temperature.*calibration: none or fixed"):
        evaluate(p, alone, [base / "one"], [], tmp_path / "out", tmp_path / "runs" / "cache", "cpu")
    unscaled = p.model_copy(update={"calibration": "none"})
    found = evaluate(unscaled, alone, [base / "one"], [], tmp_path / "out", tmp_path / "runs" / "cache", "cpu")
    raw = found["models"]["one"]["views"]["none"]["all"]
    assert raw["raw"]["accuracy"] == result["models"]["one"]["views"]["none"]["all"]["raw"]["accuracy"]
    assert raw["scaled"] == raw["raw"] and found["leaks"]["rows"] == 0


def test_what_is_said_of_leaks_that_no_table_leaves_out():
    known = {"rows": 1200, "by_source": {"a": 1200}, "chosen_on": 3, "allowed": ["a"], "unrecorded": ["one"]}
    every = leak_warnings({"leaks": known, "sets": {"all": {}}})
    assert len(every) == 3 and "1,200 of these rows are known to be in train" in every[0]
    assert "3 of these rows" in every[1] and "`one`" in every[2]
    assert leak_warnings({"leaks": known, "sets": {"all": {}, "leak_free": {}}}) == every[1:]
    assert leak_warnings({"sets": {"all": {}}}) == []


def test_an_ensemble_whose_teacher_was_trained_again_is_refused(made, tmp_path):
    base, manifest, _ = made
    bundle(tmp_path / "a", "a", 5)
    bundle(tmp_path / "b", "b", 6)
    bests = [tmp_path / "a" / "best", tmp_path / "b" / "best"]
    p = SoftLabelParams(weights=[0.5, 0.5], flip_average=False)
    export_softlabels(p, manifest, bests, tmp_path / "soft", base / "runs" / "cache", "cpu")
    bundle(tmp_path / "a", "a", 7)
    with pytest.raises(BundleError, match="trained again"):
        subjects([], [tmp_path / "soft"])


def test_two_models_of_one_name_and_no_models_are_refused(made, tmp_path):
    base, manifest, _ = made
    derive_bundle(read_bundle(base / "one" / "best"), tmp_path / "twin" / "best")
    with pytest.raises(FerError, match="called one"):
        subjects([base / "one", tmp_path / "twin"], [])
    with pytest.raises(FerError, match="nothing to evaluate"):
        evaluate(EvaluateParams(), manifest, [], [], tmp_path / "out", base / "runs" / "cache", "cpu")


def test_val_is_measured_on_the_rows_that_choose(made, tmp_path):
    base, manifest, _ = made
    p = EvaluateParams(split="val", views=["none"], leak_free=False, resamples=100, smoke=True, allow_leaks=ALLOWED)
    result = evaluate(p, manifest, [base / "one"], [], tmp_path / "out", base / "runs" / "cache", "cpu")
    assert result["sets"]["all"]["n_used"] == len(manifest.rows(split="val", val_role="select"))
    assert set(result["sets"]) == {"all"}
    assert "test" not in read_bundle(tmp_path / "out" / "bundles" / "one").meta["metrics"]
    opened = (base / "runs" / "test_openings.jsonl").read_text().splitlines()
    assert len(opened) == 1  # this evaluation opened no test row


def test_val_twins_of_other_roles_are_not_counted_as_removed(made, tmp_path):
    """Only val/select is scored, so a twin among the temperature rows takes nothing from it."""
    base, manifest, _ = made
    frame = manifest.frame.copy()
    train, held = frame.index[frame["split"] == "train"][0], frame.index[frame["val_role"] == "temperature"][0]
    frame.loc[train, "content_id"] = frame.loc[held, "content_id"]
    leaky = Manifest(frame, manifest.meta, manifest.path)
    p = EvaluateParams(split="val", views=["none"], resamples=100, smoke=True, allow_leaks=ALLOWED)
    result = evaluate(p, leaky, [base / "one"], [], tmp_path / "out", base / "runs" / "cache", "cpu")
    select = frame[frame["val_role"] == "select"]
    twins = int(select["content_id"].isin(frame.loc[frame["split"] == "train", "content_id"]).sum())
    clean = result["sets"]["leak_free"]
    assert twins > 0 and clean["removed"] == twins
    assert clean["n_expected"] == clean["n_used"] == len(select) - twins


def test_people_stand_beside_the_models_where_there_are_votes(made, tmp_path):
    base, manifest, result = made
    assert all("people" not in r for m in result["models"].values() for v in m["views"].values() for r in v.values())
    assert annotators_table(result).empty
    frame = manifest.frame.copy()
    voted = np.flatnonzero(frame["split"] == "test")[3:]  # three rows without
    frame["soft_label"] = None
    for i in voted:
        frame.at[i, "soft_label"] = [
            0.1 * (k != frame.at[i, "label"]) + 0.4 * (k == frame.at[i, "label"]) for k in range(7)
        ]
    votes = Manifest(frame, manifest.meta, manifest.path)
    (tmp_path / "runs").mkdir()
    p = EvaluateParams(resamples=100, smoke=True, views=["none"], leak_free=False, allow_leaks=ALLOWED)
    again = evaluate(p, votes, [base / "one"], [], tmp_path / "out", tmp_path / "runs" / "cache", "cpu")
    people = again["models"]["one"]["views"]["none"]["all"]["people"]
    assert (people["n"], people["n_without"]) == (len(voted), 3)
    assert people["annotators"] == pytest.approx({"label": 0.4, "plurality": 0.4, "each_other": 0.16 + 0.06})
    raw, scaled, y = predictions(tmp_path / "out", again, "one", "none")
    v = votes.rows(split="test").soft_labels
    for kind, probs in (("raw", raw), ("scaled", scaled)):
        by_row = [entropy(a, b) for a, b in zip(v[3:], probs[3:], strict=True)]
        assert people["kl"][kind] == pytest.approx(np.mean(by_row), rel=1e-6)
    assert people["model"]["label"] == pytest.approx((raw.argmax(1) == y)[3:].mean())
    table = annotators_table(again)
    assert table["who"].tolist() == ["one", "annotators"] and table["label"].iloc[1] == pytest.approx(0.4)
    cast = [[1.0 + 3 * (k == row["label"]) for k in range(7)] for _, row in frame.iterrows()]  # a rule has judged these
    counted = Manifest(frame.assign(votes=cast, votes_all=16.0, excluded_share=0.0), manifest.meta, manifest.path)
    again = evaluate(p, counted, [base / "one"], [], tmp_path / "out", tmp_path / "runs" / "cache", "cpu")
    people = again["models"]["one"]["views"]["none"]["all"]["people"]
    assert people["votes"] == {"counts": len(voted) + 3, "shares": 0}
    assert people["annotators"]["label"] == pytest.approx(0.4) and people["annotators"]["label_of_all"] == 0.25
    assert annotators_table(again)["label"].tolist()[1:] == pytest.approx([0.4, 0.25])
