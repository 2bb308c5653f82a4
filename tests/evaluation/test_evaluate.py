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
from fer_lib.calibration.prior_shift import UNIFORM, estimate_prior
from fer_lib.calibration.temperature import Temperature
from fer_lib.calibration.votes import true_label_ece
from fer_lib.datasets.build import build_manifest
from fer_lib.datasets.facepack import open_or_build
from fer_lib.datasets.manifest import Manifest
from fer_lib.datasets.provenance import EXPOSURE_FILE, SourceRows, TrainingData, TrainingExposure, read_exposure
from fer_lib.deploy.packaged import packaged_bundle
from fer_lib.deploy.predict import Predictor
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import BundleError, DataError, FerError
from fer_lib.evaluation.evaluate import evaluate
from fer_lib.evaluation.leaks import checked_leaks, known_leaks, leak_warnings
from fer_lib.evaluation.results import best_model, evaluate_result
from fer_lib.evaluation.subjects import subjects
from fer_lib.evaluation.table import (
    annotators_table,
    decisions_table,
    models_table,
    per_class_table,
    predictions,
    prior_table,
    results_table,
    source_intervals,
    transfer_scores,
    vote_calibration_table,
)  # fmt: skip
from fer_lib.faces.contract import FaceContract
from fer_lib.faces.decode import decode
from fer_lib.importers import import_all
from fer_lib.models.bundle import WEIGHTS, derive_bundle, read_bundle, write_bundle
from fer_lib.models.bundle_format import checksum
from fer_lib.models.classifier import build_classifier
from fer_lib.models.inference import predict_logits
from fer_lib.models.softlabels import export_softlabels
from fer_lib.params import EvaluateParams, ManifestParams, SoftLabelParams, SourceSpec
from fer_lib.storage.json_files import flatten

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


def test_rules_are_fitted_on_val_conformal_and_the_bundle_predicts_by_them(made):
    base, manifest, result = made
    predictor = Predictor(read_bundle(base / "out" / "bundles" / "one"), runtime="torch")
    val, test = manifest.rows(split="val", val_role="conformal"), manifest.rows(split="test")
    images = {name: [decode(rows.resolve(path)) for path in rows.frame["image_path"]] for name, rows in
              (("val", val), ("test", test))}  # fmt: skip
    scores = np.sort(1 - predictor.probs(images["val"])[np.arange(len(val)), val.labels])
    rank = int(np.ceil((len(val) + 1) * 0.9 - 1e-9))
    sets = predictor.bundle.conformal
    assert sets.n == [len(val)] and sets.thresholds == pytest.approx([scores[rank - 1]] if rank <= len(val) else [None])
    faces = predictor.predict_crops(images["test"])
    hits = np.array([EMOTIONS[k] in face.label_set for k, face in zip(test.labels, faces, strict=True)])
    report = result["models"]["one"]["views"]["none"]["all"]["decisions"]["sets"]
    assert report["coverage"] == pytest.approx(hits.mean())
    assert report["mean_size"] == pytest.approx(np.mean([len(face.label_set) for face in faces]))
    of_happy = hits[test.labels == EMOTIONS.index("Happy")].mean()
    assert report["coverage_by_class"]["Happy"] == pytest.approx(of_happy)
    assert result["models"]["one"]["rules"]["flip"]["conformal"]["view"] == "flip" and sets.view == "none"
    table = decisions_table(result)
    assert set(table["model"]) == {"one", "two", "ensemble"} and set(table["rows"]) == {"all", "leak_free", "fer2013"}
    assert table["coverage"].iloc[0] == report["coverage"]


def test_without_conformal_rows_there_are_no_rules(made, tmp_path):
    base, manifest, _ = made
    bare = Manifest(manifest.frame[manifest.frame["val_role"] != "conformal"].reset_index(drop=True), manifest.meta,
                    manifest.path)  # fmt: skip
    (tmp_path / "runs").mkdir()
    p = EvaluateParams(resamples=100, smoke=True, views=["none"], leak_free=False, allow_leaks=ALLOWED)
    result = evaluate(p, bare, [base / "one"], [], tmp_path / "out", tmp_path / "runs" / "cache", "cpu")
    assert result["models"]["one"]["views"]["none"]["all"]["decisions"] == {} and decisions_table(result).empty
    assert read_bundle(tmp_path / "out" / "bundles" / "one").conformal is None


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


