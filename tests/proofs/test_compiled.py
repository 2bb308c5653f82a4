"""``compile: true`` is the same training through torch.compile, and is resumed to the bit as any other."""

import shutil

import pytest
import torch

from fer_lib.params import TeacherParams
from fer_lib.training import loop
from fer_lib.training.checkpoint import load_checkpoint
from fer_lib.training.teacher import train_teacher

BASE = dict(
    backbone="test_resnet", image_size=32, embed_dim=16, dropout=0.0, epochs=2, batch_size=14, lr=1e-4,
    warmup_epochs=0.5, plain_epochs=0.3, ramp_end=0.6, arcface_s=12.0, max_train_batches=3, threads=1, device="cpu",
)  # fmt: skip

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")


def weights(folder) -> dict[str, torch.Tensor]:
    return {k: v for k, v in load_checkpoint(folder / "checkpoint_last")[0].items() if k.startswith("model.")}


def test_compiled_steps_are_the_eager_ones(drawn_manifest, pack_cache, tmp_path):
    losses = {}
    for name, compiled in (("eager", False), ("compiled", True)):
        p = TeacherParams(**BASE, compile=compiled)
        events = list(train_teacher(p, drawn_manifest, tmp_path / name, pack_cache))
        losses[name] = [e["train"]["loss"] for e in events if e["event"] == "epoch"]
    assert losses["compiled"] == pytest.approx(losses["eager"], rel=1e-3)
    eager, compiled = weights(tmp_path / "eager"), weights(tmp_path / "compiled")
    assert set(eager) == set(compiled), "no name tells of the wrapper"


@pytest.mark.parametrize("own", [{}, {"dropout": 0.2, "accum_steps": 2, "batch_size": 28}])
def test_a_compiled_run_resumes_to_the_bit_from_within_an_epoch(drawn_manifest, pack_cache, tmp_path, monkeypatch, own):
    p = TeacherParams(**{**BASE, **own}, compile=True, checkpoint_minutes=1e-9)  # after every step
    whole = list(train_teacher(p, drawn_manifest, tmp_path / "whole", pack_cache))
    monkeypatch.setattr(loop, "TELL_EVERY", 0.0)  # an event a step, so that the run can be left within an epoch
    broken = train_teacher(p, drawn_manifest, tmp_path / "broken", pack_cache)
    while (event := next(broken))["event"] != "step" or event["step"] < 5:
        pass
    broken.close()
    assert load_checkpoint(tmp_path / "broken" / "checkpoint_last")[1]["step"] == 5
    rest = list(train_teacher(p, drawn_manifest, tmp_path / "broken", pack_cache))
    assert rest[0]["resumed_at_step"] == 5
    ours, theirs = weights(tmp_path / "broken"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert [e["train"]["loss"] for e in rest if e["event"] == "epoch"] == [
        e["train"]["loss"] for e in whole if e["event"] == "epoch"
    ][1:]
