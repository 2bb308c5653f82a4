"""``fer run params/NAME.yaml``."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer


def run(
    path: Annotated[Path, typer.Argument(help="the run file, for instance params/quickstart.yaml")],
    param: Annotated[
        list[str] | None, typer.Option("-p", "--param", help="phase.key=value, or kind.key=value; may be repeated")
    ] = None,
    only: Annotated[str | None, typer.Option(help="run this phase alone, on the finished ones before it")] = None,
    from_: Annotated[str | None, typer.Option("--from", help="run this phase and those after it")] = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="shrink every phase: a minute in all")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="run phases again although they are finished")] = False,
) -> None:
    """Run the phases of a params file.

    Finished phases are re-used and an interrupted one goes on.  Exit code 0: all finished; 1: a phase failed; 2: a
    parameter is wrong (nothing was started); 130: interrupted.
    """
    from fer_lib.pipeline import run_file

    # A batch system that ends the job leaves KILLED runs, not RUNNING ones.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    raise typer.Exit(run_file(path, param or (), only=only, from_=from_, smoke=smoke, fresh=fresh))
