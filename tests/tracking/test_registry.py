"""A registered bundle comes back by alias, through MLflow and through fer_lib, with the bundle's own probabilities."""

import base64
import io
import json
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import fer_lib
from fer_lib.calibration.temperature import Temperature
from fer_lib.deploy.bundle_export import rank
from fer_lib.deploy.predict import Predictor
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import FerError
from fer_lib.evaluation.evaluate import subjects
from fer_lib.faces.contract import FaceContract
from fer_lib.models.bundle import derive_bundle, read_bundle, write_bundle
from fer_lib.models.classifier import build_classifier
from fer_lib.tracking import registry, store

CONFIG = dict(backbone="test_resnet", image_size=40, embed_dim=32, dropout=0.0, head="linear", s=1.0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    torch.manual_seed(1)
    model = build_classifier(CONFIG)
    with torch.no_grad():
        for _ in range(5):
            model(torch.randn(8, 3, 40, 40))
        model.head.weight *= 100  # logits far enough apart that a lost temperature would show
    return write_bundle(
        tmp_path_factory.mktemp("bundle") / "tiny",
        name="tiny",
        kind="student",
        model_config=CONFIG,
        state_dict=model.eval().state_dict(),
        contract=FaceContract(image_size=40),
        temperature=Temperature(mode="global", global_temperature=2.5),
        training_prior=[1 / 7] * 7,
        ids={"evalset_id": "0123456789ab"},
        metrics={"val_select": {"macro_f1": 0.4, "accuracy": 0.5, "ece": 0.02}},
    )


@pytest.fixture(scope="module")
def champion(home, bundle):
    """Version 1 with the alias, registered."""
    return registry.register_model(bundle, "fer-student", "champion", description="the first").version


@pytest.fixture
def faces():
    rng = np.random.default_rng(2)
    return [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((48, 48), (60, 50), (40, 41))]


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def served(champion):
    return mlflow.pyfunc.load_model("models:/fer-student@champion")


def test_arrays_bytes_and_columns_agree_with_the_bundle(served, bundle, faces):
    expected = Predictor(bundle).probs(faces)
    assert expected.max() - expected.min() > 0.2
    got = served.predict(faces)
    assert list(got.columns) == list(EMOTIONS) and (got.dtypes == np.float64).all() and len(got) == 3
    np.testing.assert_allclose(got.to_numpy(), expected, atol=1e-6)
    encoded = [png(f) for f in faces]
    for other in (
        encoded,
        [faces[0], encoded[1], base64.encodebytes(encoded[2]).decode()],
        [f.tolist() for f in faces],
        pd.DataFrame({"image": encoded}),
        pd.DataFrame({"image": pd.Series(faces, dtype=object)}),
    ):
        np.testing.assert_allclose(served.predict(other).to_numpy(), expected, atol=1e-6)
    assert served.predict([]).shape == (0, 7)


@pytest.mark.parametrize(
    "bad, what",
    [
        (np.zeros((48, 48, 3), np.float32), "row 1: expected a uint8 RGB array .* got float32"),
        (np.zeros((48, 48), np.uint8), r"row 1: expected a uint8 RGB array .* got uint8 \[48, 48\]"),
        (b"not a picture", "row 1: image of 13 bytes"),
        ("face.jpg", "row 1: .*base64"),
        ([[[0, 0, 256]]], "row 1: nested lists must hold integers 0..255"),
        ([[[0.5, 0.1, 0.2]]], "row 1: nested lists must hold integers"),
        ([[[1, 2, 3]], [[1, 2]]], "row 1: .*inhomogeneous"),
        (3.5, "row 1: expected a uint8 RGB array .* got float"),
    ],
)
def test_other_rows_are_refused(served, faces, bad, what):
    with pytest.raises(Exception, match=what):
        served.predict([faces[0], bad])


def test_one_array_in_place_of_a_list_is_refused(served, faces):
    with pytest.raises(mlflow.exceptions.MlflowException, match="Expected list, but got ndarray"):
        served.predict(np.stack([faces[0], faces[0]]))


def test_the_signature_has_inputs_and_outputs(served):
    signature = served.metadata.signature
    assert json.loads(signature.to_dict()["inputs"]) == [{"type": "any", "required": True}]
    outputs = json.loads(signature.to_dict()["outputs"])
    assert [(o["name"], o["type"]) for o in outputs] == [(name, "double") for name in EMOTIONS]
    assert "uint8 RGB array" in served.metadata.metadata["input"]


def test_nothing_is_pickled_and_requirements_are_pinned(champion, home):
    folder = registry.resolve("models:/fer-student@champion").parents[1]
    assert not [p.name for p in folder.rglob("*") if p.suffix in (".pkl", ".pickle", ".pth", ".pt")]
    lines = (folder / "requirements.txt").read_text().split()
    assert "torch==2.13.0" in lines and all("==" in line for line in lines)
    assert home in folder.parents


def test_load_gives_the_same_probabilities(champion, bundle, faces):
    predictor = fer_lib.load("models:/fer-student@champion")
    (face,) = predictor.predict(faces[0], whole=True)
    np.testing.assert_allclose(list(face.probs.values()), Predictor(bundle).probs(faces)[0], atol=1e-6)
    assert predictor.bundle.weights_sha256 == bundle.weights_sha256


def test_evaluation_and_export_take_a_registered_model_or_a_bundle_folder(champion, bundle):
    for named in (Path("models:/fer-student@champion"), bundle.path):
        named = registry.resolve(named.as_posix())
        (subject,) = subjects([named], [])
        assert subject.name == "tiny" and subject.bundles[0].weights_sha256 == bundle.weights_sha256
        (row,) = rank([named])
        assert row["macro_f1"] == 0.4 and read_bundle(row["bundle"]).weights_sha256 == bundle.weights_sha256


def test_list_models_has_versions_and_aliases(champion, home, bundle, tmp_path):
    measured = {"macro_f1": 0.6, "accuracy": 0.7, "ece": 0.01, "evalset_id": "e" * 12}
    second = derive_bundle(bundle, tmp_path / "second", metrics={"test": measured})
    assert [registry.register_model(second, "fer-other", "candidate").version for _ in range(2)] == [1, 2]
    rows = registry.list_models()
    assert [(r["name"], r["version"], r["aliases"]) for r in rows] == [
        ("fer-other", 2, ["candidate"]), ("fer-other", 1, []), ("fer-student", 1, ["champion"])
    ]  # fmt: skip
    first, last = rows[0], rows[-1]
    assert (first["macro_f1"], first["accuracy"], first["ece"], first["measured_on"]) == (0.6, 0.7, 0.01, "test")
    assert first["evalset_id"] == "e" * 12 and last["evalset_id"] == "0123456789ab"
    assert (last["macro_f1"], last["measured_on"], last["description"]) == (0.4, "val_select", "the first")
    assert last["size_bytes"] == sum(f.stat().st_size for f in bundle.path.iterdir())
    assert registry.resolve("models:/fer-other/1") != registry.resolve("models:/fer-other@candidate")
    assert registry.default_uri() == "models:/fer-student@champion"


def test_the_message_about_a_moved_alias_names_the_earlier_version(home, bundle, tmp_path):
    name, alias = "fer-moved", "candidate"
    assert registry.alias_version(name, alias) is None
    registry.register_model(bundle, name, alias)
    before = registry.alias_version(name, alias)
    assert (before["version"], before["macro_f1"]) == (1, 0.4) and registry.alias_version(name, "other") is None
    second = derive_bundle(bundle, tmp_path / "second", name="renamed", metrics={"val_select": {"macro_f1": 0.45}})
    assert second.name == "renamed" and second.weights_sha256 == bundle.weights_sha256
    registry.register_model(second, name, alias)
    assert registry.alias_version(name, alias)["version"] == 2
    message = registry.alias_message(name, alias, 2, before, second)
    now = f"models:/{name}@{alias} is now version 2"
    assert message == f"{now}, before it was version 1 (macro-F1 0.4000 on the same rows)."
    other = derive_bundle(bundle, tmp_path / "other", ids={"evalset_id": "f" * 12})
    message = registry.alias_message(name, alias, 3, before, other)
    assert "other rows (0123456789ab), so the two cannot be compared" in message
    assert "no version had the alias before" in registry.alias_message(name, alias, 1, None, bundle)
    assert "no alias was moved" in registry.alias_message(name, "", 3, None, bundle)
    assert "whose macro-F1 is unknown" in registry.alias_message(name, alias, 3, before | {"macro_f1": None}, bundle)


def recorded(bundle, folder, drawn=False, smoke=False, **more):
    """The same weights as a bundle that records its training data."""
    from fer_lib.calibration.temperature import Temperature

    data = {"sources": {"fer2013": {"rows": 2000, "drawn": drawn}}, "smoke": smoke, "complete": True, **more}
    meta = {k: bundle.meta[k] for k in ("name", "kind", "training_prior", "ids", "metrics")}
    return write_bundle(
        folder, **meta, model_config=CONFIG, state_dict=bundle.state_dict(), contract=bundle.contract,
        temperature=Temperature.model_validate(bundle.meta["temperature"]), training_data=data,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["drawn", "smoke"])
@pytest.mark.parametrize("name", ["fer-student", "my-student"])
def test_a_model_of_synthetic_faces_or_smoke_never_becomes_champion(champion, bundle, tmp_path, kind, name):
    toy = recorded(bundle, tmp_path / "toy", **{kind: True})
    before = registry.alias_version(name, "champion")
    reason = "demonstration on drawn faces" if kind == "drawn" else "--smoke rehearsal"
    registration = registry.register_model(toy, name, "champion")
    assert registration.alias == "" and registration.message.endswith("is new; no alias was moved.")
    assert registration.refusal.endswith(f"{name}@champion: it is a {reason}, not for photos")
    assert registry.alias_version(name, "champion") == before
    assert registry.permitted_alias(toy, name, "champion")[0] == ""
    assert registry.permitted_alias(toy, name, "candidate") == ("candidate", "")


def test_a_version_names_the_terms_of_its_starting_weights(champion, bundle, tmp_path):
    start = {"name": "faces", "origin": "npm faces 1.0", "licence": "MIT", "terms": "images for research use only"}
    derived = recorded(bundle, tmp_path / "derived", starting_weights=start)
    version = registry.register_model(derived, "fer-derived", description="the first").version
    (row,) = [row for row in registry.list_models() if row["name"] == "fer-derived"]
    text = "Started from faces (npm faces 1.0; licence MIT; images for research use only)."
    assert row["description"] == f"the first\n\n{text}"
    tags = mlflow.MlflowClient().get_model_version("fer-derived", version).tags
    assert tags["trained_on"].endswith("started from faces (images for research use only)")


def test_a_model_of_photos_takes_the_alias(bundle, tmp_path):
    real = recorded(bundle, tmp_path / "real")
    assert registry.permitted_alias(real, "fer-student", "champion") == ("champion", "")
    assert registry.permitted_alias(bundle, "fer-student", "champion") == ("champion", ""), "of an earlier version"
    alias, refusal = registry.permitted_alias(real, "fer-student", "champion", smoke=True)
    assert alias == "" and "tiny does not take the alias fer-student@champion" in refusal


@pytest.mark.parametrize(("drawn", "smoke"), [(True, False), (False, True)])
def test_an_adapted_toy_model_that_passes_its_gates_is_registered_without_alias(home, bundle, tmp_path, drawn, smoke):
    from fer_lib.adapt.promotion import register_if_passed
    from fer_lib.params import AdaptParams

    name = f"fer-adapted-{'drawn' if drawn else 'smoke'}"
    toy, passed = recorded(bundle, tmp_path / "toy", drawn=drawn), {"passed": True, "mark": "", "said": ["All good."]}
    told = register_if_passed(AdaptParams(alias="champion", registered_name=name, smoke=smoke), toy, passed, None)
    assert f"tiny does not take the alias {name}@champion" in told and f"models:/{name}/1 is new" in told
    assert registry.alias_version(name, "champion") is None
    assert registry.read_bundle(registry.resolve(f"models:/{name}/1")).weights_sha256 == bundle.weights_sha256
    real = recorded(bundle, tmp_path / "real")
    register_if_passed(AdaptParams(alias="champion", registered_name=name), real, passed, None)
    assert registry.alias_version(name, "champion")["version"] == 2, "a gate that passed on photos moves it"


def test_describe_gives_the_model_and_its_training_data(champion, bundle, tmp_path, caplog):
    real, toy = recorded(bundle, tmp_path / "real"), recorded(bundle, tmp_path / "toy", drawn=True)
    registry.register_model(real, "fer-told", "best")
    registry.register_model(toy, "fer-told", "candidate")
    first = "fer-told@best version 1 (trained on 2,000 faces of fer2013)"
    drawn = "trained on 2,000 drawn faces; a demonstration on drawn faces, not for photos"
    assert registry.describe("models:/fer-told@best") == fer_lib.load("models:/fer-told@best").describe() == first
    assert repr(fer_lib.load("models:/fer-told/2")) == f"<Predictor fer-told version 2 ({drawn})>"
    assert registry.describe(toy.path) == f"tiny in {toy.path} ({drawn})"
    assert "does not record what it was trained on" in registry.describe("models:/fer-student@champion")
    client = mlflow.MlflowClient()
    assert client.get_model_version("fer-told", "2").tags["trained_on"] == drawn
    with caplog.at_level("INFO", logger="fer_lib.deploy.pyfunc"):
        mlflow.pyfunc.load_model("models:/fer-told/1")
        mlflow.pyfunc.load_model("models:/fer-told/2")
    told = [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "fer_lib.deploy.pyfunc"]
    assert told == [("INFO", "model: tiny (trained on 2,000 faces of fer2013)"), ("WARNING", f"model: tiny ({drawn})")]


def test_a_version_belongs_to_its_run(home, bundle):
    with mlflow.start_run(experiment_id=store.experiment_id()) as run:
        version = registry.register_model(bundle, "fer-of-run").version
    client = mlflow.MlflowClient()
    assert client.get_model_version("fer-of-run", version).run_id == run.info.run_id
    registry.register_model(bundle, "fer-of-run", run_id=run.info.run_id)
    assert client.get_model_version("fer-of-run", 2).run_id == run.info.run_id
    assert mlflow.active_run() is None


def test_unknown_names_aliases_and_versions_list_the_available_ones(champion):
    with pytest.raises(FerError, match=r"fer-student@best is not registered; there are: .*fer-student/1 @champion"):
        registry.resolve("models:/fer-student@best")
    with pytest.raises(FerError, match=r"fer-nobody@champion is not registered; there are: .*fer-student"):
        registry.resolve("models:/fer-nobody@champion")
    with pytest.raises(FerError, match=r"fer-student/99 is not registered; there are: .*fer-student/1 "):
        registry.resolve("models:/fer-student/99")
    with pytest.raises(FerError, match="not a model URI"):
        registry.resolve("models:/fer-student/champion/x")


@pytest.mark.parametrize("name, alias", [("fer-student", "not an alias!"), ("fer-student", "v2"), ("a/b", "champion")])
def test_a_refused_name_or_alias_creates_no_version(champion, bundle, name, alias):
    before = registry.list_models()
    with pytest.raises(FerError, match="can't be an alias of|choose another name or alias"):
        registry.register_model(bundle, name, alias)
    assert registry.list_models() == before


def test_artifacts_of_a_run(home, bundle, tmp_path):
    with mlflow.start_run(experiment_id=store.experiment_id()) as run:
        mlflow.log_artifacts(str(bundle.path), "exported")
    folder = registry.resolve(f"runs:/{run.info.run_id}/exported")
    assert fer_lib.load(str(folder)).bundle.meta == bundle.meta
    changed = derive_bundle(bundle, tmp_path / "changed", metrics={"epoch": 2})
    mlflow.MlflowClient().log_artifacts(run.info.run_id, str(changed.path), "exported")
    assert fer_lib.load(f"runs:/{run.info.run_id}/exported").bundle.meta == changed.meta
    with pytest.raises(FerError, match="runs:/.*nowhere"):
        registry.resolve(f"runs:/{run.info.run_id}/nowhere")


def test_the_table_of_models(champion, monkeypatch):
    import typer
    from typer.testing import CliRunner

    from fer_lib.cli.models import models

    app = typer.Typer()
    app.command()(models)
    monkeypatch.setenv("COLUMNS", "200")
    shown = CliRunner().invoke(app, []).stdout
    lines = shown.splitlines()
    first = next(i for i, line in enumerate(lines) if "fer-student/1 @champion" in line)
    row = lines[first] + lines[first + 1]  # the evaluation set stands below the split
    expected = ("0.4000", "0.5000", "0.0200", "val_select", "0123456789ab", "MB")
    assert [text for text in expected if text not in row] == [], shown
    assert json.loads(CliRunner().invoke(app, ["--json"]).stdout) == registry.list_models()


def test_folders(bundle, tmp_path):
    derive_bundle(bundle, tmp_path / "fit" / "best")
    assert registry.resolve(tmp_path / "fit") == tmp_path / "fit" / "best"
    assert registry.resolve(str(bundle.path)) == bundle.path
    with pytest.raises(FerError, match="holds no bundle"):
        registry.resolve(tmp_path)


def test_queries_create_no_store(tmp_path, monkeypatch):
    monkeypatch.setenv("FER_HOME", str(tmp_path))
    assert registry.default_uri() == "packaged"
    with pytest.raises(FerError, match="there is no registry"):
        registry.resolve("models:/fer-student@champion")
    assert list(tmp_path.iterdir()) == []


def test_a_served_model_needs_no_store(champion, bundle, faces, monkeypatch, tmp_path):
    """The model's own folder, loaded by a process that knows of no tracking store, predicts the same."""
    import shutil
    import subprocess
    import sys

    folder = shutil.copytree(registry.resolve("models:/fer-student@champion").parents[1], tmp_path / "model")
    np.save(tmp_path / "face.npy", faces[0])
    code = (
        "import mlflow, numpy as np, sys;"
        f"m = mlflow.pyfunc.load_model({str(folder)!r});"
        f"print(repr(m.predict([np.load({str(tmp_path / 'face.npy')!r})]).to_numpy()[0].tolist()))"
    )
    environment = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout), Predictor(bundle).probs(faces[:1])[0], atol=1e-6)
    assert not (tmp_path / "mlflow.db").exists()
