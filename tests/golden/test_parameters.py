"""The parameters of every phase have the names, types, defaults and bounds of the golden files; wording is free.

After an intended change: ``python tests/golden/record_outputs.py schemas``.
"""

import json

import pytest
from record_outputs import HERE, bare, schemas

GOLDEN = HERE / "schemas"


@pytest.fixture(scope="module")
def found():
    return schemas()


def test_no_kind_of_phase_is_gone_and_none_is_new(found):
    assert set(found) == {path.stem for path in GOLDEN.glob("*.json")}


@pytest.mark.parametrize("golden", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_a_kind_of_phase_has_the_same_parameters(golden, found):
    assert found[golden.stem] == json.loads(golden.read_text(encoding="utf-8"))


def test_words_and_class_names_are_left_out_and_bounds_are_not():
    inner = {"title": "Inner", "description": "words", "properties": {"title": {"title": "T", "type": "string"}}}
    field = {"$ref": "#/$defs/Inner", "default": {"title": "a"}, "description": "more words"}
    bounded = {"title": "N", "type": "integer", "minimum": 1}
    schema = {"$defs": {"Inner": inner}, "properties": {"x": field, "n": bounded}, "title": "Outer"}
    x = {"properties": {"title": {"type": "string"}}, "default": {"title": "a"}}
    assert bare(schema) == {"properties": {"x": x, "n": {"type": "integer", "minimum": 1}}}
