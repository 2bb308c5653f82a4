"""A notebook is also run by itself: by plain papermill with a parameter file, and as it opens in JupyterLab."""

import json
from pathlib import Path

from road import TINY, command, red_boxes

from fer_lib.pipeline import folders
from fer_lib.storage.json_files import read_outputs


def test_plain_papermill_with_a_parameter_file(walked, tmp_path):
    chosen = {"backbone": "test_resnet", "image_size": 32, "embed_dim": 16, "epochs": 1, "batch_size": 14,
              "max_train_batches": 2, "name": "by_hand", "seed": 11, "threads": 1, "onnx": "none"}  # fmt: skip
    values, output = tmp_path / "some.yaml", tmp_path / "out.ipynb"
    values.write_text(json.dumps(chosen))
    words = ("papermill", "notebooks/04_train_teacher.ipynb", str(output), "-f", str(values), "--no-progress-bar")
    ended = command(*words, home=walked.home, cwd=walked.home)
    assert ended.code == 0, ended.err[-3000:]
    [record] = [r for r in folders.finished_phases(("teacher",)) if r["params"]["name"] == "by_hand"]
    assert {key: record["params"][key] for key in chosen} == chosen
    manifests = [r["folder"] for r in folders.finished_phases(("manifest", "audit"))]
    assert record["inputs"]["manifest"] == manifests[0], "a blank input is the newest finished phase"
    run = walked.of_folder(Path(record["folder"]))
    assert run.info.status == "FINISHED" and "mlflow.parentRunId" not in run.data.tags
    assert run.data.params["seed"] == "11" and "best/macro_f1" in run.data.metrics
    ids = walked.json(run, "outputs.json")["ids"]
    assert ids["weights_sha256"] in output.read_text(), "the ids are printed for the next phase"
    assert red_boxes(json.loads(output.read_text())["cells"]) == []


def test_with_its_defaults_from_the_notebooks_folder(walked):
    """JupyterLab starts a kernel in the notebook's folder, without FER_HOME; blank inputs are found all the same."""
    before = {r["folder"] for r in folders.finished_phases(("softlabels",))}
    ended = command("papermill", "06_export_softlabels.ipynb", "../defaults.ipynb", "--no-progress-bar", home=None,
                    cwd=walked.home / "notebooks")  # fmt: skip
    assert ended.code == 0, ended.err[-3000:]
    [record] = [r for r in folders.finished_phases(("softlabels",)) if r["folder"] not in before]
    trained = folders.finished_phases(("teacher",))
    manifests = [r["folder"] for r in folders.finished_phases(("manifest", "audit"))]
    newest = next(m for m in manifests if any(r["inputs"]["manifest"] == m for r in trained))
    teachers = {r["phase"]: r["folder"] for r in reversed(trained) if r["inputs"]["manifest"] == newest}
    assert record["inputs"]["manifest"] == newest and set(record["inputs"]["teachers"]) == set(teachers.values())
    assert record["params"]["seed"] == 1337 and "seed: 7" in TINY
    labels = json.loads((walked.home / "defaults.ipynb").read_text())
    digest = read_outputs(record["folder"])["ids"]["softlabels_sha256"]
    assert f"softlabels_sha256: {digest}" in json.dumps(labels["cells"][-1]["outputs"])
    assert red_boxes(labels["cells"]) == []
