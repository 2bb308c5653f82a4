"""How fast a live session is smoothed and scored afterwards, and how many smoothing settings a study tries a minute.

``python benchmarks/live_scoring.py [--frames N] [--repeat N] [--write]`` makes up a session of somebody who shows one
class after another, writes it as ``fer live`` does, and times on it, on one core:

- *smoothing*: all frames at once, and frame by frame as while a session runs;
- *scoring*: Protocol-Lite from frames in memory, and from the session's files on (``fer score``, without its plots);
- *the study*: its default grid on a shorter session.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _common import goal, one_core, publish  # beside this file, which tests load by its path

from fer_lib.live.log import SessionLog
from fer_lib.live.score import flips, measure, raw_labels, score, segments
from fer_lib.live.session_files import NO_LABEL, UNSTABLE, FrameRecord, read_frames, write_session
from fer_lib.live.smoothing import Smoother, apply_margin, majority_vote, moving_average
from fer_lib.live.smoothing_grid import score_grid
from fer_lib.params import SmoothingParams, StudyParams

FPS, HOLD, HAND = 30.0, 3.0, 0.3  # frames a second; seconds of one expression, and until the label follows
SHORTER = 5_000  # frames of the study's session
FRAMES_PER_SECOND, SETTINGS_PER_MINUTE = 100_000, 10_000  # goals


def acted(length: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Manual labels int [T] and probabilities [T, 7], 3 % NaN rows: the model is right in three frames of four."""
    rng = np.random.default_rng(seed)
    run = int(HOLD * FPS)
    shown = np.repeat(rng.integers(0, 7, length // run + 1), run)[:length]
    manual = np.where(np.arange(length) % run < HAND * FPS, NO_LABEL, shown)
    said = np.where(rng.random(length) < 0.75, shown, rng.integers(0, 7, length))
    probs = 0.5 * rng.dirichlet(np.full(7, 0.5), length)
    probs[np.arange(length), said] += 0.5
    probs[rng.random(length) < 0.03] = np.nan
    return manual, probs


def smooth(probs: np.ndarray, p: SmoothingParams) -> np.ndarray:
    """The labels int8 [T] of a whole session at once, by the functions that the smoothing study composes."""
    faces = ~np.isnan(probs).any(axis=1)
    labels = apply_margin(moving_average(probs[faces], p.ema_alpha), p.hysteresis_delta)
    winner, votes = majority_vote(labels, p.vote_window)
    shown = np.full(len(probs), UNSTABLE, np.int8)
    shown[faces] = np.where(votes >= p.vote_min_count, winner, UNSTABLE)
    return shown


def write(folder: Path, length: int) -> Path:
    """A session of so many frames, by the product's own log."""
    folder.mkdir()
    manual, probs = acted(length)
    p, head = SmoothingParams(), {"input": "made up", "detector": "none", "ckpt": "none", "model": "none"}
    shown = smooth(probs, p)
    log = SessionLog(folder, head, "2026-01-01T00:00:00+00:00", p, True)
    for i, row in enumerate(probs):
        seen = None if np.isnan(row).any() else row
        log.add(FrameRecord(i, i / FPS, int(manual[i]), "file", int(shown[i]), seen, None))
    log.close()
    write_session(folder, {"smoothing": p.model_dump()})
    return folder


def seconds(work: Callable[[], object], repeat: int) -> float:
    """The median of ``repeat`` times, after one that does not count."""
    took = []
    for _ in range(repeat + 1):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return statistics.median(took[1:])


def in_memory(frames, labels: np.ndarray) -> None:
    """What scoring computes once the files are read, for raw and for smoothed labels."""
    found = segments(frames.manual, frames.time_sec)
    scored = np.concatenate([s.scored for s in found])
    for own in (raw_labels(frames), labels):
        measure(own, frames.manual, scored)
        flips(own, frames.time_sec)


def frame_by_frame(rows: list, p: SmoothingParams) -> None:
    smoother = Smoother(p)
    for row in rows:
        smoother.step(row)


def run(length: int, repeat: int, work: Path) -> dict:
    """All figures of sessions of ``length`` and of SHORTER frames, written below ``work``."""
    p, long, short = SmoothingParams(), write(work / "long", length), write(work / "short", SHORTER)
    frames = read_frames(long)
    rows = [None if np.isnan(row).any() else row for row in frames.probs]
    labels, grid = smooth(frames.probs, p), StudyParams()
    settings = len(score_grid(short, grid))
    found = {
        "smoothing, all at once": seconds(lambda: smooth(frames.probs, p), repeat),
        "smoothing, frame by frame": seconds(lambda: frame_by_frame(rows, p), repeat),
        "scoring, frames in memory": seconds(lambda: in_memory(frames, labels), repeat),
        "reading the files": seconds(lambda: read_frames(long), repeat),
        "scoring from the files on": seconds(lambda: score(long, labels), repeat),
    }
    took = seconds(lambda: score_grid(short, grid), repeat)
    return {
        "frames": length, "repeat": repeat, "seconds": found, "cores": os.cpu_count(),
        "study": {"frames": SHORTER, "settings": settings, "seconds": took},
    }  # fmt: skip


def goals(result: dict) -> list[dict]:
    took, n = result["seconds"], result["frames"]
    both = took["smoothing, all at once"] + took["scoring, frames in memory"]
    whole = took["smoothing, all at once"] + took["scoring from the files on"]
    running = took["smoothing, frame by frame"] + took["scoring from the files on"]
    trial = result["study"]
    return [
        goal("smoothing + scoring of frames in memory, frames/s", n / both, FRAMES_PER_SECOND),
        goal("smoothing + scoring from the files on, frames/s", n / whole, FRAMES_PER_SECOND),
        goal("smoothing frame by frame + scoring from the files on, frames/s", n / running, FRAMES_PER_SECOND),
        goal("smoothing study, settings a minute", 60 * trial["settings"] / trial["seconds"], SETTINGS_PER_MINUTE),
    ]


def page(result: dict) -> str:
    """``live_scoring.md`` from ``live_scoring.json``."""
    trial = result["study"]
    lines = [
        "# What scoring a live session costs",
        "",
        "`python benchmarks/live_scoring.py --write` measures this table and writes this page from "
        "[live_scoring.json](live_scoring.json).",
        "",
        *[f"- {g['text']}" for g in goals(result)],
        "",
        f"A session of {result['frames']:,} frames ({result['frames'] / FPS / 60:.0f} minutes at {FPS:.0f} frames a "
        f"second), on one core of {result['cores']}; medians of {result['repeat']}. Frame by frame is what a running "
        "session does; all at once what a replay and the study do, with equal labels.",
        "",
        "| step | milliseconds | frames/s | microseconds a frame |",
        "|---|---:|---:|---:|",
    ]
    for name, took in result["seconds"].items():
        n = result["frames"]
        lines.append(f"| {name} | {1e3 * took:,.1f} | {n / took:,.0f} | {1e6 * took / n:.2f} |")
    lines += [
        "",
        f"The study tries {trial['settings']:,} settings on {trial['frames']:,} frames in {trial['seconds']:.2f} s, "
        f"{1e3 * trial['seconds'] / trial['settings']:.2f} ms each, reading included.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--write", action="store_true", help="write docs/results/live_scoring.{json,md}")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="live-scoring-") as work, one_core():
        result = run(a.frames, a.repeat, Path(work))
    print(page(result))
    if a.write:
        publish("live_scoring", result, page(result))


if __name__ == "__main__":
    main()
