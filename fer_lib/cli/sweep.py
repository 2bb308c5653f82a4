"""``fer sweep params/NAME.yaml -p phase.key=a,b``."""

from __future__ import annotations

import signal
from typing import Annotated

import typer

from fer_lib.cli.run import Fresh, From, Only, Parallel, RunFile, Smoke


def sweep(
    path: RunFile,
    param: Annotated[
        list[str] | None,
        typer.Option("-p", "--param", help="phase.key=a,b,c: values to try, a list as [..],[..]; one value: set it"),
    ] = None,
    only: Only = None,
    from_: From = None,
    smoke: Smoke = False,
    fresh: Fresh = False,
    parallel: Parallel = 1,
) -> None:
    """Run a params file under every combination of the values given, and compare.

    Phases that combinations share run once.  Exit code 0: all finished; 1: a phase failed, the other combinations went
    on; 2: a parameter of some combination is wrong (nothing was started); 130: interrupted.
    """
    from fer_lib.pipeline.sweep import sweep_file

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as for fer run
    code = sweep_file(path, param or (), only=only, from_=from_, smoke=smoke, fresh=fresh, parallel=parallel)
    raise typer.Exit(code)
