"""``fer run`` of a teacher whose weights file goes away and whose ONNX export fails: no epoch is trained twice."""

import json
import os
import re
import subprocess
import sys
import time

import psutil
import pytest
import torch
from road import command, environment, make_home

from fer_lib.models.classifier import build_classifier

FILE = """
name: onward
seed: 7
phases:
  import: {sources: [{source: fer2013, root: embedded, faces: 420, duplicates: 0, leaks: 0}]}
  manifest: {val_roles: [0.5, 0.4, 0.1]}
  teacher: {backbone: test_resnet, pretrained: begin.pt, image_size: 32, embed_dim: 16, epochs: 40, batch_size: 28,
            warmup_epochs: 0, plain_epochs: 0.4, ramp_end: 0.8, max_train_batches: 2, threads: 1, device: cpu}
smoke:
  teacher: {epochs: 40, max_train_batches: 2}
"""
RUN = ("fer_lib.cli.main", "run", "params/onward.yaml", "--smoke")


@pytest.fixture
def home(tmp_path):
    home = make_home(tmp_path / "home")
    (home / "params" / "onward.yaml").write_text(FILE)
    torch.manual_seed(3)
    model = build_classifier(
        {"backbone": "test_resnet", "image_size": 32, "embed_dim": 16, "dropout": 0.0, "head": "linear", "s": 30.0}
    )
    torch.save(model.backbone.state_dict(), home / "begin.pt")
    return home


def teachers(home):
    return sorted((home / "mlruns" / "phases").glob("teacher-*"))


def broken_off(home):
    """The command, killed with its kernels once a checkpoint is there."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    began = subprocess.Popen([sys.executable, "-m", *RUN], cwd=home, env=environment(home), **quiet)
    until = time.monotonic() + 300
    while not any((folder / "checkpoint_last" / "state.json").is_file() for folder in teachers(home)):
        assert began.poll() is None and time.monotonic() < until, "no checkpoint came"
        time.sleep(0.02)
    all_of_it = [psutil.Process(began.pid), *psutil.Process(began.pid).children(recursive=True)]
    for process in all_of_it:
        process.kill()
    began.wait()
    psutil.wait_procs(all_of_it, timeout=30)


def test_neither_weights_that_are_gone_nor_a_failed_export_cost_an_epoch(home, monkeypatch, tmp_path):
    broken_off(home)
    [folder] = teachers(home)
    assert not (folder / "done.json").exists()
    (home / "begin.pt").unlink()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "onnxscript.py").write_text("raise RuntimeError('this onnxscript is broken')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"), prepend=os.pathsep)
    ended = command(*RUN, home=home, cwd=home)
    assert ended.code == 0, ended.out + ended.err
    assert teachers(home) == [folder], "gone on with, not begun anew"
    assert json.loads((folder / "alignmentreport.json").read_text())["init"]["resume"] is True
    report = json.loads((folder / "onnxparity.json").read_text())
    assert {*report} == {"best.onnx", "last.onnx"} and not list(folder.glob("*.onnx"))
    assert all("this onnxscript is broken" in found["error"] for found in report.values())
    outputs = json.loads((folder / "outputs.json").read_text())
    assert outputs["headline"]["not written"] == "best.onnx, last.onnx"
    assert "not written best.onnx, last.onnx" in re.sub(r"[\s│]+", " ", ended.out), "the table may break its lines"
    monkeypatch.undo()

    run = json.loads((folder / "done.json").read_text())["run_id"]
    monkeypatch.setenv("FER_HOME", str(home))
    _said_in_its_run(run, folder)
    ended = command(*RUN, home=home, cwd=home)
    assert ended.code == 0 and teachers(home) == [folder]
    assert json.loads((folder / "done.json").read_text())["run_id"] == run, "used again, without its weights file"
    later = command("fer_lib.cli.main", "onnx", str(folder / "best"), str(folder / "best.onnx"), home=home, cwd=home)
    assert later.code == 0 and (folder / "best.onnx").is_file(), later.err


def _said_in_its_run(run_id, folder):
    import mlflow

    from fer_lib.tracking import store

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
