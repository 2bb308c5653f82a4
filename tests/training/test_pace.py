"""Events of a running fit: step events, warnings about slow epochs and settings, and the number of loader threads."""

import json
import time

import pytest
import torch

from fer_lib.errors import FerError
from fer_lib.params import TeacherParams
from fer_lib.training import fit_inputs, loop
from fer_lib.training.progress import slow_epoch_warning
from fer_lib.training.step import Stepper
from fer_lib.training.teacher import train_teacher

P = TeacherParams(
    backbone="test_resnet", image_size=32, embed_dim=16, epochs=4, batch_size=14, warmup_epochs=0.5, plain_epochs=1,
    ramp_end=2, max_train_batches=3, threads=1, device="cpu", workers=0, onnx="none",
)  # fmt: skip


def test_step_events_have_position_loss_and_rate(drawn_manifest, pack_cache, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "TELL_EVERY", 0.0)
    events = list(train_teacher(P, drawn_manifest, tmp_path, pack_cache))
    steps = [e for e in events if e["event"] == "step"]
    assert [e["step"] for e in steps] == list(range(1, 13)) and {e["total_steps"] for e in steps} == {12}
    assert [e["epoch"] for e in steps[:3]] == pytest.approx([1 / 3, 2 / 3, 1.0])
    epochs = [e for e in events if e["event"] == "epoch"]
    assert steps[2]["loss"] == pytest.approx(epochs[0]["train"]["loss"]) and steps[2]["images_per_sec"] > 0


@pytest.mark.parametrize(
    ("rate", "seconds", "warning"),
    [(100, 60, ""), (51, 120, ""), (49, 120, "49 images/s"), (49, 1.9, ""), (49, 2.1, "49")],
)
def test_slow_epoch_warning_needs_a_low_rate_and_a_second_lost(rate, seconds, warning):
    def row(epoch, rate, seconds):
        timing = {"images_per_sec": rate, "epoch_sec": seconds, "data_wait_share": 0.1, "peak_memory_gb": 1.0}
        return {"epoch": epoch, "timing": timing}

    history = [row(0, 20.0, 9.0), row(1, 100.0, 9.0), row(2, 101.0, 9.0)]
    text = slow_epoch_warning(history, row(3, rate, seconds))
    assert text.startswith(f"epoch 4 ran at {warning}") if warning else text == ""
    assert slow_epoch_warning([], row(0, rate, seconds)) == "", "the first epoch has nothing to compare with"


@pytest.mark.parametrize(
    "slow, cause", [("step", "memory may be spilling"), ("data", "waiting for batches: raise workers")]
)
def test_slow_epochs_are_warnings_with_their_cause(drawn_manifest, pack_cache, tmp_path, monkeypatch, slow, cause):
    step, batches = Stepper.__call__, loop.train_batches

    def slow_step(self, batch, number, epoch):
        step(self, batch, number, epoch)
        time.sleep(0.5 if epoch >= 2 and slow == "step" else 0.0)

    def slow_batches(pack, sampler, augmentation, first, last, *more, **options):
        for batch in batches(pack, sampler, augmentation, first, last, *more, **options):
            time.sleep(0.5 if first >= 2 * sampler.steps_per_epoch and slow == "data" else 0.0)
            yield batch

    monkeypatch.setattr(Stepper, "__call__", slow_step)
    monkeypatch.setattr(loop, "train_batches", slow_batches)
    events = list(train_teacher(P, drawn_manifest, tmp_path, pack_cache))
    warnings = {e["epoch"]: e["timing"]["warning"] for e in events if "warning" in e.get("timing", {})}
    assert set(warnings) == {2, 3} and warnings[2].startswith("epoch 3 ran at ") and cause in warnings[2]
    assert json.loads((tmp_path / "history.json").read_text())[2]["timing"]["warning"] == warnings[2]


@pytest.mark.parametrize(
    ("device", "changes", "threads", "expected"),
    [
        ("cpu", {}, 2, 1), ("cpu", {}, 3, 1), ("cpu", {}, 4, 0), ("cpu", {"processes": 2}, 2, 0),
        ("cuda", {}, 4, 3), ("cuda", {"processes": 4}, 1, 1),
        ("cpu", {"workers": 3}, 4, 3), ("cuda", {"workers": 0}, 1, 0),
    ],
)  # fmt: skip
def test_loader_threads_use_idle_cores(monkeypatch, device, changes, threads, expected):
    monkeypatch.setattr(fit_inputs, "cores", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert fit_inputs.loader_threads(TeacherParams(**changes), torch.device(device)) == expected


def test_warm_up_as_long_as_the_run_is_a_warning(drawn_manifest, pack_cache, tmp_path):
    p = P.model_copy(update={"epochs": 1, "warmup_epochs": 2.0})
    notes = [e for e in train_teacher(p, drawn_manifest, tmp_path, pack_cache) if e["event"] == "note"]
    assert any("warmup_epochs 2 of 1 epochs: lr 0.0003 is never reached" in n["message"] for n in notes)


def test_validation_of_diverged_weights_is_an_error(drawn_manifest, pack_cache, tmp_path):
    """The loss of the last step may be finite when the weights after it are not."""
    p = P.model_copy(update={"epochs": 1, "max_train_batches": 1, "lr": 1e30, "warmup_epochs": 0.0, "min_lr": 1e30})
    with pytest.raises(FerError, match=r"predict logits that are not finite in epoch 1\.00: lower lr"):
        list(train_teacher(p, drawn_manifest, tmp_path, pack_cache))
