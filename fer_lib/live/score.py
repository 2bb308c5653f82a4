"""Protocol-Lite (SPEC 10): how good a live session was, against the labels that were given by hand while it ran.

The frames that count lie in manual segments, runs of one label that last 600 ms or more, without the 250 ms at either
end, in which the person was still changing.  Raw labels are the arg-max of each frame, smoothed ones those that were
shown.  Both are measured over one denominator: a frame without a face, an unstable and an Unknown one count as wrong.
"""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_lib.calibration.metrics import f1_from_confusion
from fer_lib.datasets.manifest import evalset_id
from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.errors import DataError
from fer_lib.live.session_files import NO_LABEL, Frames, read_frames, read_session
from fer_lib.storage.atomic import explained, fresh_file, readable

MIN_SEGMENT, TRIM = 0.6, 0.25  # seconds
CORRECTIONS, CORRECTIONS_COLUMNS = "corrections.csv", ("start_frame", "end_frame", "label")
_ROUNDING = 2e-6  # seconds: times are written with six decimals
NONE = NUM_CLASSES  # column of the confusion counts: no label was shown


@dataclass(frozen=True)
class Segment:
    """One run of a manual label: positions ``first`` to ``last`` (both in it), of which ``scored`` positions count."""

    label: int
    first: int
    last: int
    seconds: float
    scored: np.ndarray


def read_truth(folder: Path | str, frames: Frames) -> np.ndarray:
    """The manual label int8 [T] of each frame, -1 without one, after the corrections that lie beside the session.

    ``corrections.csv``: ``start_frame,end_frame,label``, both frames in it; an empty label takes labels away; a later
    line wins.  DataError, naming the line, for frames that are not in the session or a label that there is not.
    """
    file = Path(folder) / CORRECTIONS
    if not file.is_file():
        return frames.manual.copy()
    with readable(file):
        return _corrected(file.read_text(encoding="utf-8-sig"), frames, file)


def correct(folder: Path | str, spans: list[tuple[int, int, str]]) -> Path:
    """Add corrections (start_frame, end_frame, label) to the session's file; its path.

    Where they change no label, nothing is written: a notebook that is run again adds them once.  DataError, and
    nothing is written, for one that could not be read again.
    """
    folder = Path(folder)
    file = folder / CORRECTIONS
    before = file.read_text(encoding="utf-8-sig") if file.is_file() else ",".join(CORRECTIONS_COLUMNS) + "\n"
    text = before + "".join(f"{start},{end},{label}\n" for start, end, label in spans)
    frames = read_frames(folder)
    if (_corrected(text, frames, file) == _corrected(before, frames, file)).all():
        return file
    with explained(folder), fresh_file(file) as work:
        work.write_text(text, encoding="utf-8")
    return file


def _corrected(text: str, frames: Frames, file: Path) -> np.ndarray:
    lines, truth = list(csv.reader(text.splitlines())), frames.manual.copy()
    if not lines or tuple(lines[0]) != CORRECTIONS_COLUMNS:
        raise DataError(f"{file}: the first line must be {','.join(CORRECTIONS_COLUMNS)}")
    for number, cells in enumerate(lines[1:], 2):
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
    """Every run of one manual label; ``scored`` is empty where it is too short or nothing is left of it."""
    edges = np.flatnonzero(np.diff(truth)) + 1
    found = []
    for first, end in zip([0, *edges], [*edges, len(truth)], strict=True):
        if truth[first] == NO_LABEL:
            continue
        start, stop = time[first], time[end - 1]
        scored = np.arange(first, end)
        if stop - start < MIN_SEGMENT - _ROUNDING:
            scored = scored[:0]
        inner = (time[scored] >= start + TRIM - _ROUNDING) & (time[scored] <= stop - TRIM + _ROUNDING)
        found.append(Segment(int(truth[first]), int(first), int(end - 1), float(stop - start), scored[inner]))
    return found


def raw_labels(frames: Frames) -> np.ndarray:
    """The arg-max int8 [T] of each frame, -1 without a face."""
    faces = ~np.isnan(frames.probs).any(axis=1)
    labels = np.full(len(frames.probs), -1, np.int8)
    labels[faces] = frames.probs[faces].argmax(axis=1)
    return labels


