"""``kill -9`` at any moment of a training, the same command again, and every phase ends as in an unbroken run."""

import json
import random
import shutil
import subprocess
import sys
import time

import psutil
import pytest
from road import command, environment, make_home
from victim import SMALL_RUN, phase_results

RUN_FILE = SMALL_RUN.format(teacher=8, student=5)  # epochs
TEACHER_ONLY = RUN_FILE.split("  softlabels")[0]
KILLS = (("teacher", 0.02, 0.45), ("teacher", 0.5, 0.9), ("student", 0.1, 0.9))  # between which shares of its steps
WORDS = ("fer_lib.cli.main", "run", "params/killed.yaml")


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A home whose import and manifest are finished, to be copied for each way of ending."""
    home = make_home(tmp_path_factory.mktemp("started") / "home")
    (home / "params" / "killed.yaml").write_text(RUN_FILE)
    for phase in ("import", "manifest"):
        ended = command(*WORDS, "--only", phase, home=home, cwd=home)
        assert ended.code == 0, ended.out + ended.err
    return home


def report(home, phase: str = "teacher") -> dict:
    """``alignmentreport.json`` of a fit."""
    [file] = home.glob(f"mlruns/phases/{phase}-*/alignmentreport.json")
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def unbroken(started, tmp_path_factory):
    home = tmp_path_factory.mktemp("unbroken") / "home"
    shutil.copytree(started, home)
    ended = command(*WORDS, home=home, cwd=home)
    assert ended.code == 0, ended.out + ended.err
    return home


def last_step(home, phase: str) -> int:
    """The step of the newest checkpoint, 0 without one."""
    for state in home.glob(f"mlruns/phases/{phase}-*/checkpoint_last/state.json"):
        try:
            return json.loads(state.read_text())["step"]
        except FileNotFoundError:  # just being replaced
            pass
    return 0


def kill_during_training(home, step: float, wait: float, everything: bool, phase: str = "teacher") -> int:
    """Start the command, kill -9 it ``wait`` seconds after a checkpoint of ``step`` or later; that checkpoint's step.

    ``everything``: its kernel too, as when the power goes; else the command alone, and its kernel must follow.
    """
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-m", *WORDS], cwd=home, env=environment(home), **quiet)
    deadline = time.monotonic() + 900
    while (reached := last_step(home, phase)) < step and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    time.sleep(wait)
    assert process.poll() is None, f"it was over before the kill, at step {reached}"
    kernels = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for kernel in kernels if everything else []:
        kernel.kill()
    process.wait(timeout=60)
    assert not list(home.glob(f"mlruns/phases/{phase}-*/done.json"))
    return reached


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_runs_resume_to_the_weights_of_the_unbroken_one(started, unbroken, tmp_path, seed):
    rng = random.Random(seed)
    home = tmp_path / "home"
    shutil.copytree(started, home)
    for phase, low, high in KILLS:
        total = report(unbroken, phase)["optim"]["total_steps"]
        step, everything = rng.uniform(low, high) * total, rng.random() < 0.5
        reached = kill_during_training(home, step, rng.uniform(0.0, 0.3), everything, phase)
        what = "command and kernel" if everything else "command"
        print(f"seed {seed}: {what} killed after the {phase}'s checkpoint of step {reached} of {total}")
    ended = command(*WORDS, home=home, cwd=home)
    assert ended.code == 0, ended.out + ended.err
    for phase in ("teacher", "student"):
        assert report(home, phase)["init"]["resume"] and not report(unbroken, phase)["init"]["resume"]
    assert phase_results(home) == phase_results(unbroken), "weights of every phase above all"
    left = [path for path in home.glob("mlruns/phases/*/*") if path.name.endswith((".partial", ".tmp", ".previous"))]
    assert left == [], "nothing half-written is left behind"


def test_killed_runs_are_told_from_living_ones(started, tmp_path):
    """After a kill, ``fer runs`` shows the dead runs; ``fer runs reap`` ends them in MLflow."""
    home = tmp_path / "home"
    shutil.copytree(started, home)
    kill_during_training(home, 1, 0.1, True)
    shown = command("fer_lib.cli.main", "runs", home=home, cwd=home)
    assert shown.code == 0 and shown.out.count("dead") == 2, shown.out
    reaped = command("fer_lib.cli.main", "runs", "reap", home=home, cwd=home)
    assert reaped.code == 0 and "ended 2 dead runs" in reaped.out, reaped.out


def test_a_fit_over_two_processes_leaves_nobody_behind_and_resumes_too(started, tmp_path):
    """The members of a killed team end by themselves, and the next one ends with the weights of an unbroken team."""
    results = []
    for how in ("unbroken", "killed"):
        home = tmp_path / how
        shutil.copytree(started, home)
        text = TEACHER_ONLY.replace("threads: 1}", "threads: 1, processes: 2}")
        (home / "params" / "killed.yaml").write_text(text)
        if how == "killed":
            before = {p.pid for p in psutil.process_iter()}
            kill_during_training(home, 20, 0.1, True)
            late = time.monotonic() + 20
            while (left := members(home, before)) and time.monotonic() < late:
                time.sleep(0.1)
            assert not left, "processes of the team outlived it"
        ended = command(*WORDS, home=home, cwd=home)
        assert ended.code == 0, ended.out + ended.err
        assert report(home)["init"]["resume"] is (how == "killed")
        assert report(home)["device"]["processes"] == 2
        results.append(phase_results(home))
    assert results[0] == results[1]


def members(home, before) -> list[psutil.Process]:
    """New processes that have the home's folder as their own."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid not in before and process.cwd() == str(home) and process.status() != "zombie":
                found.append(process)
        except psutil.Error:  # it has just ended, or is another user's
            pass
    return found
