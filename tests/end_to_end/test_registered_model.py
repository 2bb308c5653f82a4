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

pytestmark = pytest.mark.xdist_group("road")
URI = "models:/fer-student@champion"


@pytest.fixture
def champion(walked):
    """What the champion was measured on and what was logged of it, found through the registry."""
    import mlflow

    from fer_lib.datasets.manifest import Manifest
    from fer_lib.models.bundle import read_bundle

    client = mlflow.MlflowClient()
    version = client.get_model_version_by_alias("fer-student", "champion")
    folder = walked.folder(client.get_run(version.run_id))
    inputs = folders.done(folder)["inputs"]
    name = read_bundle(folder / "bundle").name
    evaluation = json.loads((Path(inputs["evaluation"]) / "evaluation.json").read_text())
    rows = Manifest.read(Path(inputs["manifest"]) / "manifest.parquet").rows(split="test")
    run = client.get_run(folders.done(Path(inputs["evaluation"]))["run_id"])
    logged = {key: run.data.metrics[f"{name}/none/{key}"] for key in ("accuracy", "macro_f1", "nll", "ece")}
    report = evaluation["models"][name]["views"]["none"]["all"]
    files = [rows.resolve(row) for row in rows.frame.to_dict("records")]
    return SimpleNamespace(version=version, logged=logged, report=report, files=files, y=rows.labels, name=name)


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


def test_loaded_by_alias_with_mlflow_it_gets_its_logged_metrics_back(champion):
    import mlflow

    model = mlflow.pyfunc.load_model(URI)
    table = model.predict(pictures(champion.files))
    assert list(table.columns) == list(EMOTIONS) and len(table) == champion.report["n_used"] == len(champion.y)
    probs = table.to_numpy(np.float64)
    np.testing.assert_allclose(probs.sum(1), 1.0, atol=1e-12)
    assert probs.std(0).max() > 1e-3, "it does not say the same of every face"
    got = scored(probs, champion.y)
    assert got == pytest.approx(champion.logged, abs=1e-6)
    assert got == pytest.approx({key: champion.report["scaled"][key] for key in got}, abs=1e-6)
    encoded = model.predict([file.read_bytes() for file in champion.files[:5]])
    np.testing.assert_array_equal(encoded.to_numpy(), probs[:5])
    assert "Any" in str(model.metadata.signature.inputs) and "uint8 RGB" in model.metadata.metadata["input"]


def test_loaded_with_the_library_it_gets_them_back_too(champion):
    import fer_lib

    predictor = fer_lib.load(URI)
    probs = predictor.probs(pictures(champion.files))
    assert scored(probs, champion.y) == pytest.approx(champion.logged, abs=1e-6)
    [face] = predictor.predict(champion.files[0], whole=True)
    assert list(face.probs.values()) == pytest.approx(probs[0], abs=1e-6) and face.label == EMOTIONS[probs[0].argmax()]
    torch_probs = fer_lib.load(URI, runtime="torch").probs(pictures(champion.files))
    np.testing.assert_allclose(torch_probs, probs, atol=1e-5)


def test_the_commands_show_and_use_the_champion(champion):
    listed = fer("models", "--json")
    assert listed.code == 0
    [row] = [m for m in json.loads(listed.out) if m["name"] == "fer-student" and "champion" in m["aliases"]]
    assert row["version"] == int(champion.version.version) and row["measured_on"] == "test"
    assert row["macro_f1"] == pytest.approx(champion.logged["macro_f1"], abs=1e-9)
    assert row["evalset_id"] == champion.report["evalset_id"]
    said = fer("predict", str(champion.files[0]), "--whole", "--json")
    assert said.code == 0, said.err
    predicted = json.loads(said.out)
    assert predicted["model"]["uri"] == URI, "the champion is the default where there is one"
    assert predicted["model"]["weights_sha256"] == champion.version.tags["weights_sha256"]
    import fer_lib

    [probs] = fer_lib.load(URI).probs(pictures(champion.files[:1]))
    assert predicted["results"][0]["faces"][0]["probs"] == pytest.approx(dict(zip(EMOTIONS, probs, strict=True)))
