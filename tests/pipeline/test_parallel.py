"""Parallel phases with real kernels: order, failures and interrupts."""

import json
import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from forked_command import ForkedCommand

from fer_lib.pipeline import folders, workers
from fer_lib.pipeline.run import run_file


@pytest.fixture(scope="module")
def home(toy_home):
    return toy_home


@pytest.fixture(scope="module")
def diamond(home, stored, kernel_server):
    """import -> manifest -> two parallel teachers -> student of one, evaluate of all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "visible_gpus", lambda: ["4", "7"])
        patch.setattr(workers, "cores", lambda: 10)
        patch.delenv("OMP_NUM_THREADS", raising=False)
        assert run_file(home / "params" / "diamond.yaml", parallel=2) == 0
    return stored.newest("run")


def moments(name: str) -> dict:
    return json.loads((phase_folder(name) / "moments.json").read_text())


def phase_folder(name: str) -> Path:
    return Path(folders.finished_phases(phase=name)[0]["folder"])


def test_independent_phases_overlap_and_dependents_wait(diamond):
    a, b, student, evaluate = (moments(name) for name in ("teacher_a", "teacher_b", "student", "evaluate"))
    assert max(a["begin"], b["begin"]) < min(a["end"], b["end"])
    assert student["begin"] > a["end"] and evaluate["begin"] > max(a["end"], b["end"], student["end"])
    manifest, teacher = (folders.read_record(phase_folder(name)) for name in ("manifest", "teacher_a"))
    assert manifest["finished"] <= teacher["finished"]


def test_each_kernel_sees_the_device_and_threads_of_its_slot(diamond):
    a, b = moments("teacher_a"), moments("teacher_b")
    assert {a["CUDA_VISIBLE_DEVICES"], b["CUDA_VISIBLE_DEVICES"]} == {"4", "7"}
    assert (a["OMP_NUM_THREADS"], b["OMP_NUM_THREADS"]) == ("5", "3"), "its share of ten cores; the phase's own number"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ or os.environ["CUDA_VISIBLE_DEVICES"] not in ("4", "7")


def test_a_fit_is_a_child_of_the_run_that_made_its_weights(diamond, stored):
    nested = stored.below(diamond)
    assert set(nested) == {"import", "manifest", "teacher_a", "teacher_b", "evaluate"}
    [(name, student)] = stored.below(nested["teacher_a"]).items()
    assert name == "student" and student.data.tags["fer.started_from"] == nested["teacher_a"].info.run_id
    assert student.info.status == "FINISHED"


def test_fer_runs_lists_runs_as_a_tree(diamond, capsys, monkeypatch):
    from fer_lib.cli import main as cli

    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        cli.main(["runs"])
    lines = capsys.readouterr().out.splitlines()
    names = [line.split("│")[1].rstrip() for line in lines if line.startswith("│")]
    assert names[:3] == [" diamond", "   import", "   manifest"] and names[-1] == "   evaluate"
    assert names[names.index("   teacher_a") + 1] == "     student" and len(names) == 7


def test_a_failure_stops_only_dependent_phases(diamond, home, stored, capsys):
    (home / "unlucky").touch()
    changes = ["teacher_b.epochs=13", "student.epochs=3"]
    assert run_file(home / "params" / "diamond.yaml", changes, parallel=2) == 1
    (home / "unlucky").unlink()
    output = capsys.readouterr().out
    assert "phase 'teacher_b' failed: DataError: thirteen" in output and "not started: evaluate\n" in output
    parent = stored.newest("run")
    summary = stored.json(parent, "phases.json")
    assert [(row["phase"], row["status"]) for row in summary["phases"][2:]] == [
        ("teacher_a", "re-used"), ("teacher_b", "failed"), ("student", "ran")]  # fmt: skip
    assert summary["not_started"] == ["evaluate"] and parent.info.status == "FAILED"
    student, origin = stored.below(parent)["student"], stored.below(diamond)["teacher_a"]
    assert student.data.tags["fer.started_from"] == origin.info.run_id, "its origin ran in another command"


def both_train(home, process: ForkedCommand, before: set) -> list[psutil.Process]:
    """Wait until two teachers have made some steps; returns the worker processes of the command and its kernels."""
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        new = set(home.glob("mlruns/phases/teacher_*/steps.txt")) - before
        if len(new) == 2 and all(int(file.read_text() or 0) > 1 for file in new):
            owners = [json.loads((file.parent / ".lock.holder.json").read_text())["pid"] for file in new]
            return psutil.Process(process.pid).children(recursive=True) + [psutil.Process(pid) for pid in owners]
        time.sleep(0.05)
    raise AssertionError("the two teachers did not train in parallel")


LONG = ("-p", "teacher.epochs=60", "-p", "teacher.checkpoint_minutes=0.1")


@pytest.mark.skipif(os.name != "posix", reason="signals are sent")
def test_an_interrupt_ends_all_kernels_and_runs(diamond, home, stored, kernel_server, tmp_path):
    before = set(home.glob("mlruns/phases/teacher_*/steps.txt"))
    words = ["run", str(home / "params" / "diamond.yaml"), "--parallel", "2", *LONG]
    process = ForkedCommand(kernel_server.address, home, tmp_path, *words)
    children = both_train(home, process, before)
    assert len(children) >= 4, "two workers and two kernels"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole group of the command
    assert process.wait() == 130, process.output
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == [], "no process is left"
    parent = stored.newest("run")
    nested = stored.below(parent)
    assert {run.info.status for run in [parent, nested["teacher_a"], nested["teacher_b"]]} == {"KILLED"}
    assert not [run for run in stored.runs() if run.info.status == "RUNNING"]
    assert "not started: student, evaluate" in process.output
