"""``fer runs``: the recent runs; ``fer runs reap`` ends those whose process is dead."""

from __future__ import annotations

import datetime
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def runs(
    context: typer.Context,
    last: Annotated[int, typer.Option("-n", "--last", min=1, help="how many runs, their phases not counted")] = 10,
) -> None:
    """List the recent runs, what lies below each (a sweep's combinations, phases, fits that start from them)."""
    if context.invoked_subcommand:
        return
    import mlflow
    from rich.console import Console
    from rich.table import Table

    from fer_lib.tracking import store

    base, client = store.configure(), mlflow.MlflowClient()
    experiments = [e.experiment_id for e in client.search_experiments()]
    newest = client.search_runs(experiments, order_by=["attributes.start_time DESC"], max_results=1000)
    children: dict[str, list] = {}
    for run in newest:
        children.setdefault(run.data.tags.get("mlflow.parentRunId", ""), []).append(run)
    table = Table("run", "kind", "status", "started", "minutes", "id")
    table.columns[0].overflow = "fold"
    table.columns[3].no_wrap = True
    listed = {run.info.run_id for run in newest}
    roots = [run for run in newest if run.data.tags.get("mlflow.parentRunId") not in listed]
    waiting = [(run, "") for run in reversed(roots[:last])]
    while waiting:
        run, indent = waiting.pop()
        table.add_row(*_row(run, base, indent))
        waiting += [(child, indent + "  ") for child in children.get(run.info.run_id, [])]
    Console().print(table if newest else "no runs yet: fer run params/quickstart.yaml makes some")


def _row(run, base, indent: str) -> list[str]:
    from fer_lib.storage import locks

    lock, status = run.data.tags.get("fer.lock"), run.info.status
    if status == "RUNNING" and lock and not locks.is_locked(base / lock):
        status = "dead (fer runs reap)"
    started = datetime.datetime.fromtimestamp(run.info.start_time / 1000)
    ended = run.info.end_time and (run.info.end_time - run.info.start_time) / 60_000
    minutes = f"{ended:.1f}" if ended else ""
    name = f"{indent}{run.info.run_name}"
    return [name, run.data.tags.get("fer.kind", ""), status, f"{started:%Y-%m-%d %H:%M}", minutes, run.info.run_id[:8]]


@app.command()
def reap() -> None:
    """End every RUNNING run whose process is dead."""
    from fer_lib.tracking.run_status import reap as reap_dead

    ended = reap_dead()
    typer.echo(f"ended {len(ended)} dead run{'' if len(ended) == 1 else 's'}" + "".join(f"\n  {run}" for run in ended))
