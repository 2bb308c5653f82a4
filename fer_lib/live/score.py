"""Protocol-Lite: score a live session against its manual labels (docs/scoring.md).

Scored frames lie in manual segments: runs of one label that last at least 600 ms, without the 250 ms at either end, in
which the expression still changes.  Raw labels are each frame's arg-max, smoothed labels are those shown.  Both use the
same denominator: frames without a face, unstable frames and Unknown frames count as wrong.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_lib.calibration.metrics import f1_from_confusion
from fer_lib.datasets.evalset_ids import evalset_id
from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.errors import DataError
from fer_lib.live.session_files import NO_LABEL, Frames, read_frames, read_session, rows_of
from fer_lib.storage.atomic import write_text

MIN_SEGMENT, TRIM = 0.6, 0.25  # seconds
CORRECTIONS, CORRECTIONS_COLUMNS = "corrections.csv", ("start_frame", "end_frame", "label")
_TIME_TOLERANCE = 2e-6  # seconds: times are written with six decimals
NO_OUTPUT = NUM_CLASSES  # confusion column of frames without a shown label


@dataclass(frozen=True)
class Segment:
    """A run of one manual label: positions ``first`` to ``last`` inclusive; ``scored`` are the positions that count."""

    label: int
    first: int
    last: int
    seconds: float
    scored: np.ndarray


def read_truth(folder: Path | str, frames: Frames) -> np.ndarray:
    """The manual label int8 [T] of each frame, -1 without one, with the session's corrections applied.

    ``corrections.csv``: ``start_frame,end_frame,label``, both frames inclusive; an empty label removes labels; a later
    line wins.  DataError, with the line, for frames outside the session or an unknown label.
    """
    file = Path(folder) / CORRECTIONS
    if not file.is_file():
        return frames.manual.copy()
    return _apply_corrections(_read_corrections(file), frames, file)


def correct(folder: Path | str, spans: list[tuple[int, int, str]]) -> Path:
    """Append corrections (start_frame, end_frame, label) to the session's ``corrections.csv``; returns its path.

    Corrections that change no label are not written, so a notebook can be run again.  DataError for an invalid
    correction; nothing is written then.
    """
    folder = Path(folder)
    file = folder / CORRECTIONS
    before = _read_corrections(file) if file.is_file() else ",".join(CORRECTIONS_COLUMNS) + "\n"
    text = before + "".join(f"{start},{end},{label}\n" for start, end, label in spans)
    frames = read_frames(folder)
    if (_apply_corrections(text, frames, file) == _apply_corrections(before, frames, file)).all():
        return file
    return write_text(file, text)


def _read_corrections(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is no UTF-8 text ({error}): save it as UTF-8") from error


def _apply_corrections(text: str, frames: Frames, file: Path) -> np.ndarray:
    lines, truth = text.splitlines(), frames.manual.copy()
    if not lines or lines[0].strip() != ",".join(CORRECTIONS_COLUMNS):
        raise DataError(f"{file}: the first line must be {','.join(CORRECTIONS_COLUMNS)}")
    for number, cells in rows_of("\n".join(lines), file):
        try:
            start, end, label = int(cells[0]), int(cells[1]), cells[2].strip()
            if label and label not in EMOTIONS:
                raise ValueError(f"there is no label {label!r}")
            value = EMOTIONS.index(label) if label else NO_LABEL
            inside = (frames.frame_index >= start) & (frames.frame_index <= end)
            if not inside.any():
                raise ValueError(f"frames {start} to {end} are not in the session")
        except (ValueError, IndexError) as error:
            raise DataError(
                f"{file}: line {number} is no start_frame,end_frame,label ({error}); labels: {', '.join(EMOTIONS)}"
            ) from error
        truth[inside] = value
    return truth


def segments(truth: np.ndarray, time: np.ndarray) -> list[Segment]:
    """All runs of one manual label; ``scored`` is empty for a segment that is too short."""
    edges = np.flatnonzero(np.diff(truth)) + 1
    result = []
    for first, end in zip([0, *edges], [*edges, len(truth)], strict=True):
        if truth[first] == NO_LABEL:
            continue
        start, stop = time[first], time[end - 1]
        scored = np.arange(first, end)
        if stop - start < MIN_SEGMENT - _TIME_TOLERANCE:
            scored = scored[:0]
        inner = (time[scored] >= start + TRIM - _TIME_TOLERANCE) & (time[scored] <= stop - TRIM + _TIME_TOLERANCE)
        result.append(Segment(int(truth[first]), int(first), int(end - 1), float(stop - start), scored[inner]))
    return result


def scored_positions(runs: list[Segment]) -> np.ndarray:
    """The positions int64 of all scored frames."""
    return np.concatenate([run.scored for run in runs]) if runs else np.zeros(0, np.int64)


def raw_labels(frames: Frames) -> np.ndarray:
    """The arg-max int8 [T] of each frame, -1 without a face."""
    faces = ~np.isnan(frames.probs).any(axis=1)
    labels = np.full(len(frames.probs), -1, np.int8)
    labels[faces] = frames.probs[faces].argmax(axis=1)
    return labels


def frame_durations(time: np.ndarray) -> np.ndarray:
    """Seconds float64 [T] from each frame to the next; the last frame lasts as long as the one before it."""
    return np.diff(time, append=2 * time[-1] - time[-2]) if len(time) > 1 else np.zeros(len(time))


def flips(labels: np.ndarray, time: np.ndarray) -> dict[str, float]:
    """The number of label changes between successive labelled frames, and its rate per labelled minute."""
    shown = labels >= 0
    changes = int((np.diff(labels[shown]) != 0).sum()) if shown.any() else 0
    minutes = float(frame_durations(time)[shown].sum()) / 60
    return {"flips": changes, "labelled_minutes": minutes, "flips_per_min": changes / minutes if minutes else 0.0}


def measure(labels: np.ndarray, truth: np.ndarray, scored: np.ndarray) -> dict[str, Any]:
    """Accuracy, macro-F1 over 7 classes and over those present, per-class F1 and recall, confusion and coverage.

    ``labels``, ``truth`` [T]; ``scored`` positions.  Confusion: row = truth, column = label, eighth column = no label.
    """
    shown, y = labels[scored].astype(np.int64), truth[scored].astype(np.int64)
    column = np.where(shown >= 0, shown, NO_OUTPUT)
    counts = np.bincount(y * (NUM_CLASSES + 1) + column, minlength=NUM_CLASSES * (NUM_CLASSES + 1))
    counts = counts.reshape(NUM_CLASSES, NUM_CLASSES + 1)
    square = np.zeros((NUM_CLASSES + 1, NUM_CLASSES + 1))
    square[:NUM_CLASSES] = counts  # no true label is "none", so the last row stays empty
    f1, support = f1_from_confusion(square)[:NUM_CLASSES], counts.sum(axis=1)
    present = support > 0
    return {
        "accuracy": float(np.trace(counts) / counts.sum()),
        "macro_f1": float(f1.mean()), "macro_f1_present": float(f1[present].mean()),
        "coverage": float(1 - counts[:, NO_OUTPUT].sum() / counts.sum()),
        "per_class_f1": dict(zip(EMOTIONS, f1.tolist(), strict=True)),
        "per_class_recall": {
            name: float(counts[k, k] / support[k]) if support[k] else None for k, name in enumerate(EMOTIONS)
        },
        "support": dict(zip(EMOTIONS, support.tolist(), strict=True)), "confusion": counts.tolist(),
    }  # fmt: skip


def score(folder: Path | str, smoothed: np.ndarray | None = None) -> dict[str, Any]:
    """The Protocol-Lite score of the session in ``folder``, ready for JSON.

    ``smoothed`` int8 [T]: labels to measure instead of the shown ones.
    DataError when ``folder`` holds no session or none of its segments is long enough.
    """
    frames = read_frames(folder)
    info, truth = read_session(folder), read_truth(folder, frames)
    runs = segments(truth, frames.time_sec)
    scored = scored_positions(runs)
    if not len(scored):
        longest = max((run.seconds for run in runs), default=0.0)
        raise DataError(
            f"{folder}: none of its {len(runs)} manual segments counts, the longest lasts {longest:.2f} s: keep a "
            f"label (keys 1 to 7, or the bar) for {MIN_SEGMENT} s or longer, with frames {TRIM} s from both its ends, "
            "or add corrections in notebook 10_score_session"
        )
    shown = frames.pred if smoothed is None else smoothed
    evalset = _evalset(info, frames, truth, scored)
    rules = json.dumps([evalset, MIN_SEGMENT, TRIM])
    seconds = float(frames.time_sec[-1] - frames.time_sec[0])
    faces = ~np.isnan(frames.probs).any(axis=1)
    result = {
        "protocol": "Protocol-Lite", "min_segment_sec": MIN_SEGMENT, "trim_sec": TRIM, "evalset_id": evalset,
        "protocol_id": hashlib.sha256(rules.encode()).hexdigest()[:12],
        "model": frames.model, "ckpt": frames.ckpt, "detector": frames.detector,
        "frames": len(truth), "seconds": seconds, "truncated_lines": frames.truncated,
        "face_share": float(faces.mean()),
        "n_expected": int((truth != NO_LABEL).sum()), "n_used": len(scored),
        "segments": len(runs), "segments_scored": sum(len(s.scored) > 0 for s in runs),
        "corrected": (Path(folder) / CORRECTIONS).is_file(),
        "frames_per_sec": (len(truth) - 1) / seconds if seconds else None,
        **{key: info.get(key) for key in ("fps", "latency_ms", "dropped", "smoothing")},
    }  # fmt: skip
    for name, labels in (("raw", raw_labels(frames)), ("smoothed", shown)):
        result[name] = measure(labels, truth, scored) | flips(labels, frames.time_sec)
    return result


def _evalset(info: dict[str, Any], frames: Frames, truth: np.ndarray, scored: np.ndarray) -> str:
    """The evalset id of the scored frames and labels; equal for a session and its replays, else different."""
    # frame times distinguish a camera's sessions, the fingerprint files of equal frame rate
    ids = [f"{frames.frame_index[i]:09d} {frames.time_sec[i]:.6f}" for i in scored.tolist()]
    source = (info.get("source") or {}).get("fingerprint", "")
    return evalset_id(ids, truth[scored], f"protocol-lite {source}", 0)
