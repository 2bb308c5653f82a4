"""The environment of a kernel, and interrupts that wait for the end of a block."""

import os
import signal

import pytest

from fer_lib.params import ImportParams, TeacherParams
from fer_lib.pipeline import workers


@pytest.fixture
def interrupts_enabled():
    """Enables Ctrl+C, which a shell disables for background jobs."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr(workers, "cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.mark.parametrize(("count", "threads"), [(2, "4"), (3, "2"), (16, "1")])
def test_without_a_gpu_kernels_share_the_cores(eight_cores, count, threads):
    environment = workers.kernel_environment(count, ImportParams(), [])
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == threads
    assert "CUDA_VISIBLE_DEVICES" not in environment


def test_a_phase_with_threads_keeps_its_number(eight_cores, monkeypatch):
    assert workers.kernel_environment(2, TeacherParams(threads=7), [])["OMP_NUM_THREADS"] == "7"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert workers.kernel_environment(2, TeacherParams(), []) == {"FER_CORES": "4"}, "the user's value is kept"
    assert workers.kernel_environment(2, TeacherParams(threads=7), [])["OMP_NUM_THREADS"] == "7"


def test_a_phase_of_several_processes_divides_its_share(eight_cores, monkeypatch):
    """Code in the kernel uses that share, so that data loading and training use different cores."""
    from fer_lib import devices

    environment = workers.kernel_environment(2, TeacherParams(processes=2), [])
    assert environment["OMP_NUM_THREADS"] == "2" and environment["FER_CORES"] == "4"
    monkeypatch.setenv("FER_CORES", environment["FER_CORES"])
    assert devices.cores() == 4


def test_each_slot_has_gpus_of_its_own(eight_cores, monkeypatch):
    monkeypatch.setattr(workers, "visible_gpus", lambda: ["2", "5", "7"])
    pool = workers.NotebookPool(4)

    def gpus(slot, **params):
        return pool.environment(slot, TeacherParams(**params))["CUDA_VISIBLE_DEVICES"]

    assert [gpus(slot) for slot in range(4)] == ["2", "5", "7", "2"], "the fourth shares"
    pool.free(1)
    assert gpus(1) == "5" and gpus(1) == "5", "a slot that is used again releases its GPUs first"
    for slot in range(4):
        pool.free(slot)
    assert gpus(0, processes=2) == "2,5" and gpus(1) == "7" and gpus(2, processes=9) == "2,5,7"


@pytest.mark.parametrize(
    ("listed", "count", "gpus"),
    [(None, 3, ["0", "1", "2"]), ("", 0, []), ("4,6", 2, ["4", "6"]), ("MIG-a, MIG-b", 1, ["MIG-a"]), ("1", 0, [])],
)
def test_cuda_visible_devices_is_respected(monkeypatch, listed, count, gpus):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if listed is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert workers.visible_gpus() == gpus


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_an_interrupt_takes_effect_after_the_deferred_block(interrupts_enabled):
    done = []
    with pytest.raises(KeyboardInterrupt):
        with workers.signals_deferred():
            os.kill(os.getpid(), signal.SIGINT)
            done.append(1)
        done.append(2)
    assert done == [1]
    with workers.signals_ignored(), workers.signals_deferred():
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
