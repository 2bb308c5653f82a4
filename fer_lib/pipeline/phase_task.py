"""One phase of an execution: its finished result, or its MLflow run from start to end."""

from __future__ import annotations

import ast
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from fer_lib.params import PhaseParams
from fer_lib.pipeline import folders, reuse
from fer_lib.pipeline.execution import FINISHED, Execution
from fer_lib.pipeline.papermill import NotebookFailed, write_html
from fer_lib.pipeline.runfile import Phase
from fer_lib.storage.json_files import read_json
from fer_lib.storage.locks import RunLock
from fer_lib.tracking import run_status
from fer_lib.tracking.records import write_plan


def cell_names(notebook: Path) -> list[str]:
    """The names that the parameters cell of a notebook sets, in its order; empty without such a cell."""
    names = []
    for cell in read_json(notebook)["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            for statement in ast.parse("".join(cell["source"])).body:
                targets = getattr(statement, "targets", [getattr(statement, "target", None)])
                names += [target.id for target in targets if isinstance(target, ast.Name)]
    return names


def injected_values(params: PhaseParams, cell: Sequence[str]) -> dict[str, Any]:
    """The values for papermill: the parameters of the cell, and the others where they are not the defaults.

    So the executed notebook shows what the phase did and no list of defaults, whatever its cell had before.  Of a
    nested parameter only what is not a default is passed.
    """
    values = params.model_dump(mode="json") | {"advanced": {}}
    values |= {name: {} for name, value in params if isinstance(value, BaseModel)}
    changed = params.model_dump(mode="json", exclude_defaults=True)
    return {name: values[name] for name in cell if name in values} | changed


class Task:
    """One phase of an execution and its state; its inputs are finished.

    ``status``: blank before it starts, then running, ran, re-used, failed or stopped.
    """

    def __init__(self, execution: Execution, phase: Phase):
        """Raises FerError when an input is missing or another process runs this phase."""
        self.execution, self.phase, self.shared, self.label = execution, phase, execution.shared, execution.label
        self.inputs = execution.inputs(phase)
        self.key = execution.key(phase, self.inputs)
        self.identity = (phase.name, self.key)
        self.status, self.run_id, self.seconds = "", "", 0.0
        self.headline: dict[str, Any] = {}

    def find_result(self) -> bool:
        """Whether nothing has to run: the phase is finished, or it failed in another execution."""
        first = self.shared.results.get(self.identity)
        if first is None:
            self.folder = reuse.folder_for(self.phase.name, self.key, self.shared.fresh)
            record = folders.read_record(self.folder)
            if record is None:
                return False
            self.status, self.run_id, self.headline = "re-used", record["run_id"], folders.read_headline(self.folder)
        elif first.status == "running":
            return False
        else:
            self.folder, self.run_id, self.headline = first.folder, first.run_id, first.headline
            self.status = "re-used" if first.status in FINISHED else first.status
        self._publish()
        return True

    @property
    def is_waiting(self) -> bool:
        """Whether another execution of this command runs the same phase."""
        return self.identity in self.shared.results

    def _publish(self) -> None:
        self.shared.results.setdefault(self.identity, self)
        self.execution.results[self.phase.name] = self
        self.execution.folders[self.phase.name] = self.folder

    def start(self, environment: dict[str, str]) -> dict[str, Any]:
        """Lock the folder and start the MLflow run; returns the arguments of :func:`papermill.execute`.

        Raises:
            FerError: another process has started the phase meanwhile.
        """
        self.start_time, base = time.time(), self.shared.base
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = RunLock(folders.command_lock(self.folder), f"phase {self.phase.name!r} in {self.folder}")
        try:
            self.execution.start_run()
            before = self.folder / "phase.json"
            plan = {"phase": self.phase.name, "kind": self.phase.kind, "key": self.key}
            plan |= {"params": folders.own_params(self.phase.params), "inputs": self.inputs}
            plan["run_id"] = read_json(before).get("run_id") if before.is_file() else None
            write_plan(plan | {"output_dir": str(self.folder)}, base)
            self.run_id = self._start_run()
            self.lock.describe(run_id=self.run_id)
        except BaseException:
            self.lock.release()
            raise
        self.status = "running"
        self._publish()
        self.output = self.folder / f"{self.phase.notebook}.ipynb"
        environment = environment | {"MLFLOW_RUN_ID": self.run_id, "FER_HOME": str(base)}
        notebook = folders.notebook_path(self.phase.kind)
        params = self.phase.params.model_copy(update=self.inputs | {"output_dir": str(self.folder)})
        values = injected_values(params, cell_names(notebook))
        return {"notebook": notebook, "output": self.output, "parameters": values, "cwd": base,
                "environment": environment}  # fmt: skip

    def _start_run(self) -> str:
        """Start the MLflow run: a child of the run that made its weights if that just ran, else of the execution."""
        tags = {"mlflow.parentRunId": self.execution.run_id, "fer.lock": self.shared.lock, "fer.kind": self.phase.kind}
        for source in [s for name in ("init_from", "base") for s in self.phase.inputs.get(name, [])]:
            if isinstance(source, Phase):
                earlier = self.execution.results.get(source.name)
                record = folders.read_record(self.execution.folders[source.name])
                tags["fer.started_from"] = record["run_id"]
                if earlier is not None and earlier.status == "ran":
                    tags["mlflow.parentRunId"] = earlier.run_id
        run = self.shared.client.create_run(self.execution.experiment, run_name=self.phase.name, tags=tags)
        return run.info.run_id

    def end(self, error: BaseException | None) -> None:
        """End the MLflow run and attach the executed notebook and its HTML page, also after a failure.

        ``error``: the exception of the notebook, if any.  KeyboardInterrupt stops the phase and NotebookFailed fails
        it; any other exception is raised again.
        """
        status = "FAILED"
        if error is None and not (self.folder / "done.json").is_file():
            error = NotebookFailed("FerError", "the notebook ended without run.finish()", self.output)
        try:
            if error is None:
                status, self.status, self.headline = "FINISHED", "ran", folders.read_headline(self.folder)
            elif isinstance(error, KeyboardInterrupt):
                status, self.status = "KILLED", "stopped"
                run_status.mark_interrupted(self.shared.client, self.run_id, self.folder)
            else:
                self.status = "failed"
                if not isinstance(error, NotebookFailed):
                    raise error
                where = f" ({self.label})" if self.label else ""
                self.shared.console.print(f"phase {self.phase.name!r}{where} failed: {error}", style="red")
        finally:
            self.seconds = time.time() - self.start_time
            if status != "FINISHED":
                (self.folder / "done.json").unlink(missing_ok=True)
            self.lock.release()
            self._attach()
            self.shared.client.set_terminated(self.run_id, status)

    def _attach(self) -> None:
        """Attach the notebook, and its page later: the next phase need not wait for it."""
        if self.output.is_file() and self.output.stat().st_size:
            self._log(self.output)
            self.shared.pending.append(self.shared.background.submit(lambda: self._log(write_html(self.output))))

    def _log(self, path: Path) -> None:
        self.shared.client.log_artifact(self.run_id, str(path), "notebook")
