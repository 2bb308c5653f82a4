"""A kept array is what was computed, or it is computed again."""

import logging

import numpy as np
import pytest

from fer_lib.errors import DataError
from fer_lib.models.cache import cached_array

LOGITS = np.arange(35.0).reshape(5, 7)


def compute(calls):
    calls.append(1)
    return LOGITS * len(calls)


def test_it_is_computed_once(tmp_path):
    calls = []
    for _ in range(3):
        found = cached_array(tmp_path / "a" / "logits.npy", lambda: compute(calls))
        assert np.array_equal(found, LOGITS) and found.dtype == np.float64
    assert len(calls) == 1
    assert np.array_equal(np.load(tmp_path / "a" / "logits.npy"), LOGITS), "any reader of .npy understands it"


@pytest.mark.parametrize(
    "damage", ["empty", "cut short", "header lost", "garbage", "one bit", "longer", "zeros", "four zeros"]
)
def test_a_damaged_one_is_computed_again(tmp_path, damage, caplog):
    caplog.set_level(logging.WARNING)
    calls, file = [], tmp_path / "logits.npy"
    cached_array(file, lambda: compute(calls))
    whole = file.read_bytes()
    bit = bytearray(whole)
    bit[200] ^= 1
    damaged = {
        "empty": b"", "cut short": whole[: len(whole) // 2], "header lost": bytes(80) + whole[80:],
        "garbage": b"PK\x03\x04" + whole[4:], "one bit": bytes(bit), "longer": whole + b"\0",
        "zeros": bytes(len(whole)), "four zeros": bytes(4),
    }  # fmt: skip
    file.write_bytes(damaged[damage])
    assert np.array_equal(cached_array(file, lambda: compute(calls)), 2 * LOGITS)
    assert [str(file) in r.getMessage() and "computed again" in r.getMessage() for r in caplog.records] == [True]
    assert np.array_equal(cached_array(file, lambda: compute(calls)), 2 * LOGITS) and len(calls) == 2


def test_a_disk_that_refuses_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write .*logits\.npy"):
        cached_array(tmp_path / "file" / "logits.npy", lambda: LOGITS)
