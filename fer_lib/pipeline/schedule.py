"""The order in which phases start, for a run, for parallel phases and for a sweep."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait

from fer_lib.errors import FerError
from fer_lib.pipeline.execution import Execution, Session
from fer_lib.pipeline.phase_task import Task
from fer_lib.pipeline.workers import NotebookPool, signals_deferred, signals_ignored


class Schedule:
    """Runs the phases of executions in order; a phase starts when its inputs are finished and a slot is free.

    Two executions never run the same phase: the second waits and re-uses it.  ``keep_going``: after a failure, phases
    that do not depend on it still run; otherwise no more phases start.  ``before_start`` (if any) is called when the
    first phase is about to start.
    """

    def __init__(
        self, executions: list[Execution], pool: NotebookPool, bar, keep_going: bool,
        before_start: Callable[[], None] | None = None,
    ):  # fmt: skip
        self.executions, self.pool, self.bar, self.keep_going = executions, pool, bar, keep_going
        self.before_start = before_start
        self.tasks: dict[tuple[int, str], Task] = {}
        self.running: dict[Future, tuple[Task, int]] = {}
        self.stopping = False

    def run(self) -> int:
        """Run all; 0 when every phase finishes, 1 when one fails, 130 after an interrupt.

        Raises:
            FerError: another process runs one of the phases, or an input is missing.  No phase runs any more.
        """
        try:
            self._run()
        except KeyboardInterrupt:
            with signals_ignored():
                self._interrupt()
                self._end_runs("KILLED")
            return 130
        except BaseException:
            with signals_ignored():
                self._interrupt()
                self._end_runs("FAILED")
            raise
        return 0 if all(execution.is_complete for execution in self.executions) else 1

    def _run(self) -> None:
        error: FerError | None = None
        while True:
            if not self.stopping:
                try:
                    self._start_ready()
                except FerError as caught:  # running phases may finish
                    error, self.stopping = caught, True
                    self.bar.stop(error, len(self.running))
            if not self.running:
                break
            # on Windows, Ctrl+C is seen only between two waits
            for future in wait(self.running, timeout=1.0, return_when=FIRST_COMPLETED).done:
                self._handle_end(future)
        if error is not None:
            raise error
        self._end_runs("FAILED")

    def _start_ready(self) -> None:
        """Start or skip phases until none is ready or all slots are taken."""
        changed = True
        while changed:
            changed = False
            for execution in self.executions:
                for phase in execution.ready():
                    if len(self.running) == self.pool.count:
                        return
                    changed |= self._advance(execution, phase)
                if execution.is_over:
                    execution.end_run("FAILED")

    def _advance(self, execution: Execution, phase) -> bool:
        """Skip or start one phase; False when it has to wait."""
        key = (id(execution), phase.name)
        if key not in self.tasks:
            self.tasks[key] = Task(execution, phase)
        task = self.tasks[key]
        if task.find_result():
            self.bar.skip(task)
            return True
        if task.is_waiting:
            return False
        if self.before_start is not None:
            self.before_start()
            self.before_start = None
        slot = min(set(range(self.pool.count)) - {used for _, used in self.running.values()})
        with signals_deferred():
            work = task.start(self.pool.environment(slot, phase.params))
            self.bar.start(task)
            self.running[self.pool.submit(work)] = (task, slot)
        return True

    def _handle_end(self, future: Future) -> None:
        error = future.exception()
        task, _ = self.running[future]
        self._finish(future, error)
        if isinstance(error, KeyboardInterrupt):
            raise error
        if task.status == "failed" and not self.keep_going:
            self.stopping = True
        if task.execution.is_over:
            task.execution.end_run("FAILED")

    def _finish(self, future: Future, error: BaseException | None) -> None:
        with signals_deferred():
            task, slot = self.running.pop(future)
            self.pool.free(slot)
            self._end(task, error)

    def _end(self, task: Task, error: BaseException | None) -> None:
        try:
            task.end(error)
        finally:
            self.bar.finish(task)

    def _interrupt(self) -> None:
        """Interrupt the running phases and end their runs."""
        self.pool.interrupt()
        for future in list(self.running):
            error = future.exception()
            self._finish(future, None if error is None else KeyboardInterrupt())
        for task in self.tasks.values():  # started, but interrupted before it reached the pool
            if task.status == "running":
                self._end(task, KeyboardInterrupt())

    def _end_runs(self, status: str) -> None:
        """End the MLflow runs that are open, with ``status`` where a phase is missing."""
        for execution in self.executions:
            if execution.run_id:
                execution.end_run(status)


def print_unfinished(session: Session, executions: list[Execution], code: int) -> None:
    """Print the phases that have not started, one line per combination, and unless ``code`` is 0 how to go on."""
    for execution in executions:
        if names := execution.not_started:
            label = f"{execution.label}: " if execution.label else ""
            session.console.print(f"not started: {label}{', '.join(names)}")
    if code:  # --fresh would start all phases again
        again = "the same command" + " without --fresh" * session.fresh
        session.console.print(f"finished phases are kept: {again} continues from here")
