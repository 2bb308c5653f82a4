"""Which phase begins when.  One schedule for a run, for phases side by side and for a sweep."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool

from fer_lib.errors import FerError
from fer_lib.pipeline.execution import Execution
from fer_lib.pipeline.papermill import NotebookFailed
from fer_lib.pipeline.task import Task
from fer_lib.pipeline.workers import InProcess, ProcessPool, signals_deferred, signals_ignored


class Schedule:
    """Runs the phases of some executions: each when what it needs is finished and a slot is free, in their order.

    Two executions never run the same phase: the second waits and re-uses it.  ``keep_going``: after a failure
    everything that does not depend on it still runs; otherwise nothing more begins.
    """

    def __init__(self, executions: list[Execution], place: InProcess | ProcessPool, bar, keep_going: bool):
        self.executions, self.place, self.bar, self.keep_going = executions, place, bar, keep_going
        self.tasks: dict[tuple[int, str], Task] = {}
        self.running: dict[Future, tuple[Task, int]] = {}
        self.stopping = False

    def run(self) -> int:
        """0 when every phase is finished, 1 when one failed, 130 when it was interrupted.

        Raises:
            FerError: another process runs one of the phases, or an input is missing; what ran here has ended.
        """
        try:
            self._run()
        except KeyboardInterrupt:
            with signals_ignored():
                self._stop()
                self._close("KILLED")
            return 130
        except BaseException:
            with signals_ignored():
                self._stop()
                self._close("FAILED")
            raise
        return 0 if all(execution.complete for execution in self.executions) else 1

    def _run(self) -> None:
        trouble: FerError | None = None
        while True:
            if not self.stopping:
                try:
                    self._fill()
                except FerError as error:  # what runs already may finish
                    trouble, self.stopping = error, True
                    self.bar.refused(error, len(self.running))
            if not self.running:
                break
            for future in wait(self.running, return_when=FIRST_COMPLETED).done:
                self._ended(future)
        if trouble is not None:
            raise trouble
        self._close("FAILED")

    def _fill(self) -> None:
        """Begin what can begin, and settle what is finished already, until nothing more can."""
        moved = True
        while moved:
            moved = False
            for execution in self.executions:
                for phase in execution.left()[0]:
                    if len(self.running) == self.place.count:
                        return
                    moved |= self._move(execution, phase)
                if execution.over:
                    self._close_one(execution)

    def _move(self, execution: Execution, phase) -> bool:
        """Settle or begin one phase; False when it has to wait."""
        place = (id(execution), phase.name)
        if place not in self.tasks:
            self.tasks[place] = Task(execution, phase)
        task = self.tasks[place]
        outcome = task.settle()
        if outcome is not None:
            self.bar.settled(outcome)
            return True
        if task.waits:
            return False
        slot = min(set(range(self.place.count)) - {used for _, used in self.running.values()})
        with signals_deferred():
            work = task.begin(self.place.environment(slot, phase.params))
            self.bar.begin(task.outcome)
        self.running[self.place.submit(work)] = (task, slot)
        return True

    def _ended(self, future: Future) -> None:
        error = future.exception()
        task, _ = self.running[future]
        if isinstance(error, BrokenProcessPool):
            said = "the process that ran it was killed (out of memory?): run the same again, with a smaller --parallel"
            error = NotebookFailed("WorkerDied", said, task.output)
        self._finish(future, error)
        if isinstance(error, KeyboardInterrupt):
            raise error
        if task.outcome.status == "failed" and not self.keep_going:
            self.stopping = True
        if task.execution.over:
            self._close_one(task.execution)

    def _finish(self, future: Future, error: BaseException | None) -> None:
        with signals_deferred():
            task, slot = self.running.pop(future)
            self.place.free(slot)
            self._end(task, error)

    def _end(self, task: Task, error: BaseException | None) -> None:
        try:
            task.end(error)
        finally:
            self.bar.end(task.outcome)

    def _stop(self) -> None:
        """End what runs."""
        self.place.interrupt()
        for future in list(self.running):
            error = future.exception()
            self._finish(future, None if error is None else KeyboardInterrupt())
        for task in self.tasks.values():  # begun, and interrupted before it was handed on
            if task.outcome is not None and task.outcome.status == "running":
                self._end(task, KeyboardInterrupt())

    def _close(self, status: str) -> None:
        """Close the executions that are open still, and not complete."""
        for execution in self.executions:
            if execution.run_id and not execution.ended:
                execution.close("FINISHED" if execution.complete else status)

    def _close_one(self, execution: Execution) -> None:
        if not execution.ended:
            execution.close("FINISHED" if execution.complete else "FAILED")


def not_started(executions: list[Execution]) -> list[str]:
    """Names of phases that never began, with the combination that they belong to."""
    lines = []
    for execution in executions:
        if names := execution.not_started:
            lines.append(f"{execution.label}: {', '.join(names)}" if execution.label else ", ".join(names))
    return lines


def goes_on(fresh: bool) -> str:
    """What to give next after a run that did not finish; with ``--fresh`` again all of it would begin anew."""
    return f"finished phases are kept: the same command{' without --fresh' * fresh} goes on from here"
