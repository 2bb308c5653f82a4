"""Execution of a plan: the inputs and the result of each phase, and the parent MLflow run.

Which finished folders are re-used instead of run again is decided in ``folders.py``.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_lib.errors import FerError
from fer_lib.pipeline import cache_key, folders, reuse
from fer_lib.pipeline.progress import show_progress
from fer_lib.pipeline.runfile import Phase, RunPlan, input_fields, input_phases
from fer_lib.storage import paths
from fer_lib.storage.paths import below, external, is_uri
from fer_lib.storage.progress import step
from fer_lib.tracking import run_status, store
from fer_lib.tracking.records import git_state, numbers

if TYPE_CHECKING:
    from fer_lib.pipeline.phase_task import Task

FINISHED = ("ran", "re-used")  # statuses of a phase that has outputs


@dataclass
class Session:
    """State that all executions of one command share.

    The command holds ``lock`` (relative to the home) while it lives.  ``results`` maps (phase, cache key) to the first
    task that reached it, so that no phase runs twice.  ``background`` is one thread for work that no phase needs,
    ``pending`` what it has to do.
    """

    base: Path
    client: Any
    console: Any
    lock: str
    fresh: bool
    background: ThreadPoolExecutor
    pending: list[Future] = field(default_factory=list)
    results: dict[tuple[str, str], Task] = field(default_factory=dict)

    def start_run(self, plan: RunPlan, name: str, tags: dict[str, str]) -> Any:
        """Start an MLflow run that ends with this command, with the run file attached."""
        source = plan.path.resolve()
        tags = {"fer.lock": self.lock, "fer.git": git_state(), "fer.run_file": below(source, self.base)} | tags
        experiment = store.experiment_id(plan.experiment)
        run = self.client.create_run(experiment, run_name=name, tags=tags)
        self.client.log_artifact(run.info.run_id, str(source))
        return run


@contextlib.contextmanager
def open_session(fresh: bool) -> Iterator[Session]:
    """Open the store, end runs of dead processes, and hold a lock that marks this process as alive.

    The end of the block waits for what goes on in the background, and raises its first error unless the block raised.
    """
    from filelock import FileLock
    from rich.console import Console

    with show_progress("runs"), step("opening the store"):
        base = store.configure()
        import mlflow

        run_status.reap()
    lock = paths.mlruns(base) / "locks" / f"{uuid.uuid4().hex}.lock"
    lock.parent.mkdir(exist_ok=True)
    try:
        with FileLock(lock), ThreadPoolExecutor(1) as background:
            console = Console(markup=False, highlight=False)
            session = Session(base, mlflow.MlflowClient(), console, below(lock, base), fresh, background)
            yield session
            for future in session.pending:
                future.result()
    finally:
        lock.unlink(missing_ok=True)


class Execution:
    """One execution of a plan, or of some of its ``phases``, in order.

    ``reuse_earlier``: use finished folders of the phases before these, also when the code has changed.  ``label``,
    ``values`` (parameter -> text) and ``parent_run_id`` belong to one combination of a sweep.
    """

    def __init__(
        self, shared: Session, plan: RunPlan, phases: list[Phase], reuse_earlier: bool = False, label: str = "",
        values: dict[str, str] | None = None, parent_run_id: str = "",
    ):  # fmt: skip
        self.shared, self.plan, self.phases = shared, plan, phases
        self.label, self.values, self.parent_run_id = label, values or {}, parent_run_id
        self.folders: dict[str, Path] = {}
        self.results: dict[str, Task] = {}  # by phase: those that run or have ended
        self.run_id, self.final_status = "", ""
        if reuse_earlier:
            self._find_earlier_folders()

    def _find_earlier_folders(self) -> None:
        """Set the folders of the phases before (:func:`reuse.find_earlier`)."""
        for phase in self.plan.phases[: self.plan.phases.index(self.phases[0])]:
            inputs = self.inputs(phase) if input_phases(phase) <= self.folders.keys() else None
            key = self.key(phase, inputs) if inputs is not None else None
            folder, is_other_code = reuse.find_earlier(phase, key, inputs)
            if is_other_code:
                self.shared.console.print(f"{phase.name}: re-used from {folder.name} (made by other code)")
            if folder is not None:
                self.folders[phase.name] = folder

    def inputs(self, phase: Phase) -> dict[str, str | list[str]]:
        """Input field -> absolute folder or URI, or a list of them where the field is a list."""
        inputs: dict[str, str | list[str]] = {}
        for name, spec in input_fields(phase.kind).items():
            values = []
            for source in phase.inputs[name]:
                if isinstance(source, Phase):
                    if source.name not in self.folders:
                        raise FerError(f"phase {phase.name!r} needs {source.name!r}, which has not finished with "
                                       f"these parameters: run without --only and --from")  # fmt: skip
                    values.append(str(self.folders[source.name]))
                else:
                    values.append(source if is_uri(source) else str(external(source)))
            inputs[name] = values if spec.many else (values or [""])[0]
        return inputs

    def key(self, phase: Phase, inputs: dict[str, str | list[str]]) -> str:
        """The cache key of a phase with these inputs."""
        values = phase.params.model_dump(mode="json")
        return cache_key.phase_key(phase.kind, values, inputs, folders.notebook_path(phase.kind))

    def ready(self) -> list[Phase]:
        """The phases that can start: they have not, and their inputs are finished."""
        names = {phase.name for phase in self.phases}
        finished = {name for name, result in self.results.items() if result.status in FINISHED}
        return [p for p in self.phases if p.name not in self.results and input_phases(p) & names <= finished]

    @property
    def is_over(self) -> bool:
        """Whether no phase runs and none can start."""
        return not self.ready() and all(result.status != "running" for result in self.results.values())

    @property
    def is_complete(self) -> bool:
        """Whether every phase is finished."""
        return len(self.results) == len(self.phases) and all(r.status in FINISHED for r in self.results.values())

    @property
    def not_started(self) -> list[str]:
        """Names of the phases that have not started."""
        return [phase.name for phase in self.phases if phase.name not in self.results]

    def start_run(self) -> None:
        """Start the MLflow run, with the run file and the resolved parameters.  A second call does nothing."""
        if self.run_id:
            return
        client, tags = self.shared.client, {"fer.kind": "run"}
        if self.parent_run_id:
            tags |= {"mlflow.parentRunId": self.parent_run_id, "fer.combination": self.label}
        run = self.shared.start_run(self.plan, self.label or self.plan.name, tags)
        self.run_id, self.experiment = run.info.run_id, run.info.experiment_id
        for name, value in self.values.items():
            client.log_param(self.run_id, name, value)
        resolved = {p.name: {"kind": p.kind} | p.params.model_dump(mode="json") for p in self.plan.phases}
        client.log_dict(self.run_id, resolved, "plan.json")

    def end_run(self, status: str) -> None:
        """End the MLflow run, FINISHED when every phase is, else with ``status``, and log the result of each phase.

        A second call does nothing.
        """
        from mlflow.entities import Metric, RunTag

        if self.final_status:
            return
        self.start_run()  # not started yet when all phases were re-used
        client, base = self.shared.client, self.shared.base
        results = [self.results[phase.name] for phase in self.phases if phase.name in self.results]
        rows = [{"phase": r.phase.name, "kind": r.phase.kind, "status": r.status, "seconds": round(r.seconds, 1),
                 "run_id": r.run_id, "folder": below(r.folder, base), "headline": r.headline}
                for r in results]  # fmt: skip
        summary = {"phases": rows, "not_started": self.not_started}
        client.log_dict(self.run_id, summary, "phases.json")
        now = int(time.time() * 1000)
        values = numbers({r.phase.name: r.headline for r in results})
        tags = [RunTag(f"fer.reused.{r.phase.name}", r.run_id) for r in results if r.status == "re-used"]
        metrics = [Metric(k, v, now, 0) for k, v in values.items()]
        client.log_batch(self.run_id, metrics, tags=tags)
        final_status = "FINISHED" if self.is_complete else status
        client.set_terminated(self.run_id, final_status)
        self.final_status = final_status
