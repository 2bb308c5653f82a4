"""A process that has imported the libraries of the phases and forks a kernel for each request (Linux).

    python -m fer_lib.pipeline.kernel_server FD    FD: a listening Unix socket; :mod:`fer_lib.pipeline.kernels` connects

Importing torch, timm, mlflow and pandas takes seconds, a fork of a process that holds them a moment.  The server
computes nothing, starts no Python thread and touches no GPU, so that a forked kernel runs like one that was started
by itself.  It imports none of the modules of ``fer_lib`` that phases call: a kernel must run the code of its cache key.

A connection belongs to one kernel: the client sends a JSON line with ``command``, ``cwd`` and ``environment``, and the
kernel answers with its process id.  It is killed when the client closes the connection; all kernels are when stdin
closes, whose other end :class:`KernelServer` holds.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any

from fer_lib.storage.paths import home
from fer_lib.tracking import store

# What kernels and most phases import, as sys.modules of the quickstart's kernels shows it.
LIBRARIES = (
    "ipykernel.kernelapp", "ipykernel.ipkernel", "ipykernel.debugger", "IPython.core.completerlib",
    "IPython.extensions.storemagic", "matplotlib_inline.backend_inline", "matplotlib.figure", "torch", "pandas",
    "pyarrow.parquet", "cv2", "PIL.JpegImagePlugin", "pydantic", "threadpoolctl", "mlflow",
    "mlflow.store.tracking.sqlalchemy_workspace_store", "mlflow.store.model_registry.sqlalchemy_workspace_store",
    "mlflow.system_metrics.system_metrics_monitor", "alembic.command", "sqlalchemy.dialects.sqlite",
)  # fmt: skip
LATER = ("timm", "timm.optim", "scipy.stats", "torch.onnx", "networkx")  # imported while no request waits
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS",
           "VECLIB_MAXIMUM_THREADS")  # fmt: skip

OPTIONS = ("-Xfrozen_modules=off",)  # of Python, for the debugger of JupyterLab


class KernelServer:
    """The server process of one command, which starts when it is first needed.

    ``environment``: changes to the variables of this process that most kernels share.  ``address``: path of the
    socket; empty where no server runs.
    """

    def __init__(self, environment: dict[str, str]):
        self.environment, self.address = environment, ""
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start the server, whose imports go on after this returns.  Does nothing the second time.

        Does nothing on macOS, where system libraries do not survive a fork, and on Windows, which has none.
        """
        if self._process is not None or sys.platform != "linux":
            return
        address = Path(tempfile.mkdtemp(prefix="fer-kernels-")) / "socket"
        with socket.socket(socket.AF_UNIX) as listener:
            try:
                listener.bind(str(address))
            except OSError:  # a path of more than 108 bytes
                shutil.rmtree(address.parent)
                return
            listener.listen()
            number = str(listener.fileno())
            self._process = subprocess.Popen(
                [sys.executable, *OPTIONS, "-m", __name__, number, str(address.parent)], stdin=subprocess.PIPE,
                pass_fds=[listener.fileno()], cwd=home(), start_new_session=True,
                env=store.SETTINGS | os.environ | backend_environment() | self.environment,
            )  # fmt: skip
        self.address = str(address)

    def close(self) -> None:
        """End the server; no kernel runs any more."""
        if self._process is not None:
            self._process.stdin.close()
            self._process.kill()
            self._process.wait()
            shutil.rmtree(Path(self.address).parent, ignore_errors=True)
            self._process, self.address = None, ""


def backend_environment() -> dict[str, str]:
    """Variable of a kernel that chooses ipykernel's matplotlib backend."""
    return {"MPLBACKEND": os.environ.get("MPLBACKEND") or "module://matplotlib_inline.backend_inline"}


# -- in the server ----------------------------------------------------------------------------------------------


def serve(listener: socket.socket) -> tuple[dict[str, Any], socket.socket] | None:
    """Fork a kernel per connection; returns in each kernel its request and connection, and None when stdin closes."""
    kernels: dict[socket.socket, int] = {}
    later = list(LATER)

    def wait() -> list:
        return select.select([listener, sys.stdin, *kernels], [], [], 0 if later else None)[0]

    while sys.stdin not in (ready := wait()):
        if not ready:
            importlib.import_module(later.pop(0))
            gc.freeze()  # a collection in a kernel would copy the pages that it shares with this process
        for connection in kernels.keys() & set(ready):
            _kill(kernels.pop(connection))
            connection.close()
        if listener in ready:
            connection = listener.accept()[0]
            with connection.makefile("r", encoding="utf-8") as file:
                request = file.readline()
            if not request.endswith("\n"):  # its client has ended meanwhile
                connection.close()
            elif (pid := _fork()) == 0:
                for other in (listener, *kernels):
                    other.close()
                return json.loads(request), connection
            else:
                kernels[connection] = pid
    for pid in kernels.values():
        _kill(pid)
    return None


def _fork() -> int:
    """``os.fork`` without the warning about threads: those here belong to OpenBLAS and jemalloc, which expect it."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        return os.fork()


def _kill(pid: int) -> None:
    """Kill a kernel, with the processes of its session, unless it has ended; its id is free afterwards."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:  # it was forked just now and has no session yet
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def become_kernel(request: dict[str, Any], connection: socket.socket) -> None:
    """Give this process what a new one would have, and run the module of ``python OPTIONS -m MODULE ARGUMENTS``."""
    import numpy
    import torch

    os.setsid()
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.chdir(request["cwd"])
    if not sys.flags.safe_path:
        sys.path[0] = os.getcwd()  # as -m sets it
    command = request["command"]
    sys.argv = command[command.index("-m") + 1 :]
    environment = request["environment"] | {"JPY_PARENT_PID": str(os.getppid())}  # a kernel ends with its parent
    _set_threads(environment)
    os.environ.clear()
    os.environ.update(environment)
    numpy.random.seed()  # forks of one process would draw the same numbers; Python reseeds its own generator
    torch.default_generator.seed()
    connection.sendall(f"{os.getpid()}\n".encode())
    connection.close()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    _exit()


def _exit() -> None:
    """End this process as multiprocessing ends its own: Python's teardown of every module would take half a second."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _set_threads(environment: dict[str, str]) -> None:
    """Apply the numbers of threads in ``environment``, which the loaded libraries have read already."""
    if all(environment.get(name) == os.environ.get(name) for name in THREADS):
        return
    import torch
    from threadpoolctl import threadpool_limits

    count = int(environment[THREADS[0]])
    threadpool_limits(count)
    torch.set_num_threads(count)


def main() -> None:
    listener = socket.socket(fileno=int(sys.argv[1]))
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()
    if (kernel := serve(listener)) is not None:
        become_kernel(*kernel)
    else:
        shutil.rmtree(sys.argv[2], ignore_errors=True)  # the command was killed


if __name__ == "__main__":
    main()
