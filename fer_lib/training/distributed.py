"""The processes that share one fit: one alone, or several through accelerate, each with a share of every batch."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from multiprocessing.connection import wait
from typing import Any

import torch
from torch import nn

from fer_lib.devices import cores, resolve_device
from fer_lib.errors import FerError
from fer_lib.params import FitParams

WAIT = timedelta(days=7)


class SingleProcess:
    """One process on one device: everything that a team of several agrees on is what this one has."""

    size, rank = 1, 0

    def __init__(self, device: torch.device):
        self.device = device

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model whose forward pass a step calls."""
        return model

    def no_sync(self, model: nn.Module) -> AbstractContextManager:
        """Gradients of the passes within are kept to this process."""
        return nullcontext()

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean over the team."""
        return value

    def wait(self) -> None:
        """Until every process of the team is here."""


class DistributedContext(SingleProcess):
    """Several processes in step: gradients are averaged by DistributedDataParallel, as accelerate sets it up."""

    def __init__(self, on_cpu: bool):
        from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs

        patience = InitProcessGroupKwargs(timeout=WAIT)  # while the first one packs faces or evaluates
        # Else gradients are put into other buckets after the first step, which a resume would take a second time; and
        # among three or more the order in which a sum is taken, so its last bit, hangs on a gradient's place in them.
        fixed = DistributedDataParallelKwargs(find_unused_parameters=True)
        warnings.filterwarnings("ignore", "find_unused_parameters=True was specified")
        # precision is the step's own matter
        self._accelerator = Accelerator(cpu=on_cpu, mixed_precision="no", kwargs_handlers=[patience, fixed])
        super().__init__(self._accelerator.device)
        self.size, self.rank = self._accelerator.num_processes, self._accelerator.process_index

    def wrap(self, model: nn.Module) -> nn.Module:
        return self._accelerator.prepare_model(model)

    def no_sync(self, model: nn.Module) -> AbstractContextManager:
        return self._accelerator.no_sync(model)

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        return self._accelerator.reduce(value, "mean")

    def wait(self) -> None:
        self._accelerator.wait_for_everyone()


def together(work: Callable[..., Iterator[dict[str, Any]]], p: FitParams) -> Iterator[dict[str, Any]]:
    """The events of ``work(team)``: run here, or for ``p.processes`` > 1 in that many, as the first of them tells them.

    ``work`` must be picklable then.  When one process fails, all are ended and its error is raised.
    Raises FerError when there are fewer devices of the kind than processes, or none that a team can use.
    """
    device = resolve_device(p.device)
    if p.processes == 1:
        yield from work(SingleProcess(device))
        return
    if device.type not in ("cpu", "cuda"):
        raise FerError(f"processes {p.processes}: several share a batch on CUDA cards or a CPU, not on {device.type}")
    if device.type == "cuda" and torch.cuda.device_count() < p.processes:
        raise FerError(
            f"processes {p.processes}: there are {torch.cuda.device_count()} CUDA devices here; ask for at most that "
            "many, or raise accum_steps to get the same batch on fewer"
        )
    yield from _spawned(work, p.processes, device.type)


def _spawned(work: Callable[..., Iterator[dict[str, Any]]], processes: int, backend: str) -> Iterator[dict[str, Any]]:
    from accelerate.utils import PrepareForLaunch, patch_environment
    from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, get_context, start_processes

    events = get_context("spawn").Queue()
    own = {"nproc": processes, "world_size": processes, "master_addr": "127.0.0.1", "master_port": str(_free_port())}
    if backend == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        own["omp_num_threads"] = str(max(1, cores() // processes))
    with patch_environment(**own):
        launcher = PrepareForLaunch(_member, distributed_type="MULTI_CPU" if backend == "cpu" else "MULTI_GPU")
        running = start_processes(
            launcher, (work, backend == "cpu", events), nprocs=processes, join=False, start_method="spawn"
        )
    try:
        over = False
        while not over:
            lost = _ended_from_outside(running.processes)  # before those who miss it end with errors of their own
            try:
                over = not lost and running.join(timeout=0.1)
            except ProcessExitedException as error:
                yield from _told(events)  # the cause, where one of them could still say it
                raise FerError(_how_lost(error.error_index, processes, error.error_pid, error.exit_code)) from error
            except ProcessRaisedException:
                yield from _told(events)
                raise
            yield from _told(events)
            if lost:
                raise FerError(_how_lost(lost[0], processes, *lost[1:]))
    finally:
        for process in running.processes:
            if process.is_alive():
                process.kill()
            process.join()


def _ended_from_outside(team) -> tuple[int, int, int] | None:
    """Rank, process id and exit code of one that a signal ended."""
    ended = [(rank, p.pid, p.exitcode) for rank, p in enumerate(team) if p.exitcode is not None and p.exitcode < 0]
    return ended[0] if ended else None


def _how_lost(rank: int, processes: int, pid: int, code: int) -> str:
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    hint = "look for a crash of the driver or of a compiled package in what it printed"
    if code == -9:  # SIGKILL, which Windows lacks
        hint = ("the system does that when memory runs out (see its log): lower batch_size, raise accum_steps, or take "
                "fewer processes or workers")  # fmt: skip
    elif code < 0 and -code in (signal.SIGTERM, signal.SIGINT):
        hint = "somebody, or the machine's scheduler, ended it"
    return (f"process {rank + 1} of the {processes} that share the fit (id {pid}) {how}, so all were ended: {hint}. "
            "The same command goes on from the last checkpoint")  # fmt: skip


def _told(events) -> Iterator[dict[str, Any]]:
    """What waits in the queue; a FerError among it is raised."""
    while True:
        try:
            event = events.get(timeout=0.1)
        except queue.Empty:
            return
        if isinstance(event, FerError):
            raise event
        yield event


def _member(work: Callable[..., Iterator[dict[str, Any]]], on_cpu: bool, events) -> None:
    """One process of the team; only the first tells what happens, any of them tells what went wrong."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    team = DistributedContext(on_cpu)
    try:
        for event in work(team):
            if team.rank == 0:
                events.put(event)
    except FerError as error:  # the parent ends the others, who wait for this one
        events.put(error)
        _flush(events)
        os._exit(1)
    _flush(events)
    torch.distributed.destroy_process_group()


def _flush(events) -> None:
    events.close()
    events.join_thread()


def _end_with_parent() -> None:
    """A process whose parent was killed must not go on writing the folder, whose lock is free by then."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
