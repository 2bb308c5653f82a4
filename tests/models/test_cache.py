"""Cached arrays: read back as computed, and computed again when the file is damaged."""

import io
import logging

import numpy as np
import pytest

from fer_lib.errors import DataError
from fer_lib.models.cache import _crc, cached_array

LOGITS = np.arange(35.0).reshape(5, 7)


def pickled() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([{}]))
    return stream.getvalue()


def compute(calls):
    calls.append(1)
    return LOGITS * len(calls)


def test_array_is_computed_once(tmp_path):
    calls = []
    for _ in range(3):
        array = cached_array(tmp_path / "a" / "logits.npy", lambda: compute(calls))
        assert np.array_equal(array, LOGITS) and array.dtype == np.float64
    assert len(calls) == 1
    assert np.array_equal(np.load(tmp_path / "a" / "logits.npy"), LOGITS), "np.load reads the file"


@pytest.mark.parametrize(
    "damage",
    ["empty", "truncated", "no header", "garbage", "one bit", "longer", "zeros", "four zeros", "foreign", "pickled"],
)
def test_damaged_file_is_computed_again(tmp_path, damage, caplog):
    caplog.set_level(logging.WARNING)
    calls, file = [], tmp_path / "logits.npy"
    cached_array(file, lambda: compute(calls))
    content = file.read_bytes()
    bit = bytearray(content)
    bit[200] ^= 1
    damaged = {
        "empty": b"", "truncated": content[: len(content) // 2], "no header": bytes(80) + content[80:],
        "garbage": b"PK\x03\x04" + content[4:], "one bit": bytes(bit), "longer": content + b"\0",
        "zeros": bytes(len(content)), "four zeros": bytes(4), "foreign": b"text" + _crc(b"text"),
        "pickled": pickled() + _crc(pickled()),
    }  # fmt: skip
    file.write_bytes(damaged[damage])
    assert np.array_equal(cached_array(file, lambda: compute(calls)), 2 * LOGITS)
    assert [str(file) in r.getMessage() and "computed again" in r.getMessage() for r in caplog.records] == [True]
    assert np.array_equal(cached_array(file, lambda: compute(calls)), 2 * LOGITS) and len(calls) == 2


def test_write_error_names_the_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write .*logits\.npy"):
        cached_array(tmp_path / "file" / "logits.npy", lambda: LOGITS)
