"""Records of a phase: its plan, its progress, git commit, and nested values flattened for MLflow."""

from __future__ import annotations

import logging
import math
import sys
from numbers import Real
from pathlib import Path
from typing import Any

from fer_lib.storage.atomic import write_json
from fer_lib.storage.environment import run_git
from fer_lib.storage.json_files import flatten
from fer_lib.storage.paths import below


def numbers(values: dict[str, Any]) -> dict[str, float]:
    """The numeric leaves of a nested mapping by MLflow metric name (``val/per_class_f1/Angry``)."""
    flat = flatten(values, "/").items()
    return {key: float(value) for key, value in flat if isinstance(value, Real) and not isinstance(value, bool)}


def git_state() -> str:
    """``<commit>`` or ``<commit>-dirty`` of the checkout that this package runs from, ``unknown`` outside one."""
    return run_git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*") or "unknown"


def epoch_line(epoch: int, epochs: int | None, values: dict[str, float]) -> str:
    """The line printed after each epoch."""
    keys = ("train/loss", "val/accuracy", "val/macro_f1", "val/nll", "timing/images_per_sec")
    parts = [f"{k.split('/')[-1]} {values[k]:.4g}" for k in keys if k in values and math.isfinite(values[k])]
    return f"epoch {epoch + 1}/{epochs or '?'}  " + "  ".join(parts)


def relative_inputs(inputs: dict[str, Any], base: Path) -> dict[str, Any]:
    """Input fields with folders relative to the home, so that a home can be moved."""

    def relative(value):
        return [relative(v) for v in value] if isinstance(value, list) else value and below(Path(value), base)

    return {field: relative(value) for field, value in inputs.items()}


def write_plan(plan: dict[str, Any], base: Path) -> Path:
    """Write ``phase.json``: phase, kind, key, params, inputs (relative to the home), run id."""
    record = {key: value for key, value in plan.items() if key != "output_dir"}
    inputs = relative_inputs(plan["inputs"], base)
    return write_json(Path(plan["output_dir"]) / "phase.json", record | {"inputs": inputs})


def notebook_shell() -> Any:
    """IPython's shell in a notebook; None elsewhere."""
    return sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None


def set_up_notebook() -> None:
    """In a notebook, show matplotlib figures as PNG and warnings that ``fer_lib`` logs as plain output.

    Without pyplot, IPython prints only a figure's repr.  Jupyter paints stderr red, as if the cell had failed.
    """
    if (shell := notebook_shell()) is None:
        return
    from IPython.core.pylabtools import select_figure_formats

    select_figure_formats(shell, {"png"})
    if not (log := logging.getLogger("fer_lib")).handlers:
        plain = logging.StreamHandler(sys.stdout)
        plain.setFormatter(logging.Formatter("Warning: %(message)s"))
        plain.setLevel(logging.WARNING)
        log.addHandler(plain)


def show_table(table, empty: str, precision: int = 4) -> None:
    """Display a DataFrame in a notebook, or print the sentence ``empty`` when it has no rows."""
    from IPython.display import display

    if table.empty:
        print(empty)
    else:
        display(table.style.format(precision=precision, na_rep=""))
