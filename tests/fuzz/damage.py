"""Hypothesis strategies that damage a sound file: its bytes, its words and lines, or its JSON values.

They draw bytearrays, because Hypothesis keeps the bytes of the last 10,000 cases.
"""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

WORDS = [
    "", "-1", "0", "7", "1e400", "1e9", "nan", "inf", "-0.5", "\u0663", "\0", "../a", "/dev/zero", "C:\\x", ".hidden",
    "a" * 300, "\ufeff", "=1+1", "#", "{", "[", "]", "\r", "\x85", '"', "'", ",", "999999999999", "&a", "*a", "<<: *a",
    "!!binary", "null", "true", "[a]", "{a: 1}", "\ud800",
]  # fmt: skip
VALUES = [
    None, True, False, 0, -1, 1, 7, 10**9, 10**30, 0.5, -0.5, 1e-9, 1e9, float("nan"), float("inf"), "", "0", "x",
    "a" * 2000, "\0", "../a", [], [0], [[]], {}, {"a": 1}, [None] * 7, [0.5] * 7, [1e400] * 7, ["0"] * 7,
]  # fmt: skip


@st.composite
def damaged_bytes(draw, data: bytes) -> bytearray:
    """Bytes replaced, cut out, doubled, inserted or cut off."""
    wrong = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(wrong) - 1)))
        kind = draw(st.sampled_from(["set", "set", "set", "cut", "double", "insert", "end"]))
        length = draw(st.integers(1, 40))
        if kind == "set":
            wrong[at : at + 1] = draw(st.binary(min_size=1, max_size=4))
        elif kind == "cut":
            del wrong[at : at + length]
        elif kind == "double":
            wrong[at:at] = wrong[at : at + length]
        elif kind == "insert":
            wrong[at:at] = draw(st.binary(max_size=12))
        else:
            del wrong[at:]
    return wrong


@st.composite
def damaged_text(draw, data: bytes) -> bytearray:
    """Words replaced, inserted or cut; lines dropped or doubled; now and then bytes that are no UTF-8."""
    lines = data.decode().split("\n")
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.sampled_from(["word", "word", "word", "insert", "drop", "double", "cut"]))
        if kind in ("word", "insert"):
            mark = "," if "," in lines[at] else " "
            words = lines[at].split(mark)
            word = draw(st.integers(0, len(words) - 1))
            words[word : word + (kind == "word")] = [draw(st.sampled_from(WORDS) | st.text(max_size=6))]
            lines[at] = mark.join(words)
        elif kind == "cut":
            lines[at] = lines[at][: draw(st.integers(0, len(lines[at])))]
        else:
            lines[at : at + 1] = [] if kind == "drop" and len(lines) > 1 else [lines[at]] * 2
    tail = draw(st.sampled_from([b"", b"", b"", b"", b"\xff\xfe", b"\xed\xa0\x80"]))
    return bytearray("\n".join(lines).encode("utf-8", "surrogatepass") + tail)


def _places(value: Any, path: tuple = ()) -> list[tuple]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in _places(inner, (*path, key)))]


@st.composite
def damaged_json(draw, data: bytes) -> bytearray:
    """Values replaced by those of another type or size, keys removed and added."""
    value = json.loads(data)
    for _ in range(draw(st.integers(1, 3))):
        *path, last = draw(st.sampled_from(_places(value)[1:] or [(None,)]))
        if last is None:
            return bytearray(json.dumps(draw(st.sampled_from(VALUES))).encode())
        section = value
        for key in path:
            section = section[key]
        kind = draw(st.sampled_from(["set", "set", "set", "remove", "add", "all"]))
        if kind == "remove":
            del section[last]
        elif kind == "add" and isinstance(section, dict):
            section[draw(st.text(max_size=5))] = copy.deepcopy(draw(st.sampled_from(VALUES)))
        elif kind == "all" and draw(st.integers(0, 9)) == 0:
            return bytearray(json.dumps(draw(st.sampled_from(VALUES))).encode())
        else:
            other = st.integers() | st.floats() | st.text(max_size=4)
            section[last] = copy.deepcopy(draw(st.sampled_from(VALUES) | other))
    return bytearray(json.dumps(value).encode())


FORMS = {"bytes": damaged_bytes, "text": damaged_text, "json": damaged_json}
