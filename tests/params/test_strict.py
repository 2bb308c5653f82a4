"""Invalid YAML is one clear error in run files, options and the command line."""

import os
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from fer_lib.errors import ParamsError
from fer_lib.params import strict
from fer_lib.params.strict import parse, read_mapping
from fer_lib.pipeline.runfile import load_run

NO_VALUES = ("!!int ''", "!!int", "!!bool maybe", "!!float ''", "!!timestamp x", "2024-13-45", "0x_", "0b_", "!!map x",
             "1" * 5000, '"\\ud800"', "2001-01-01T00:00:00+99:99")  # fmt: skip
BROKEN = ('"\\U7fffffff"', "[" * 1000, "{a: 1, a: 2}", "!!python/object/apply:os.getcwd []", "a: b: c", "\x00")


@pytest.mark.parametrize("text", [*NO_VALUES, *BROKEN], ids=lambda text: ascii(text[:20]))
def test_an_invalid_value_is_a_yaml_error_in_files_and_overrides(text, tmp_path):
    for written in (text, f"[{text}]"):
        with pytest.raises(yaml.YAMLError):
            parse(written)
    path = tmp_path / "run.yaml"
    path.write_text(f"name: good\nphases: {text}\n")
    with pytest.raises(ParamsError, match=r"run\.yaml.*not valid YAML"):
        read_mapping(path)
    path.write_text("phases: {import: {}}\n")
    with pytest.raises(ParamsError, match="-p import.seed=.*not valid YAML"):
        load_run(path, [f"import.seed={text}"])


def test_the_error_names_line_column_and_value():
    with pytest.raises(yaml.YAMLError) as error:
        parse("a: 1\nb: [2, 2024-13-45]\n")
    assert (error.value.problem_mark.line, error.value.problem_mark.column) == (1, 7)
    assert error.value.problem == "'2024-13-45' can't be read as timestamp; put quotes around a text"
    assert parse("a: 2024-12-31") and parse("[0x1f, '0x_', !!int '3', true, 1.5]") == [31, "0x_", 3, True, 1.5]


@pytest.mark.parametrize("text", NO_VALUES, ids=lambda text: ascii(text[:20]))
def test_the_command_line_reports_invalid_yaml(text, tmp_path):
    from fer_lib.cli.data import data

    command = ["import", "--source", "tree", "--root", str(tmp_path), "-o", str(tmp_path / "out"), "-p", f"name={text}"]
    done = CliRunner().invoke(data, command)
    assert isinstance(done.exception, ParamsError) and "not valid YAML" in str(done.exception)


def aliases_of_aliases(levels: int, each: int) -> str:
    """``each`` ** ``levels`` values in a few lines."""
    lines = ["a0: &a0 [1]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * each)}]" for i in range(1, levels + 1)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text, word",
    [
        (aliases_of_aliases(9, 9), "too large"),
        (aliases_of_aliases(60, 1), "too deeply"),
        ("a: &a [*a]", "inside the value"),
        ("a: &a {b: [*a]}", "inside the value"),
        ("[" * 1000 + "]" * 1000, "too deeply"),
        ("{a: " * 100 + "1" + "}" * 100, "too deeply"),
        ("a: [" + "1," * (strict.MAX_NODES + 1) + "]", "too large"),
        ("a: '" + "x" * strict.MAX_BYTES + "'", "larger than"),
    ],
)
def test_a_yaml_bomb_is_refused_before_it_is_built(text, word, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ParamsError, match=word) as error:
        read_mapping(file)
    assert str(file) in str(error.value) and len(str(error.value)) < 500


def test_ordinary_aliases_and_merges_are_read():
    assert parse("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]") == {
        "a": {"x": 1},
        "b": {"x": 1, "y": 2},
        "c": [{"x": 1}, {"x": 1}],
    }


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_a_device_and_an_impossible_name_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path / "pipe.yaml", Path("/dev/zero"), tmp_path, tmp_path / "a\0b.yaml"):
        with pytest.raises(ParamsError, match="not a file|name of a file"):
            read_mapping(path)
