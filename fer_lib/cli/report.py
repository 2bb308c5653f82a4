"""``fer report``: export a finished run, render its page and the README images, install the packaged model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fer_lib.pipeline.progress import show_progress
from fer_lib.storage.paths import home
from fer_lib.storage.progress import step

report = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, no_args_is_help=True,
    help="Export a finished run, render its page, and package its student.",
)  # fmt: skip
RUN = Annotated[str, typer.Argument(help="name of a run, or its id or how that begins (see: fer runs)", metavar="RUN")]
RESULTS = Annotated[Path, typer.Argument(help="an exported run: docs/results/NAME.json", metavar="NAME.json")]


@report.command()
def export(
    run: RUN, output: Annotated[Path | None, typer.Option(help="default: docs/results/<name>.json")] = None
) -> None:
    """Collect a finished run into one JSON file."""
    from fer_lib.report.collect import export as write

    with show_progress("report"), step("collecting results"):
        path = write(run, output)
    typer.echo(f"{path} ({path.stat().st_size / 1e3:.0f} kB); render it with: fer report render {path}")


@report.command()
def render(
    results: RESULTS,
    readme: Annotated[bool, typer.Option("--readme", help="also fill the README's results; real faces only")] = False,
) -> None:
    """Write the page and images of an exported run."""
    from fer_lib.report.render import render as write

    file = home() / "README.md" if readme else None
    with show_progress("report"), step("drawing the page"):
        page = write(results, file)
    typer.echo(f"{page}" + (f" and the results of {file}" if file else ""))


@report.command()
def pictures(results: RESULTS) -> None:
    """Draw the README's images and show them in it."""
    from fer_lib.report.figures import readme_images

    with show_progress("report"), step("drawing images"):
        images = readme_images(results, home() / "README.md")
    for path in images:
        typer.echo(str(path))


@report.command()
def package(run: RUN) -> None:
    """Install a run's exported student as the model that ships with the package, with its card."""
    from fer_lib.report.collect import collect, packaged_folder
    from fer_lib.report.model_card import install

    with show_progress("report"), step("collecting results"):
        bundle = install(packaged_folder(run), collect(run))
    typer.echo(f"{bundle.name} is the packaged model now: {bundle.path}")
