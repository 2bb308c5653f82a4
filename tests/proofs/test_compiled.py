"""``compile: true`` is the same training through torch.compile, and is resumed to the bit as any other."""

import shutil

import pytest
import torch

from fer_lib.params import TeacherParams
from fer_lib.training.checkpoint import load_checkpoint
from fer_lib.training.teacher import train_teacher

BASE = dict(
    backbone="test_resnet", image_size=32, embed_dim=16, dropout=0.0, epochs=2, batch_size=14, lr=1e-4,
    warmup_epochs=0.5, plain_epochs=0.3, ramp_end=0.6, arcface_s=12.0, max_train_batches=3, threads=1, device="cpu",
)  # fmt: skip

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")


def weights(folder) -> dict[str, torch.Tensor]:
    return {k: v for k, v in load_checkpoint(folder / "checkpoint_last")[0].items() if k.startswith("model.")}


def test_compiled_steps_are_the_eager_ones_and_resume_to_the_bit(drawn_manifest, pack_cache, tmp_path):
    losses = {}
    for name, compiled in (("eager", False), ("compiled", True)):
        p = TeacherParams(**BASE, compile=compiled)
        events = list(train_teacher(p, drawn_manifest, tmp_path / name, pack_cache))
        losses[name] = [e["train"]["loss"] for e in events if e["event"] == "epoch"]
    assert losses["compiled"] == pytest.approx(losses["eager"], rel=1e-3)
    eager, compiled = weights(tmp_path / "eager"), weights(tmp_path / "compiled")
    assert set(eager) == set(compiled), "no name tells of the wrapper"
    broken = train_teacher(TeacherParams(**BASE, compile=True), drawn_manifest, tmp_path / "broken", pack_cache)
    while next(broken)["event"] != "epoch":
        pass
    broken.close()
    rest = list(train_teacher(TeacherParams(**BASE, compile=True), drawn_manifest, tmp_path / "broken", pack_cache))
    assert rest[0]["resumed_at_step"] == 3
    resumed = weights(tmp_path / "broken")
    assert all(torch.equal(resumed[k], compiled[k]) for k in compiled)
