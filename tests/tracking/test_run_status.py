"""Runs that do not finish: interrupts are recorded, and runs of dead processes are ended."""

import json
import os

import pytest
from forked import fork

from fer_lib.errors import FerError
from fer_lib.pipeline import standalone
from fer_lib.storage import locks, paths
from fer_lib.storage.phase_result import PhaseResult
from fer_lib.tracking import run_status, store

pytestmark = pytest.mark.usefixtures("at_home")


def client():
    import mlflow

    return mlflow.MlflowClient()


def write_checkpoint(folder, step=54, epoch=2.25):
    (folder / "checkpoint_last").mkdir()
    (folder / "checkpoint_last" / "state.json").write_text(json.dumps({"step": step, "epoch": epoch}))


def test_an_interrupt_ends_the_run_and_records_its_progress():
    with pytest.raises(KeyboardInterrupt):
        with standalone.phase_run("import", {"seed": 11}) as run:
            run.note(intent="To see.")
            run.follow([{"event": "start", "total_steps": 80, "steps_per_epoch": 10},
                        {"event": "epoch", "epoch": 2, "train": {"loss": 1.0}}])  # fmt: skip
            write_checkpoint(run.output_dir)
            raise KeyboardInterrupt
    found = client().get_run(run.run_id)
    text = "interrupted at epoch 3/8; the same command goes on from step 54 (epoch 2.25)"
    assert found.info.status == "KILLED" and found.data.tags["fer.interrupted"] == text
    assert found.data.tags["mlflow.note.content"] == f"**Intent.** To see.\n\n**Interrupted.** I{text[1:]}."
    assert not locks.is_locked(run.output_dir / ".lock") and not (run.output_dir / "done.json").exists()
    run_status.mark_interrupted(client(), run.run_id, run.output_dir.parent)
    assert client().get_run(run.run_id).data.tags["fer.interrupted"] == text, "the first text is kept"


def test_progress_text_without_and_with_a_checkpoint(tmp_path):
    assert run_status.progress_text(tmp_path) == "interrupted; the same command begins this phase again"
    (tmp_path / "progress.json").write_text('{"text": "1,200 of 3,000 rows imported"}')
    (tmp_path / "checkpoint_last").mkdir()
    (tmp_path / "checkpoint_last" / "state.json").write_text("half of it")
    assert (
        run_status.progress_text(tmp_path)
        == "interrupted at 1,200 of 3,000 rows imported; the same command begins this phase again"
    )
    (tmp_path / "progress.json").write_text('{"text": "epoch 3.25 of 8  loss 0.5", "epoch": 3.25}')
    os.rename(tmp_path / "checkpoint_last", tmp_path / ".checkpoint_last.previous")
    (tmp_path / ".checkpoint_last.previous" / "state.json").write_text('{"step": 57, "epoch": 3.0}')
    assert run_status.progress_text(tmp_path).startswith(
        "interrupted at epoch 3.25 of 8; the same command goes on from step 57"
    )


def test_a_run_that_has_ended_refuses_writes(tmp_path):
    """MLflow would start another run without a name."""
    run = standalone.phase_run("import", {"seed": 12})
    run.interrupt()
    before = len(client().search_runs([store.experiment_id()]))
    for use in (lambda: run.metrics({"a": 1}), lambda: run.tags(a=1), lambda: run.note(intent="x"),
                lambda: run.finish(PhaseResult()), lambda: run.figure(None, "a.png")):  # fmt: skip
        with pytest.raises(FerError, match="run the cell that opens it again"):
            use()
    assert len(client().search_runs([store.experiment_id()])) == before
    assert not (run.output_dir / "done.json").exists()


SCRIPT = """
import os, signal, sys, time
from fer_lib.pipeline.standalone import phase_run
run = phase_run("import", {"seed": 13})
print(run.run_id, flush=True)
if "interrupt" in sys.argv:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(10)
"""
WRITE_ID = "open('id.txt', 'w').write(run.run_id)"


@pytest.mark.skipif(os.name != "posix", reason="signals are sent")
@pytest.mark.parametrize(("how", "status"), [("interrupt", "KILLED"), ("end", "FAILED")])
def test_a_script_that_exits_early_ends_its_run(lab, tmp_path, kernel_server, how, status):
    (tmp_path / "script.py").write_text(SCRIPT.replace("print(run.run_id, flush=True)", WRITE_ID))
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    fork(kernel_server.address, "script", tmp_path, how, environment=kept).wait()
    found = client().get_run((tmp_path / "id.txt").read_text())
    assert found.info.status == status
    assert ("fer.interrupted" in found.data.tags) == (how == "interrupt")


@pytest.mark.skipif(os.name != "posix", reason="signals are sent")
def test_an_interrupted_cell_ends_the_run(lab):
    """The stop button of a notebook ends the run, and the kernel stays alive."""
    from jupyter_client.manager import start_new_kernel

    kept = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    manager, kernel = start_new_kernel(kernel_name="python3", env=kept)
    try:
        output = []

        def record(message):
            output.append(message["content"]["text"] if message["content"].get("name") == "stdout" else "")

        open_run = SCRIPT.split("if sys")[0].replace("seed=13", "seed=14")
        assert kernel.execute_interactive(open_run, output_hook=record, timeout=60)["content"]["status"] == "ok"
        run_id = "".join(output).split()[0]
        kernel.execute("print('in', flush=True); time.sleep(60)")
        while kernel.get_iopub_msg(timeout=30)["content"].get("text") != "in\n":
            pass
        manager.interrupt_kernel()
        assert kernel.get_shell_msg(timeout=30)["content"]["ename"] == "KeyboardInterrupt"
        kernel.execute_interactive("1", timeout=30)
        found = client().get_run(run_id)
        assert found.info.status == "KILLED" and found.data.tags["fer.interrupted"].startswith(
            "interrupted at reading inputs; "
        )
        again = kernel.execute_interactive(open_run, output_hook=record, timeout=60)
        assert again["content"]["status"] == "ok", "the same cells resume"
    finally:
        kernel.stop_channels()
        manager.shutdown_kernel(now=True)


def test_reap_ends_only_runs_of_dead_processes():
    alive = standalone.phase_run("import", {"seed": 6})
    experiment = store.experiment_id()
    run_status.reap()
    dead = client().create_run(experiment, tags={"fer.lock": "mlruns/locks/nobody.lock"}).info.run_id
    (paths.mlruns() / "locks").mkdir(exist_ok=True)
    (paths.mlruns() / "locks" / "nobody.lock").touch()
    foreign = client().create_run(experiment).info.run_id
    assert run_status.reap() == [dead]
    assert client().get_run(dead).info.status == "KILLED" and "fer.reaped" in client().get_run(dead).data.tags
    assert not (paths.mlruns() / "locks" / "nobody.lock").exists()
    assert client().get_run(foreign).info.status == "RUNNING"
    assert client().get_run(alive.run_id).info.status == "RUNNING" and alive.output_dir.joinpath(".lock").exists()
    assert run_status.reap() == []


def test_the_next_phase_ends_runs_of_dead_processes():
    dead = client().create_run(store.experiment_id(), tags={"fer.lock": "mlruns/locks/dead.lock"}).info.run_id
    standalone.phase_run("import", {"seed": 15}).close("FAILED")
    assert client().get_run(dead).info.status == "KILLED"