def measure(p, manifest, models, folder):
    """A separate evaluation into ``folder / "out"``."""
    (folder / "runs" / "cache").mkdir(parents=True, exist_ok=True)
    p = EvaluateParams(**{"resamples": 100, "smoke": True, "views": ["none"]} | p)
    return evaluate(p, manifest, models, [], folder / "out", folder / "runs" / "cache", "cpu")


def test_a_manifest_of_test_rows_alone_is_scaled_by_each_bundles_own_temperature(made, tmp_path):
    base, manifest, result = made
    frame = manifest.frame[manifest.frame["split"] == "test"].reset_index(drop=True)
    alone = Manifest(frame, manifest.meta, manifest.path)
    before = result["models"]["one"]["views"]["none"]["all"]
    own = Temperature(mode="global", global_temperature=2.5, fitted_on="val/temperature", view="none", n=40)
    holder = derive_bundle(read_bundle(base / "one" / "best"), tmp_path / "own", temperature=own)
    both = measure({"views": ["none", "flip"]}, alone, [holder.path, base / "two"], tmp_path)
    assert both["temperature_from"] == "bundle" and result["temperature_from"] == "val/temperature"
    for view in ("none", "flip"):
        report = both["models"]["one"]["views"][view]["all"]
        assert (
            report["temperature"]["global_temperature"] == 2.5 and "the bundle's own" in report["temperature"]["note"]
        )
        logits, y = (np.load(tmp_path / "out" / "predictions" / f"one-{view}.npz")[key] for key in ("logits", "y"))
        assert report["scaled"]["nll"] == metrics.nll(logits / 2.5, y) != report["raw"]["nll"]
    assert both["models"]["one"]["views"]["none"]["all"]["raw"] == before["raw"] and both["leaks"]["rows"] == 0
    assert read_bundle(tmp_path / "out" / "bundles" / "one").temperature == own, "a bundle keeps what it holds"
    without_one = both["models"]["two"]["views"]["none"]["all"]
    assert without_one["temperature"]["mode"] == "none" and "holds no temperature" in without_one["temperature"]["note"]
    assert "own temperature is applied" in evaluate_result(both, None, tmp_path / "out", tmp_path).note["result"]
    unscaled = measure({"calibration": "none"}, alone, [base / "one"], tmp_path / "unscaled")
    raw = unscaled["models"]["one"]["views"]["none"]["all"]
    assert raw["scaled"] == raw["raw"] and unscaled["temperature_from"] == "none"


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
    own = people["calibration"]["scaled"]["true_label_ece"]
    assert own["n"] == len(voted) and own["value"] == pytest.approx(true_label_ece(scaled[3:], v[3:]))
    table = vote_calibration_table(again)
    assert table["logits"].tolist() == ["raw", "scaled"] and vote_calibration_table(result).empty
    assert table["true-label ECE"].iloc[1] == own["value"] and table["high"].iloc[1] == own["hi"]
    table = annotators_table(again)
    assert table["who"].tolist() == ["one", "annotators"] and table["label"].iloc[1] == pytest.approx(0.4)
    cast = [[1.0 + 3 * (k == row["label"]) for k in range(7)] for _, row in frame.iterrows()]  # a rule has judged these
    counted = Manifest(frame.assign(votes=cast, votes_all=16.0, excluded_share=0.0), manifest.meta, manifest.path)
    again = evaluate(p, counted, [base / "one"], [], tmp_path / "out", tmp_path / "runs" / "cache", "cpu")
    people = again["models"]["one"]["views"]["none"]["all"]["people"]
    assert people["votes"] == {"counts": len(voted) + 3, "shares": 0}
    assert people["annotators"]["label"] == pytest.approx(0.4) and people["annotators"]["label_of_all"] == 0.25
    assert annotators_table(again)["label"].tolist()[1:] == pytest.approx([0.4, 0.25])


