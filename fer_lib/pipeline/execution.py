"""A plan being executed: what each phase is made from, what became of it, and the MLflow run that they lie below.

A phase whose re-use key has a finished folder is not run again; one that was interrupted goes on in its old folder.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fer_lib.errors import FerError
from fer_lib.pipeline import cache_key, folders
from fer_lib.pipeline.runfile import Phase, RunPlan, input_fields
from fer_lib.storage import paths
from fer_lib.storage.paths import below, external, is_uri
from fer_lib.tracking import run_status, store
from fer_lib.tracking.records import git_state, numbers

GOOD = ("ran", "re-used")


@dataclass
class Outcome:
    """What became of a phase.  ``status``: running, ran, re-used, failed or stopped."""

    phase: Phase
    folder: Path
    status: str = "running"
    seconds: float = 0.0
    run_id: str = ""
    headline: dict[str, Any] = field(default_factory=dict)
    label: str = ""  # of the combination that it belongs to, in a sweep


@dataclass
class Session:
    """What all the executions of one command share.

    ``lock`` (relative to the home) is held while the command lives; ``begun`` maps (phase, re-use key) to the outcome
    of the first execution that came to it, so that no two run the same.
    """

    base: Path
    client: Any
    console: Any
    lock: str
    fresh: bool = False
    begun: dict[tuple[str, str], Outcome] = field(default_factory=dict)


@contextlib.contextmanager
def session(fresh: bool) -> Iterator[Session]:
    """Open the store and hold a lock that says that this process is alive; runs of dead processes are ended."""
    base = store.configure()
    import mlflow
    from filelock import FileLock
    from rich.console import Console

    run_status.reap()  # runs whose process died do not stay RUNNING
    lock = paths.mlruns(base) / "locks" / f"{uuid.uuid4().hex}.lock"
    lock.parent.mkdir(exist_ok=True)
    try:
        with FileLock(lock):
            yield Session(base, mlflow.MlflowClient(), Console(), below(lock, base), fresh)
    finally:
        lock.unlink(missing_ok=True)


class Execution:
    """One execution of a plan, or of some phases of it (``chosen``, in order).

    ``taken``: phases before the chosen ones are taken as they are.  ``label``, ``values`` (parameter -> text) and
    ``below`` (a run id) are those of one combination of a sweep.
    """

    def __init__(
        self, shared: Session, plan: RunPlan, chosen: list[Phase], taken: bool = False, label: str = "",
        values: dict[str, str] | None = None, below: str = "",
    ):  # fmt: skip
        self.shared, self.plan, self.chosen = shared, plan, chosen
        self.label, self.values, self.below = label, values or {}, below
        self.folders: dict[str, Path] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.run_id, self.ended = "", ""
        if taken:
            self._take_earlier()

    # -- what phases are made from ------------------------------------------------------------------------------

    def _take_earlier(self) -> None:
        """Folders of the phases before the chosen ones: of this key, else the newest of these parameters."""
        for phase in self.plan.phases[: self.plan.phases.index(self.chosen[0])]:
            inputs = self.inputs(phase) if self._has_inputs(phase) else None
            folder = None
            if inputs is not None:
                tries = folders.attempts(phase.name, self.key(phase, inputs))
                folder = next((f for f in reversed(tries) if (f / "done.json").is_file()), None)
            if folder is None:
                own = folders.own_params(phase.params)
                same = [r for r in folders.finished((phase.kind,), phase.name) if r["params"] == own]
                if inputs is not None:
                    same = [r for r in same if cache_key.same_inputs(r["inputs"], inputs)]
                if same:
                    folder = Path(same[0]["folder"])
                    said = f"{phase.name}: taken as it is from {folder.name} (made by other code)"
                    self.shared.console.print(said, markup=False, highlight=False)
            if folder is not None:
                self.folders[phase.name] = folder

    def _has_inputs(self, phase: Phase) -> bool:
        return all(p.name in self.folders for ps in phase.links.values() for p in ps if isinstance(p, Phase))

    def inputs(self, phase: Phase) -> dict[str, str | list[str]]:
        """Every input as absolute folder or URI: a list where the field is one."""
        inputs: dict[str, str | list[str]] = {}
        for name, spec in input_fields(phase.kind).items():
            values = []
            for source in phase.links[name]:
                if isinstance(source, Phase):
                    if source.name not in self.folders:
                        raise FerError(f"phase {phase.name!r} needs {source.name!r}, which has never finished with "
                                       f"these parameters: run without --only and --from")  # fmt: skip
                    values.append(str(self.folders[source.name]))
                else:
                    values.append(source if is_uri(source) else str(external(source)))
            inputs[name] = values if spec.many else (values or [""])[0]
        return inputs

    def key(self, phase: Phase, inputs: dict[str, str | list[str]]) -> str:
        """The re-use key of a phase that is made from ``inputs``."""
        values = phase.params.model_dump(mode="json")
        return cache_key.phase_key(phase.kind, values, inputs, folders.notebook_path(phase.kind))

    # -- which phases are left ----------------------------------------------------------------------------------

    def left(self) -> tuple[list[Phase], list[Phase]]:
        """Phases that have not begun: those that may begin now, and those that never can: one they need failed."""
        ready, lost = [], []
        names = {phase.name for phase in self.chosen}
        gone = {name for name, outcome in self.outcomes.items() if outcome.status in ("failed", "stopped")}
        for phase in self.chosen:
            if phase.name in self.outcomes:
                continue
            needs = {p.name for ps in phase.links.values() for p in ps if isinstance(p, Phase)} & names
            if needs & gone:
                gone.add(phase.name)
                lost.append(phase)
            elif all(name in self.outcomes and self.outcomes[name].status in GOOD for name in needs):
                ready.append(phase)
        return ready, lost

    @property
    def over(self) -> bool:
        """Whether nothing of it runs and nothing of it can begin any more."""
        idle = all(outcome.status != "running" for outcome in self.outcomes.values())
        return idle and len(self.outcomes) + len(self.left()[1]) == len(self.chosen)

    @property
    def complete(self) -> bool:
        """Whether every chosen phase is finished."""
        return len(self.outcomes) == len(self.chosen) and all(o.status in GOOD for o in self.outcomes.values())

    @property
    def not_started(self) -> list[str]:
        """Names of the chosen phases that never began."""
        return [phase.name for phase in self.chosen if phase.name not in self.outcomes]

    # -- its MLflow run -----------------------------------------------------------------------------------------

    def open(self) -> None:
        """Begin its MLflow run, with the run file and the resolved parameters; nothing happens the second time."""
        if self.run_id:
            return
        client, source = self.shared.client, self.plan.path.resolve()
        self.experiment = store.experiment_id(self.plan.experiment)
        tags = {"fer.kind": "run", "fer.lock": self.shared.lock, "fer.git": git_state()}
        tags["fer.run_file"] = below(source, self.shared.base)
        if self.below:
            tags |= {"mlflow.parentRunId": self.below, "fer.combination": self.label}
        name = self.label or self.plan.name
        made = store.retry_while_locked(lambda: client.create_run(self.experiment, run_name=name, tags=tags))
        self.run_id = made.info.run_id
        for name, value in self.values.items():
            store.retry_while_locked(partial(client.log_param, self.run_id, name, value))
        store.retry_while_locked(lambda: client.log_artifact(self.run_id, str(source)))
        resolved = {p.name: {"kind": p.kind} | p.params.model_dump(mode="json") for p in self.plan.phases}
        store.retry_while_locked(lambda: client.log_dict(self.run_id, resolved, "plan.json"))

    def close(self, status: str) -> None:
        """End its MLflow run with what became of each phase; nothing happens the second time."""
        from mlflow.entities import Metric, RunTag

        if self.ended:
            return
        self.open()  # where nothing of it had to run
        client, base = self.shared.client, self.shared.base
        outcomes = [self.outcomes[phase.name] for phase in self.chosen if phase.name in self.outcomes]
        rows = [{"phase": o.phase.name, "kind": o.phase.kind, "status": o.status, "seconds": round(o.seconds, 1),
                 "run_id": o.run_id, "folder": below(o.folder, base), "headline": o.headline}
                for o in outcomes]  # fmt: skip
        told = {"phases": rows, "not_started": self.not_started}
        store.retry_while_locked(lambda: client.log_dict(self.run_id, told, "phases.json"))
        now = int(time.time() * 1000)
        shown = numbers({o.phase.name: o.headline for o in outcomes})
        tags = [RunTag(f"fer.reused.{o.phase.name}", o.run_id) for o in outcomes if o.status == "re-used"]
        metrics = [Metric(k, v, now, 0) for k, v in shown.items()]
        store.retry_while_locked(lambda: client.log_batch(self.run_id, metrics, tags=tags))
        store.retry_while_locked(lambda: client.set_terminated(self.run_id, status))
        self.ended = status
