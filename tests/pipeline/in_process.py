"""Notebooks executed in this process, for tests of the pipeline's logic: a kernel takes a second of each phase."""

from __future__ import annotations

import contextlib
import io
import traceback
from pathlib import Path
from typing import Any

import IPython  # noqa: F401  (before the page of an earlier phase imports it in another thread)
import nbformat
import pytest
from nbformat.v4 import new_output
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from fer_lib.errors import reported_message
from fer_lib.pipeline.papermill import NotebookFailed
from fer_lib.tracking import phase_run


def execute(
    notebook: Path, output: Path, parameters: dict[str, Any], cwd: Path, environment: dict[str, str], server: str = ""
) -> None:
    """As :func:`fer_lib.pipeline.papermill.execute`; an output is the text that a cell prints, or its error."""
    content = load_notebook_node(str(notebook))
    content = parameterize_notebook(content, parameters, kernel_name="python3", language="python")
    output.parent.mkdir(parents=True, exist_ok=True)
    namespace = {"__name__": "__main__"}
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(cwd)
            for name, value in environment.items():
                patch.setenv(name, value)
            for cell in content.cells:
                if cell.cell_type == "code":
                    _run(cell, namespace)
    except Exception as error:
        name = type(error).__name__
        raise NotebookFailed(name, reported_message(name, str(error)), output) from error
    finally:
        if phase_run._current is not None:  # a kernel closes it at its exit
            phase_run._current.close("FAILED")
        nbformat.write(content, output)


def _run(cell: Any, namespace: dict[str, Any]) -> None:
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(cell.source, "<cell>", "exec"), namespace)
    except Exception as error:
        lines = traceback.format_exception(error)
        cell.outputs.append(new_output("error", ename=type(error).__name__, evalue=str(error), traceback=lines))
        raise
    finally:
        if printed.getvalue():
            cell.outputs.insert(0, new_output("stream", name="stdout", text=printed.getvalue()))