@pytest.fixture(scope="module")
def mixed(made, tmp_path_factory):
    """The same rows as two sources, of which the second has no Disgust; model one was trained on the first alone."""
    base, manifest, _ = made
    folder, frame = tmp_path_factory.mktemp("mixed"), manifest.frame.copy()
    test = frame["split"] == "test"
    frame.loc[test & (np.random.default_rng(1).random(len(frame)) < 0.4), "source"] = "elsewhere"
    frame = frame[~((frame["source"] == "elsewhere") & (frame["label"] == 1))].reset_index(drop=True)
    trained = TrainingData(sources={"fer2013": SourceRows(rows=10)})
    path = folder / "one"
    bundle(path, "one", 0)
    file = path / "best" / "bundle.json"
    meta = json.loads(file.read_text()) | {"training_data": trained.model_dump()}
    file.write_text(json.dumps(meta | {"checksum": checksum(meta)}))
    manifest = Manifest(frame, manifest.meta, manifest.path)
    options = {"allow_leaks": ["fer2013", "elsewhere"], "views": ["none", "flip"], "prior_correction": "em"}
    return folder, manifest, measure(options, manifest, [path, base / "two"], folder)


def test_each_source_has_the_scores_of_its_rows_alone(mixed, tmp_path):
    folder, manifest, result = mixed
    rows = manifest.rows(split="test")
    assert set(result["by_source"]) == {"fer2013", "elsewhere"} == set(result["sources"])
    for source in result["by_source"]:
        own = rows.frame["source"].to_numpy() == source
        assert result["by_source"][source]["n_used"] == own.sum()
        raw, _, y = predictions(folder / "out", result, "two", "flip")
        report = result["models"]["two"]["by_source"]["flip"][source]
        assert report["raw"]["accuracy"] == pytest.approx((raw.argmax(1) == y)[own].mean())
        assert report["raw"]["ece"] == metrics.ece(raw[own], y[own])
        assert report["leaked"] == rows.frame["sample_id"][own].isin(known_leaks(manifest, "test").trained_on).sum()
    leaked = [r["leaked"] for r in result["by_source"].values()]
    assert sum(leaked) == result["sets"]["all"]["leaked"] > 0
    alone = measure({"include_sources": ["elsewhere"], "allow_leaks": ["elsewhere"], "calibration": "none"}, manifest,
                    [folder / "one"], tmp_path)  # fmt: skip
    assert alone["sets"]["all"]["evalset_id"] == result["by_source"]["elsewhere"]["evalset_id"]
    part = alone["models"]["one"]
    assert part["by_source"]["none"]["elsewhere"] == part["views"]["none"]["all"]
    same, alone = result["models"]["one"]["by_source"]["none"]["elsewhere"], part["views"]["none"]["all"]
    assert same["protocol_id"] == alone["protocol_id"] and same["raw"]["confusion"] == alone["raw"]["confusion"]
    assert same["raw"]["nll"] == pytest.approx(alone["raw"]["nll"], abs=1e-6), "other batches round otherwise"


def test_tables_of_sources_classes_and_transfer(mixed):
    folder, manifest, result = mixed
    table = results_table(result, "by_source")
    assert len(table) == 2 * 2 * 2 and table["n"].sum() == 4 * len(manifest.rows(split="test"))
    line = table[(table["source"] == "elsewhere") & (table["model"] == "one") & (table["view"] == "none")].iloc[0]
    report = result["models"]["one"]["by_source"]["none"]["elsewhere"]
    assert (line["classes"], line["chance"]) == (6, pytest.approx(1 / 6))
    assert line["macro-F1"] == report["raw"]["macro_f1_present"] > report["raw"]["macro_f1"]
    assert report["raw"]["macro_f1_present"] == pytest.approx(report["raw"]["macro_f1"] * 7 / 6)
    classes = per_class_table(result)
    assert len(classes) == 2 * (7 + 6) and classes["n"].sum() == 2 * len(manifest.rows(split="test"))
    scores, in_domain = transfer_scores(result)
    assert list(scores) == ["one ← fer2013", "two ← unknown"] and in_domain == {("one ← fer2013", "fer2013")}
    assert scores["one ← fer2013"]["elsewhere"] == report["raw"]["macro_f1_present"]
    assert result["models"]["one"]["trained_on"] == ["fer2013"] and result["models"]["two"]["trained_on"] is None
    ends = source_intervals(result)["accuracy"]["one"]
    name = f"elsewhere (n = {report['n_used']:,})"
    assert ends[name] == (report["raw"]["accuracy"], *report["accuracy_interval"])


