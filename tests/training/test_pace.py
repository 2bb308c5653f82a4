"""What a fit tells while it runs: live figures, the share of waiting, and a pace that broke down."""

import json
import time

import pytest
import torch

from fer_lib.errors import FerError
from fer_lib.params import TeacherParams
from fer_lib.training import data, loop
from fer_lib.training.progress import collapse
from fer_lib.training.step import Stepper
from fer_lib.training.teacher import train_teacher

P = TeacherParams(
    backbone="test_resnet", image_size=32, embed_dim=16, epochs=4, batch_size=14, warmup_epochs=0.5, plain_epochs=1,
    ramp_end=2, max_train_batches=3, threads=1, device="cpu", workers=0, onnx="none",
)  # fmt: skip


def test_a_running_epoch_tells_where_it_is(drawn_manifest, pack_cache, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "TELL_EVERY", 0.0)
    events = list(train_teacher(P, drawn_manifest, tmp_path, pack_cache))
    steps = [e for e in events if e["event"] == "step"]
    assert [e["step"] for e in steps] == list(range(1, 13)) and {e["total_steps"] for e in steps} == {12}
    assert [e["epoch"] for e in steps[:3]] == pytest.approx([1 / 3, 2 / 3, 1.0])
    epochs = [e for e in events if e["event"] == "epoch"]
    assert steps[2]["loss"] == pytest.approx(epochs[0]["train"]["loss"]) and steps[2]["images_per_sec"] > 0


@pytest.mark.parametrize(
    ("rate", "seconds", "told"),
    [(100, 60, ""), (51, 120, ""), (49, 120, "49 images/s"), (49, 1.9, ""), (49, 2.1, "49")],
)
def test_a_steady_pace_and_a_moment_are_nothing_to_tell(rate, seconds, told):
    def row(epoch, rate, seconds):
        timing = {"images_per_sec": rate, "epoch_sec": seconds, "data_wait_share": 0.1, "peak_memory_gb": 1.0}
        return {"epoch": epoch, "timing": timing}

    history = [row(0, 20.0, 9.0), row(1, 100.0, 9.0), row(2, 101.0, 9.0)]
    assert collapse(history, row(3, rate, seconds)).startswith(f"epoch 4 ran at {told}" if told else "")
    assert bool(collapse(history, row(3, rate, seconds))) == bool(told)
    assert collapse([], row(0, rate, seconds)) == "", "the first has none to be compared to"


@pytest.mark.parametrize(
    "slow, cause", [("step", "memory may be spilling"), ("data", "waiting for batches: raise workers")]
)
def test_a_pace_that_breaks_down_is_a_warning(drawn_manifest, pack_cache, tmp_path, monkeypatch, slow, cause):
    step, batches = Stepper.__call__, loop.train_batches

    def dragged(self, batch, number, epoch):
        step(self, batch, number, epoch)
        time.sleep(0.5 if epoch >= 2 and slow == "step" else 0.0)

    def late(pack, sampler, augmentation, first, last, *more, **options):
        for batch in batches(pack, sampler, augmentation, first, last, *more, **options):
            time.sleep(0.5 if first >= 2 * sampler.steps_per_epoch and slow == "data" else 0.0)
            yield batch

    monkeypatch.setattr(Stepper, "__call__", dragged)
    monkeypatch.setattr(loop, "train_batches", late)
    events = list(train_teacher(P, drawn_manifest, tmp_path, pack_cache))
    told = {e["epoch"]: e["timing"]["warning"] for e in events if "warning" in e.get("timing", {})}
    assert set(told) == {2, 3} and told[2].startswith("epoch 3 ran at ") and cause in told[2]
    assert json.loads((tmp_path / "history.json").read_text())[2]["timing"]["warning"] == told[2], (
        "a resume still knows it"
    )


@pytest.mark.parametrize(
    ("device", "own", "threads", "expected"),
    [
        ("cpu", {}, 2, 1), ("cpu", {}, 3, 1), ("cpu", {}, 4, 0), ("cpu", {"processes": 2}, 2, 0),
        ("cuda", {}, 4, 3), ("cuda", {"processes": 4}, 1, 1),
        ("cpu", {"workers": 3}, 4, 3), ("cuda", {"workers": 0}, 1, 0),
    ],
)  # fmt: skip
def test_batches_are_prepared_on_cores_that_do_not_compute(monkeypatch, device, own, threads, expected):
    monkeypatch.setattr(data, "cores", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert data.loader_threads(TeacherParams(**own), torch.device(device)) == expected


def test_a_warm_up_as_long_as_the_run_is_a_warning(drawn_manifest, pack_cache, tmp_path):
    p = P.model_copy(update={"epochs": 1, "warmup_epochs": 2.0})
    notes = [e for e in train_teacher(p, drawn_manifest, tmp_path, pack_cache) if e["event"] == "note"]
    assert any("warmup_epochs 2 of 1 epochs: lr 0.0003 is never reached" in n["message"] for n in notes)


def test_weights_that_left_the_numbers_are_told_as_training_does(drawn_manifest, pack_cache, tmp_path):
    """The loss of an epoch's last step may still be finite when the weights no longer are."""
    p = P.model_copy(update={"epochs": 1, "max_train_batches": 1, "lr": 1e30, "warmup_epochs": 0.0, "min_lr": 1e30})
    with pytest.raises(FerError, match=r"no finite number any more in epoch 1\.00: lower lr"):
        list(train_teacher(p, drawn_manifest, tmp_path, pack_cache))
