"""``fer live buffer``: the faces of a recorded session that a model may learn from, as a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def buffer(
    session: Annotated[
        Path, typer.Argument(help="Folder of a session that was recorded with --record raw.", show_default=False)
    ],
    out: Annotated[Path | None, typer.Option(help="Folder of the buffer. Default: SESSION/buffer.")] = None,
    param: Annotated[
        list[str] | None, typer.Option("-p", "--param", metavar="KEY=VALUE", help="As in -p cap=100.")
    ] = None,
) -> None:
    """Choose the faces that may be learned from, and write them with what each may teach."""
    from fer_lib.adapt.buffer import read_report, write_buffer
    from fer_lib.cli.data_files import values_of
    from fer_lib.params import BufferParams
    from fer_lib.params.strict import validate
    from fer_lib.pipeline.progress import show_progress

    p = validate(BufferParams, values_of(param), "live buffer")
    folder = out or session / "buffer"
    with show_progress("buffer"):
        manifest = write_buffer(session, folder, p)
    report = read_report(folder)
    _print_result(report, p.positive)
    print(f"{len(manifest):,} rows in {folder} (sha256 {manifest.sha256[:12]})")
    print(f"to learn from them: notebook 11_adapt with buffers: [{folder}]")


def _print_result(report: dict[str, Any], positive: float) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{report['rows']:,} of {report['frames']:,} frames of {Path(report['session']).name}")
    table.add_column("class")
    heads = {"positive": f"positive (p >= {positive:g})", "corrected": "is not (by hand)", "negative": "is not"}
    for head in heads.values():
        table.add_column(head, justify="right")
    for name in report["counts"]["positive"]:
        table.add_row(name, *(f"{report['counts'][kind][name]:,}" for kind in heads))
    Console().print(table)
    left_out = ", ".join(f"{reason.replace('_', ' ')} {n:,}" for reason, n in report["left_out"].items() if n)
    print(f"left out: {left_out or 'none'}")
    for note in report["notes"]:
        print(note)
