"""``fer sweep params/NAME.yaml -p phase.key=a,b``."""

from __future__ import annotations

from typing import Annotated

import typer

from fer_lib.cli.run import Fresh, From, Only, Parallel, RunFile, Smoke, set_up_process


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
    set_up_process()
    from fer_lib.pipeline.sweep import sweep_file

    code = sweep_file(path, param or (), only=only, from_=from_, smoke=smoke, fresh=fresh, parallel=parallel)
    raise typer.Exit(code)
