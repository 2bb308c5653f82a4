"""The processes of one fit: a single one, or several through accelerate that each compute a share of every batch."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from torch import nn

from fer_lib.devices import cores, resolve_device
from fer_lib.errors import FerError
from fer_lib.params import FitParams
from fer_lib.storage import progress

TIMEOUT = timedelta(days=7)
PROGRESS = "progress"  # key of a message of rank 0 that the parent shows and does not yield


class SingleProcess:
    """One process on one device, with the part of accelerate's interface that a fit uses."""

    num_processes, process_index, is_main_process = 1, 0, True

    def __init__(self, device: torch.device):
        self.device = device

    def prepare_model(self, model: nn.Module) -> nn.Module:
        return model

    def no_sync(self, model: nn.Module) -> AbstractContextManager:
        return nullcontext()

    def reduce(self, value: torch.Tensor, reduction: str) -> torch.Tensor:
        return value

    def wait_for_everyone(self) -> None:
        return None


def one_of_several(on_cpu: bool):
    """The ``accelerate.Accelerator`` of a process that works in step with others: it averages their gradients."""
    from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs

    timeout = InitProcessGroupKwargs(timeout=TIMEOUT)  # the others wait while the first packs faces or evaluates
    # Keeps gradient buckets fixed.  By default DDP rebuilds them after the first step, also after a resume.  With
    # three or more processes the order of a sum, and so its last bit, depends on a gradient's place in its bucket.
    buckets = DistributedDataParallelKwargs(find_unused_parameters=True)
    warnings.filterwarnings("ignore", "find_unused_parameters=True was specified")
    # "no" mixed precision: the step does its own autocast
    return Accelerator(cpu=on_cpu, mixed_precision="no", kwargs_handlers=[timeout, buckets])


def sum_over_processes(value: torch.Tensor) -> torch.Tensor:
    """The sum of ``value`` over the processes of this fit, for losses, which have no context.

    Every process must call it equally often.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
    return value


def run_processes(work: Callable[..., Iterator[dict[str, Any]]], p: FitParams) -> Iterator[dict[str, Any]]:
    """The events of ``work(context)``, run here or, for ``p.processes`` > 1, in that many new processes.

    With several processes ``work`` must be picklable, and the events are those of rank 0.  When one process fails, all
    are killed and its error is raised.  Raises FerError when the machine has fewer CUDA devices than processes, or when
    the device is neither CUDA nor CPU.
    """
    device = resolve_device(p.device)
    if p.processes == 1:
        yield from work(SingleProcess(device))
        return
    if device.type != "cpu" and torch.cuda.device_count() < p.processes:
        raise FerError(
            f"processes {p.processes} on {device.type}: there are {torch.cuda.device_count()} CUDA devices here; ask "
            "for at most that many, or raise accum_steps to get the same batch on fewer, or set device: cpu"
        )
    yield from _spawn(work, p.processes, device.type)


def _spawn(work: Callable[..., Iterator[dict[str, Any]]], processes: int, backend: str) -> Iterator[dict[str, Any]]:
    """Each process has a pipe to this one.  The end of the pipe is the end of the process."""
    from accelerate.utils import PrepareForLaunch, patch_environment
    from accelerate.utils.other import get_free_port

    context, workers, readers = multiprocessing.get_context("spawn"), [], {}
    env = {"nproc": processes, "world_size": processes, "master_addr": "127.0.0.1", "master_port": str(get_free_port())}
    if backend == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        env["omp_num_threads"] = str(max(1, cores() // processes))
    launcher = PrepareForLaunch(_process_main, distributed_type="MULTI_CPU" if backend == "cpu" else "MULTI_GPU")
    try:
        for rank in range(processes):
            reader, writer = context.Pipe(duplex=False)
            worker = context.Process(target=launcher, args=(rank, work, backend == "cpu", writer))
            with patch_environment(**env):
                worker.start()
            writer.close()
            workers.append(worker)
            readers[reader] = rank
        while readers:
            ended = []
            for reader in wait([*readers]):
                try:
                    event = reader.recv()
                except (EOFError, OSError):  # OSError: within a message
                    ended.append(rank := readers.pop(reader))
                    workers[rank].join()
                    continue
                if isinstance(event, Exception):
                    raise event
                progress.relay(event.get(PROGRESS))
                if PROGRESS not in event:
                    yield event
            # a signal comes first, because the processes that wait for the killed one fail too
            for code, rank in sorted((workers[rank].exitcode, rank) for rank in ended):
                if code:
                    raise FerError(_exit_message(rank, processes, workers[rank].pid, code))
    finally:
        for worker in workers:
            worker.kill()
            worker.join()


def _exit_message(rank: int, processes: int, pid: int, code: int) -> str:
    reason = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return (
        f"process {rank + 1} of the {processes} of this fit (id {pid}) {reason}, so all were stopped: look in its "
        "output. The system kills a process when memory runs out (see its log): lower batch_size, raise accum_steps, "
        "or use fewer processes or workers. The same command resumes from the last checkpoint"
    )


def _process_main(work: Callable[..., Iterator[dict[str, Any]]], on_cpu: bool, pipe: Connection) -> None:
    """The main function of one process.  Rank 0 sends events; every rank sends the errors that users can act on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupted parent kills this process
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    context = one_of_several(on_cpu)

    def send(record: dict[str, Any]) -> None:
        pipe.send({PROGRESS: record})

    try:
        with progress.observed_by(send) if context.is_main_process else nullcontext():
            for event in work(context):
                if context.is_main_process:
                    pipe.send(event)
    except (FerError, OSError) as error:  # the parent kills the others, who wait for this one
        pipe.send(error)
        os._exit(1)
    torch.distributed.destroy_process_group()


def _exit_with_parent() -> None:
    """Exit when the parent is killed: the lock on the output folder is then free for another fit."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
