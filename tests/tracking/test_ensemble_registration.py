"""The ensemble of a soft-label phase comes back from the registry with its members, weights and space."""

import json
import shutil
from dataclasses import replace

import mlflow
import numpy as np
import pytest

import fer_lib
from fer_lib.calibration.metrics import softmax
from fer_lib.datasets.provenance import SourceRows, TrainingData
from fer_lib.deploy.predict import Predictor
from fer_lib.errors import BundleError, FerError
from fer_lib.evaluation.evaluate import evaluate, subjects
from fer_lib.faces.decode import decode
from fer_lib.models.bundle import read_bundle
from fer_lib.models.ensemble import combine
from fer_lib.models.ensemble_folder import read_ensemble
from fer_lib.models.softlabels import export_softlabels
from fer_lib.params import EvaluateParams, SoftLabelParams
from fer_lib.tracking import registry
from fer_lib.tracking.registry import register_ensemble

URI = "models:/fer-teacher-ensemble@unified"
WEIGHTS = [0.3, 0.7]


@pytest.fixture(scope="module")
def exported(home, drawn_manifest, drawn_teachers, pack_cache, tmp_path_factory):
    """A soft-label folder of two teachers, whose folders are gone after the registration."""
    base = tmp_path_factory.mktemp("phases")
    teachers = [shutil.copytree(t, base / f"t{i}" / "best") for i, t in enumerate(drawn_teachers)]
    p = SoftLabelParams(weights=WEIGHTS, space="prob", alias="unified", batch_size=64)
    export_softlabels(p, drawn_manifest, teachers, base / "pair-0123456789ab", pack_cache, "cpu")
    registration = register_ensemble(p, base / "pair-0123456789ab")
    assert (registration.text, registration.warnings) == ("fer-teacher-ensemble v1 @unified", [])
    for teacher in teachers:
        shutil.rmtree(teacher)
    return base / "pair-0123456789ab"


@pytest.fixture
def folder(exported):
    return registry.resolve(URI, ensembles=True)


def test_the_artifact_holds_members_weights_space_and_metrics(folder, exported, drawn_teachers):
    ensemble = read_ensemble(folder)
    assert (ensemble.name, ensemble.weights, ensemble.space) == ("pair", WEIGHTS, "prob")
    assert [b.weights_sha256 for b in ensemble.bundles] == [read_bundle(t).weights_sha256 for t in drawn_teachers]
    scores = json.loads((exported / "ensemble_metrics.json").read_text())
    assert ensemble.metrics == scores
    record = json.loads((folder / "alignmentreport.json").read_text())
    assert [t["origin"] for t in record["teachers"]] == [str(exported.parent / f"t{i}" / "best") for i in (0, 1)]
    assert {p.name for p in exported.iterdir() if p.is_dir()} == set(), "the copies in the phase folder are removed"
    [row] = registry.list_models()
    shown = {k: row[k] for k in ("macro_f1", "accuracy", "ece", "measured_on", "evalset_id")}
    assert shown == {"measured_on": "val_select"} | {k: scores[k] for k in shown if k != "measured_on"}
    assert row["size_bytes"] > sum((t / "model.safetensors").stat().st_size for t in drawn_teachers)


def test_it_predicts_through_load_and_mlflow(exported, drawn_teachers):
    rng = np.random.default_rng(2)
    faces = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((48, 48), (60, 50))]
    members = [softmax(Predictor(read_bundle(t)).logits(faces)) for t in drawn_teachers]
    expected = WEIGHTS[0] * members[0] + WEIGHTS[1] * members[1]
    predictor = fer_lib.load(URI)
    np.testing.assert_allclose(predictor.probs(faces), expected, rtol=0, atol=1e-6)
    assert predictor.probs([]).shape == (0, 7) and len(predictor.predict(faces[0], whole=True)) == 1
    assert predictor.describe().startswith("fer-teacher-ensemble@unified version 1 (trained on 134 faces of tree")
    served = mlflow.pyfunc.load_model(URI)
    np.testing.assert_allclose(served.predict(faces).to_numpy(), expected, rtol=0, atol=1e-6)
    with pytest.raises(FerError, match="pair is an ensemble, which has no training prior"):
        fer_lib.load(URI, target_prior=[1 / 7] * 7)


def test_it_is_the_teacher_of_soft_labels_with_its_own_weights_and_space(
    folder, drawn_manifest, drawn_teachers, pack_cache, tmp_path
):
    p = SoftLabelParams(batch_size=64)  # logit space, weights to search
    record = export_softlabels(p, drawn_manifest, [folder], tmp_path / "soft", pack_cache, "cpu")
    assert ([t["weight"] for t in record["teachers"]], record["ensemble_space"]) == (WEIGHTS, "prob")
    with pytest.raises(FerError, match="whose weights are fixed: leave weights blank"):
        export_softlabels(
            p.model_copy(update={"weights": [1.0, 1.0]}), drawn_manifest, [folder], tmp_path, pack_cache, "cpu"
        )
    with pytest.raises(FerError, match="is an ensemble, whose weights are fixed: name it as the only teacher"):
        export_softlabels(p, drawn_manifest, [folder, drawn_teachers[0]], tmp_path, pack_cache, "cpu")


