"""The first fifty losses of a small teacher equal the recorded ones to the bit."""

import json

import pytest
import record_losses
import torch


def test_first_losses_equal_the_record(tmp_path):
    file = record_losses.record_path(torch.__version__, torch.backends.cpu.get_cpu_capability())
    if not file.is_file():
        pytest.skip(f"no record {file.name}: python tests/training/record_losses.py writes it")
    expected, actual = json.loads(file.read_text()), record_losses.first_losses(tmp_path)
    assert expected["faces_sha256"] == actual["faces_sha256"], "the drawn faces differ from those of the record"
    assert len(expected["losses"]) == record_losses.STEPS == 50
    differ = [i for i, (a, b) in enumerate(zip(expected["losses"], actual["losses"], strict=True)) if a != b]
    assert not differ, f"from step {differ[0]} on; if intended, record them again and say so in CHANGELOG.md"
    assert expected == actual
    losses = [float.fromhex(loss) for loss in expected["losses"]]
    assert len(set(losses)) == 50 and sum(losses[-10:]) < sum(losses[:10]), "the loss falls"
