"""Includes of run files: included phases come first and stay the same as in their own file."""

import pytest

from fer_lib.errors import ParamsError
from fer_lib.pipeline.runfile import Phase, load_run

DATA = "seed: 5\nphases:\n  import: {sources: [{source: fer2013, faces: 700}]}\n  manifest: {seed: 6}\n"
ONE = "include: [data.yaml]\nphases:\n  one: {kind: teacher}\n  one_judged: {kind: evaluate}\n"
TWO = "include: [data.yaml]\nseed: 9\nphases:\n  two: {kind: teacher}\n  two_judged: {kind: evaluate}\n"
BOTH = "name: both\ninclude: [one.yaml, two.yaml]\nphases:\n  soft: {kind: softlabels}\n  small: {kind: student}\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setenv("FER_HOME", str(tmp_path))
    for name, text in {"data": DATA, "one": ONE, "two": TWO, "both": BOTH}.items():
        (tmp_path / f"{name}.yaml").write_text(text)

    def write(name, text):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def input_names(plan):
    def names(sources):
        return [source.name for source in sources if isinstance(source, Phase)]

    return {p.name: {field: names(sources) for field, sources in p.inputs.items()} for p in plan.phases}


def test_included_phases_come_first_and_once(write, tmp_path):
    plan = load_run(tmp_path / "both.yaml")
    assert plan.name == "both"
    assert [p.name for p in plan.phases] == [
        "import", "manifest", "one", "one_judged", "two", "two_judged", "soft", "small"]  # fmt: skip


def test_an_included_phase_is_the_same_as_in_its_own_file(write, tmp_path):
    alone, both = load_run(tmp_path / "two.yaml"), load_run(tmp_path / "both.yaml")
    for phase in alone.phases:
        assert both.phase(phase.name).params == phase.params
        assert input_names(both)[phase.name] == input_names(alone)[phase.name]
    assert input_names(both)["two_judged"]["models"] == ["two"], "not the teacher of the other included file"
    assert input_names(both)["soft"]["teachers"] == ["one", "two"], "the including file uses both"


def test_a_seed_applies_to_the_phases_of_its_file(write, tmp_path):
    plan = load_run(tmp_path / "both.yaml")
    seeds = {p.name: p.params.seed for p in plan.phases}
    assert seeds["import"] == 5 and seeds["manifest"] == 6 and seeds["two"] == 9
    assert seeds["one"] == seeds["small"] == 1337


def test_smoke_sections_apply_to_their_file_and_its_includes(write, tmp_path):
    write("one.yaml", ONE + "smoke:\n  teacher: {image_size: 32}\n")
    plan = load_run(tmp_path / "both.yaml", smoke=True)
    assert (plan.phase("one").params.image_size, plan.phase("two").params.image_size) == (32, 48)
    write("both.yaml", BOTH + "smoke:\n  teacher: {image_size: 40}\n  one: {epochs: 2}\n")
    plan = load_run(tmp_path / "both.yaml", smoke=True)
    assert (plan.phase("one").params.image_size, plan.phase("two").params.image_size) == (40, 40)
    assert plan.phase("one").params.epochs == 2


def test_overrides_apply_to_included_phases(write, tmp_path):
    plan = load_run(tmp_path / "both.yaml", ["teacher.epochs=3", "import.sources.0.faces=99"])
    assert [plan.phase(name).params.epochs for name in ("one", "two", "small")] == [3, 3, 10]
    assert plan.phase("import").params.sources[0].faces == 99


@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        ("two.yaml", TWO.replace("two:", "one:"), ["phase 'one'", "one.yaml", "two.yaml"]),
        ("data.yaml", "include: [both.yaml]\n" + DATA, ["includes itself", "both.yaml -> one.yaml"]),
        ("data.yaml", DATA.replace("phases:", "phase:"), ["data.yaml", "'phase'", "closest: 'phases'"]),
        ("data.yaml", "phases: 3\n", ["data.yaml", "'phases'"]),
        ("both.yaml", BOTH.replace("two.yaml", "tow.yaml"), ["tow.yaml", "closest: 'two.yaml'"]),
        ("both.yaml", BOTH.replace("[one.yaml, two.yaml]", "one.yaml"), ["'include' must be a list"]),
        ("two.yaml", TWO.replace("judged: {", "judged: {models: [one], "), ["'one' is neither a phase before"]),
        ("one.yaml", ONE + "smoke:\n  techer: {epochs: 2}\n", ["one.yaml: smoke", "'techer'", "closest: 'teacher'"]),
        ("one.yaml", ONE + "smoke: 3\n", ["one.yaml: 'smoke' must map"]),
    ],
)  # fmt: skip
def test_wrong_values_are_named_with_their_file(write, tmp_path, name, text, parts):
    write(name, text)
    with pytest.raises(ParamsError) as caught:
        load_run(tmp_path / "both.yaml", smoke=True)
    assert [part for part in parts if part not in str(caught.value)] == []
