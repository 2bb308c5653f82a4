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
    from fer_lib.live import plots
    from fer_lib.live.score import read_truth, segments
    from fer_lib.live.score import score as measure
    from fer_lib.live.score_view import class_table, score_table, speed_text
    from fer_lib.live.session_files import read_frames
    from fer_lib.pipeline.progress import show_progress
    from fer_lib.storage.atomic import explained, write_json
    from fer_lib.storage.progress import step

    folder = out or session / "score"
    with show_progress("score"):
        with step("reading session"):
            result = measure(session)
            frames = read_frames(session)
            truth = read_truth(session, frames)
        with step("drawing plots"), explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "score.json", result)
            title = f"{session.name}: {result['n_used']:,} frames in {result['segments_scored']} segments"
            figure = plots.timeline(frames, truth, frames.pred, segments(truth, frames.time_sec), title)
            figure.savefig(folder / "timeline.png")
            plots.per_class(result, f"{session.name}: F1 by class").savefig(folder / "per_class.png")
    print(f"Protocol-Lite, {result['n_used']:,} of {result['n_expected']:,} labelled frames")
    for table in (score_table(result), class_table(result).filter(regex="frames|F1")):
        print(table.round(3).to_string())
    print(speed_text(result))
    if study:
        _study(session, result, folder)
    print(f"written: {folder}")


def _study(session: Path, result: dict[str, Any], folder: Path) -> None:
    from fer_lib.live import plots
    from fer_lib.live import smoothing_grid as grid
    from fer_lib.live.score_view import grid_text
    from fer_lib.params import SmoothingParams, StudyParams
    from fer_lib.pipeline.progress import show_progress

    with show_progress("study"):
        table = grid.score_grid(session, StudyParams())
    current = SmoothingParams(**(result["smoothing"] or {}))
    here, better = grid.find_row(table, current), grid.suggest_setting(table, current)
    table.to_csv(folder / "study.csv", index=False)
    title = f"{session.name}: {len(table):,} smoothing settings"
    plots.tradeoff(table, here, better, title).savefig(folder / "study.png")
    print(f"study: {grid_text(table, here, better)}")
