"""How runs end that did not finish: interrupted by a person, or dead with their process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fer_lib.storage import paths
from fer_lib.storage.atomic import previous
from fer_lib.storage.json_files import now
from fer_lib.storage.locks import lock_is_held
from fer_lib.tracking import store

TAG = "fer.interrupted"


def mark_interrupted(client, run_id: str, folder: Path) -> None:
    """Say in the run (tag ``fer.interrupted`` and its description) how far the phase in ``folder`` had come.

    A run that says so already is left as it is.  The status is the caller's to set.
    """
    tags = client.get_run(run_id).data.tags
    if TAG in tags:
        return
    text = progress_text(folder)
    client.set_tag(run_id, TAG, text)
    described = tags.get("mlflow.note.content")
    note = f"**Interrupted.** {text[:1].upper()}{text[1:]}."
    client.set_tag(run_id, "mlflow.note.content", f"{described}\n\n{note}" if described else note)


def progress_text(folder: Path) -> str:
    """``interrupted at epoch 3.25 of 8; the same command goes on from step 54 (epoch 2.25)``."""
    reached = _json(folder / "progress.json") or {}
    at = f" at {reached['text'].split('  ')[0]}" if "text" in reached else ""  # two spaces: figures follow
    last = folder / "checkpoint_last"
    state = _json((last if last.is_dir() else previous(last)) / "state.json")
    if state is None:
        return f"interrupted{at}; the same command begins this phase again"
    return f"interrupted{at}; the same command goes on from step {state['step']} (epoch {state['epoch']:.2f})"


def _json(file: Path) -> dict[str, Any] | None:
    """A JSON object, None where there is none that can be read: what is said of an interrupted run needs no more."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def on_interrupted_cell(act: Callable[[], None]) -> Callable[[], None]:
    """In a notebook, call ``act`` when a cell was interrupted; returns what stops the watching."""
    if "IPython" not in sys.modules:
        return lambda: None
    from IPython import get_ipython

    if (shell := get_ipython()) is None:
        return lambda: None

    def look(result) -> None:
        if isinstance(result.error_in_exec, KeyboardInterrupt):
            act()

    shell.events.register("post_run_cell", look)

    def stop() -> None:
        if look in shell.events.callbacks["post_run_cell"]:
            shell.events.unregister("post_run_cell", look)

    return stop


def died_of_interrupt() -> bool:
    """At the exit of a process: whether an interrupt that nobody caught is what ends it."""
    return isinstance(getattr(sys, "last_value", None), KeyboardInterrupt)


def end_if_running(client, run_id: str) -> bool:
    """Set a run that is still RUNNING to KILLED, with the tag ``fer.reaped``; whether it was."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # deleted by hand: nothing left to end
            return False
        raise
    if run.info.status not in ("RUNNING", "SCHEDULED"):
        return False
    client.set_tag(run_id, "fer.reaped", now())
    client.set_terminated(run_id, "KILLED")
    return True


def reap() -> list[str]:
    """End every RUNNING run of this project whose process is dead (its lock is free); their ids.

    Runs that carry no ``fer.lock`` tag were started by something else and are left alone.
    """
    import mlflow

    base, client = store.configure(), mlflow.MlflowClient()
    experiments = [e.experiment_id for e in client.search_experiments()]
    running = client.search_runs(experiments, "attributes.status = 'RUNNING'", max_results=1000) if experiments else []
    locks = {run.info.run_id: base / run.data.tags["fer.lock"] for run in running if "fer.lock" in run.data.tags}
    dead = {run_id: lock for run_id, lock in locks.items() if not lock_is_held(lock)}
    ended = [run_id for run_id in dead if end_if_running(client, run_id)]
    for lock in dead.values():
        if lock.parent == paths.mlruns(base) / "locks":  # of a command that is gone: no other ever takes this name
            lock.unlink(missing_ok=True)
    return ended
