"""``fer softlabels check``: whether a soft-label folder is as it was written and covers the rows of a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, no_args_is_help=True)


@app.callback()
def softlabels() -> None:
    """Check soft labels."""


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="The folder of a soft-label phase.", show_default=False)],
    manifest: Annotated[
        Path | None,
        typer.Option(
            help="A manifest.parquet, or its folder: its training rows must be covered. Default: the phase's own.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Verify hashes, class order, face contract and coverage; print the sharpness.  Exit 1 when a check fails."""
    from fer_lib.cli.data_files import read_rows
    from fer_lib.models.softlabels_format import read_softlabels
    from fer_lib.models.softlabels_result import sharpness_table
    from fer_lib.pipeline import folders

    phase = folders.read_record(folder)
    manifest = manifest or (Path(phase["inputs"]["manifest"]) if phase else None)
    labels = read_softlabels(folder, manifest and read_rows(manifest).rows(split="train"), passed=typer.echo)
    typer.echo(sharpness_table(labels.record).round(3).T.to_string())
