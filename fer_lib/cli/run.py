"""``fer run params/NAME.yaml``."""

from __future__ import annotations

import atexit
import gc
import signal
from pathlib import Path
from typing import Annotated

import typer

RunFile = Annotated[Path, typer.Argument(help="the run file, for instance params/quickstart.yaml")]
Only = Annotated[str | None, typer.Option(help="run this phase alone, on the finished ones before it")]
From = Annotated[str | None, typer.Option("--from", help="run this phase and those after it")]
Smoke = Annotated[bool, typer.Option("--smoke", help="shrink every phase to a few steps on few rows")]
Fresh = Annotated[bool, typer.Option("--fresh", help="run phases again although they are finished")]
Parallel = Annotated[int, typer.Option(min=1, help="run so many phases at once, each on its own device")]


def run(
    path: RunFile,
    param: Annotated[
        list[str] | None, typer.Option("-p", "--param", help="phase.key=value, or kind.key=value; may be repeated")
    ] = None,
    only: Only = None,
    from_: From = None,
    smoke: Smoke = False,
    fresh: Fresh = False,
    parallel: Parallel = 1,
) -> None:
    """Run the phases of a params file.

    Finished phases are re-used and an interrupted one goes on.  Exit code 0: all finished; 1: a phase failed; 2: a
    parameter is wrong (nothing was started); 130: interrupted.
    """
    set_up_process()
    from fer_lib.pipeline.run import run_file

    code = run_file(path, param or (), only=only, from_=from_, smoke=smoke, fresh=fresh, parallel=parallel)
    raise typer.Exit(code)


def set_up_process() -> None:
    """Handle SIGTERM as Ctrl+C, and collect garbage less often.

    So a batch system that ends the job leaves KILLED runs, not RUNNING ones.  Collections during the imports and at the
    exit, which visit every object of MLflow, take a quarter of a command whose phases are all re-used.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    gc.set_threshold(50_000)
    atexit.register(gc.freeze)
