"""Execution of one notebook by papermill, in a kernel with this Python interpreter, and its HTML page."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from fer_lib.errors import FerError, reported_message
from fer_lib.pipeline.kernel_server import backend_environment


class NotebookFailed(FerError):
    """A cell raised an exception of the class ``name``, or the kernel died.  ``output``: the executed notebook."""

    def __init__(self, name: str, message: str, output: Path):
        super().__init__(f"{name}: {message}\nthe notebook up to the failing cell: {output}")


def execute(
    notebook: Path, output: Path, parameters: dict[str, Any], cwd: Path, environment: dict[str, str], server: str = ""
) -> None:
    """Run ``notebook`` with ``parameters`` and write it to ``output``, also after a failure.

    Args:
        cwd: working folder of the kernel; environment: changes to its environment.
        server: address of a kernel server, or "".

    Raises:
        NotebookFailed: a cell failed or the kernel died.
        KeyboardInterrupt: this thread or the kernel was interrupted; the kernel has ended.
    """
    import nbclient.exceptions
    import papermill

    from fer_lib.pipeline.kernels import kernel_manager

    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns about parameters that the cell does not list
    output.parent.mkdir(parents=True, exist_ok=True)
    for old in (output, html_path(output)):  # files of an earlier run
        old.unlink(missing_ok=True)
    quiet = ["--log-level=50"]  # ipykernel logs the interrupt of an idle kernel as an error
    try:
        papermill.execute_notebook(
            str(notebook), str(output), parameters=parameters, kernel_name="python3", progress_bar=False,
            log_output=False, extra_arguments=quiet,
            kernel_manager_class=kernel_manager(backend_environment() | environment, cwd, server),
        )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        if error.ename == "KeyboardInterrupt":  # the kernel itself was interrupted
            raise KeyboardInterrupt from error
        raise NotebookFailed(error.ename, reported_message(error.ename, error.evalue), output) from error
    except nbclient.exceptions.DeadKernelError as error:
        message = "the kernel was killed (out of memory?): lower batch_size or image_size, then run the same again"
        raise NotebookFailed("DeadKernel", message, output) from error
    except RuntimeError as error:  # jupyter_client: the kernel died or timed out at its start
        message = f"{error}: the machine may be out of memory or overloaded; run the same again"
        raise NotebookFailed("NoKernel", message, output) from error


def write_html(notebook: Path) -> Path:
    """Render an executed notebook as HTML beside it; returns the path."""
    from nbconvert import HTMLExporter

    body, _ = HTMLExporter().from_filename(str(notebook))
    html_path(notebook).write_text(body, encoding="utf-8")
    return html_path(notebook)


def html_path(notebook: Path) -> Path:
    """Path of the HTML page of an executed notebook."""
    return notebook.with_suffix(".html")
