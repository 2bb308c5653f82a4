"""``fer sweep``: one run file with every combination of parameter values, as child runs of one MLflow run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from fer_lib.pipeline import folders, reuse
from fer_lib.pipeline.grid import Combination, compared_phases, exclude_registering, load_combinations
from fer_lib.pipeline.run import select_phases


def sweep_file(
    path: Path | str,
    overrides: Sequence[str],
    only: str | None = None,
    from_: str | None = None,
    smoke: bool = False,
    fresh: bool = False,
    parallel: int = 1,
) -> int:
    """Run and compare every combination; 0 when all finish, 1 when a phase fails, 130 after an interrupt.

    Phases that combinations share run once.  A failing combination stops no other.  Phases that only register a model
    are left out (:func:`grid.exclude_registering`) unless ``only`` names one.

    Args:
        path: the run file; smoke: shrink every phase.
        overrides: ``phase.key=a,b,c`` (see :func:`grid.load_combinations`).
        only, from_, fresh, parallel: as for :func:`run.run_file`.

    Raises:
        ParamsError: before anything starts, when no parameter is varied or a combination is wrong.
        FerError: another process runs a phase, or a phase before ``only``/``from_`` has not finished.
    """
    combinations = load_combinations(path, overrides, smoke)
    asked = [select_phases(combination.plan, only, from_) for combination in combinations]
    selected = asked if only else [exclude_registering(combinations, phases) for phases in asked]
    for phase in combinations[0].plan.phases:
        folders.notebook_path(phase.kind)

    from fer_lib.pipeline.execution import Execution, open_session
    from fer_lib.pipeline.progress import PhaseBar
    from fer_lib.pipeline.schedule import Schedule, print_unfinished
    from fer_lib.pipeline.workers import NotebookPool

    new = fresh or len(reuse.finished_before(selected[0])) < len(selected[0])
    with closing(NotebookPool(parallel, start=new)) as pool, open_session(fresh) as shared:
        if excluded := [phase.name for phase in asked[0] if phase not in selected[0]]:
            shared.console.print(f"left out of the sweep, because they move an alias: {', '.join(excluded)}")
        plan, status = combinations[0].plan, "FAILED"
        title, varied = f"{plan.name} sweep", (text.partition("=") for text in overrides)
        tags = {"fer.kind": "sweep"} | {f"fer.sweep.{name.strip()}": values for name, _, values in varied}
        run_id = shared.start_run(plan, title, tags).info.run_id
        try:
            executions = [
                Execution(shared, combination.plan, phases, bool(only or from_), combination.label, combination.values,
                          run_id)
                for combination, phases in zip(combinations, selected, strict=True)
            ]  # fmt: skip
            with PhaseBar(shared.console, title, sum(map(len, selected))) as bar:
                code = Schedule(executions, pool, bar, keep_going=True).run()
            last = compared_phases(combinations, [phase.name for phase in selected[0]])
            best = _compare(shared, run_id, title, executions, last)
            status = {0: "FINISHED", 1: "FAILED", 130: "KILLED"}[code]
        finally:
            shared.client.set_terminated(run_id, status)
        print_unfinished(shared, executions, code)
        if code == 0 and best is not None:
            command = run_command(path, combinations[best], smoke)
            shared.console.print(f"best on validation rows: {command}", soft_wrap=True)
    return code


def run_command(path: Path | str, combination: Combination, smoke: bool) -> str:
    """The ``fer run`` command for this combination, with its exports."""
    words = ["fer", "run", str(path), *(word for text in combination.overrides for word in ("-p", text))]
    return shlex.join(words + ["--smoke"] * smoke)


def _compare(shared, run_id: str, title: str, executions: list, last: list[str]) -> int | None:
    """Print the comparison and attach it to the run: ``sweep.json``, ``sweep.csv``, ``sweep.png``.

    Returns the index of the best combination, None with a tie.
    """
    from fer_lib.pipeline import sweep_table

    groups = sweep_table.grouped(sweep_table.rows(executions, last))
    best, client = sweep_table.best(groups), shared.client
    if best is not None:
        client.set_tag(run_id, "fer.best", executions[best].label)
    client.log_dict(run_id, sweep_table.as_json(title, executions, groups), "sweep.json")
    client.log_text(run_id, sweep_table.as_csv(groups), "sweep.csv")
    if (figure := sweep_table.plot_scores(title, groups)) is not None:
        client.log_figure(run_id, figure, "sweep.png", save_kwargs={"dpi": 120})
    for part in sweep_table.rich_tables(groups):
        shared.console.print(part)
    return best
