"""What a phase records beside its results: its plan and outputs, and values flattened for MLflow."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fer_lib.storage.atomic import explained, write_json
from fer_lib.storage.json_files import flatten
from fer_lib.storage.paths import below


def numbers(values: dict[str, Any]) -> dict[str, float]:
    """The numeric leaves of a nested mapping under MLflow metric names (``val/per_class_f1/Angry``); no others."""
    flat = {key: _scalar(value) for key, value in flatten(values, "/").items()}
    return {key: float(value) for key, value in flat.items() if isinstance(value, (int, float)) and value is not None}


def _scalar(value: Any) -> Any:
    if isinstance(value, bool):
        return None
    return value.item() if hasattr(value, "item") and getattr(value, "size", 1) == 1 else value


def git_state() -> str:
    """``<commit>`` or ``<commit>-dirty`` of the checkout that this package runs from, ``unknown`` outside one."""
    package = Path(__file__).resolve().parents[2]
    try:
        head = subprocess.run(
            ["git", "-C", str(package), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True, text=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):  # no git on this machine: the tag says so
        return "unknown"
    return head.stdout.strip() if head.returncode == 0 else "unknown"


def epoch_line(epoch: int, epochs: int | None, values: dict[str, float]) -> str:
    """One line a person reads while a phase trains."""
    shown = ("train/loss", "val/accuracy", "val/macro_f1", "val/nll", "timing/images_per_sec")
    parts = [f"{k.split('/')[-1]} {values[k]:.4g}" for k in shown if k in values and math.isfinite(values[k])]
    return f"epoch {epoch + 1}/{epochs or '?'}  " + "  ".join(parts)


def relative_inputs(inputs: dict[str, Any], base: Path) -> dict[str, Any]:
    """Input fields with their folders relative to the home, so that what was written still holds after a move."""

    def relative(value):
        return [relative(v) for v in value] if isinstance(value, list) else value and below(Path(value), base)

    return {field: relative(value) for field, value in inputs.items()}


def write_plan(plan: dict[str, Any], base: Path) -> Path:
    """Write ``phase.json``: phase, kind, key, params, inputs (relative to the home), run id."""
    kept = {key: value for key, value in plan.items() if key != "output_dir"}
    return write_json(Path(plan["output_dir"]) / "phase.json", kept | {"inputs": relative_inputs(plan["inputs"], base)})


def draw_figures() -> None:
    """In a notebook, show matplotlib figures as pictures: without pyplot, IPython prints only what they are called."""
    if "IPython" not in sys.modules:
        return
    from IPython import get_ipython
    from IPython.core.pylabtools import select_figure_formats

    if (shell := get_ipython()) is not None:
        select_figure_formats(shell, {"png"})


def progress_line(folder: Path, what: str) -> Callable[..., None]:
    """A callback ``(done)`` or ``(done, total)`` that writes ``progress.json`` there, at most once a second."""
    shown_at = -1.0

    def show(done: int, total: int | None = None) -> None:
        nonlocal shown_at
        if time.monotonic() - shown_at >= 1.0 or done == total:
            shown_at = time.monotonic()
            write_progress(folder, text=f"{done:,}{f' of {total:,}' if total else ''} {what}")

    return show


def write_progress(folder: Path, **glimpse: Any) -> None:
    """``progress.json``: what ``fer run`` shows.  Whole, but not synced: it is written often and lost without harm."""
    work = folder / f".progress.{os.getpid()}.partial"
    with explained(folder / "progress.json"):
        work.write_text(json.dumps(glimpse), encoding="utf-8")
        os.replace(work, folder / "progress.json")
