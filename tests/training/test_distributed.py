"""One fit over several processes takes the steps of one process with as many micro-batches; what fails is told."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch

from fer_lib.errors import FerError
from fer_lib.models.bundle import read_bundle
from fer_lib.params import TeacherParams
from fer_lib.training.checkpoint import load_checkpoint
from fer_lib.training.distributed import together
from fer_lib.training.teacher import train_teacher

BASE = dict(
    backbone="test_resnet", image_size=32, embed_dim=16, dropout=0.3, epochs=2, batch_size=28, lr=2e-3,
    warmup_epochs=0.5, plain_epochs=1, ramp_end=2, arcface_s=12.0, ema_decay=0.9, clip_grad=1.0, mixup=0.4,
    label_smoothing=0.1, max_train_batches=3, threads=1, device="cpu", onnx="none",
)  # fmt: skip


def history(folder):
    return json.loads((folder / "history.json").read_text())


@pytest.fixture(scope="module")
def pair(drawn_manifest, pack_cache, tmp_path_factory):
    """The folders of two processes with one micro-batch each, and of one process with two."""
    folders = {}
    for how, changes in {"team": {"processes": 2}, "alone": {"accum_steps": 2}}.items():
        folders[how] = tmp_path_factory.mktemp(how)
        p = TeacherParams(**BASE | changes)
        events = list(train_teacher(p, drawn_manifest, folders[how], pack_cache))
        assert [e["event"] for e in events if e["event"] != "step"] == ["start", "epoch", "epoch", "end"]
    return folders


def test_two_processes_take_the_steps_of_two_micro_batches(pair):
    team, alone = (load_checkpoint(pair[how] / "checkpoint_last")[0] for how in ("team", "alone"))
    assert set(team) == set(alone)
    # running statistics are each process' own: the first one's, over half as many micro-batches
    of_weights = [k for k in alone if k.startswith("model.") and "running" not in k and "num_batches" not in k]
    assert len(of_weights) > 20
    for key in of_weights:
        torch.testing.assert_close(team[key], alone[key], rtol=0, atol=1e-6, msg=key)
    moved = read_bundle(pair["alone"] / "best").state_dict()
    assert any((moved[k[6:]] - alone[k]).abs().max() > 1e-4 for k in of_weights), "weights do move at this scale"


def test_the_history_of_a_team_is_of_the_whole_batch(pair):
    for ours, theirs in zip(history(pair["team"]), history(pair["alone"]), strict=True):
        assert ours["train"]["loss"] == pytest.approx(theirs["train"]["loss"], rel=1e-5)
        assert ours["train"]["coverage"] == theirs["train"]["coverage"]
    assert {f.name for f in pair["team"].iterdir()} == {f.name for f in pair["alone"].iterdir()}
    device = json.loads((pair["team"] / "alignmentreport.json").read_text())["device"]
    assert device["processes"] == 2


def test_a_team_that_was_broken_off_ends_as_the_unbroken_one(pair, drawn_manifest, pack_cache, tmp_path):
    p = TeacherParams(**BASE | {"processes": 2})
    events = train_teacher(p, drawn_manifest, tmp_path, pack_cache)
    while next(events)["event"] != "epoch":
        pass
    events.close()
    resumed = list(train_teacher(p, drawn_manifest, tmp_path, pack_cache))
    assert resumed[0]["resumed_at_step"] in (3, 6), "the workers may have been an epoch ahead of whoever listened"
    ours, theirs = (load_checkpoint(folder / "checkpoint_last")[0] for folder in (tmp_path, pair["team"]))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs) and set(ours) == set(theirs)


def test_three_that_were_broken_off_end_as_the_unbroken_three(drawn_manifest, pack_cache, tmp_path):
    """From three on the order of a sum depends on where a gradient lies, which must not hang on when a run began."""
    p = TeacherParams(**BASE | {"processes": 3, "max_train_batches": 2})
    list(train_teacher(p, drawn_manifest, tmp_path / "unbroken", pack_cache))
    events = train_teacher(p, drawn_manifest, tmp_path / "broken", pack_cache)
    while next(events)["event"] != "epoch":
        pass
    events.close()
    resumed = list(train_teacher(p, drawn_manifest, tmp_path / "broken", pack_cache))
    assert resumed[0]["resumed_at_step"] in (2, 4)
    ours, theirs = (load_checkpoint(tmp_path / how / "checkpoint_last")[0] for how in ("broken", "unbroken"))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs) and set(ours) == set(theirs)


def test_micro_batches_within_a_team_are_those_of_one_process(drawn_manifest, pack_cache, tmp_path):
    """Two processes with two parts each against four parts: gradients are kept back until the last part."""
    found = {}
    for how, changes in {"team": {"processes": 2, "accum_steps": 2}, "alone": {"accum_steps": 4}}.items():
        p = TeacherParams(**BASE | changes | {"epochs": 1, "warmup_epochs": 0.0, "plain_epochs": 0.3, "ramp_end": 0.9})
        list(train_teacher(p, drawn_manifest, tmp_path / how, pack_cache))
        found[how] = load_checkpoint(tmp_path / how / "checkpoint_last")[0]
    losses = [history(tmp_path / how)[0]["train"]["loss"] for how in ("team", "alone")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    keys = [k for k in found["alone"] if k.startswith("model.") and "running" not in k and "num_" not in k]
    gaps = torch.cat([(found["team"][k] - found["alone"][k]).abs().flatten() for k in keys])
    # four gradients are added in another order, and Adam's first steps turn the sign of nothing into a whole step
    assert (gaps > 1e-5).double().mean() < 0.01 and gaps.max() < 4 * BASE["lr"]


SCRIPT = """
import os, sys, time
from pathlib import Path
import fer_lib
from fer_lib.params import TeacherParams
from fer_lib.training.distributed import together