def test_it_is_evaluated_like_its_soft_label_folder(folder, drawn_manifest, pack_cache, tmp_path):
    [subject] = subjects([], [folder])
    assert (subject.name, subject.weights, subject.space) == ("ensemble", WEIGHTS, "prob")
    p = EvaluateParams(views=["none"], resamples=100, smoke=True, calibration="none")
    result = evaluate(p, drawn_manifest, [], [folder], tmp_path, pack_cache, "cpu")
    with np.load(tmp_path / "predictions" / "ensemble-none.npz") as stored:
        logits = stored["logits"]
    rows = drawn_manifest.rows(split="test")
    images = [decode(rows.resolve(path)) for path in rows.frame["image_path"]]
    np.testing.assert_allclose(softmax(logits), fer_lib.load(URI).probs(images), rtol=0, atol=1e-4)
    assert [m["weight"] for m in result["models"]["ensemble"]["members"]] == WEIGHTS


def test_where_one_model_is_wanted_it_is_refused(exported):
    with pytest.raises(FerError, match="@unified is an ensemble, and one model is wanted here: name it among"):
        registry.resolve(URI)


def marked(bundle, **data):
    return replace(
        bundle, training_data=TrainingData(sources={"s": SourceRows(rows=5, drawn=data.pop("drawn"))}, **data)
    )


@pytest.mark.parametrize("data", [{"drawn": True}, {"drawn": False, "smoke": True}])
def test_one_drawn_or_smoke_member_keeps_an_ensemble_from_the_alias_of_photos(folder, data):
    ensemble = read_ensemble(folder)
    photos = marked(ensemble.bundles[0], drawn=False)
    registration = registry.register_model(
        replace(ensemble, bundles=[photos, marked(ensemble.bundles[1], **data)]), "toy-ensemble", "champion"
    )
    assert registration.alias == "" and registration.refusal.endswith("not for photos")
    assert registry.alias_version("toy-ensemble", "champion") is None
    assert registry.resolve(registration.uri, ensembles=True)
    assert registry.permitted_alias(replace(ensemble, bundles=[photos] * 2), "x", "champion") == ("champion", "")


def test_a_smoke_phase_registers_without_the_alias_of_photos_and_a_blank_alias_registers_nothing(
    home, drawn_manifest, drawn_teachers, pack_cache, tmp_path
):
    p = SoftLabelParams(weights=WEIGHTS, alias="champion", registered_name="smoke-ensemble", smoke=True, batch_size=64)
    export_softlabels(p, drawn_manifest, drawn_teachers, tmp_path, pack_cache, "cpu")
    registration = register_ensemble(p, tmp_path)
    assert registration.alias == "" and "it is a --smoke rehearsal" in registration.refusal
    assert registry.alias_version("smoke-ensemble", "champion") is None
    before = registry.list_models()
    assert register_ensemble(p.model_copy(update={"alias": ""}), tmp_path) is None
    assert registry.list_models() == before


@pytest.mark.parametrize("file", ["alignmentreport.json", "ensemble_metrics.json", "members/1/bundle.json"])
def test_a_changed_copy_is_refused(folder, tmp_path, file):
    copy = shutil.copytree(folder, tmp_path / "copy")
    content = (copy / file).read_text()
    (copy / file).write_text(content.replace("0.", "0.1", 1))
    with pytest.raises(BundleError, match="changed after it was written"):
        read_ensemble(copy)


def test_an_ensemble_of_other_weights_is_refused(folder, drawn_teachers, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(copy / "members" / "1")
    shutil.copytree(drawn_teachers[0], copy / "members" / "1")
    with pytest.raises(BundleError, match="holds other weights or another face contract.*teacher2 was trained again"):
        read_ensemble(copy)


def test_the_training_data_of_all_members_count(folder):
    ensemble = read_ensemble(folder)
    first, second = ensemble.bundles
    assert ensemble.training_data == first.training_data, "both saw the same rows"
    unknown = replace(second, training_data=None)
    assert replace(ensemble, bundles=[unknown] * 2).training_data is None
    for bundles in ([first, unknown], [unknown, first]):
        joined = replace(ensemble, bundles=bundles).training_data
        assert joined.rows == 134 and not joined.complete


def test_combine_is_what_predicts(folder):
    """In logit space too, from the members' own predictors."""
    faces = [np.full((40, 40, 3), 90, np.uint8)]
    ensemble = read_ensemble(folder)
    predictor = Predictor(replace(ensemble, space="logit"), runtime="torch")
    members = [Predictor(b, runtime="torch").logits(faces) for b in ensemble.bundles]
    np.testing.assert_allclose(predictor.logits(faces), combine(members, WEIGHTS, "logit"), rtol=0, atol=1e-12)
