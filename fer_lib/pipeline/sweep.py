"""``fer sweep``: one run file under every combination of some parameters' values, below one MLflow run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from fer_lib.pipeline import folders
from fer_lib.pipeline.grid import Combination, combinations, last_reached, without_registering
from fer_lib.pipeline.run import choose


def sweep_file(
    path: Path | str,
    overrides: Sequence[str],
    only: str | None = None,
    from_: str | None = None,
    smoke: bool = False,
    fresh: bool = False,
    parallel: int = 1,
) -> int:
    """Run every combination and compare them; 0 when all finished, 1 when a phase failed, 130 when interrupted.

    Phases that combinations share run once; a combination that fails stops no other.  Phases that would only register
    a model are left out (:func:`combinations.without_registering`) unless ``only`` names one.

    Args:
        path: the run file; smoke: shrink every phase.
        overrides: ``phase.key=a,b,c`` (see :func:`combinations.combinations`).
        only, from_, fresh, parallel: as for :func:`run.run_file`.

    Raises:
        ParamsError: before anything starts, when nothing is varied or a combination is wrong.
        FerError: a phase is being run by another process, or one before ``only``/``from_`` has never finished.
    """
    found = combinations(path, overrides, smoke)
    chosen = [choose(combination.plan, only, from_) for combination in found]
    kept = [own if only else without_registering(found, own) for own in chosen]
    for phase in found[0].plan.phases:
        folders.notebook_path(phase.kind)

    from fer_lib.pipeline.execution import Execution, session
    from fer_lib.pipeline.progress import PhaseBar
    from fer_lib.pipeline.schedule import Schedule, goes_on, not_started
    from fer_lib.pipeline.workers import workers

    with session(fresh) as shared, workers(parallel) as place:
        if left_out := [phase.name for phase in chosen[0] if phase not in kept[0]]:
            said = f"left out of the sweep, so that no alias moves: {', '.join(left_out)}"
            shared.console.print(said, markup=False, highlight=False)
        sweep, status = _Sweep(shared, found, overrides), "FAILED"
        try:
            executions = [
                Execution(shared, combination.plan, own, bool(only or from_), combination.label, combination.values,
                          sweep.run_id)
                for combination, own in zip(found, kept, strict=True)
            ]  # fmt: skip
            with PhaseBar(shared.console, sweep.title, sum(map(len, kept))) as bar:
                code = Schedule(executions, place, bar, keep_going=True).run()
            sweep.compare(executions, last_reached(found, [phase.name for phase in kept[0]]))
            status = {0: "FINISHED", 1: "FAILED", 130: "KILLED"}[code]
        finally:
            shared.client.set_terminated(sweep.run_id, status)
        for line in not_started(executions):
            shared.console.print(f"not started: {line}", markup=False, highlight=False)
        if code:
            shared.console.print(goes_on(fresh))
        elif sweep.best is not None:
            command = command_of(path, found[sweep.best], smoke)
            shared.console.print(f"best on validation rows: {command}", markup=False, highlight=False, soft_wrap=True)
    return code


def command_of(path: Path | str, combination: Combination, smoke: bool) -> str:
    """The command that runs this combination, with its exports."""
    words = ["fer", "run", str(path), *(word for text in combination.overrides for word in ("-p", text))]
    return shlex.join(words + ["--smoke"] * smoke)


class _Sweep:
    """The MLflow run that the combinations lie below.  ``best``: index of the one that is first, when one is."""

    def __init__(self, shared, found: list[Combination], overrides: Sequence[str]):
        from fer_lib.storage.paths import below
        from fer_lib.tracking import store
        from fer_lib.tracking.records import git_state

        plan, client = found[0].plan, shared.client
        self.shared, self.found, self.title, self.best = shared, found, f"{plan.name} sweep", None
        source = plan.path.resolve()
        tags = {"fer.kind": "sweep", "fer.lock": shared.lock, "fer.git": git_state()}
        tags["fer.run_file"] = below(source, shared.base)
        experiment = store.experiment_id(plan.experiment)
        self.run_id = client.create_run(experiment, run_name=self.title, tags=tags).info.run_id
        client.log_artifact(self.run_id, str(source))
        for name, _, value in (text.partition("=") for text in dict.fromkeys(overrides)):
            client.set_tag(self.run_id, f"fer.sweep.{name.strip()}", value)

    def compare(self, executions: list, last: list[str]) -> None:
        """Print the table, and keep it with the run: ``sweep.json``, ``sweep.csv``, ``sweep.png``."""
        from fer_lib.pipeline import comparison, curves

        rows = comparison.rows(executions, last)
        groups = comparison.grouped(rows)
        self.best = comparison.best(groups)
        client = self.shared.client
        if self.best is not None:
            client.set_tag(self.run_id, "fer.best", self.found[self.best].label)
        client.log_dict(self.run_id, comparison.as_json(self.title, executions, groups), "sweep.json")
        client.log_text(self.run_id, comparison.as_csv(groups), "sweep.csv")
        if (figure := curves.figure(self.title, groups)) is not None:
            client.log_figure(self.run_id, figure, "sweep.png", save_kwargs={"dpi": 120})
        for part in comparison.printed(groups):
            self.shared.console.print(part)