def flips(labels: np.ndarray, time: np.ndarray) -> dict[str, float]:
    """How often the label changes from one labelled frame to the next, and a minute of labelled time.

    A frame lasts until the next one, the last one as long as the frame before it.
    """
    shown = labels >= 0
    changes = int((np.diff(labels[shown]) != 0).sum()) if shown.any() else 0
    lasts = np.diff(time, append=2 * time[-1] - time[-2]) if len(time) > 1 else np.zeros(len(time))
    minutes = float(lasts[shown].sum()) / 60
    return {"flips": changes, "labelled_minutes": minutes, "flips_per_min": changes / minutes if minutes else 0.0}


def measure(labels: np.ndarray, truth: np.ndarray, scored: np.ndarray) -> dict[str, Any]:
    """Accuracy, macro-F1 over 7 and over the classes present, per-class figures, confusion and coverage.

    ``labels``, ``truth`` [T]; ``scored`` positions.  Row = truth, column = label, the eighth that none was shown.
    """
    shown, y = labels[scored].astype(np.int64), truth[scored].astype(np.int64)
    column = np.where(shown >= 0, shown, NONE)
    counts = np.bincount(y * (NUM_CLASSES + 1) + column, minlength=NUM_CLASSES * (NUM_CLASSES + 1))
    counts = counts.reshape(NUM_CLASSES, NUM_CLASSES + 1)
    square = np.zeros((NUM_CLASSES + 1, NUM_CLASSES + 1))
    square[:NUM_CLASSES] = counts  # no frame's truth is "none", so its row is empty
    f1, support = f1_from_confusion(square)[:NUM_CLASSES], counts.sum(axis=1)
    present = support > 0
    return {
        "accuracy": float(np.trace(counts) / counts.sum()),
        "macro_f1": float(f1.mean()), "macro_f1_present": float(f1[present].mean()),
        "coverage": float(1 - counts[:, NONE].sum() / counts.sum()),
        "per_class_f1": dict(zip(EMOTIONS, f1.tolist(), strict=True)),
        "per_class_recall": {
            name: float(counts[k, k] / support[k]) if support[k] else None for k, name in enumerate(EMOTIONS)
        },
        "support": dict(zip(EMOTIONS, support.tolist(), strict=True)), "confusion": counts.tolist(),
    }  # fmt: skip


def score(folder: Path | str, smoothed: np.ndarray | None = None) -> dict[str, Any]:
    """All of Protocol-Lite's figures of the session in ``folder``, ready for JSON.

    ``smoothed`` int8 [T]: labels to measure in place of those that were shown.
    DataError when there is no such session, or no segment that counts (with what to do about it).
    """
    frames = read_frames(folder)
    about, truth = read_session(folder), read_truth(folder, frames)
    found = segments(truth, frames.time_sec)
    scored = np.concatenate([s.scored for s in found]) if found else np.zeros(0, np.int64)
    if not len(scored):
        raise DataError(_nothing(folder, found))
    shown = frames.pred if smoothed is None else smoothed
    evalset = _evalset(about, frames, truth, scored)
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
        "segments": len(found), "segments_scored": sum(len(s.scored) > 0 for s in found),
        "corrected": (Path(folder) / CORRECTIONS).is_file(),
        "frames_per_sec": (len(truth) - 1) / seconds if seconds else None,
        **{key: about.get(key) for key in ("fps", "latency_ms", "dropped", "smoothing")},
    }  # fmt: skip
    for name, labels in (("raw", raw_labels(frames)), ("smoothed", shown)):
        result[name] = measure(labels, truth, scored) | flips(labels, frames.time_sec)
    return result


def _evalset(about: dict[str, Any], frames: Frames, truth: np.ndarray, scored: np.ndarray) -> str:
    """Of these very frames and labels: a replay, which keeps times and source, has the same, another session has not.

    A camera's times tell its sessions apart, files that run at one rate are told by their fingerprint.
    """
    ids = [f"{frames.frame_index[i]:09d} {frames.time_sec[i]:.6f}" for i in scored.tolist()]
    source = (about.get("source") or {}).get("fingerprint", "")
    return evalset_id(ids, truth[scored], f"protocol-lite {source}", 0)


def _nothing(folder: Path | str, found: list[Segment]) -> str:
    if not found:
        return (
            f"{folder} has no manual label, so there is nothing to score against: label while it runs (keys 1 to 7, "
            "or the bar), or add corrections in notebook 10_score_session"
        )
    longest = max(s.seconds for s in found)
    return (
        f"{folder}: none of its {len(found)} manual segments counts, the longest lasts {longest:.2f} s; one needs "
        f"{MIN_SEGMENT} s and frames that lie {TRIM} s off both its ends: keep a label for longer"
    )
