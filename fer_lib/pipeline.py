"""A run file's phases in order: each a notebook in a kernel of its own, all below one MLflow run.

A phase whose re-use key has a finished folder is not run again; one that was interrupted goes on in its old folder.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from fer_lib import params as params_module
from fer_lib import phases, reuse
from fer_lib.errors import FerError, ParamsError
from fer_lib.runfile import Phase, RunPlan, external, input_fields, is_uri, load_run
from fer_lib.tracking import endings, store
from fer_lib.tracking.records import below, flatten, git_state, numbers, read_json, write_plan


@dataclass
class Outcome:
    """What became of a phase.  ``status``: ran, re-used, failed or stopped."""

    phase: Phase
    folder: Path
    status: str = "ran"
    seconds: float = 0.0
    run_id: str = ""
    headline: dict[str, Any] = field(default_factory=dict)


def run_file(
    path: Path | str,
    overrides: Sequence[str] = (),
    only: str | None = None,
    from_: str | None = None,
    smoke: bool = False,
    fresh: bool = False,
    until: Collection[str] = (),
) -> int:
    """Run the phases of a run file; 0 when all finished, 1 when one failed, 130 when it was interrupted.

    Args:
        path: the run file; overrides: ``phase.key=value``; smoke: shrink every phase (see :func:`runfile.load_run`).
        only: run this phase alone, on the newest finished phases before it.
        from_: the same, but go on with those after it.  Phases before are taken as they are, even when the code that
            made them has changed since (that is said).
        fresh: ignore finished folders of the phases that are to run, and begin them anew.
        until: run only phases of these kinds and what they need.

    Raises:
        ParamsError: before anything starts, when a parameter, ``only`` or ``from_`` is wrong.
        FerError: a phase is being run by another process, or one before ``only``/``from_`` has never finished.
    """
    plan = load_run(path, overrides, smoke)
    chosen = choose(plan, only, from_, until)
    for phase in plan.phases:
        phases.notebook_path(phase.kind)
    return _Run(plan, chosen, fresh, taken=bool(only or from_)).execute()


def choose(
    plan: RunPlan, only: str | None = None, from_: str | None = None, until: Collection[str] = ()
) -> list[Phase]:
    """The phases to run, in order."""
    if only and from_:
        raise ParamsError("--only and --from exclude each other: --only runs one phase, --from that one and the rest")
    if only:
        return [plan.phase(only)]
    if from_:
        return plan.phases[plan.phases.index(plan.phase(from_)) :]
    if until:
        wanted = {phase.name for phase in plan.phases if phase.kind in until}
        for phase in reversed(plan.phases):
            if phase.name in wanted:
                wanted |= {p.name for values in phase.links.values() for p in values if isinstance(p, Phase)}
        return [phase for phase in plan.phases if phase.name in wanted]
    return plan.phases


class _Run:
    """One execution of a plan."""

    def __init__(self, plan: RunPlan, chosen: list[Phase], fresh: bool, taken: bool):
        from rich.console import Console

        self.plan, self.chosen, self.fresh, self.taken = plan, chosen, fresh, taken
        self.base = store.configure()
        self.console = Console()
        self.folders: dict[str, Path] = {}
        self.outcomes: list[Outcome] = []

    def execute(self) -> int:
        import mlflow

        self.client = mlflow.MlflowClient()
        endings.reap()  # runs whose process died do not stay RUNNING
        self._take_earlier()
        with self._parent(), self._progress() as self.bar:
            status, code = "FAILED", 1
            try:
                failed = any(not self._phase(phase) for phase in self.chosen)  # any() stops at the first that fails
                status, code = ("FAILED", 1) if failed else ("FINISHED", 0)
            except KeyboardInterrupt:
                status, code = "KILLED", 130
            finally:
                self._close(status)
        self._table(code)
        return code

    def _take_earlier(self) -> None:
        """With --only and --from, folders of the phases before: of this key, else the newest of these parameters."""
        if not self.taken:
            return
        for phase in self.plan.phases[: self.plan.phases.index(self.chosen[0])]:
            inputs = self._inputs(phase) if self._has_inputs(phase) else None
            folder = None
            if inputs is not None:
                tries = phases.attempts(phase.name, self._key(phase, inputs))
                folder = next((f for f in reversed(tries) if (f / "done.json").is_file()), None)
            if folder is None:
                own = _own(phase.params)
                same = [r for r in phases.finished((phase.kind,), phase.name) if r["params"] == own]
                if inputs is not None:
                    same = [r for r in same if reuse.same_inputs(r["inputs"], inputs)]
                if same:
                    folder = Path(same[0]["folder"])
                    self.console.print(f"{phase.name}: taken as it is from {folder.name} (made by other code)")
            if folder is not None:
                self.folders[phase.name] = folder

    def _has_inputs(self, phase: Phase) -> bool:
        return all(p.name in self.folders for ps in phase.links.values() for p in ps if isinstance(p, Phase))

    def _inputs(self, phase: Phase) -> dict[str, str | list[str]]:
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

    def _key(self, phase: Phase, inputs: dict[str, str | list[str]]) -> str:
        values = phase.params.model_dump(mode="json")
        return reuse.phase_key(phase.kind, values, inputs, phases.notebook_path(phase.kind))

    def _phase(self, phase: Phase) -> bool:
        """Run or re-use one phase; whether it is finished."""
        inputs = self._inputs(phase)
        key = self._key(phase, inputs)
        folder = phases.folder_for(phase.name, key, self.fresh)
        self.folders[phase.name] = folder
        record = phases.done(folder)
        if record is not None:
            outcome = Outcome(phase, folder, "re-used", 0.0, record["run_id"], _headline(folder))
        else:
            outcome = Outcome(phase, folder)
        self.outcomes.append(outcome)
        self.bar.begin(outcome)
        try:
            if record is None:
                with phases.claimed(folder, phase.name):
                    self._execute(outcome, key, inputs)
        finally:
            self.bar.end(outcome)
        return outcome.status != "failed"

    def _execute(self, outcome: Outcome, key: str, inputs: dict[str, str | list[str]]) -> None:
        from fer_lib.notebook import NotebookFailed, execute

        phase, folder, began = outcome.phase, outcome.folder, time.time()
        folder.mkdir(parents=True, exist_ok=True)
        earlier = read_json(folder / "phase.json").get("run_id") if (folder / "phase.json").is_file() else None
        plan = {"phase": phase.name, "kind": phase.kind, "key": key, "params": _own(phase.params), "run_id": earlier}
        write_plan(plan | {"inputs": inputs, "output_dir": str(folder)}, self.base)
        tags = {"mlflow.parentRunId": self.parent, "fer.lock": self.lock, "fer.kind": phase.kind}
        output = folder / f"{phase.notebook}.ipynb"
        values = phase.params.model_dump(mode="json") | inputs | {"output_dir": str(folder)}
        status = "FAILED"
        outcome.run_id = self.client.create_run(self.experiment, run_name=phase.name, tags=tags).info.run_id
        try:
            execute(phases.notebook_path(phase.kind), output, values, self.base,
                    {"MLFLOW_RUN_ID": outcome.run_id, "FER_HOME": str(self.base)})  # fmt: skip
            if not (folder / "done.json").is_file():
                raise NotebookFailed("FerError", "the notebook ended without run.finish()", output)
            status, outcome.headline = "FINISHED", _headline(folder)
        except NotebookFailed as error:
            outcome.status = "failed"
            self.console.print(f"phase {phase.name!r} failed: {error}", style="red", markup=False, highlight=False)
        except KeyboardInterrupt:
            status, outcome.status = "KILLED", "stopped"
            endings.mark_interrupted(self.client, outcome.run_id, folder)
            raise
        finally:
            outcome.seconds = time.time() - began
            if status != "FINISHED":
                (folder / "done.json").unlink(missing_ok=True)
            self._attach(outcome, output)
            self.client.set_terminated(outcome.run_id, status)

    def _attach(self, outcome: Outcome, output: Path) -> None:
        """The executed notebook and its HTML view become artifacts, also of a phase that failed."""
        from fer_lib.notebook import html_view

        if output.is_file() and output.stat().st_size:
            for path in (output, html_view(output)):
                self.client.log_artifact(outcome.run_id, str(path), "notebook")

    @contextlib.contextmanager
    def _parent(self) -> Iterator[None]:
        """The run that the phases are nested in, and the lock that says that this process is alive."""
        lock = store.mlruns(self.base) / "locks" / f"{uuid.uuid4().hex}.lock"
        lock.parent.mkdir(exist_ok=True)
        self.lock, source = below(lock, self.base), self.plan.path.resolve()
        try:
            with FileLock(lock):
                self._open_parent(source)
                yield
        finally:
            lock.unlink(missing_ok=True)

    def _open_parent(self, source: Path) -> None:
        self.experiment = store.experiment_id(self.plan.experiment)
        tags = {"fer.kind": "run", "fer.lock": self.lock, "fer.git": git_state()}
        tags["fer.run_file"] = below(source, self.base)
        self.parent = self.client.create_run(self.experiment, run_name=self.plan.name, tags=tags).info.run_id
        self.client.log_artifact(self.parent, str(source))
        resolved = {p.name: {"kind": p.kind} | p.params.model_dump(mode="json") for p in self.plan.phases}
        self.client.log_dict(self.parent, resolved, "plan.json")

    def _close(self, status: str) -> None:
        from mlflow.entities import Metric, RunTag

        rows = [{"phase": o.phase.name, "kind": o.phase.kind, "status": o.status, "seconds": round(o.seconds, 1),
                 "run_id": o.run_id, "folder": below(o.folder, self.base), "headline": o.headline}
                for o in self.outcomes]  # fmt: skip
        self.client.log_dict(self.parent, {"phases": rows}, "phases.json")
        now = int(time.time() * 1000)
        shown = numbers({o.phase.name: o.headline for o in self.outcomes})
        tags = [RunTag(f"fer.reused.{o.phase.name}", o.run_id) for o in self.outcomes if o.status == "re-used"]
        self.client.log_batch(self.parent, [Metric(k, v, now, 0) for k, v in shown.items()], tags=tags)
        self.client.set_terminated(self.parent, status)

    def _progress(self):
        from fer_lib.cli.progress import PhaseBar

        return PhaseBar(self.console, len(self.chosen))

    def _table(self, code: int) -> None:
        from fer_lib.cli.progress import outcome_table

        self.console.print(outcome_table(self.plan.name, self.outcomes))
        if code == 0:
            self.console.print("open the results with: fer ui")
        else:
            self.console.print("finished phases are kept: the same command goes on from here")


def _own(params) -> dict[str, Any]:
    """A phase's parameters without its folder and its inputs."""
    return {k: v for k, v in params.model_dump(mode="json").items() if k != "output_dir" and k not in reuse.INPUTS}


