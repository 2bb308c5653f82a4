"""One phase of an execution: whether it is finished already, and its MLflow run from the beginning to the end."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from fer_lib.pipeline import folders
from fer_lib.pipeline.execution import GOOD, Execution, Outcome
from fer_lib.pipeline.papermill import NotebookFailed, view_of
from fer_lib.pipeline.runfile import Phase
from fer_lib.storage.json_files import read_json
from fer_lib.tracking import run_status, store
from fer_lib.tracking.records import write_plan


class Task:
    """A phase whose inputs are finished."""

    def __init__(self, execution: Execution, phase: Phase):
        """Raises FerError when an input was never finished or another process runs this very phase."""
        self.execution, self.phase, self.shared = execution, phase, execution.shared
        self.inputs = execution.inputs(phase)
        self.key = execution.key(phase, self.inputs)
        self.identity = (phase.name, self.key)
        self.outcome: Outcome | None = None

    def settle(self) -> Outcome | None:
        """Its outcome when nothing has to run: it is finished, or has failed for another execution of this command."""
        twin = self.shared.begun.get(self.identity)
        if twin is None:
            self.folder = folders.folder_for(self.phase.name, self.key, self.shared.fresh)
            record = folders.done(self.folder)
            if record is None:
                return None
            headline = folders.headline(self.folder)
            outcome = Outcome(self.phase, self.folder, "re-used", 0.0, record["run_id"], headline)
            self.shared.begun[self.identity] = outcome
        elif twin.status == "running":
            return None
        else:
            status = "re-used" if twin.status in GOOD else twin.status
            outcome = Outcome(self.phase, twin.folder, status, 0.0, twin.run_id, twin.headline)
        return self._known(outcome)

    @property
    def waits(self) -> bool:
        """Whether another execution of this command is running the very same phase."""
        return self.identity in self.shared.begun

    def _known(self, outcome: Outcome) -> Outcome:
        outcome.label = self.execution.label
        self.outcome = outcome
        self.execution.outcomes[self.phase.name] = outcome
        self.execution.folders[self.phase.name] = outcome.folder
        return outcome

    def begin(self, environment: dict[str, str]) -> dict[str, Any]:
        """Take its folder and open its MLflow run; what :func:`fer_lib.pipeline.workers.perform` is to be called with.

        Raises:
            FerError: another process has begun the phase meanwhile.
        """
        self.began, base = time.time(), self.shared.base
        self.hold = folders.claimed(self.folder, self.phase.name)
        try:
            self.execution.open()
            before = self.folder / "phase.json"
            plan = {"phase": self.phase.name, "kind": self.phase.kind, "key": self.key}
            plan |= {"params": folders.own_params(self.phase.params), "inputs": self.inputs}
            plan["run_id"] = read_json(before).get("run_id") if before.is_file() else None
            write_plan(plan | {"output_dir": str(self.folder)}, base)
            run_id = self._open_run()
            self.hold.tell(run_id=run_id)
        except BaseException:
            self.hold.release()
            raise
        self.shared.begun[self.identity] = self._known(Outcome(self.phase, self.folder, run_id=run_id))
        self.output = self.folder / f"{self.phase.notebook}.ipynb"
        values = self.phase.params.model_dump(mode="json") | self.inputs | {"output_dir": str(self.folder)}
        environment = environment | {"MLFLOW_RUN_ID": run_id, "FER_HOME": str(base)}
        notebook = folders.notebook_path(self.phase.kind)
        return {"notebook": notebook, "output": self.output, "parameters": values, "cwd": base,
                "environment": environment}  # fmt: skip

    def _open_run(self) -> str:
        """Its MLflow run: below the run that it starts from when that ran just now, else below the execution's."""
        tags = {"mlflow.parentRunId": self.execution.run_id, "fer.lock": self.shared.lock, "fer.kind": self.phase.kind}
        for source in [s for name in ("init_from", "base") for s in self.phase.links.get(name, [])]:
            if isinstance(source, Phase):
                earlier = self.execution.outcomes.get(source.name)
                record = folders.done(self.execution.folders[source.name])
                tags["fer.started_from"] = record["run_id"]
                if earlier is not None and earlier.status == "ran":
                    tags["mlflow.parentRunId"] = earlier.run_id
        client, experiment = self.shared.client, self.execution.experiment
        made = store.retry_while_locked(lambda: client.create_run(experiment, run_name=self.phase.name, tags=tags))
        return made.info.run_id

    def end(self, error: BaseException | None) -> None:
        """Close its MLflow run, with the executed notebook and its view, also those of a phase that failed.

        ``error``: what executing it ended with; a KeyboardInterrupt means that it was stopped, anything else that it
        failed, and what is no NotebookFailed is raised again.
        """
        outcome, status = self.outcome, "FAILED"
        if error is None and not (self.folder / "done.json").is_file():
            error = NotebookFailed("FerError", "the notebook ended without run.finish()", self.output)
        try:
            if error is None:
                status, outcome.status, outcome.headline = "FINISHED", "ran", folders.headline(self.folder)
            elif isinstance(error, KeyboardInterrupt):
                status, outcome.status = "KILLED", "stopped"
                run_status.mark_interrupted(self.shared.client, outcome.run_id, self.folder)
            else:
                outcome.status = "failed"
                if not isinstance(error, NotebookFailed):
                    raise error
                where = f" ({outcome.label})" if outcome.label else ""
                said = f"phase {self.phase.name!r}{where} failed: {error}"
                self.shared.console.print(said, style="red", markup=False, highlight=False)
        finally:
            outcome.seconds = time.time() - self.began
            if status != "FINISHED":
                (self.folder / "done.json").unlink(missing_ok=True)
            self.hold.release()
            self._attach()
            store.retry_while_locked(lambda: self.shared.client.set_terminated(outcome.run_id, status))

    def _attach(self) -> None:
        for path in (self.output, view_of(self.output)):
            if path.is_file() and path.stat().st_size:
                log = partial(self.shared.client.log_artifact, self.outcome.run_id, str(path), "notebook")
                store.retry_while_locked(log)
