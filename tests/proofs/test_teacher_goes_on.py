"""``fer run`` of a teacher whose weights file goes away and whose ONNX export fails: no epoch is trained twice."""

import json
import os
import re
import threading
import time

import pytest
import torch
from road import fer, kernels, make_home

from fer_lib.models.classifier import build_classifier
from fer_lib.tracking import store

FILE = """
name: onward
seed: 7
phases:
  import: {sources: [{source: fer2013, root: embedded, faces: 420, duplicates: 0, leaks: 0}]}
  manifest: {val_roles: [0.5, 0.4, 0.1]}
  teacher: {backbone: test_resnet, pretrained: begin.pt, image_size: 32, embed_dim: 16, epochs: 12, batch_size: 28,
            warmup_epochs: 0, plain_epochs: 0.4, ramp_end: 0.8, max_train_batches: 2, threads: 1, device: cpu}
smoke:
  teacher: {epochs: 12, max_train_batches: 2, onnx: both}
"""
RUN = ("run", "params/onward.yaml", "--smoke")


@pytest.fixture
def home(tmp_path, add_store, kernel_server, monkeypatch):
    home = make_home(tmp_path / "home")
    add_store(home)
    (home / "params" / "onward.yaml").write_text(FILE)
    torch.manual_seed(3)
    model = build_classifier(
        {"backbone": "test_resnet", "image_size": 32, "embed_dim": 16, "dropout": 0.0, "head": "linear", "s": 30.0}
    )
    torch.save(model.backbone.state_dict(), home / "begin.pt")
    monkeypatch.setenv("FER_HOME", str(home))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.tracking_uri(home))  # put back afterwards
    monkeypatch.chdir(home)
    return home


def teachers(home):
    return sorted((home / "mlruns" / "phases").glob("teacher-*"))


def broken_off(home):
    """The command, whose kernel is killed once a checkpoint is there."""

    def kill():
        until = time.monotonic() + 300
        while not any((folder / "checkpoint_last" / "state.json").is_file() for folder in teachers(home)):
            if time.monotonic() > until:
                return
            time.sleep(0.02)
        for kernel in kernels(os.getpid()):
            kernel.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    ended = fer(*RUN)
    thread.join()
    assert ended.code == 1 and "the kernel was killed" in ended.out, ended.out + ended.err


def test_neither_weights_that_are_gone_nor_a_failed_export_cost_an_epoch(home, monkeypatch, tmp_path):
    broken_off(home)
    [folder] = teachers(home)
    assert not (folder / "done.json").exists()
    (home / "begin.pt").unlink()
    broken = home / "onnxscript.py"  # the working folder of a kernel comes first on its path
    broken.write_text("raise RuntimeError('this onnxscript is broken')\n")
    ended = fer(*RUN)
    broken.unlink()
    assert ended.code == 0, ended.out + ended.err
    assert teachers(home) == [folder], "gone on with, not begun anew"
    assert json.loads((folder / "alignmentreport.json").read_text())["init"]["resume"] is True
    report = json.loads((folder / "onnxparity.json").read_text())
    assert {*report} == {"best.onnx", "last.onnx"} and not list(folder.glob("*.onnx"))
    assert all("this onnxscript is broken" in found["error"] for found in report.values())
    outputs = json.loads((folder / "outputs.json").read_text())
    assert outputs["headline"]["not written"] == "best.onnx, last.onnx"
    assert "not written best.onnx, last.onnx" in re.sub(r"[\s│]+", " ", ended.out), "the table may break its lines"

    run = json.loads((folder / "done.json").read_text())["run_id"]
    _said_in_its_run(run, folder)
    ended = fer(*RUN)
    assert ended.code == 0 and teachers(home) == [folder]
    assert json.loads((folder / "done.json").read_text())["run_id"] == run, "used again, without its weights file"
    later = fer("onnx", str(folder / "best"), str(folder / "best.onnx"))
    assert later.code == 0 and (folder / "best.onnx").is_file(), later.err


def _said_in_its_run(run_id, folder):
    import mlflow

    store.configure()
    client = mlflow.MlflowClient()
    tags, names = client.get_run(run_id).data.tags, {file.path for file in client.list_artifacts(run_id)}
    for file, source in (("best.onnx", "best"), ("last.onnx", "checkpoint_last")):
        assert f"{file} was not written: " in tags["fer.warning"]
        assert f"fer onnx {folder / source} {folder / file}" in tags["fer.warning"]
    began = json.loads((folder / "starting_weights.json").read_text())
    assert began["origin"].endswith("begin.pt") and len(began["weights_sha256"]) == 64
    assert [tags[f"fer.weights.{key}"] for key in ("source", "origin", "sha256")] == [
        began["source"], "begin.pt", began["weights_sha256"],
    ]  # fmt: skip
    assert {"starting_weights.json", "smoke_results.json", "onnxparity.json", "best"} <= names
