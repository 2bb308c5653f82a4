"""Two commands on one run, and an interrupted command, with real kernels and a real store."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from forked_command import ForkedCommand
from toy import make_home

from fer_lib.errors import FerError
from fer_lib.pipeline import standalone
from fer_lib.pipeline.reuse import folder_for
from fer_lib.pipeline.run import run_file
from fer_lib.storage import locks
from fer_lib.tracking import run_status, store

CHANGES = ["teacher_a.epochs=400", "teacher_a.checkpoint_minutes=0.1"]  # seconds per toy step
WORDS = ("run", "params/quickstart.yaml", *(word for change in CHANGES for word in ("-p", change)))
STEPS = "mlruns/phases/teacher_a-*/steps.txt"


@pytest.fixture(scope="module")
def home(tmp_path_factory, add_store):
    """One home for all tests: the phases before the teacher run once."""
    home = make_home(tmp_path_factory.mktemp("home"))
    add_store(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FER_HOME", str(home))
        patch.setenv("MLFLOW_TRACKING_URI", store.tracking_uri(home))  # put back afterwards
        yield home


def teacher_folder(home, process, began: float):
    """The folder of the teacher phase that this command runs, once it has made a step."""
    while not (found := [f for f in home.glob(STEPS) if f.stat().st_mtime > began]):
        assert process.poll() is None and time.time() - began < 180
        time.sleep(0.05)
    return found[0].parent


@pytest.fixture
def running(home):
    """(the command, started by itself, the folder of its running teacher phase)."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    command = [sys.executable, "-m", "fer_lib.cli.main", *WORDS]
    began = time.time()
    process = subprocess.Popen(command, cwd=home, env=kept, stdout=subprocess.DEVNULL)
    yield process, teacher_folder(home, process, began)
    if process.poll() is None:
        process.kill()
        process.wait()


@pytest.fixture
def forked(home, kernel_server, tmp_path):
    """The same for a command that is forked."""
    began = time.time()
    process = ForkedCommand(kernel_server.address, home, tmp_path, *WORDS)
    yield process, teacher_folder(home, process, began)
    process.kill()


def states():
    """Run name -> the newest run of that name."""
    import mlflow

    store.configure()
    found = mlflow.MlflowClient().search_runs([store.experiment_id()], order_by=["attributes.start_time ASC"])
    return {run.info.run_name: run for run in found}


def test_a_second_command_is_refused_with_the_process_that_runs_the_phase(home, running):
    process, folder = running
    kernel = json.loads((folder / ".lock.holder.json").read_text())
    assert (
        process.pid in {p.pid for p in psutil.Process(kernel["pid"]).parents()}
        and f"(pid {process.pid})" in kernel["command"]
    )
    assert kernel["run_id"] == states()["teacher_a"].info.run_id
    name, _, key = folder.name.rpartition("-")
    began = time.monotonic()
    with pytest.raises(FerError, match=f"phase 'teacher_a' in {folder} is being run by .*pid {kernel['pid']}; host "):
        folder_for(name, key)
    assert time.monotonic() - began < 0.5
    began = time.monotonic()
    with pytest.raises(FerError, match=f"run_id {kernel['run_id']}; command .*fer_lib.cli.main run params/quick"):
        standalone.phase_run("teacher", {"output_dir": str(folder), "manifest": str(home / "params")})
    assert time.monotonic() - began < 5, "includes opening the store"
    with pytest.raises(FerError, match="give the same command again; nothing has to be unlocked"):
        run_file(home / "params" / "quickstart.yaml", CHANGES)
    assert process.poll() is None and states()["teacher_a"].info.status == "RUNNING"
    assert run_status.reap() == [], "living runs are not ended"
    os.kill(kernel["pid"], signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
    process.kill()
    process.wait()
    deadline = time.time() + 10
    while locks.is_locked(folder / ".lock") and time.time() < deadline:
        time.sleep(0.05)
    assert folder_for(name, key) == folder and (folder / ".lock.holder.json").is_file()
    assert states()["teacher_a"].info.status == "RUNNING", "no process was left to end the run"
    assert run_file(home / "params" / "quickstart.yaml", only="manifest") == 0
    import mlflow

    every = mlflow.MlflowClient().search_runs([store.experiment_id()])
    assert {run.info.status for run in every} == {"FINISHED", "FAILED", "KILLED"}, "the next command ended them"


@pytest.mark.skipif(os.name != "posix", reason="signals are sent")
@pytest.mark.parametrize(("to", "number"), [("command", "TERM"), ("kernel", "INT")])
def test_an_interrupt_is_recorded_in_the_run(home, forked, to, number):
    """An interrupted command: ``test_pipeline.test_interrupted_runs_are_killed_and_resume``."""
    process, folder = forked
    (folder / "checkpoint_last").mkdir(exist_ok=True)
    (folder / "checkpoint_last" / "state.json").write_text('{"step": 12, "epoch": 1.5}')
    owner = json.loads((folder / ".lock.holder.json").read_text())
    os.kill(process.pid if to == "command" else owner["pid"], getattr(signal, f"SIG{number}"))
    assert process.wait(timeout=60) == 130
    found = states()
    assert found["teacher_a"].info.status == "KILLED" and found["toy"].info.status == "KILLED"
    tags = found["teacher_a"].data.tags
    assert (
        tags["fer.interrupted"] == "interrupted at reading inputs; the same command goes on from step 12 (epoch 1.50)"
    )
    assert "**Interrupted.** " in tags["mlflow.note.content"]
    assert not (folder / ".lock.holder.json").exists() and not (folder / "done.json").exists()