def work(team):
    while True:
        (Path(sys.argv[1]) / f"alive-{os.getpid()}").write_text("")
        time.sleep(0.05)
        yield {}

if __name__ == "__main__":
    print("begins", flush=True)
    for _ in together(work, TeacherParams(device="cpu", processes=2)):
        pass
"""


@pytest.mark.parametrize("wait", [0.3, None], ids=["before the team stands", "while it works"])
def test_a_team_follows_its_killed_parent(tmp_path, wait):
    script = tmp_path / "team.py"
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


def test_an_error_in_a_process_ends_the_team_with_its_words(drawn_manifest, pack_cache, tmp_path):
    frame = drawn_manifest.frame.copy()
    frame.loc[frame["val_role"] == "select", "val_role"] = "temperature"
    broken = type(drawn_manifest)(frame, drawn_manifest.meta, drawn_manifest.path)
    with pytest.raises(FerError, match="val rows has the role select"):
        list(train_teacher(TeacherParams(**BASE | {"processes": 2}), broken, tmp_path, pack_cache))
    deadline = time.monotonic() + 10
    while (left := _spawned()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left, "no process is left behind"


class Lost:
    """What one process does to itself; the others wait for it."""

    def __init__(self, how):
        self.how = how

    def __call__(self, team):
        yield {"event": "start"}
        if team.rank == 1:
            os.kill(os.getpid(), self.how) if self.how else os._exit(3)
        team.wait()
        yield {"event": "end"}


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (signal.SIGKILL, r"was ended by SIGKILL, .*memory runs out .*lower batch_size"),
        (signal.SIGTERM, r"was ended by SIGTERM, .*scheduler, ended it"),
        (0, r"ended with exit code 3, .*crash"),
    ],
)
def test_a_process_that_is_killed_is_named(how, said):
    with pytest.raises(FerError, match=rf"process 2 of the 2 .*id \d+\) {said}.*The same command goes on"):
        list(together(Lost(how), TeacherParams(device="cpu", processes=2)))


def _spawned():
    children = psutil.Process().children(recursive=True)
    return [c for c in children if "spawn_main" in " ".join(c.cmdline())]


def test_more_processes_than_cards_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    p = TeacherParams(device="cuda", processes=2)
    with pytest.raises(FerError, match="there are 1 CUDA devices here"):
        next(together(lambda team: iter(()), p))


@pytest.mark.parametrize("changes", [{"accum_steps": 15}, {"processes": 15}, {"accum_steps": 5, "processes": 3}])
def test_micro_batches_of_one_row_are_refused_with_the_parameters(changes):
    with pytest.raises(ValueError, match="15 micro-batches .* use batch_size >= 30"):
        TeacherParams(**BASE | changes)