def test_the_confusion_of_every_model_is_a_csv(mixed):
    folder, _, result = mixed
    for name in ("one", "two"):
        counts = pd.read_csv(folder / "out" / "confusion" / f"{name}.csv", index_col="true")
        assert counts.to_numpy().tolist() == result["models"][name]["views"]["none"]["all"]["raw"]["confusion"]
        assert list(counts.index) == list(counts.columns) == list(EMOTIONS)


def test_sources_reach_the_note_and_the_metrics(mixed):
    folder, _, result = mixed
    logged = evaluate_result(result, None, folder / "out", folder / "runs" / "cache")
    best = result["models"][best_model(result)]["by_source"]["none"]
    scores = ", ".join(f"{name} {own['raw']['macro_f1_present']:.4f}" for name, own in best.items())
    assert f"Its macro-F1 by source: {scores}." in logged.note["result"]
    names = flatten(logged.metrics, "/")
    own = result["models"]["one"]["by_source"]["flip"]["elsewhere"]
    assert names["one/flip/source/elsewhere/macro_f1_present"] == own["scaled"]["macro_f1_present"]
    assert names["one/flip/source/elsewhere/per_class_recall/Sad"] == own["per_class"]["Sad"]["recall"]
    assert names["one/flip/source/elsewhere/n"] == own["n_used"]
    assert "one/flip/source/elsewhere/per_class_recall/Disgust" not in names
    assert any("`one`, `two`" in warning for warning in logged.warnings), "no record of what they were trained on"


def test_absent_classes_change_headline_and_chance(mixed, tmp_path):
    folder, manifest, _ = mixed
    options = {"include_sources": ["elsewhere"], "allow_leaks": ["elsewhere"], "calibration": "none"}
    alone = measure(options, manifest, [folder / "one"], tmp_path)
    logged = evaluate_result(alone, None, tmp_path / "out", tmp_path / "runs" / "cache")
    raw = alone["models"]["one"]["views"]["none"]["all"]["raw"]
    assert logged.headline["one"]["macro-F1"] == raw["macro_f1_present"] != raw["macro_f1"]
    assert logged.headline["chance"] == pytest.approx(1 / 6)
    assert f"Best macro-F1 over the 6 classes that have rows {raw['macro_f1_present']:.4f}" in logged.note["result"]


def test_em_corrects_each_source_by_the_shares_of_its_unlabelled_rows(mixed):
    folder, manifest, result = mixed
    sources = manifest.rows(split="test").frame["source"].to_numpy()
    _, scaled, y = predictions(folder / "out", result, "two", "none")
    corrected = np.empty_like(scaled)
    for source in ("fer2013", "elsewhere"):
        own = sources == source
        estimate = estimate_prior(scaled[own], UNIFORM)
        about = result["models"]["two"]["by_source"]["none"][source]["prior_correction"]
        assert list(about["target_prior"].values()) == pytest.approx(estimate.prior, abs=1e-6) and about["converged"]
        moved = scaled[own] * estimate.prior * 7
        corrected[own] = moved / moved.sum(axis=1, keepdims=True)
        assert about["corrected"]["accuracy"] == pytest.approx((corrected[own].argmax(1) == y[own]).mean())
    every = result["models"]["two"]["views"]["none"]["all"]
    change = every["prior_correction"]["difference"]
    gain = metrics.accuracy(corrected.argmax(1), y) - metrics.accuracy(scaled.argmax(1), y)
    assert (
        change["accuracy"]["value"] == pytest.approx(gain)
        and change["accuracy"]["lo"] <= gain <= change["accuracy"]["hi"]
    )
    part = result["models"]["two"]["by_source"]["none"]["elsewhere"]
    before, after = part["scaled"]["macro_f1_present"], part["prior_correction"]["corrected"]["macro_f1_present"]
    assert part["prior_correction"]["difference"]["macro_f1_present"]["value"] == pytest.approx(after - before)
    table = prior_table(result)
    assert len(table) == 2 * 2 * (2 + 2) and set(table["rows"]) == {"all", "leak_free", "fer2013", "elsewhere"}
    assert prior_table({"models": {}}).empty
    sealed = read_bundle(folder / "out" / "bundles" / "two").meta
    assert sealed["logit_bias"] is None and sealed["metrics"]["test"]["nll"] == every["scaled"]["nll"]


