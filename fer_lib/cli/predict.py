"""``fer predict``: expressions of the faces in images and folders."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fer_lib.cli.options import ModelOption
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError, ParamsError, path_text
from fer_lib.pipeline.progress import show_progress
from fer_lib.storage.atomic import explained
from fer_lib.storage.progress import step

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}


def predict(
    paths: Annotated[list[Path], typer.Argument(help="Images, and folders of images.", show_default=False)],
    model: ModelOption = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Also write one row per face to this file.")] = None,
    annotated: Annotated[
        Path | None, typer.Option("--annotate", help="Also write each image with its faces drawn into this folder.")
    ] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Each image is one face already: look for none.")] = False,
    detector: Annotated[Literal["auto", "yunet", "haar"], typer.Option(help="What finds the faces.")] = "auto",
    prior: Annotated[
        str,
        typer.Option(
            help="How frequent the classes are where these images come from: uniform, or 7 shares with commas, "
            "Angry first. Default: as in training."
        ),
    ] = "",
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Look into folders of folders.")] = False,
) -> None:
    """Say what the faces in images express, with calibrated probabilities.  Exit 1 when an image can't be read."""
    from fer_lib import load
    from fer_lib.faces.decode import decode
    from fer_lib.tracking.registry import default_uri

    uri, target_prior = model or default_uri(), _prior(prior)
    with show_progress("predict"), step("loading model"):
        predictor = load(uri, detector=detector, target_prior=target_prior)
    typer.echo(f"model: {predictor.describe()}", err=True)
    if terms := predictor.terms():
        typer.echo(f"terms: {terms}", err=True)
    if annotated is not None:
        with explained(annotated):
            annotated.mkdir(parents=True, exist_ok=True)
    results, images = [], list_images(paths, recursive)
    with show_progress("predict"), step("reading images", len(images), "images") as counter:
        for path, error in images:
            result: dict[str, Any] = {"path": path_text(str(path)), "faces": [], "error": error}
            if error is None:
                try:
                    image = decode(path)
                    faces = predictor.predict(image, whole=whole)
                except DataError as problem:
                    result["error"] = path_text(str(problem))
                else:
                    result["faces"] = [face.as_dict() for face in faces]
                    if annotated is not None:
                        _draw(image, faces, annotated, path, len(results))
            results.append(result)
            counter.update(len(results))
    if as_json:
        bundle = predictor.bundle
        about = {"uri": uri, "name": bundle.name, "weights_sha256": bundle.weights_sha256}
        typer.echo(json.dumps({"model": about, "results": results}, indent=1))
    else:
        _show(results, uri, whole)
    if csv_file is not None:  # last, so that what was found is shown also where it can't be written
        write_csv(csv_file, results)
    failed = [r for r in results if r["error"]]
    for result in failed:
        typer.echo(f"not read: {result['error']}", err=True)
    if failed:
        raise typer.Exit(1)


def _prior(text: str) -> list[float] | None:
    from fer_lib.calibration.prior_shift import UNIFORM, checked_prior

    if not text:
        return None
    try:
        return list(UNIFORM) if text == "uniform" else checked_prior([float(x) for x in text.split(",")]).tolist()
    except (ValueError, DataError) as error:
        raise ParamsError(f"--prior {text}: {error}; write uniform, or 7 shares with commas that sum to 1") from error


def list_images(paths: list[Path], recursive: bool) -> list[tuple[Path, str | None]]:
    """(path, None) for each image named or found, in order; (path, reason) for what can't be used."""
    entries: list[tuple[Path, str | None]] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(path.rglob("*") if recursive else path.iterdir())
            images = [(p, None) for p in inside if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]
            hint = "" if recursive else " (--recursive also looks into its folders)"
            entries += images or [(path, f"{path}: no image in this folder{hint}")]
        else:
            entries.append((path, None if path.is_file() else f"{path}: there is no such file; check the path"))
    return entries


def write_csv(file: Path, results: list[dict[str, Any]]) -> None:
    """One row per face; an image without a face, or that failed, has one row with ``error`` or an empty label.

    DataError when the file can't be written.
    """
    from fer_lib.datasets.interchange import escape_formula

    box = ("bbox_top", "bbox_left", "bbox_bottom", "bbox_right")
    with explained(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    with explained(file), open(file, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        probs = [f"prob_{e}" for e in EMOTIONS]
        writer.writerow(["path", "face", "label", "confidence", *probs, *box, "score", "error"])
        for result in results:
            path, error = escape_formula(result["path"]), escape_formula(result["error"] or "")
            for i, face in enumerate(result["faces"]):
                values = [face["probs"][e] for e in EMOTIONS]
                score = "" if face["score"] is None else face["score"]
                writer.writerow([path, i, face["label"], face["confidence"], *values, *face["box"], score, error])
            if not result["faces"]:
                writer.writerow([path, "", "", "", *[""] * 7, *[""] * 4, "", error])


def _draw(image, faces, folder: Path, path: Path, number: int) -> None:
    """The image with its faces, as a PNG of its name in ``folder``.  DataError when it can't be written."""
    from PIL import Image

    from fer_lib.deploy.predict import annotate

    target = folder / f"{path.stem}.png"
    if target.exists():  # two folders may hold images of one name; an older result is not overwritten either
        target = folder / f"{path.stem}-{number}.png"
    with explained(target):
        Image.fromarray(annotate(image, faces)).save(target)


def _show(results: list[dict[str, Any]], uri: str, whole: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(f"Model: {uri}"), title_justify="left")
    table.add_column("Image", overflow="fold")  # an ellipsis would hide the file's own name
    table.add_column("Face")
    table.add_column("Expression")
    table.add_column("Prob.", justify="right")
    table.add_column("Then", no_wrap=True)
    read = [r for r in results if not r["error"]]
    for result in read:
        for i, face in enumerate(result["faces"]):
            then = sorted((e for e in EMOTIONS if e != face["label"]), key=lambda e: -face["probs"][e])[:2]
            others = ", ".join(f"{e} {face['probs'][e]:.2f}" for e in then)
            name = Text(result["path"] if i == 0 else "")
            table.add_row(name, str(i + 1), face["label"], f"{face['confidence']:.3f}", others)
        if not result["faces"]:
            table.add_row(Text(result["path"]), "", "no face found", "", "")
    console = Console()
    if read:
        console.print(table)
    if not whole and any(not r["faces"] for r in read):
        console.print("Where an image is a cropped face already, use --whole.")
