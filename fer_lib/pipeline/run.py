"""``fer run``: the phases of a run file below one MLflow run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from fer_lib.errors import ParamsError
from fer_lib.pipeline import folders
from fer_lib.pipeline.runfile import Phase, RunPlan, load_run


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
    """Run the phases of a run file; 0 when all finished, 1 when one failed, 130 when it was interrupted.

    Args:
        path: the run file; overrides: ``phase.key=value``; smoke: shrink every phase (see :func:`runfile.load_run`).
        only: run this phase alone, on the newest finished phases before it.
        from_: the same, but go on with those after it.  Phases before are taken as they are, even when the code that
            made them has changed since (that is said).
        fresh: ignore finished folders of the phases that are to run, and begin them anew.
        until: run only phases of these kinds and what they need.
        parallel: so many phases that do not need each other run at once, each with a device of its own.  A phase that
            fails then stops only those that need it; one at a time, it ends the run.

    Raises:
        ParamsError: before anything starts, when a parameter, ``only`` or ``from_`` is wrong.
        FerError: a phase is being run by another process, or one before ``only``/``from_`` has never finished.
    """
    plan = load_run(path, overrides, smoke)
    chosen = choose(plan, only, from_, until)
    for phase in plan.phases:
        folders.notebook_path(phase.kind)

    from fer_lib.pipeline.execution import Execution, session
    from fer_lib.pipeline.progress import PhaseBar, outcome_table
    from fer_lib.pipeline.schedule import Schedule, goes_on, not_started
    from fer_lib.pipeline.workers import workers

    with session(fresh) as shared, workers(parallel) as place:
        execution = Execution(shared, plan, chosen, taken=bool(only or from_))
        execution.open()
        with PhaseBar(shared.console, plan.name, len(chosen)) as bar:
            code = Schedule([execution], place, bar, keep_going=parallel > 1).run()
        shared.console.print(outcome_table(plan.name, list(execution.outcomes.values())))
        for line in not_started([execution]):
            shared.console.print(f"not started: {line}", markup=False, highlight=False)
        if code == 0:
            shared.console.print("open the results with: fer ui")
        else:
            shared.console.print(goes_on(fresh))
    return code


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