def test_a_stated_prior_is_the_same_for_all_sources_and_the_default_changes_nothing(mixed, tmp_path):
    folder, manifest, result = mixed
    shares = [0.3, 0.05, 0.1, 0.25, 0.1, 0.1, 0.1]
    options = {"allow_leaks": ["fer2013", "elsewhere"], "prior_correction": shares}
    stated = measure(options, manifest, [folder / "one"], tmp_path)["models"]["one"]
    for own in stated["by_source"]["none"].values():
        assert list(own["prior_correction"]["target_prior"].values()) == pytest.approx(shares)
    without = measure(options | {"prior_correction": "none"}, manifest, [folder / "one"], tmp_path)["models"]["one"]
    assert "prior_correction" not in without["views"]["none"]["all"]
    for rows, report in without["views"]["none"].items():
        assert report == {k: v for k, v in stated["views"]["none"][rows].items() if k != "prior_correction"}
    with pytest.raises(DataError, match="sums to 1.4"):
        measure(options | {"prior_correction": [0.2] * 7}, manifest, [folder / "one"], tmp_path / "bad")


def test_models_of_an_onnx_file_alone_are_measured_by_the_predictors_runtime(onnx_bundle, made, tmp_path):
    _, manifest, _ = made
    alone = derive_bundle(onnx_bundle, tmp_path / "alone", weights=False)
    assert not alone.has(WEIGHTS)
    options = {"calibration": "none", "allow_leaks": ALLOWED, "views": ["none", "flip"]}
    result = measure(options, manifest, [onnx_bundle.path, alone.path], tmp_path)
    test = manifest.rows(split="test")
    images = [decode(test.resolve(path)) for path in test.frame["image_path"]]
    second = f"tiny-{alone.network_sha256[:6]}"
    assert list(result["models"]) == ["tiny", second]
    logits = {n: np.load(tmp_path / "out" / "predictions" / f"{n}-none.npz")["logits"] for n in result["models"]}
    np.testing.assert_allclose(logits[second], Predictor(alone).logits(images), atol=1e-5)
    np.testing.assert_allclose(logits[second], logits["tiny"], atol=1e-3)
    assert not np.array_equal(logits[second], logits["tiny"]), "each has its own cache"
    about = result["models"][second]
    assert (about["runtime"], result["models"]["tiny"]["runtime"]) == ("onnx", "torch")
    own = onnx_bundle.state_dict()
    assert about["parameters"] == sum(v.numel() for k, v in own.items() if "running" not in k)
    assert result["leaks"]["unrecorded"] == ["tiny", second], "no record of what it was trained on"
    assert any(second in warning for warning in evaluate_result(result, None, tmp_path, tmp_path).warnings)
    sealed = read_bundle(tmp_path / "out" / "bundles" / second)
    assert not sealed.has(WEIGHTS) and sealed.meta["metrics"]["test"]["n"] == len(test)


def test_the_packaged_model_is_measured_as_it_predicts(made, tmp_path):
    _, manifest, _ = made
    packaged = packaged_bundle()
    frame = manifest.frame[manifest.frame["split"] == "test"].head(12).reset_index(drop=True)
    few = Manifest(frame, manifest.meta, manifest.path)
    result = measure({}, few, [packaged.path], tmp_path)
    assert result["temperature_from"] == "bundle" and packaged.name in result["models"]
    _, scaled, _ = predictions(tmp_path / "out", result, packaged.name, "none")
    images = [decode(few.resolve(path)) for path in frame["image_path"]]
    np.testing.assert_allclose(scaled, Predictor(packaged).probs(images), atol=1e-5)
    assert read_bundle(tmp_path / "out" / "bundles" / packaged.name).temperature == packaged.temperature
