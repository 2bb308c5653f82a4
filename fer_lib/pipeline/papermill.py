"""One notebook through papermill, in a kernel that is this very Python, and its HTML view."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fer_lib.errors import FerError, reported_message


class NotebookFailed(FerError):
    """A cell raised, or the kernel died.  ``name``: the exception's class; ``output``: where the notebook lies."""

    def __init__(self, name: str, message: str, output: Path):
        super().__init__(f"{name}: {message}\nthe notebook up to the failing cell: {output}")
        self.name, self.message, self.output = name, message, output

    def __reduce__(self):
        """What pickle, between two processes, makes it again from."""
        return type(self), (self.name, self.message, self.output)


def execute(notebook: Path, output: Path, parameters: dict[str, Any], cwd: Path, environment: dict[str, str]) -> None:
    """Run ``notebook`` with ``parameters`` and write it, as far as it came, to ``output``.

    Raises:
        NotebookFailed: with the error of the cell that failed.
        KeyboardInterrupt: this process or the kernel was interrupted; the kernel has ended.
    """
    import nbclient.exceptions
    import papermill

    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of parameters that a cell does not list
    output.parent.mkdir(parents=True, exist_ok=True)
    for old in (output, view_of(output)):  # an old run's notebook must not pass for this one's
        old.unlink(missing_ok=True)
    quiet = ["--log-level=50"]  # ipykernel calls the interrupt that ends an idle kernel an error
    no_bars = "ignore:IProgress not found"  # tqdm, on its import, about widgets that no notebook here uses
    warnings = ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), no_bars]))
    with _environment(environment | {"PYTHONWARNINGS": warnings}), _this_python():
        try:
            papermill.execute_notebook(
                str(notebook), str(output), parameters=parameters, kernel_name="python3", cwd=str(cwd),
                progress_bar=False, log_output=False, extra_arguments=quiet,
            )  # fmt: skip
        except papermill.PapermillExecutionError as error:
            if error.ename == "KeyboardInterrupt":  # somebody interrupted the kernel itself
                raise KeyboardInterrupt from error
            raise NotebookFailed(error.ename, reported_message(error.ename, error.evalue), output) from error
        except nbclient.exceptions.DeadKernelError as error:
            message = "the kernel was killed (out of memory?): lower batch_size or image_size, then run the same again"
            raise NotebookFailed("DeadKernel", message, output) from error
        except RuntimeError as error:  # jupyter_client's: the kernel died, or said nothing for a minute, on its start
            message = f"{error}: the machine may be out of memory or overloaded; run the same again"
            raise NotebookFailed("NoKernel", message, output) from error


def html_view(notebook: Path) -> Path:
    """Render an executed notebook beside it as HTML; its path."""
    from nbconvert import HTMLExporter

    body, _ = HTMLExporter().from_filename(str(notebook))
    view_of(notebook).write_text(body, encoding="utf-8")
    return view_of(notebook)


def view_of(notebook: Path) -> Path:
    """Where the HTML view of an executed notebook lies."""
    return notebook.with_suffix(".html")


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    """Environment variables that the kernel inherits, put back afterwards."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _this_python() -> Iterator[None]:
    """Make the kernel ``python3`` mean this interpreter, whatever kernels the user has installed elsewhere."""
    argv = [sys.executable, "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    with tempfile.TemporaryDirectory(prefix="fer-kernel-") as folder:
        spec = Path(folder) / "kernels" / "python3"
        spec.mkdir(parents=True)
        (spec / "kernel.json").write_text(
            json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}), encoding="utf-8"
        )
        paths = [folder, *filter(None, [os.environ.get("JUPYTER_PATH")])]
        with _environment({"JUPYTER_PATH": os.pathsep.join(paths)}):
            yield
