"""A notebook is also run by itself, by plain papermill with a parameter file (as it opens in JupyterLab: proofs)."""

import json
from pathlib import Path

from road import command, red_boxes

from fer_lib.pipeline import folders


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
