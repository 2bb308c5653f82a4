"""A fit of several processes that is broken off after an epoch resumes to the bit."""

import pytest
import torch

from fer_lib.params import TeacherParams
from fer_lib.training.checkpoint import load_checkpoint
from fer_lib.training.teacher import train_teacher

BASE = dict(
    backbone="test_resnet", image_size=32, embed_dim=16, dropout=0.3, epochs=2, batch_size=28, lr=2e-3,
    warmup_epochs=0.5, plain_epochs=1, ramp_end=2, arcface_s=12.0, ema_decay=0.9, clip_grad=1.0, mixup=0.4,
    label_smoothing=0.1, max_train_batches=2, threads=1, device="cpu", onnx="none",
)  # fmt: skip


@pytest.mark.parametrize("processes", [2, 3])
def test_resumed_fit_ends_as_the_unbroken_one(processes, drawn_manifest, pack_cache, tmp_path):
    """With three or more, the order of a sum depends on a gradient's bucket, which must be the same after a resume."""
    p = TeacherParams(**BASE, processes=processes)
    list(train_teacher(p, drawn_manifest, tmp_path / "unbroken", pack_cache))
    events = train_teacher(p, drawn_manifest, tmp_path / "broken", pack_cache)
    while next(events)["event"] != "epoch":
        pass
    events.close()
    resumed = list(train_teacher(p, drawn_manifest, tmp_path / "broken", pack_cache))
    assert resumed[0]["resumed_at_step"] in (2, 4)
    ours, theirs = (load_checkpoint(tmp_path / name / "checkpoint_last")[0] for name in ("broken", "unbroken"))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs) and set(ours) == set(theirs)