def _headline(folder: Path) -> dict[str, Any]:
    return flatten(read_json(folder / "outputs.json").get("headline") or {}, "/")


def prepare_alone(params, kind: str, name: str | None = None) -> dict[str, Any]:
    """The plan of a phase that is run by itself: phase, kind, key, params, resolved inputs, output_dir."""
    inputs = phases.alone_inputs(kind, params)
    key = reuse.phase_key(kind, params.model_dump(mode="json"), inputs, phases.notebook_path(kind))
    folder = external(params.output_dir) if params.output_dir else phases.folder_for(name or kind, key)
    plan = {"phase": name or kind, "kind": kind, "key": key, "params": _own(params)}
    return plan | {"inputs": inputs, "output_dir": str(folder)}


def prepared(params) -> dict[str, Any]:
    """The plan that the pipeline wrote into the phase's folder, with the inputs that it passed as parameters."""
    plan = read_json(Path(params.output_dir) / "phase.json")
    inputs = {name: getattr(params, name) for name in input_fields(plan["kind"])}
    return plan | {"inputs": inputs, "output_dir": params.output_dir}


def upstream(kind: str, name: str) -> str | list[str]:
    """What a notebook of ``kind``, run alone, takes for its blank input ``name``."""
    return phases.alone_inputs(kind, params_module.KINDS[kind][0]())[name]
