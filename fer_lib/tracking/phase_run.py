"""One phase as one MLflow run: a notebook opens it in its second cell (``pipeline.standalone.phase_run``) and finishes
it in its last cell.

    run = phase_run("teacher", globals())     # also usable as ``with phase_run(...) as run:``
    run.follow(train_teacher(run.params, run.manifest, run.output_dir, run.cache_dir))
    run.finish(fit_result(...))               # a PhaseResult: artifacts, metrics, note, ids

A phase holds an OS lock in its folder (``run.output_dir``), so two runs never write the same folder and
:func:`run_status.reap` can tell a dead run from a slow one.  An interrupt (Ctrl+C, the notebook's stop button) ends the
run as KILLED and records its progress; the same command continues from the last checkpoint.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import time
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from fer_lib.datasets.manifest import Manifest
from fer_lib.datasets.openings import OPENINGS
from fer_lib.errors import FerError
from fer_lib.params import FitParams
from fer_lib.storage import progress
from fer_lib.storage.atomic import write_json
from fer_lib.storage.json_files import flatten, now, read_json
from fer_lib.storage.locks import RunLock
from fer_lib.storage.paths import below, mlruns
from fer_lib.storage.phase_result import PhaseResult
from fer_lib.tracking import run_status, store
from fer_lib.tracking.event_logger import EventLogger
from fer_lib.tracking.records import git_state, notebook_shell, numbers, relative_inputs, write_plan
from fer_lib.tracking.registry import resolve

NOTE_FIELDS = ("intent", "action", "result", "decision", "next")
_current: PhaseRun | None = None  # the open run of this process


def inherited_run() -> str | None:
    """Id of the MLflow run that the pipeline opened ($MLFLOW_RUN_ID, read once); None without a pipeline.

    Ends the run that this process has open, and runs of dead processes.
    """
    if _current is not None:  # the user ran the first cell again in the same kernel
        _current.close("KILLED")
    store.configure()
    run_id = os.environ.pop("MLFLOW_RUN_ID", None)
    if run_id is None:
        run_status.reap()
    return run_id


class PhaseRun:
    """An open phase.  Attributes: ``params``, ``kind``, ``name``, ``key``, ``output_dir``, ``inputs``, ``run_id``.

    ``inputs`` maps each input field (``manifest``, ``teachers``, ...) to an absolute folder or registry URI, or to a
    list of them; an optional input that is absent is ``""``.
    """

    def __init__(self, params, plan: dict[str, Any], run_id: str | None = None):
        """Open the run of a prepared phase.

        Args:
            plan: phase, kind, key, params, inputs and output_dir, as ``pipeline.standalone`` prepares them.
            run_id: the MLflow run that the pipeline opened; None starts a new one.

        Raises:
            FerError: another process runs the phase.
            OSError: the folder cannot be created.
        """
        import mlflow

        global _current
        base = store.configure()
        self.params, self.kind, self.started = params, plan["kind"], time.time()
        self.name, self.key, self.inputs = plan["phase"], plan["key"], plan["inputs"]
        self.output_dir = Path(plan["output_dir"])
        self.output_dir.mkdir(parents=True, exist_ok=True)
        self._cleanup = contextlib.ExitStack()  # closed when the run ends
        lock = RunLock(self.output_dir / ".lock", f"phase {self.name!r} in {self.output_dir}")
        self._lock = self._cleanup.enter_context(lock)
        self.run_id = ""
        self._note: dict[str, str] = {}
        self._warnings: list[str] = []
        self._client = mlflow.MlflowClient()
        try:
            self._start(mlflow, base, plan, run_id)
        except BaseException as error:
            if self.run_id:
                mlflow.end_run("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            self._cleanup.close()
            raise
        _current = self
        self.progress_fields: dict[str, Any] = {}  # more fields of progress.json
        self._cleanup.enter_context(progress.observed_by(self._write_progress))
        self._write_progress(progress.UNCOUNTED | {"text": "reading inputs"})
        self._cleanup.callback(run_status.on_interrupted_cell(self.interrupt))
        atexit.register(self._exit)  # MLflow's own exit hook would set FINISHED

    def _start(self, mlflow, base: Path, plan: dict[str, Any], run_id: str | None) -> None:
        for stale in ("done.json", "outputs.json", "progress.json"):
            (self.output_dir / stale).unlink(missing_ok=True)
        self._end_predecessor(run_id)
        tags = {"fer.kind": self.kind, "fer.phase": self.name, "fer.key": self.key, "fer.git": git_state()}
        tags["fer.folder"] = below(self.output_dir, base)
        system_metrics = isinstance(self.params, FitParams)  # CPU, memory, disk and GPU
        if run_id is None:
            tags["fer.lock"] = below(self.output_dir / ".lock", base)
            experiment = store.experiment_id()
            active = mlflow.start_run(
                experiment_id=experiment, run_name=self.name, tags=tags, log_system_metrics=system_metrics
            )
        else:
            active = mlflow.start_run(run_id, log_system_metrics=system_metrics)
            mlflow.set_tags(tags)
        self.run_id = active.info.run_id
        self._lock.describe(run_id=self.run_id)
        write_plan(plan | {"run_id": self.run_id}, base)
        logged = active.data.params  # MLflow accepts each parameter once
        flat = flatten(self.params.model_dump(mode="json") | relative_inputs(self.inputs, base))
        flat = {k: v if isinstance(v, str) else json.dumps(v) for k, v in flat.items() if k != "output_dir"}
        mlflow.log_params({k: v for k, v in flat.items() if k not in logged})

    def _end_predecessor(self, run_id: str | None) -> None:
        """End the earlier run of this folder.  Its process is dead, since this one holds the lock."""
        before = self.output_dir / "phase.json"
        earlier = read_json(before).get("run_id") if before.is_file() else None
        if earlier and earlier != run_id:
            run_status.end_if_running(self._client, earlier)

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest of the input ``manifest``."""
        return Manifest.read(Path(self.inputs["manifest"]) / "manifest.parquet")

    @property
    def cache_dir(self) -> Path:
        """The store's folder of face packs, hashes and logits, which all phases share."""
        return mlruns() / "cache"

    def bundles(self, field: str) -> list[Path]:
        """The folders of bundles, or of ensembles where the field takes them, behind an input field."""
        values, ensembles = self.inputs[field], field in ("teachers", "ensembles")
        return [resolve(value, ensembles) for value in ([values] if isinstance(values, str) else values) if value]

    def __enter__(self) -> PhaseRun:
        return self

    def __exit__(self, kind, error, trace) -> None:
        if error is None and _current is self:
            self.close("FAILED")
            raise FerError(f"phase {self.name} ended without run.finish(result): later phases would have nothing to "
                           "read. Call it in the last cell")  # fmt: skip
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self.interrupt()
        self.close("FAILED")

    def _refuse_ended(self) -> None:
        """Raise FerError when this run has ended, because MLflow would start another."""
        if _current is not self:
            raise FerError(f"the run of phase {self.name} has ended: run the cell that opens it again, and those after")

    def _log(self, function: str, *values: Any, **options: Any) -> None:
        """Call a function of mlflow, unless this run has ended."""
        import mlflow

        self._refuse_ended()
        getattr(mlflow, function)(*values, **options)

    def metrics(self, values: dict[str, Any], step: int | None = None) -> None:
        """Log every numeric leaf of ``values`` in one call; a nested key becomes ``outer/inner``."""
        self._log("log_metrics", numbers(values), step=step)

    def tags(self, **values: Any) -> None:
        """Set tags on the run."""
        self._log("set_tags", {key: str(value) for key, value in values.items()})

    def warn(self, message: str, echo: bool = True) -> None:
        """Record a warning: print it and add a line to the tag ``fer.warning``."""
        self._warnings.append(message)
        self.tags(**{"fer.warning": "\n".join(self._warnings)[:4000]})
        if echo:
            print(message, flush=True)

    def figure(self, figure, name: str):
        """Attach a figure, save a copy in the phase's folder and return it.  The suffix of ``name`` sets the format.

        In a notebook a PNG is returned as the image that was saved: showing the figure would draw it a second time.
        """
        self._refuse_ended()
        path = self.output_dir / "figures" / name
        with progress.step(f"drawing {name}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=120, bbox_inches="tight")
            self.artifact(path, "figures")
        if notebook_shell() is None or path.suffix != ".png":
            return figure
        from IPython.display import Image

        return Image(filename=path)

    def _write_progress(self, record: dict[str, Any]) -> None:
        """Write ``progress.json``, which ``fer run`` displays.  Atomic, but not synced: losing it does no harm."""
        work = self.output_dir / f".progress.{os.getpid()}.partial"
        with contextlib.suppress(OSError):  # a full disk is reported by the files that matter
            work.write_text(json.dumps(record | self.progress_fields), encoding="utf-8")
            os.replace(work, self.output_dir / "progress.json")

    def artifact(self, path: Path | str, folder: str | None = None) -> Path:
        """Attach a file or a folder to the run.  Raises FerError when it does not exist."""
        path = Path(path)
        with progress.step(f"attaching {path.name}"):
            if path.is_dir():
                self._log("log_artifacts", str(path), f"{folder}/{path.name}" if folder else path.name)
            elif path.is_file():
                self._log("log_artifact", str(path), folder)
            else:
                raise FerError(f"phase {self.name}: there is no file {path} to attach to the run")
        return path

    def note(self, **fields: str) -> None:
        """Set parts of the run's description: ``intent``, ``action``, ``result``, ``decision``, ``next``.

        Later values replace earlier ones.  Raises FerError for any other field.
        """
        if unknown := set(fields) - set(NOTE_FIELDS):
            raise FerError(f"a note has the fields {', '.join(NOTE_FIELDS)}, not {', '.join(sorted(unknown))}")
        self._note |= fields
        text = "\n\n".join(f"**{f.capitalize()}.** {self._note[f]}" for f in NOTE_FIELDS if f in self._note)
        self._log("set_tag", "mlflow.note.content", text)

    def follow(self, events: Iterable[dict[str, Any]], echo: bool = True) -> dict[str, Any]:
        """Log training events and return the last one (:meth:`EventLogger.follow`)."""
        return EventLogger(self, echo).follow(events)

    def finish(self, result: PhaseResult) -> None:
        """Log ``result``, write ``outputs.json`` (for later phases) and ``done.json``, and set the run to FINISHED.

        The log of test-row access is attached where the phase wrote one.  Raises FerError when an artifact is missing.
        """
        for path in result.artifacts:
            self.artifact(path, result.artifact_folders.get(path))
        if result.metrics:
            self.metrics(result.metrics)
        self.tags(**result.tags, **{f"fer.id.{name}": value for name, value in result.ids.items()})
        for message in result.warnings:
            self.warn(message)
        if result.note:
            self.note(**result.note)
        bundle = {} if result.bundle is None else {"bundle": below(result.bundle, self.output_dir)}
        outputs = {"ids": result.ids, **bundle, "headline": result.headline}
        self.artifact(write_json(self.output_dir / "outputs.json", outputs))
        if (openings := self.output_dir / OPENINGS).is_file():
            self.artifact(openings)
        plan = read_json(self.output_dir / "phase.json")
        record = plan | {"finished": now(), "seconds": round(time.time() - self.started, 1)}
        write_json(self.output_dir / "done.json", record)
        self.close("FINISHED")
        for name, value in (*flatten(result.headline, " ").items(), *result.ids.items()):
            print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")

    def interrupt(self) -> None:
        """End the run as KILLED and record its progress.  Does nothing after the run has ended."""
        if _current is self:
            try:
                run_status.mark_interrupted(self._client, self.run_id, self.output_dir)
            finally:
                self.close("KILLED")

    def _exit(self) -> None:
        """Called when the process exits with the run open."""
        if run_status.died_of_interrupt():
            self.interrupt()
        self.close("FAILED")

    def close(self, status: str) -> None:
        """End the run with an MLflow status and release the folder.  A second call does nothing."""
        import mlflow

        global _current
        if _current is not self:
            return
        _current = None
        self._cleanup.callback(mlflow.end_run, status)
        with self._cleanup:
            self._client.set_terminated(self.run_id, status)
