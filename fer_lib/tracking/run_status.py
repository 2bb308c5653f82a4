"""The status of runs that did not finish: interrupted by a person, or left open by a dead process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fer_lib.storage import paths
from fer_lib.storage.atomic import previous
from fer_lib.storage.json_files import now, try_read_json
from fer_lib.storage.locks import is_locked
from fer_lib.tracking import store
from fer_lib.tracking.records import notebook_shell

TAG = "fer.interrupted"


def mark_interrupted(client, run_id: str, folder: Path) -> None:
    """Record in the run how far the phase in ``folder`` had come, as tag ``fer.interrupted`` and in the description.

    Does nothing when the tag exists.  The caller sets the run's status.
    """
    tags = client.get_run(run_id).data.tags
    if TAG in tags:
        return
    text = progress_text(folder)
    client.set_tag(run_id, TAG, text)
    description = tags.get("mlflow.note.content")
    note = f"**Interrupted.** {text[:1].upper()}{text[1:]}."
    client.set_tag(run_id, "mlflow.note.content", f"{description}\n\n{note}" if description else note)


def progress_text(folder: Path) -> str:
    """``interrupted at epoch 3.25 of 8; the same command goes on from step 54 (epoch 2.25)``."""
    progress = try_read_json(folder / "progress.json")
    at = f" at {progress['text'].split('  ')[0]}" if progress else ""  # metrics follow two spaces
    last = folder / "checkpoint_last"
    state = try_read_json((last if last.is_dir() else previous(last)) / "state.json")
    if state is None:
        return f"interrupted{at}; the same command begins this phase again"
    return f"interrupted{at}; the same command goes on from step {state['step']} (epoch {state['epoch']:.2f})"


def on_interrupted_cell(callback: Callable[[], None]) -> Callable[[], None]:
    """In a notebook, call ``callback`` after an interrupted cell; returns a function that unregisters it."""
    if (shell := notebook_shell()) is None:
        return lambda: None

    def check(result) -> None:
        if isinstance(result.error_in_exec, KeyboardInterrupt):
            callback()

    shell.events.register("post_run_cell", check)

    def unregister() -> None:
        with suppress(ValueError):  # the shell has dropped it
            shell.events.unregister("post_run_cell", check)

    return unregister


def died_of_interrupt() -> bool:
    """Whether an uncaught KeyboardInterrupt ends this process; called at its exit."""
    return isinstance(getattr(sys, "last_value", None), KeyboardInterrupt)


def end_if_running(client, run_id: str) -> bool:
    """Set a RUNNING run to KILLED with the tag ``fer.reaped``; returns whether it was running."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # the user deleted it
            return False
        raise
    if run.info.status not in ("RUNNING", "SCHEDULED"):
        return False
    client.set_tag(run_id, "fer.reaped", now())
    client.set_terminated(run_id, "KILLED")
    return True


def reap() -> list[str]:
    """End every RUNNING run whose process is dead, so its lock is free; returns the ids.

    Runs without a ``fer.lock`` tag belong to other programs and are not changed.
    """
    import mlflow

    base, client = store.configure(), mlflow.MlflowClient()
    experiments = [e.experiment_id for e in client.search_experiments()]
    running = client.search_runs(experiments, "attributes.status = 'RUNNING'", max_results=1000) if experiments else []
    locks = {run.info.run_id: base / run.data.tags["fer.lock"] for run in running if "fer.lock" in run.data.tags}
    dead = {run_id: lock for run_id, lock in locks.items() if not is_locked(lock)}
    reaped = [run_id for run_id in dead if end_if_running(client, run_id)]
    for lock in dead.values():
        if lock.parent == paths.mlruns(base) / "locks":  # its name is unique to the dead command
            lock.unlink(missing_ok=True)
    return reaped
