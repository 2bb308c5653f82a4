"""The first fifty losses of a small teacher are those on record, to the bit."""

import json

import pytest
import record_losses
import torch


def test_the_first_losses_are_those_on_record(tmp_path):
    file = record_losses.recorded_at(torch.__version__, torch.backends.cpu.get_cpu_capability())
    if not file.is_file():
        pytest.skip(f"none recorded as {file.name}: python tests/training/record_losses.py records them")
    recorded, found = json.loads(file.read_text()), record_losses.first_losses(tmp_path)
    assert recorded["faces_sha256"] == found["faces_sha256"], "other faces are drawn here than those on record"
    assert len(recorded["losses"]) == record_losses.STEPS == 50
    differ = [i for i, (a, b) in enumerate(zip(recorded["losses"], found["losses"], strict=True)) if a != b]
    assert not differ, f"from step {differ[0]} on; if that is meant, record them again and say so in CHANGELOG.md"
    assert recorded == found
    losses = [float.fromhex(loss) for loss in recorded["losses"]]
    assert len(set(losses)) == 50 and sum(losses[-10:]) < sum(losses[:10]), "it learns"
