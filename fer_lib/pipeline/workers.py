"""Threads that execute notebooks, one kernel per thread, each with its own GPUs or a share of the CPU cores."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from fer_lib.devices import cores
from fer_lib.pipeline.kernel_server import THREADS, KernelServer

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class NotebookPool:
    """Up to ``count`` notebooks at once.  A single one may use the whole machine.

    ``start``: start the kernel server at once, so that its imports do not delay the first notebook.
    """

    def __init__(self, count: int, start: bool = False):
        self.count = count
        self.server = KernelServer(kernel_environment(count, None, []) if count > 1 else {})
        self._gpus_by_slot: dict[int, list[str]] = {}
        self._threads = ThreadPoolExecutor(count)
        self._loops: list[Any] = []  # event loops of the threads, in which papermill talks to the kernels
        self._is_interrupted = False
        if start:
            self.server.start()

    @functools.cached_property
    def gpus(self) -> list[str]:
        """The GPUs to share; asking for them imports torch."""
        return visible_gpus()

    def environment(self, slot: int, params) -> dict[str, str]:
        """Environment of the kernel in this slot (from 0), with its GPUs; the slot keeps them until :meth:`free`."""
        if self.count == 1:
            return {}
        self.free(slot)
        self._gpus_by_slot[slot] = least_used(self.gpus, getattr(params, "processes", 1), self._gpus_by_slot.values())
        return kernel_environment(self.count, params, self._gpus_by_slot[slot])

    def free(self, slot: int) -> None:
        """Release the GPUs of this slot."""
        self._gpus_by_slot.pop(slot, None)

    def submit(self, work: dict[str, Any]) -> Future:
        """Start a notebook in a thread; returns the future of :func:`papermill.execute`."""
        self.server.start()
        return self._threads.submit(self._execute, work)

    def _execute(self, work: dict[str, Any]) -> None:
        from jupyter_core.utils import ensure_event_loop

        from fer_lib.pipeline.papermill import execute

        self._loops.append(ensure_event_loop(prefer_selector_loop=True))
        if self._is_interrupted:
            raise KeyboardInterrupt
        execute(**work, server=self.server.address)

    def interrupt(self) -> None:
        """Interrupt all notebooks, as Ctrl+C interrupts one in the main thread, and return when they have ended."""
        self._is_interrupted = True
        for loop in set(self._loops):
            loop.call_soon_threadsafe(_raise_interrupt)
        self.close()

    def close(self) -> None:
        """Wait for the notebooks and end the kernel server."""
        self._threads.shutdown()
        self.server.close()


def _raise_interrupt() -> None:
    raise KeyboardInterrupt


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
