"""Notebook 08 on test rows alone, of two sources: the packaged model and a registered one, with a prior correction."""

import json
from pathlib import Path

import numpy as np
from road import red_boxes

from fer_lib.datasets.manifest import Manifest
from fer_lib.deploy.packaged import packaged_bundle
from fer_lib.pipeline import folders
from fer_lib.pipeline.papermill import execute


def test_models_from_elsewhere_are_measured_on_each_source(walked, kernel_server, tmp_path):
    _, nested = walked.walk
    whole = Manifest.read(walked.folder(nested["manifest"]) / "manifest.parquet")
    frame = whole.frame[whole.frame["split"] == "test"].reset_index(drop=True)
    frame.loc[np.arange(len(frame)) % 2 == 0, "source"] = "elsewhere"
    frame = frame[(frame["source"] != "elsewhere") | (frame["label"] != 1)].reset_index(drop=True)
    Manifest(frame, {**whole.meta, "root": str(whole.root)}).write(tmp_path / "rows" / "manifest.parquet")
    values = {
        "manifest": str(tmp_path / "rows"), "models": ["packaged", "models:/fer-student@candidate"],
        "allow_leaks": ["fer2013", "elsewhere"], "smoke": True,
        "advanced": {"prior_correction": "em", "resamples": 100},
    }  # fmt: skip
    before = {r["folder"] for r in folders.finished_phases(("evaluate",))}
    notebook, output = walked.home / "notebooks" / "08_evaluate.ipynb", tmp_path / "out.ipynb"
    execute(notebook, output, values, walked.home, {}, kernel_server.address)
    [record] = [r for r in folders.finished_phases(("evaluate",)) if r["folder"] not in before]
    folder = Path(record["folder"])
    result, run = json.loads((folder / "evaluation.json").read_text()), walked.of_folder(folder)
    packaged, registered = result["models"].values()
    assert list(result["models"])[0] == packaged_bundle().name and packaged["runtime"] == "onnx"
    assert (packaged["trained_on"], registered["runtime"]) == (["fer2013"], "torch")
    assert result["temperature_from"] == "bundle" and set(result["by_source"]) == {"fer2013", "elsewhere"}
    for name, model in result["models"].items():
        own = model["by_source"]["none"]["elsewhere"]
        assert "Disgust" not in own["classes_present"] and own["prior_correction"]["converged"] in (True, False)
        logged = run.data.metrics
        assert logged[f"{name}/none/source/elsewhere/macro_f1_present"] == own["scaled"]["macro_f1_present"]
        change = own["prior_correction"]["difference"]["accuracy"]
        assert logged[f"{name}/none/source/elsewhere/prior_correction/accuracy/lo"] == change["lo"]
        assert (folder / "figures" / f"{name}_confusion.png").is_file()
        assert (walked.artifact(run, "confusion") / f"{name}.csv").is_file()
    assert f"`{packaged_bundle().name}` are not known" in run.data.tags["fer.warning"]
    assert all((folder / "figures" / f"{name}.png").stat().st_size > 5000 for name in ("sources", "transfer"))
    assert red_boxes(json.loads(output.read_text())["cells"]) == []
