"""Several processes take the same steps as one process with as many micro-batches, and their failures are reported.

Micro-batches in several processes: tests/proofs/test_micro_batches.py.
"""

import json
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from failing_work import Exit, Raise

from fer_lib.errors import FerError
from fer_lib.models.bundle import read_bundle
from fer_lib.params import TeacherParams
from fer_lib.training.checkpoint import load_checkpoint
from fer_lib.training.distributed import run_processes
from fer_lib.training.teacher import train_teacher

BASE = dict(
    backbone="test_resnet", image_size=32, embed_dim=16, dropout=0.3, epochs=2, batch_size=28, lr=2e-3,
    warmup_epochs=0.5, plain_epochs=1, ramp_end=2, arcface_s=12.0, ema_decay=0.9, clip_grad=1.0, mixup=0.4,
    label_smoothing=0.1, max_train_batches=3, threads=1, device="cpu", onnx="none",
    negative={"method": "negl", "weight": 1.0, "entropy": 0.2},
    nested={"kind": "blocks", "intervals": [1, 2, 4]},  # both processes sum the gradients of the complete batch
)  # fmt: skip


def history(folder):
    return json.loads((folder / "history.json").read_text())


@pytest.fixture(scope="module")
def pair(drawn_manifest, pack_cache, tmp_path_factory):
    """The output folders of a fit with two processes, and of one process with two micro-batches."""
    folders = {}
    for name, changes in {"distributed": {"processes": 2}, "single": {"accum_steps": 2}}.items():
        folders[name] = tmp_path_factory.mktemp(name)
        p = TeacherParams(**BASE | changes)
        events = list(train_teacher(p, drawn_manifest, folders[name], pack_cache))
        assert [e["event"] for e in events if e["event"] != "step"] == ["start", "epoch", "epoch", "end"]
    return folders


def test_two_processes_take_the_steps_of_two_micro_batches(pair):
    distributed, single = (load_checkpoint(pair[name] / "checkpoint_last")[0] for name in ("distributed", "single"))
    assert set(distributed) == set(single)
    # running statistics differ: they are those of rank 0, over half as many micro-batches
    weights = [k for k in single if k.startswith("model.") and "running" not in k and "num_batches" not in k]
    assert len(weights) > 20
    for key in weights:
        torch.testing.assert_close(distributed[key], single[key], rtol=0, atol=1e-6, msg=key)
    for key in (k for k in single if "nested.sum" in k):
        torch.testing.assert_close(distributed[key], single[key], rtol=0, atol=1e-6, msg=key)
    assert any(v.any() for k, v in single.items() if "nested.sum" in k)
    average = read_bundle(pair["single"] / "best").state_dict()
    assert any((average[k[6:]] - single[k]).abs().max() > 1e-4 for k in weights), "weights do change at this scale"


def test_history_of_two_processes_covers_the_complete_batch(pair):
    for ours, theirs in zip(history(pair["distributed"]), history(pair["single"]), strict=True):
        assert ours["train"]["loss"] == pytest.approx(theirs["train"]["loss"], rel=1e-5)
        assert ours["train"]["coverage"] == theirs["train"]["coverage"]
        for figure in ("negl_applied_frac", "negl_gate_share", "negl_loss"):
            assert 0 < ours["train"][figure] == pytest.approx(theirs["train"][figure], rel=1e-5)
    assert {f.name for f in pair["distributed"].iterdir()} == {f.name for f in pair["single"].iterdir()}
    device = json.loads((pair["distributed"] / "alignmentreport.json").read_text())["device"]
    assert device["processes"] == 2


SCRIPT = """
import os, sys, time
from pathlib import Path
import fer_lib
from fer_lib.params import TeacherParams
from fer_lib.training.distributed import run_processes

def work(context):
    while True:
        (Path(sys.argv[1]) / f"alive-{os.getpid()}").write_text("")
        time.sleep(0.05)
        yield {}

if __name__ == "__main__":
    print("started", flush=True)
    for _ in run_processes(work, TeacherParams(device="cpu", processes=2)):
        pass
"""


@pytest.mark.parametrize("wait", [0.3, None], ids=["during start-up", "during work"])
def test_processes_exit_when_their_parent_is_killed(tmp_path, wait):
    script = tmp_path / "processes.py"
    script.write_text(SCRIPT)
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)], stdout=subprocess.PIPE)
    parent.stdout.readline()
    deadline = time.monotonic() + 120
    while wait is None and not list(tmp_path.glob("alive-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(wait or 0.0)
    while not (children := psutil.Process(parent.pid).children()) and time.monotonic() < deadline:
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    gone, alive = psutil.wait_procs(children, timeout=60)
    assert gone and not alive


@pytest.mark.parametrize(
    "error", [FerError("no val row has the role select"), FileExistsError(17, "File exists", "fit")]
)
def test_error_in_a_process_is_raised_and_stops_all(error):
    with pytest.raises(type(error)) as raised:
        list(run_processes(Raise(error), TeacherParams(device="cpu", processes=2)))
    assert raised.value.args == error.args and getattr(raised.value, "filename", None) == getattr(
        error, "filename", None
    )
    deadline = time.monotonic() + 10
    while (left := _spawned_processes()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


@pytest.mark.parametrize(
    ("signal_number", "reason"),
    [
        (signal.SIGKILL, "was killed by SIGKILL, .*memory runs out .*lower batch_size"),
        (signal.SIGTERM, "was killed by SIGTERM, .*look in its output"),
        (0, "ended with exit code 3, .*look in its output"),
    ],
)
def test_killed_process_is_named(signal_number, reason):
    with pytest.raises(FerError, match=rf"process 2 of the 2 .*id \d+\) {reason}.*The same command resumes"):
        list(run_processes(Exit(signal_number), TeacherParams(device="cpu", processes=2)))


def _spawned_processes():
    children = psutil.Process().children(recursive=True)
    running = (c for c in children if c.status() != psutil.STATUS_ZOMBIE)
    return [c for c in running if "spawn_main" in " ".join(c.cmdline())]


def test_more_processes_than_cuda_devices_are_rejected(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    p = TeacherParams(device="cuda", processes=2)
    with pytest.raises(FerError, match="there are 1 CUDA devices here"):
        next(run_processes(lambda context: iter(()), p))


@pytest.mark.parametrize("changes", [{"accum_steps": 15}, {"processes": 15}, {"accum_steps": 5, "processes": 3}])
def test_micro_batches_of_one_row_are_rejected_with_the_parameters(changes):
    with pytest.raises(ValueError, match="15 micro-batches .* use batch_size >= 30"):
        TeacherParams(**BASE | changes)
