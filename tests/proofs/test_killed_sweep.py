"""``kill -9`` at ten moments of ``fer sweep --parallel 2``: the same command goes on, and ends as an unbroken sweep."""

import contextlib
import csv
import itertools
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass

import psutil
import pytest
from road import command, environment, kernels, make_home
from victim import SMALL_RUN, phase_results

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kill -9")

RUN_FILE = SMALL_RUN.format(teacher=6, student=4)  # epochs
WORDS = ("fer_lib.cli.main", "sweep", "params/swept.yaml", "-p", "teacher.seed=4,5", "--parallel", "2")
MOMENTS = 10
VICTIMS = ("command", "all its groups", "kernel")  # killed in turn; at the last moment the command


@dataclass(frozen=True)
class Moment:
    """``seconds`` after the sweep came to ``progress``, or after a start that found it there; before ``next``."""

    progress: int
    seconds: float
    next: int


def start(home) -> subprocess.Popen:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    words = [sys.executable, "-m", *WORDS]
    return subprocess.Popen(words, cwd=home, env=environment(home), start_new_session=True, **quiet)


def progress(home) -> int:
    """Finished phases and steps of the newest checkpoints, a number that grows."""
    steps = 0
    for state in home.glob("mlruns/phases/*/checkpoint_last/state.json"):
        with contextlib.suppress(FileNotFoundError):  # just being replaced
            steps += json.loads(state.read_text())["step"]
    return steps + len(list(home.glob("mlruns/phases/*/done.json")))


def unbroken_moments(home) -> list[Moment]:
    """Run the sweep to its end; ten moments at equal distances of its length."""
    began, seen = time.monotonic(), {0: 0.0}  # progress -> seconds since the start
    process = start(home)
    while process.poll() is None:
        if (reached := progress(home)) > max(seen):
            seen[reached] = time.monotonic() - began
        time.sleep(0.02)
    assert process.returncode == 0
    length = time.monotonic() - began
    print(f"unbroken: {length:.1f} s")
    moments = []
    for at in (length * number / (MOMENTS + 1) for number in range(1, MOMENTS + 1)):
        reached, since = max((p, s) for p, s in seen.items() if s <= at)
        moments.append(Moment(reached, at - since, min((p for p in seen if p > reached), default=reached + 1)))
    return moments


def await_moment(home, process: subprocess.Popen | None, moment: Moment, victim: str) -> subprocess.Popen:
    """The running sweep at this moment; it is started first where none runs: at the beginning and after its end."""
    since, deadline = None, time.monotonic() + 900
    while True:
        assert time.monotonic() < deadline, moment
        reached = progress(home)
        if process is None or process.poll() is not None:
            process, since = start(home), None
        elif since is None and reached >= moment.progress:
            since = time.monotonic()
        late = since is not None and (time.monotonic() >= since + moment.seconds or reached >= moment.next)
        if late and (victim != "kernel" or running_kernels(process)):
            return process
        time.sleep(0.02)


def running_kernels(process: subprocess.Popen) -> list[psutil.Process]:
    """The kernels of a sweep; none when it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return kernels(process.pid)
    return []


def kill(process: subprocess.Popen, victim: str, rng: random.Random) -> None:
    """Kill one kernel, and the sweep goes on; or the sweep, and nothing below it outlives it."""
    if victim == "kernel":
        rng.choice(running_kernels(process)).kill()
        return
    below = psutil.Process(process.pid).children(recursive=True)
    if victim == "all its groups":
        for each in (process, *below):
            with contextlib.suppress(ProcessLookupError):  # a kernel ends with its server
                os.killpg(os.getpgid(each.pid), signal.SIGKILL)
    process.kill()
    process.wait()
    assert psutil.wait_procs(below, timeout=60)[1] == [], "a kernel outlived its command"


def table(home) -> list[dict]:
    """The newest comparison, without the ids of MLflow runs."""
    newest = max(home.glob("mlruns/artifacts/*/artifacts/sweep.csv"), key=lambda path: path.stat().st_mtime_ns)
    return [{k: v for k, v in row.items() if k != "run_id"} for row in csv.DictReader(newest.read_text().splitlines())]


def test_a_sweep_killed_at_ten_moments_ends_as_the_unbroken_one(tmp_path):
    unbroken, home = (make_home(tmp_path / name) for name in ("unbroken", "killed"))
    for folder in (unbroken, home):
        (folder / "params" / "swept.yaml").write_text(RUN_FILE)
    rng, process, died = random.Random(7), None, []
    for moment, victim in zip(unbroken_moments(unbroken), itertools.cycle(VICTIMS), strict=False):
        process = await_moment(home, process, moment, victim)
        died.append(victim)
        kill(process, victim, rng)
        print(f"{victim}: {moment}, at {progress(home)}")
    assert len(died) == MOMENTS and died[-1] == "command", "nothing runs any more"

    ended = command(*WORDS, home=home, cwd=home)
    assert ended.code == 0, ended.out + ended.err
    assert phase_results(home) == phase_results(unbroken), "weights, ONNX files and soft labels of every phase"
    assert len(phase_results(home)) == 8 and table(home) == table(unbroken) and len(table(home)) == 2
    reports = [json.loads(file.read_text()) for file in home.glob("mlruns/phases/*/alignmentreport.json")]
    assert sum(report.get("init", {}).get("resume", False) for report in reports) >= 2, "fits resume from checkpoints"
    left = [p for p in home.glob("mlruns/phases/*/*") if p.name.endswith((".partial", ".previous", ".holder.json"))]
    assert left == []
    with sqlite3.connect(home / "mlruns" / "mlflow.db") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        statuses = dict(db.execute("SELECT status, count(*) FROM runs GROUP BY status"))
    assert set(statuses) == {"FINISHED", "KILLED", "FAILED"}, "no run is left RUNNING"
