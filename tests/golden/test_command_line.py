"""The commands of ``fer`` are those of the golden files: what they take (strictly), and how their help reads.

After an intended change: ``python tests/golden/record_outputs.py help``.
"""

import json

import pytest
from record_outputs import HERE, commands, file_name, help_text

GOLDEN = HERE / "help"


@pytest.fixture(scope="module")
def found():
    return {file_name(words): (words, interface) for words, interface in commands().items()}


def test_no_command_is_gone_and_none_is_new(found):
    assert set(found) == {path.stem for path in GOLDEN.glob("*.json")}
    assert {*found, "fer"} == {path.stem for path in GOLDEN.glob("*.txt")}


@pytest.mark.parametrize("golden", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_a_command_takes_the_same_arguments_and_options(golden, found):
    _, interface = found[golden.stem]
    assert interface == json.loads(golden.read_text(encoding="utf-8"))


@pytest.mark.parametrize("golden", sorted(GOLDEN.glob("*.txt")), ids=lambda path: path.stem)
def test_the_help_of_a_command_reads_as_before(golden, found):
    words, _ = found.get(golden.stem, ("", None))
    assert help_text(words.split()) == golden.read_text(encoding="utf-8")
