"""``fer run``: the phases of a run file as child runs of one MLflow run, and how long they will take."""

from __future__ import annotations

import time
import timeit
from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path

from fer_lib.devices import cores
from fer_lib.errors import ParamsError
from fer_lib.pipeline import folders, reuse
from fer_lib.pipeline.runfile import Phase, RunPlan, input_phases, load_run
from fer_lib.storage.text import duration

REFERENCE = 0.024  # loop_seconds of the machine on which a run file's ``seconds`` were measured
PHASE_START = 1.0  # seconds of a phase before its own clock starts and after it stops


def run_file(
    path: Path | str,
    overrides: Sequence[str] = (),
    only: str | None = None,
    from_: str | None = None,
    smoke: bool = False,
    fresh: bool = False,
    until: Collection[str] = (),
    parallel: int = 1,
) -> int:
    """Run the phases of a run file; 0 when all finish, 1 when one fails, 130 after an interrupt.

    Args:
        path: the run file; overrides: ``phase.key=value``; smoke: shrink every phase (see :func:`runfile.load_run`).
        only: run this phase alone, on the newest finished phases before it.
        from_: run this phase and those after it.  Phases before it are re-used, also when their code has changed; a
            message names it.
        fresh: run the phases in new folders, also when they are finished.
        until: run only phases of these kinds and the phases that they need.
        parallel: number of independent phases that run at once, each with its own device.  When a phase fails, only
            those that need it are stopped; with 1, the run ends.

    Raises:
        ParamsError: before anything starts, when a parameter, ``only`` or ``from_`` is wrong.
        FerError: another process runs a phase, or a phase before ``only``/``from_`` has not finished.
    """
    plan = load_run(path, overrides, smoke)
    phases = select_phases(plan, only, from_, until)
    for phase in plan.phases:
        folders.notebook_path(phase.kind)

    from fer_lib.pipeline.execution import Execution, open_session
    from fer_lib.pipeline.progress import PhaseBar, result_table
    from fer_lib.pipeline.schedule import Schedule, print_unfinished
    from fer_lib.pipeline.workers import NotebookPool

    finished = set() if fresh else reuse.finished_before(phases)
    if not finished:  # nothing can be re-used, so this is known before the store opens
        _announce(plan, phases, parallel)
    with closing(NotebookPool(parallel, start=len(finished) < len(phases))) as pool, open_session(fresh) as shared:
        execution = Execution(shared, plan, phases, reuse_earlier=bool(only or from_))
        execution.start_run()
        with PhaseBar(shared.console, plan.name, len(phases)) as bar:
            left = (phase for phase in phases if phase.name in execution.not_started)
            announce = (lambda: _announce(plan, list(left), parallel)) if finished else None
            code = Schedule([execution], pool, bar, parallel > 1, announce).run()
        shared.console.print(result_table(plan.name, list(execution.results.values())))
        print_unfinished(shared, [execution], code)
        if code == 0:
            shared.console.print("open the results with: fer ui")
    return code


def _announce(plan: RunPlan, phases: list[Phase], parallel: int) -> None:
    """Print how long these phases will take; nothing when that is unknown."""
    if text := expected_time(plan, phases, parallel):
        print(text, flush=True)


def expected_time(plan: RunPlan, phases: Sequence[Phase], parallel: int = 1) -> str:
    """``10 phases to run: about 2.1 min on 2 cores``; empty when nothing is known.

    The seconds of earlier runs of these phases count, else those that the run file declares for all of its phases,
    scaled by the speed of this machine.  With ``parallel`` phases at once these are an upper bound: ``at most``.
    """
    seconds = measured_seconds(phases)
    if seconds is None and plan.seconds and len(phases) == len(plan.phases):
        seconds = plan.seconds * loop_seconds() / REFERENCE
    if seconds is None:
        return ""
    runs, count, bound = len(phases), cores(), "about" if parallel == 1 else "at most about"
    on = f"{count} core{'s' * (count > 1)}"
    return f"{runs} phase{'s' * (runs > 1)} to run: {bound} {duration(seconds)} on {on}"


def measured_seconds(phases: Sequence[Phase]) -> float | None:
    """What these phases took the last time that they ran with equal parameters; None when one never did."""
    total = 0.0
    for phase in phases:
        own = folders.own_params(phase.params)
        records = folders.finished_phases((phase.kind,), phase.name)
        earlier = next((record for record in records if record["params"] == own), None)
        if earlier is None:
            return None
        total += earlier["seconds"] + PHASE_START
    return total


def loop_seconds() -> float:
    """CPU seconds of a loop in Python, the best of three."""
    return min(timeit.repeat("sum(n * n for n in range(500_000))", timer=time.process_time, number=1, repeat=3))


def select_phases(
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
        needed = {phase.name for phase in plan.phases if phase.kind in until}
        for phase in reversed(plan.phases):
            if phase.name in needed:
                needed |= input_phases(phase)
        return [phase for phase in plan.phases if phase.name in needed]
    return plan.phases
