"""Where notebooks run: one after another in this process, or several at once, each from a worker process.

A worker is a process of its own because executing a notebook changes the environment and the working folder of the
whole process.  Workers live as long as the command, in process groups of their own, so that Ctrl+C in a terminal
reaches the command alone, which then hands it on.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from fer_lib.devices import cores

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 15.0  # seconds that an interrupted notebook has to end its kernel before it is interrupted again
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS",
            "VECLIB_MAXIMUM_THREADS")  # fmt: skip


def perform(notebook: Path, output: Path, parameters: dict[str, Any], cwd: Path, environment: dict[str, str]) -> None:
    """Execute a notebook, then write the HTML view of what was executed, also of a notebook that failed."""
    from fer_lib.pipeline.papermill import execute, html_view

    try:
        execute(notebook, output, parameters, cwd, environment)
    finally:
        if output.is_file() and output.stat().st_size:
            html_view(output)


class InProcess:
    """One notebook at a time, in this process."""

    count = 1

    def environment(self, slot: int, params) -> dict[str, str]:
        """Nothing of its own: a lone kernel has the whole machine."""
        return {}

    def free(self, slot: int) -> None:
        """Nothing was handed out."""

    def submit(self, work: dict[str, Any]) -> Future:
        """Run it now; the future is done."""
        future: Future = Future()
        try:
            future.set_result(perform(**work))
        except BaseException as error:  # an interrupt, too, is how this notebook ended
            future.set_exception(error)
        return future

    def interrupt(self) -> None:
        """Nothing runs while nobody is in :meth:`submit`."""

    def close(self) -> None:
        """Nothing to let go of."""


class ProcessPool:
    """Up to ``count`` notebooks at once, each with a device or a share of the processor's cores."""

    def __init__(self, count: int):
        self.count, self.gpus = count, visible_gpus()
        self._held: dict[int, list[str]] = {}  # slot -> the GPUs of what runs in it
        self._pool: ProcessPoolExecutor | None = None
        self._futures: set[Future] = set()

    def environment(self, slot: int, params) -> dict[str, str]:
        """What the kernel in this slot (from 0) sees of the machine; its GPUs are its own until :meth:`free`."""
        self.free(slot)
        self._held[slot] = least_used(self.gpus, getattr(params, "processes", 1), self._held.values())
        return share(self.count, params, self._held[slot])

    def free(self, slot: int) -> None:
        """What ran in this slot has ended."""
        self._held.pop(slot, None)

    def submit(self, work: dict[str, Any]) -> Future:
        """Begin it in a worker; the future ends with what :func:`perform` ended with.

        A worker that was killed ends it with BrokenProcessPool; the next submit starts new workers.
        """
        try:
            future = self._submit(work)
        except BrokenProcessPool:
            self.close()
            future = self._submit(work)
        self._futures = {known for known in self._futures if not known.done()} | {future}
        return future

    def _submit(self, work: dict[str, Any]) -> Future:
        if self._pool is None:
            self._others = {child.pid for child in multiprocessing.active_children()}
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.count, mp_context=context, initializer=_begin_worker)
        with _signals_blocked():  # a worker that this starts must not die of a Ctrl+C before it is set up
            return self._pool.submit(_work, work)

    def interrupt(self) -> None:
        """Interrupt what runs, as Ctrl+C would a single notebook, and return when all of it has ended."""
        waiting = self._futures
        while waiting:  # again and again: a worker that is only starting does not heed it yet
            if os.name == "posix":  # elsewhere Ctrl+C reaches every process of the console by itself
                for child in multiprocessing.active_children():
                    if child.pid not in self._others:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(child.pid, signal.SIGINT)
            waiting = wait(waiting, timeout=0.5).not_done
        self.close()

    def close(self) -> None:
        """End the workers, which are idle."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


@contextlib.contextmanager
def workers(count: int) -> Iterator[InProcess | ProcessPool]:
    """The place to run ``count`` notebooks at once."""
    place = InProcess() if count == 1 else ProcessPool(count)
    try:
        yield place
    finally:
        place.close()


def visible_gpus() -> list[str]:
    """The CUDA devices that torch can use here, as $CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    listed = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    named = [name.strip() for name in listed.split(",") if name.strip()]
    return (named or [str(index) for index in range(count)])[:count]


def least_used(gpus: list[str], wanted: int, held: Iterable[list[str]]) -> list[str]:
    """The ``wanted`` GPUs (at most all) that the fewest others hold, in their own order."""
    uses = Counter(gpu for cards in held for gpu in cards)
    return sorted(sorted(gpus, key=lambda gpu: uses[gpu])[:wanted], key=gpus.index)


def share(count: int, params, gpus: list[str]) -> dict[str, str]:
    """Environment of one of ``count`` kernels, which sees these GPUs.

    Its threads are the phase's, else its share of the cores, over as many processes as the phase has; a number that
    the user set in $OMP_NUM_THREADS stays.
    """
    own = max(1, cores() // count)
    found = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
    found["FER_CORES"] = str(own)
    threads = getattr(params, "threads", 0)
    if threads or "OMP_NUM_THREADS" not in os.environ:
        found |= dict.fromkeys(_THREADS, str(threads or max(1, own // getattr(params, "processes", 1))))
    return found


@contextlib.contextmanager
def signals_ignored() -> Iterator[None]:
    """Ctrl+C and SIGTERM have no effect meanwhile: what is being ended is ended in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Ctrl+C and SIGTERM take effect afterwards: what is between the two is done or not, never half."""
    caught: list[int] = []
    ours = threading.current_thread() is threading.main_thread()
    numbers = [number for number in SIGNALS if ours and signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda number, frame: caught.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if caught:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Processes that are started meanwhile begin with Ctrl+C and SIGTERM blocked."""
    if os.name != "posix":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# -- in a worker ------------------------------------------------------------------------------------------------


def _begin_worker() -> None:
    """Leave the terminal's process group, heed Ctrl+C only while a notebook runs, and end with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if os.name == "posix":
        os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _end_with_parent() -> None:
    """However the command dies; the kernel, which watches this worker, follows."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _work(work: dict[str, Any]) -> None:
    last = -math.inf

    def interrupt(number, frame) -> None:
        nonlocal last
        if time.monotonic() - last > PATIENCE:
            last = time.monotonic()
            raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in SIGNALS}
    try:
        perform(**work)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
