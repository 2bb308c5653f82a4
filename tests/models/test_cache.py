"""Cached arrays: read back as computed, and computed again when the file is damaged."""

import io
import logging

import numpy as np
import pytest

from fer_lib.errors import DataError
from fer_lib.models.cache import cached_array

LOGITS = np.arange(35.0).reshape(5, 7)


def archive(**arrays) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def compute(calls):
    calls.append(1)
    return LOGITS * len(calls)


def test_array_is_computed_once(tmp_path):
    calls = []
    for _ in range(3):
        array = cached_array(tmp_path / "a" / "logits.npz", lambda: compute(calls))
        assert np.array_equal(array, LOGITS) and array.dtype == np.float64
    assert len(calls) == 1
    assert np.array_equal(np.load(tmp_path / "a" / "logits.npz")["array"], LOGITS), "np.load reads the file"


@pytest.mark.parametrize(
    "damage",
    ["empty", "truncated", "no header", "garbage", "one bit", "zeros", "foreign", "other name", "pickled"],
)
def test_damaged_file_is_computed_again(tmp_path, damage, caplog):
    caplog.set_level(logging.WARNING)
    calls, file = [], tmp_path / "logits.npz"
    cached_array(file, lambda: compute(calls))
    content = file.read_bytes()
    bit = bytearray(content)
    bit[300] ^= 1  # in the values
    damaged = {
        "empty": b"", "truncated": content[: len(content) // 2], "no header": bytes(80) + content[80:],
        "garbage": b"text" + content[4:], "one bit": bytes(bit), "zeros": bytes(len(content)), "foreign": b"text",
        "other name": archive(other=LOGITS), "pickled": archive(array=np.array([{}])),
    }  # fmt: skip
    file.write_bytes(damaged[damage])
    assert np.array_equal(cached_array(file, lambda: compute(calls)), 2 * LOGITS)
    assert [str(file) in r.getMessage() and "computed again" in r.getMessage() for r in caplog.records] == [True]
    assert np.array_equal(cached_array(file, lambda: compute(calls)), 2 * LOGITS) and len(calls) == 2


def test_write_error_names_the_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write .*logits\.npz"):
        cached_array(tmp_path / "file" / "logits.npz", lambda: LOGITS)
