"""``fer check``: does the device compute, is the store writable, is there room?"""

from __future__ import annotations

import shutil
import time
from typing import Annotated

import typer

NEEDED_GB = 5  # a quickstart with its caches and artifacts, with a good margin


def check(
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, xpu or mps")] = "auto",
) -> None:
    """Check the device by a real training step, the store by opening it, and the disk."""
    from rich.console import Console
    from rich.table import Table

    from fer_lib.devices import check_device
    from fer_lib.errors import FerError
    from fer_lib.pipeline.progress import show_progress
    from fer_lib.storage.progress import step
    from fer_lib.tracking import store

    table, problems = Table(show_header=False), []
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    try:
        with show_progress("check"), step("running a training step"):
            facts = check_device(device)
        for name, value in facts.items():
            shown = ", ".join(value) if isinstance(value, list) else str(value)
            table.add_row(f"device {name.replace('_', ' ')}", shown)
    except FerError as error:
        problems.append(str(error))
    try:
        began = time.perf_counter()
        with show_progress("check"), step("opening the store"):
            base = store.configure()
        table.add_row("store", f"{store.tracking_uri(base)} (opened in {time.perf_counter() - began:.1f} s)")
        free = shutil.disk_usage(base).free / 1e9
        table.add_row("disk free", f"{free:.1f} GB at {base}")
        if free < NEEDED_GB:
            problems.append(f"only {free:.1f} GB free at {base}: make room, or set FER_HOME to a larger disk")
    except FerError as error:
        problems.append(str(error))
    Console().print(table)
    if problems:
        raise FerError("\nfer: ".join(problems))
    typer.echo("all is well")
