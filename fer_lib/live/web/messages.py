"""The messages to the page: JSON of views, settings and the session summary, and JPEG previews."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fer_lib.emotions import EMOTIONS
from fer_lib.live import session_files
from fer_lib.live.colours import COLOURS, OTHER_COLOURS
from fer_lib.live.controls import HELP, LIMITS, STEPS, Setting
from fer_lib.live.session_files import UNSTABLE
from fer_lib.live.view import View

PREVIEW_WIDTH, PREVIEW_QUALITY = 640, 80  # pixels; JPEG


def page_config() -> dict[str, Any]:
    """The constants of the page: classes, colours, ranges and steps of the smoothing parameters, keys."""
    ranges = {name: {"low": low, "high": high} for name, (low, high) in LIMITS.items()}
    for name, step in STEPS.values():
        ranges[name]["step"] = abs(step)
    return {"classes": EMOTIONS, "colours": COLOURS, "beside": OTHER_COLOURS, "ranges": ranges, "keys": HELP}


def setting(now: Setting) -> dict[str, Any]:
    """The current setting; ``label`` is -1 without a manual label."""
    return {"label": now.label, "overlay": now.overlay, "smoothing": now.smoothing.model_dump()}


def state(view: View, skipped: int) -> dict[str, Any]:
    """One frame, boxes relative to the image size; ``skipped`` counts the views that were not sent."""
    height, width = view.image.shape[:2]
    return {
        "index": view.index, "time": round(view.time, 4), "label": view.label, "text": view.text,
        "stable": view.label != UNSTABLE, "votes": view.votes, "probs": _numbers(view.probs),
        "smoothed": _numbers(view.smoothed), "boxes": [_box(tracked, height, width) for tracked in view.faces],
        "manual": view.setting.label, "setting": setting(view.setting), "fps": round(view.fps, 1),
        "latency_ms": round(view.latency_ms, 1), "dropped": view.dropped, "skipped": skipped,
    }  # fmt: skip


def _numbers(probs: np.ndarray | None) -> list[float] | None:
    return None if probs is None else [round(float(p), 5) for p in probs]


def _box(tracked, height: int, width: int) -> dict[str, Any]:
    top, left, bottom, right = tracked.face.box
    box = [round(v, 5) for v in (top / height, left / width, bottom / height, right / width)]
    return {"number": tracked.number, "box": box, "score": round(tracked.face.score, 3)}


def preview(image: np.ndarray) -> bytes:
    """JPEG of uint8 RGB ``image`` [H, W, 3], at most :data:`PREVIEW_WIDTH` wide."""
    height, width = image.shape[:2]
    if width > PREVIEW_WIDTH:
        size = PREVIEW_WIDTH, max(1, round(height * PREVIEW_WIDTH / width))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, PREVIEW_QUALITY])[1].tobytes()


def files(folder: Path, names: tuple[str, ...] = session_files.LOGS + session_files.VIDEOS) -> list[dict[str, Any]]:
    """The files in ``folder`` among ``names``, with their sizes in bytes."""
    return [{"name": path.name, "bytes": path.stat().st_size} for path in session_files.regular_files(folder, names)]


def summary_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """The session summary as (name, value) rows; rows without a value are left out."""
    latency = summary.get("latency_ms") or {}
    rows = [
        ("Source", summary.get("input")), ("Model", summary.get("model")), ("Detector", summary.get("detector")),
        ("Frames logged", _format(summary.get("frames"), "{:,}")),
        ("Duration", _format(summary.get("seconds"), "{:.1f} s")),
        ("Frames per second", _format(summary.get("fps"), "{:.1f}")),
        ("Latency, median and 95 %", " and ".join(f"{latency[q]:.0f} ms" for q in ("p50", "p95") if q in latency)),
        ("Frames dropped", _format(summary.get("dropped"), "{:,}")), ("How it ended", summary.get("end")),
    ]  # fmt: skip
    return [(name, str(value)) for name, value in rows if value not in (None, "")]


def _format(value, pattern: str) -> str | None:
    return None if value is None else pattern.format(value)
