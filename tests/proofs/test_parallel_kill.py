"""``kill -9`` of a command that trains side by side: its kernels follow, and the same command goes on."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from road import command, environment, kernels, make_home

from fer_lib.pipeline import folders

RUN_FILE = """
name: twins
phases:
  import: {sources: [{source: fer2013, root: embedded, faces: 600}]}
  manifest: {val_roles: [0.5, 0.4, 0.1]}
  teacher_a: &fit {kind: teacher, backbone: test_resnet, image_size: 40, embed_dim: 32, epochs: 40, batch_size: 28,
    lr: 3.0e-3, warmup_epochs: 0.5, plain_epochs: 0.3, ramp_end: 0.7, checkpoint_minutes: 0.005, threads: 1}
  teacher_b: {<<: *fit, seed: 8}
"""
WORDS = ("fer_lib.cli.main", "run", "params/twins.yaml", "--parallel", "2")


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_kernels_follow_a_killed_command_and_the_same_command_goes_on(tmp_path, monkeypatch):
    home = make_home(tmp_path / "home")
    (home / "params" / "twins.yaml").write_text(RUN_FILE)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-m", *WORDS], cwd=home, env=environment(home), **quiet)
    until = time.monotonic() + 600
    while len(list(home.glob("mlruns/phases/teacher_*/checkpoint_last/state.json"))) < 2:
        assert time.monotonic() < until and process.poll() is None, "the teachers did not come to a checkpoint"
        time.sleep(0.05)
    below = psutil.Process(process.pid).children(recursive=True)
    assert len(kernels(process.pid)) == 2 and len(below) > 2, "the kernel server and two kernels"
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(below, timeout=20)
    assert alive == []

    ended = command(*WORDS, home=home, cwd=home)
    assert ended.code == 0, ended.out + ended.err
    monkeypatch.setenv("FER_HOME", str(home))
    for name in ("teacher_a", "teacher_b"):
        [record] = folders.finished_phases(phase=name)
        said = Path(record["folder"]) / "alignmentreport.json"
        assert '"resume": true' in said.read_text(), f"{name} went on from its checkpoint"
    shown = command("fer_lib.cli.main", "runs", home=home, cwd=home)
    assert "RUNNING" not in shown.out and "dead" not in shown.out and shown.out.count("KILLED") == 3, shown.out
