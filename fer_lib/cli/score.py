"""``fer score``: Protocol-Lite of one live session, and what other smoothing would have done with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def score(
    session: Annotated[Path, typer.Argument(help="Folder that fer live wrote.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Folder of score.json and plots. Default: SESSION/score.")] = None,
    study: Annotated[bool, typer.Option("--study", help="Also try a grid of smoothing settings.")] = False,
) -> None:
    """Score a live session against the labels that were given by hand while it ran."""
    from fer_lib.atomic import explained, write_json
    from fer_lib.live import plots
    from fer_lib.live.records import read_frames
    from fer_lib.live.score import read_truth, segments
    from fer_lib.live.score import score as measure

    result = measure(session)
    frames = read_frames(session)
    truth = read_truth(session, frames)
    folder = out or session / "score"
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "score.json", result)
        title = f"{session.name}: {result['n_used']:,} frames in {result['segments_scored']} segments"
        figure = plots.timeline(frames, truth, frames.pred, segments(truth, frames.time_sec), title)
        figure.savefig(folder / "timeline.png")
        plots.per_class(result, f"{session.name}: F1 by class").savefig(folder / "per_class.png")
    _say(result)
    if study:
        _study(session, result, folder)
    print(f"written: {folder}")


def _say(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from fer_lib.emotions import EMOTIONS

    console = Console()
    table = Table(title=f"Protocol-Lite, {result['n_used']:,} of {result['n_expected']:,} labelled frames")
    for name in ("", "raw", "smoothed"):
        table.add_column(name, justify="left" if not name else "right")
    rows = (("accuracy", "accuracy"), ("macro-F1, seven", "macro_f1"), ("macro-F1, present", "macro_f1_present"),
            ("coverage", "coverage"), ("flips a minute", "flips_per_min"))  # fmt: skip
    for said, key in rows:
        table.add_row(said, *(f"{result[kind][key]:.{1 if 'flips' in key else 3}f}" for kind in ("raw", "smoothed")))
    table.add_section()
    for name in EMOTIONS:
        if n := result["raw"]["support"][name]:
            values = (f"{result[kind]['per_class_f1'][name]:.3f}" for kind in ("raw", "smoothed"))
            table.add_row(f"F1 {name} ({n:,})", *values)
    console.print(table)
    pace = [f"{result['fps']:.1f} frames/s" if result["fps"] else "", _latency(result["latency_ms"])]
    left = result["segments"] - result["segments_scored"]
    notes = [
        f"{left} of {result['segments']} segments are too short to count" if left else "",
        f"{result['dropped']} frames were dropped" if result["dropped"] else "",
        "corrections.csv was applied" if result["corrected"] else "",
        "the last line was cut off and left out" if result["truncated_lines"] else "",
    ]
    print("; ".join(x for x in [*pace, *notes] if x) or "no pace was recorded")


def _latency(found: dict[str, float] | None) -> str:
    return "latency " + ", ".join(f"{k} {v:.1f} ms" for k, v in found.items()) if found else ""


def _study(session: Path, result: dict[str, Any], folder: Path) -> None:
    from fer_lib.atomic import explained
    from fer_lib.live import plots
    from fer_lib.live import study as grid
    from fer_lib.params import SmoothingParams, StudyParams

    table = grid.study(session, StudyParams())
    current = SmoothingParams(**(result["smoothing"] or {}))
    here, better = grid.row_of(table, current), grid.suggestion(table, current)
    with explained(folder):
        table.to_csv(folder / "study.csv", index=False)
        title = f"{session.name}: {len(table):,} smoothing settings"
        plots.trade(table, here, better, title).savefig(folder / "study.png")
    if here is None:
        print(f"study: {len(table):,} settings; the session's own is not among them")
    elif better is None:
        print(f"study: of {len(table):,} settings none is as calm and more accurate")
    else:
        options = " ".join(f"{name} {better[name]:g}" for name in SmoothingParams.model_fields)
        print(
            f"study: {options} would be right in {better['accuracy']:.1%} of the frames instead of "
            f"{here['accuracy']:.1%}, with {better['flips_per_min']:.1f} flips a minute instead of "
            f"{here['flips_per_min']:.1f} (found on these very frames: look at another session before you trust it)"
        )
