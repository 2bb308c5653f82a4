"""``fer onnx``: one ONNX file out of a bundle, a fit, a registered model, or a checkpoint that lies alone."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fer_lib.errors import FerError

if TYPE_CHECKING:
    from fer_lib.models.bundle import Bundle


def onnx(
    model: Annotated[
        str,
        typer.Argument(
            help="A bundle, fit or checkpoint folder (checkpoint_last, checkpoint_epochNNN; nothing beside it is "
            "needed), models:/NAME@ALIAS, models:/NAME/VERSION or runs:/ID/PATH.",
            show_default=False,
        ),
    ],
    out: Annotated[Path | None, typer.Argument(help="The file. Default: NAME.onnx in this folder.")] = None,
    opset: Annotated[int, typer.Option(min=17, max=23, help="ONNX operator set.")] = 18,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a model as an ONNX file, prove that its logits are torch's, and time both."""

    from fer_lib.deploy.latency import benchmark
    from fer_lib.deploy.onnx_file import export_verified
    from fer_lib.pipeline.progress import show_progress

    with tempfile.TemporaryDirectory(prefix="fer-onnx-") as work:
        with show_progress("onnx"):
            bundle = open_model(model, Path(work) / "bundle")
            path = out or Path(f"{bundle.name}.onnx")
            _check_writable(path, force)
            report = export_verified(bundle, path, opset)
            rows = benchmark(bundle, {"fp32": path}, batches=(1,))
        _print_result(bundle, path, report, rows)


def open_model(model: str, work: Path) -> Bundle:
    """The model that is meant, as a bundle; one of a checkpoint folder is written to ``work``.

    Raises FerError when there is no such thing, BundleError when it is damaged.
    """
    from fer_lib.models.bundle import read_bundle
    from fer_lib.storage.atomic import previous
    from fer_lib.storage.paths import is_uri
    from fer_lib.tracking.registry import resolve
    from fer_lib.training.checkpoint import META, STATE, checkpoint_bundle

    if is_uri(model):
        return read_bundle(resolve(model))
    folder = Path(model).expanduser()
    if any((place / file).is_file() for place in (folder, previous(folder)) for file in (META, STATE)):
        return checkpoint_bundle(folder, work)
    return read_bundle(resolve(folder))


def _check_writable(path: Path, force: bool) -> None:
    """Before minutes of export: DataError where no file can be made, FerError where one is that is to stay."""

    from fer_lib.storage.atomic import explained

    if path.is_dir():
        raise FerError(f"{path} is a folder: name the file, as in {path / 'model.onnx'}")
    if path.exists() and not force:
        raise FerError(f"{path} is there already: name another file, or replace it with --force")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()


def _print_result(bundle: Bundle, path: Path, report: dict, rows: list[dict]) -> None:
    typer.echo(f"{path}  {path.stat().st_size:,} bytes, opset {report['opset']}, weights {bundle.weights_sha256[:12]}")
    typer.echo(
        f"largest difference from torch {report['max_abs_diff']:.3g} on {report['n']} inputs (logits reach "
        f"{report['max_abs_logit']:.3g})"
    )
    for row in rows:
        typer.echo(
            f"{row['runtime']:<11} {row['size']} px, batch {row['batch']}, {row['threads']} thread: "
            f"p50 {row['p50_ms']:.2f} ms, p95 {row['p95_ms']:.2f} ms"
        )
