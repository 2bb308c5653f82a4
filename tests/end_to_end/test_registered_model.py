"""The registered model, loaded by its alias, is the one whose numbers were logged."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from road import fer
from sklearn.metrics import f1_score

from fer_lib.emotions import EMOTIONS
from fer_lib.pipeline import folders

URI = "models:/fer-student@candidate"


@pytest.fixture
def candidate(walked):
    """What the candidate was measured on and what was logged of it, found through the registry."""
    import mlflow

    from fer_lib.datasets.manifest import Manifest
    from fer_lib.models.bundle import read_bundle

    client = mlflow.MlflowClient()
    version = client.get_model_version_by_alias("fer-student", "candidate")
    folder = walked.folder(client.get_run(version.run_id))
    inputs = folders.read_record(folder)["inputs"]
    name = read_bundle(folder / "bundle").name
    evaluation = json.loads((Path(inputs["evaluation"]) / "evaluation.json").read_text())
    rows = Manifest.read(Path(inputs["manifest"]) / "manifest.parquet").rows(split="test")
    train_rows = len(Manifest.read(Path(inputs["manifest"]) / "manifest.parquet").rows(split="train"))
    run = client.get_run(folders.read_record(Path(inputs["evaluation"]))["run_id"])
    logged = {key: run.data.metrics[f"{name}/none/{key}"] for key in ("accuracy", "macro_f1", "nll", "ece")}
    report = evaluation["models"][name]["views"]["none"]["all"]
    files = [rows.resolve(row) for row in rows.frame.to_dict("records")]
    known = dict(version=version, logged=logged, report=report, files=files, y=rows.labels, train_rows=train_rows)
    return SimpleNamespace(**known)


def scored(probs: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """The four numbers from probabilities [N, 7], written out once more."""
    top, sure = probs.argmax(1), probs.max(1)
    ece = 0.0
    for i in range(15):
        inside = (sure > i / 15) & (sure <= (i + 1) / 15)
        if inside.any():
            ece += inside.mean() * abs((top == y)[inside].mean() - sure[inside].mean())
    return {
        "accuracy": float((top == y).mean()),
        "macro_f1": float(f1_score(y, top, labels=range(7), average="macro", zero_division=0)),
        "nll": float(-np.log(probs[np.arange(len(y)), y]).mean()),
        "ece": float(ece),
    }


def pictures(files) -> list[np.ndarray]:
    from fer_lib.faces.decode import decode

    return [decode(file) for file in files]


def test_loaded_by_alias_with_mlflow_it_gets_its_logged_metrics_back(candidate):
    import mlflow

    model = mlflow.pyfunc.load_model(URI)
    table = model.predict(pictures(candidate.files))
    assert list(table.columns) == list(EMOTIONS) and len(table) == candidate.report["n_used"] == len(candidate.y)
    probs = table.to_numpy(np.float64)
    np.testing.assert_allclose(probs.sum(1), 1.0, atol=1e-12)
    assert probs.std(0).max() > 1e-3, "it does not say the same of every face"
    got = scored(probs, candidate.y)
    assert got == pytest.approx(candidate.logged, abs=1e-6)
    assert got == pytest.approx({key: candidate.report["scaled"][key] for key in got}, abs=1e-6)
    encoded = model.predict([file.read_bytes() for file in candidate.files[:5]])
    np.testing.assert_array_equal(encoded.to_numpy(), probs[:5])
    assert "Any" in str(model.metadata.signature.inputs) and "uint8 RGB" in model.metadata.metadata["input"]


def test_loaded_with_the_library_it_gets_them_back_too(candidate):
    import fer_lib

    predictor = fer_lib.load(URI)
    probs = predictor.probs(pictures(candidate.files))
    assert scored(probs, candidate.y) == pytest.approx(candidate.logged, abs=1e-6)
    [face] = predictor.predict(candidate.files[0], whole=True)
    assert list(face.probs.values()) == pytest.approx(probs[0], abs=1e-6) and face.label == EMOTIONS[probs[0].argmax()]
    torch_probs = fer_lib.load(URI, runtime="torch").probs(pictures(candidate.files))
    np.testing.assert_allclose(torch_probs, probs, atol=1e-5)


def test_the_commands_show_and_use_the_candidate(candidate):
    listed = fer("models", "--json")
    assert listed.code == 0
    [row] = [m for m in json.loads(listed.out) if m["name"] == "fer-student" and "candidate" in m["aliases"]]
    assert row["version"] == int(candidate.version.version) and row["measured_on"] == "test"
    assert row["macro_f1"] == pytest.approx(candidate.logged["macro_f1"], abs=1e-9)
    assert row["evalset_id"] == candidate.report["evalset_id"]
    said = fer("predict", str(candidate.files[0]), "--whole", "--json", "--model", URI)
    assert said.code == 0, said.err
    drawn = f"trained on {candidate.train_rows} drawn faces; a demonstration on drawn faces, not for photos"
    assert said.err == f"model: fer-student@candidate version {candidate.version.version} ({drawn})\n"
    predicted = json.loads(said.out)
    assert predicted["model"]["uri"] == URI
    assert predicted["model"]["weights_sha256"] == candidate.version.tags["weights_sha256"]
    import fer_lib

    [probs] = fer_lib.load(URI).probs(pictures(candidate.files[:1]))
    assert predicted["results"][0]["faces"][0]["probs"] == pytest.approx(dict(zip(EMOTIONS, probs, strict=True)))


def test_drawn_faces_change_nothing_for_a_photo(candidate):
    """Whatever was registered of the drawn faces, `fer predict PHOTO` asks the packaged model and says so."""
    said = fer("predict", str(candidate.files[0]), "--whole", "--json")
    assert said.code == 0 and json.loads(said.out)["model"]["uri"] == "packaged"
    assert said.err.startswith("model: packaged student_dkd (trained on 28,709 faces of fer2013)\nterms: ")


def test_an_export_of_drawn_faces_that_asks_for_champion_ends_well_without_it(walked, candidate):
    ended = fer("run", str(walked.file), "-p", "export.alias=champion", "-p", "export.registered_name=fer-toy")
    assert ended.code == 0, ended.out + ended.err
    export = walked.nested(walked.parents()[0])["export"]
    assert export.info.status == "FINISHED"
    assert "does not take the alias fer-toy@champion: it is a demonstration" in export.data.tags["fer.warning"]
    listed = json.loads(fer("models", "--json").out)
    assert [(m["version"], m["aliases"]) for m in listed if m["name"] == "fer-toy"] == [(1, [])]
    assert not [m for m in listed if "champion" in m["aliases"]], "nothing that was made of drawn faces is champion"
