"""Notebook 14 alone: on the phases of a run file, and on drawn faces where its datasets are missing."""

import json
from pathlib import Path

from road import red_boxes

from fer_lib.pipeline import folders
from fer_lib.pipeline.papermill import execute


def run_alone(walked, server, tmp_path, **values):
    """The record of the finished phase and the text of the executed notebook."""
    notebook, output = walked.home / "notebooks" / "14_ablation.ipynb", tmp_path / "out.ipynb"
    execute(notebook, output, values, walked.home, {}, server.address)
    assert red_boxes(json.loads(output.read_text())["cells"]) == []
    return folders.finished_phases(("ablation",))[0], output.read_text()


def test_alone_it_compares_what_its_run_file_has_finished(walked, kernel_server, tmp_path):
    _, nested = walked.walk
    measured = walked.json(nested["evaluate"], "evaluation.json")
    evaluations = {r["folder"] for r in folders.finished_phases(("evaluate",))}
    record, text = run_alone(walked, kernel_server, tmp_path, run_file="params/tiny.yaml", control="kd")
    assert {r["folder"] for r in folders.finished_phases(("evaluate",))} == evaluations, "all of them are re-used"
    assert record["inputs"]["evaluations"] == [str(walked.folder(nested["evaluate"]))]
    assert record["params"]["control"] == "kd" and record["params"]["resamples"] == 100 and "test, fer2013" in text
    folder = Path(record["folder"])
    result = json.loads((folder / "ablation.json").read_text())
    [evaluation] = result["evaluations"]
    for variant, own in evaluation["sources"]["fer2013"]["variants"].items():
        report = measured["models"][f"student_{variant}"]["by_source"]["none"]["fer2013"]["raw"]
        for score in ("accuracy", "macro_f1_present"):
            assert own[score]["values"] == [report[score]], "the scores are those of the evaluation"
    logged = walked.of_folder(folder).data.metrics
    difference = evaluation["sources"]["fer2013"]["variants"]["dkd"]["accuracy"]["difference"]
    assert logged["test/fer2013/dkd/accuracy/difference/lo"] == difference["lo"]


def test_without_its_datasets_it_names_them_and_takes_drawn_faces(walked, kernel_server, tmp_path):
    record, text = run_alone(walked, kernel_server, tmp_path, smoke=True, resamples=100)
    assert "params/ablation.yaml reads data/fer2013" in text and "data/expw" in text
    assert record["params"]["variants"] == {} and len(record["inputs"]["evaluations"]) == 1
    models = json.loads((Path(record["inputs"]["evaluations"][0]) / "evaluation.json").read_text())["models"]
    result = json.loads((Path(record["folder"]) / "ablation.json").read_text())
    assert result["variants"] == {name: [name] for name in models}
