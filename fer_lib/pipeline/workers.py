"""Executors for notebooks: one at a time in this process, or several at once in worker processes.

Executing a notebook changes the environment and the working folder of its process, so each worker is a process.
Workers have their own process groups: Ctrl+C in a terminal reaches only the command, which interrupts the workers.
"""

from __future__ import annotations

import contextlib
import functools
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from fer_lib.devices import cores
from fer_lib.pipeline.kernel_server import THREADS, KernelServer

SIGNALS = (signal.SIGINT, signal.SIGTERM)
INTERRUPT_INTERVAL = 15.0  # seconds for an interrupted notebook to end its kernel before the next interrupt


class InProcess:
    """One notebook at a time, in this process."""

    count = 1

    def __init__(self):
        self.server = KernelServer({})

    def environment(self, slot: int, params) -> dict[str, str]:
        """Empty: the only kernel may use the whole machine."""
        return {}

    def free(self, slot: int) -> None:
        """Does nothing."""

    def submit(self, work: dict[str, Any]) -> Future:
        """Run the notebook (:func:`papermill.execute`); returns a future that is done."""
        from fer_lib.pipeline.papermill import execute

        self.server.start()
        future: Future = Future()
        try:
            future.set_result(execute(**work, server=self.server.address))
        except BaseException as error:  # KeyboardInterrupt too
            future.set_exception(error)
        return future

    def interrupt(self) -> None:
        """Does nothing: no notebook runs outside :meth:`submit`."""

    def close(self) -> None:
        """End the kernel server."""
        self.server.close()


class ProcessPool:
    """Up to ``count`` notebooks at once, each with its own GPUs or a share of the CPU cores."""

    def __init__(self, count: int):
        self.count = count
        self.server = KernelServer(kernel_environment(count, None, []))
        self._gpus_by_slot: dict[int, list[str]] = {}
        self._pool: ProcessPoolExecutor | None = None
        self._futures: set[Future] = set()

    @functools.cached_property
    def gpus(self) -> list[str]:
        """The GPUs to share; asking for them imports torch."""
        return visible_gpus()

    def environment(self, slot: int, params) -> dict[str, str]:
        """Environment of the kernel in this slot (from 0), with its GPUs; the slot keeps them until :meth:`free`."""
        self.free(slot)
        self._gpus_by_slot[slot] = least_used(self.gpus, getattr(params, "processes", 1), self._gpus_by_slot.values())
        return kernel_environment(self.count, params, self._gpus_by_slot[slot])

    def free(self, slot: int) -> None:
        """Release the GPUs of this slot."""
        self._gpus_by_slot.pop(slot, None)

    def submit(self, work: dict[str, Any]) -> Future:
        """Start a notebook in a worker; returns the future of :func:`papermill.execute`.

        The future of a killed worker raises BrokenProcessPool.  The next submit starts new workers.
        """
        self.server.start()
        work = work | {"server": self.server.address}
        try:
            future = self._submit(work)
        except BrokenProcessPool:
            self._close_pool()
            future = self._submit(work)
        self._futures = {other for other in self._futures if not other.done()} | {future}
        return future

    def _submit(self, work: dict[str, Any]) -> Future:
        if self._pool is None:
            self._others = {child.pid for child in multiprocessing.active_children()}
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.count, mp_context=context, initializer=_start_worker)
        with _signals_blocked():  # Ctrl+C must not kill a worker that is starting
            return self._pool.submit(_run_in_worker, work)

    def interrupt(self) -> None:
        """Interrupt all notebooks, as Ctrl+C does, and return when they have ended."""
        waiting = self._futures
        while waiting:  # repeated, because a starting worker ignores the signal
            if os.name == "posix":  # on Windows Ctrl+C reaches every process of the console
                for child in multiprocessing.active_children():
                    if child.pid not in self._others:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(child.pid, signal.SIGINT)
            waiting = wait(waiting, timeout=0.5).not_done
        self.close()

    def close(self) -> None:
        """Shut down the workers and the kernel server."""
        self._close_pool()
        self.server.close()

    def _close_pool(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


@contextlib.contextmanager
def open_workers(count: int, start: bool = False) -> Iterator[InProcess | ProcessPool]:
    """An executor for ``count`` notebooks at once, closed at the end.

    ``start``: start the kernel server at once, so that its imports do not delay the first notebook.
    """
    pool = InProcess() if count == 1 else ProcessPool(count)
    try:
        if start:
            pool.server.start()
        yield pool
    finally:
        pool.close()


def visible_gpus() -> list[str]:
    """The CUDA devices that torch can use, as $CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    listed = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    named = [name.strip() for name in listed.split(",") if name.strip()]
    return (named or [str(index) for index in range(count)])[:count]


def least_used(gpus: list[str], count: int, in_use: Iterable[list[str]]) -> list[str]:
    """The ``count`` GPUs (at most all) that occur least often in ``in_use``, in the order of ``gpus``."""
    uses = Counter(gpu for cards in in_use for gpu in cards)
    return sorted(sorted(gpus, key=lambda gpu: uses[gpu])[:count], key=gpus.index)


def kernel_environment(count: int, params, gpus: list[str]) -> dict[str, str]:
    """Environment variables of one of ``count`` kernels: its GPUs, cores and threads.

    The number of threads is the phase's ``threads``, else $OMP_NUM_THREADS, else its share of the cores divided by the
    phase's ``processes``.
    """
    share = max(1, cores() // count)
    environment = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
    environment["FER_CORES"] = str(share)
    threads = getattr(params, "threads", 0)
    if threads or "OMP_NUM_THREADS" not in os.environ:
        environment |= dict.fromkeys(THREADS, str(threads or max(1, share // getattr(params, "processes", 1))))
    return environment


@contextlib.contextmanager
def _signals_handled(handler: Any, numbers: Collection[int] = SIGNALS) -> Iterator[None]:
    """Handle signals by ``handler`` in this block, which only the main thread can."""
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in numbers if is_main}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def signals_ignored() -> contextlib.AbstractContextManager[None]:
    """Ignore Ctrl+C and SIGTERM in this block."""
    return _signals_handled(signal.SIG_IGN)


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Delay Ctrl+C and SIGTERM to the end of this block, so that it is never left half done."""
    caught: list[int] = []
    numbers = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    with _signals_handled(lambda number, frame: caught.append(number), numbers):
        yield
    if caught:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block Ctrl+C and SIGTERM in processes that start in this block."""
    if os.name != "posix":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# -- in a worker ------------------------------------------------------------------------------------------------


def _start_worker() -> None:
    """Leave the terminal's process group, ignore Ctrl+C between notebooks, and end with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if os.name == "posix":
        os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _end_with_parent() -> None:
    """Exit when the parent process ends; the kernel watches this worker and exits too."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _run_in_worker(work: dict[str, Any]) -> None:
    from fer_lib.pipeline.papermill import execute

    last = -math.inf

    def interrupt(number, frame) -> None:
        nonlocal last
        if time.monotonic() - last > INTERRUPT_INTERVAL:
            last = time.monotonic()
            raise KeyboardInterrupt

    with _signals_handled(interrupt):
        execute(**work)
