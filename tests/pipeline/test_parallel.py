"""Phases side by side, through real kernels: who waits for whom, what a failure stops, and how an interrupt ends it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fer_lib.pipeline import folders, workers
from fer_lib.pipeline.run import run_file

pytestmark = pytest.mark.xdist_group("parallel")


@pytest.fixture(scope="module")
def home(toy_home):
    return toy_home


@pytest.fixture(scope="module")
def diamond(home, stored):
    """import -> manifest -> two teachers that wait for each other -> student of one, evaluate of all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "visible_gpus", lambda: ["4", "7"])
        patch.setattr(workers, "cores", lambda: 10)
        patch.delenv("OMP_NUM_THREADS", raising=False)
        assert run_file(home / "params" / "diamond.yaml", parallel=2) == 0
    return stored.newest("run")


def moments(name: str) -> dict:
    return json.loads((phase_folder(name) / "moments.json").read_text())


def phase_folder(name: str) -> Path:
    return Path(folders.finished(phase=name)[0]["folder"])


def test_independent_phases_overlap_and_dependents_wait(diamond):
    a, b, student, evaluate = (moments(name) for name in ("teacher_a", "teacher_b", "student", "evaluate"))
    assert max(a["begin"], b["begin"]) < min(a["end"], b["end"])
    assert student["begin"] > a["end"] and evaluate["begin"] > max(a["end"], b["end"], student["end"])
    assert folders.done(phase_folder("manifest"))["finished"] <= folders.done(phase_folder("teacher_a"))["finished"]


def test_each_kernel_sees_the_device_and_threads_of_its_slot(diamond):
    a, b = moments("teacher_a"), moments("teacher_b")
    assert {a["CUDA_VISIBLE_DEVICES"], b["CUDA_VISIBLE_DEVICES"]} == {"4", "7"}
    assert (a["OMP_NUM_THREADS"], b["OMP_NUM_THREADS"]) == ("5", "3"), "its share of ten cores; what the phase asks for"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ or os.environ["CUDA_VISIBLE_DEVICES"] not in ("4", "7")


def test_a_fit_lies_below_the_one_that_it_started_from(diamond, stored):
    nested = stored.below(diamond)
    assert set(nested) == {"import", "manifest", "teacher_a", "teacher_b", "evaluate"}
    [(name, student)] = stored.below(nested["teacher_a"]).items()
    assert name == "student" and student.data.tags["fer.started_from"] == nested["teacher_a"].info.run_id
    assert student.info.status == "FINISHED"


def test_runs_are_listed_as_the_tree_that_they_are(diamond, capsys, monkeypatch):
    from fer_lib.cli import main as cli

    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        cli.main(["runs"])
    lines = capsys.readouterr().out.splitlines()
    told = [line.split("│")[1].rstrip() for line in lines if line.startswith("│")]
    assert told[:3] == [" diamond", "   import", "   manifest"] and told[-1] == "   evaluate"
    assert told[told.index("   teacher_a") + 1] == "     student" and len(told) == 7


def test_a_failure_stops_only_what_needs_it(diamond, home, stored, capsys):
    (home / "unlucky").touch()
    changes = ["teacher_b.epochs=13", "student.epochs=3"]
    assert run_file(home / "params" / "diamond.yaml", changes, parallel=2) == 1
    (home / "unlucky").unlink()
    said = capsys.readouterr().out
    assert "phase 'teacher_b' failed: DataError: thirteen" in said and "not started: evaluate\n" in said
    parent = stored.newest("run")
    told = stored.json(parent, "phases.json")
    assert [(row["phase"], row["status"]) for row in told["phases"][2:]] == [
        ("teacher_a", "re-used"), ("teacher_b", "failed"), ("student", "ran")]  # fmt: skip
    assert told["not_started"] == ["evaluate"] and parent.info.status == "FAILED"
    student, origin = stored.below(parent)["student"], stored.below(diamond)["teacher_a"]
    assert student.data.tags["fer.started_from"] == origin.info.run_id, "below the run: its origin ran in another one"


def start(home, *changes: str) -> subprocess.Popen:
    words = [sys.executable, "-m", "fer_lib.cli.main", "run", str(home / "params" / "diamond.yaml"), "--parallel", "2"]
    words += [word for change in changes for word in ("-p", change)]
    # a shell that starts the suite in the background has its children ignore Ctrl+C; a user's terminal has not
    heed = {} if sys.platform == "win32" else {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=home, start_new_session=True, **heed)


def both_train(home, process: subprocess.Popen, before: set) -> list[psutil.Process]:
    """Wait until two teachers have made some steps; all processes below the command."""
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        new = set(home.glob("mlruns/phases/teacher_*/steps.txt")) - before
        if len(new) == 2 and all(int(file.read_text() or 0) > 1 for file in new):
            return psutil.Process(process.pid).children(recursive=True)
        time.sleep(0.05)
    raise AssertionError("the two teachers did not come to train side by side")


LONG = ("teacher.epochs=60", "teacher.checkpoint_minutes=0.1")


@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_an_interrupt_ends_all_kernels_and_runs(diamond, home, stored):
    before = set(home.glob("mlruns/phases/teacher_*/steps.txt"))
    process = start(home, *LONG)
    children = both_train(home, process, before)
    assert len([p for p in children if "ipykernel_launcher" in " ".join(p.cmdline())]) == 2
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole group of the command
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == [], "no process is left behind"
    parent = stored.newest("run")
    nested = stored.below(parent)
    assert {run.info.status for run in [parent, nested["teacher_a"], nested["teacher_b"]]} == {"KILLED"}
    assert not [run for run in stored.runs() if run.info.status == "RUNNING"]
    assert "not started: student, evaluate" in said
