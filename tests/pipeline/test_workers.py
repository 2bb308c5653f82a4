"""What a slot's kernel sees of the machine, and what gets from a worker to the command."""

import os
import pickle
import signal
from pathlib import Path

import pytest

from fer_lib.params import ImportParams, TeacherParams
from fer_lib.pipeline import workers
from fer_lib.pipeline.papermill import NotebookFailed


@pytest.fixture
def heeds_interrupts():
    """Also where the tests were begun in a shell's background, which ignores Ctrl+C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr(workers, "cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.mark.parametrize(("count", "threads"), [(2, "4"), (3, "2"), (16, "1")])
def test_without_a_gpu_kernels_share_the_cores(eight_cores, count, threads):
    seen = workers.share(count, ImportParams(), [])
    assert seen["OMP_NUM_THREADS"] == seen["MKL_NUM_THREADS"] == threads and "CUDA_VISIBLE_DEVICES" not in seen


def test_a_phase_with_threads_of_its_own_keeps_them(eight_cores, monkeypatch):
    assert workers.share(2, TeacherParams(threads=7), [])["OMP_NUM_THREADS"] == "7"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert workers.share(2, TeacherParams(), []) == {"FER_CORES": "4"}, "what the user set stays"
    assert workers.share(2, TeacherParams(threads=7), [])["OMP_NUM_THREADS"] == "7"


def test_a_phase_of_several_processes_divides_its_share(eight_cores, monkeypatch):
    """And what runs in the kernel counts on that share, so that batches are not made on a core that computes."""
    from fer_lib import devices

    seen = workers.share(2, TeacherParams(processes=2), [])
    assert seen["OMP_NUM_THREADS"] == "2" and seen["FER_CORES"] == "4"
    monkeypatch.setenv("FER_CORES", seen["FER_CORES"])
    assert devices.cores() == 4


def test_each_slot_has_gpus_of_its_own(eight_cores, monkeypatch):
    monkeypatch.setattr(workers, "visible_gpus", lambda: ["2", "5", "7"])
    place = workers.ProcessPool(4)

    def seen(slot, **params):
        return place.environment(slot, TeacherParams(**params))["CUDA_VISIBLE_DEVICES"]

    assert [seen(slot) for slot in range(4)] == ["2", "5", "7", "2"], "the fourth shares"
    place.free(1)
    assert seen(1) == "5" and seen(1) == "5", "a slot that is used again lets go of what it had"
    for slot in range(4):
        place.free(slot)
    assert seen(0, processes=2) == "2,5" and seen(1) == "7" and seen(2, processes=9) == "2,5,7"


@pytest.mark.parametrize(
    ("listed", "count", "gpus"),
    [(None, 3, ["0", "1", "2"]), ("", 0, []), ("4,6", 2, ["4", "6"]), ("MIG-a, MIG-b", 1, ["MIG-a"]), ("1", 0, [])],
)
def test_a_list_of_visible_devices_is_respected(monkeypatch, listed, count, gpus):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if listed is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert workers.visible_gpus() == gpus


def test_a_failure_comes_from_one_process_to_another_unchanged():
    failed = NotebookFailed("DataError", "row 3 has 47 pixels", Path("a") / "b.ipynb")
    again = pickle.loads(pickle.dumps(failed))
    assert type(again) is NotebookFailed and str(again) == str(failed)
    assert (again.name, again.message, again.output) == (failed.name, failed.message, failed.output)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_what_is_half_done_is_done_before_an_interrupt_takes_effect(heeds_interrupts):
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
