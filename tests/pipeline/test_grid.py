"""The combinations of a sweep are computed and validated before anything starts."""

import pytest

from fer_lib.cli import main as cli
from fer_lib.errors import ParamsError
from fer_lib.pipeline.grid import affected_phases, compared_phases, exclude_registering, load_combinations, split_values

RUN = """
name: swept
phases:
  import: {sources: [{source: fer2013}]}
  manifest: {}
  teacher: {}
  softlabels: {}
  ce: {kind: student}
  kd: {kind: student, mode: kd, init_from: ce}
  dkd: {kind: student, mode: dkd, init_from: ce}
  evaluate: {}
  export: {}
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("FER_HOME", str(tmp_path))
    (tmp_path / "params").mkdir()
    path = tmp_path / "params" / "swept.yaml"
    path.write_text(RUN)
    return path


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("4", ["4"]),
        ("4,5, 6", ["4", "5", "6"]),
        ("[0.7,1.0]", ["[0.7,1.0]"]),
        ("[0.7,1.0],[0.9,1.0]", ["[0.7,1.0]", "[0.9,1.0]"]),
        ("[[1,2],[3]],[]", ["[[1,2],[3]]", "[]"]),
        ("{a: 1, b: [2,3]},{a: 2}", ["{a: 1, b: [2,3]}", "{a: 2}"]),
        ('\'a,b\',"c,\\",d"', ["'a,b'", '"c,\\",d"']),
        ("['a]',b],c", ["['a]',b]", "c"]),
        ("don't,can't", ["don't", "can't"]),
        ("a[0,b]", ["a[0", "b]"]),
        ("", [""]),
        ("1,,2,", ["1", "", "2", ""]),
    ],
)
def test_values_are_split_at_top_level_commas(text, values):
    assert split_values(text) == values


@pytest.mark.parametrize("text", ["[1,2", "'a,b", "[{a: 1],2"])
def test_an_open_bracket_or_quote_is_refused(text):
    with pytest.raises(ParamsError, match="missing at the end"):
        split_values(text)


def test_combinations_are_in_the_order_written(file):
    changes = ["teacher.arcface_s=16,30", "kd.temperature=2,4,6", "ce.lr=0.01", "kd.augment.scale=[0.7,1.0],[0.9,1.0]"]
    found = load_combinations(file, changes)
    assert len(found) == 12 and [c.label for c in found[:3]] == [
        "teacher.arcface_s=16, kd.temperature=2, kd.augment.scale=[0.7,1.0]",
        "teacher.arcface_s=16, kd.temperature=2, kd.augment.scale=[0.9,1.0]",
        "teacher.arcface_s=16, kd.temperature=4, kd.augment.scale=[0.7,1.0]",
    ]
    kd = found[-1].plan.phase("kd").params
    assert (kd.temperature, kd.augment.scale) == (6.0, (0.9, 1.0))
    assert {c.plan.phase("ce").params.lr for c in found} == {0.01}
    assert {c.plan.phase("teacher").params.arcface_s for c in found} == {16.0, 30.0}


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (["kd.temperature=2"], ["nothing is varied", "fer run"]),
        (["kd.temperature=2,-1"], ["combination kd.temperature=-1:", "'temperature'", "greater than 0"]),
        (["kd.temprature=2,4"], ["combination kd.temprature=2:", "closest: 'temperature'"]),
        (["kd.temperature=2,[1"], ["missing at the end"]),
        (["kd.temperature=2,"], ["missing"]),
        (["kd.temperature=2,2.0"], ["kd.temperature=2 and kd.temperature=2.0 are the same run"]),
        (["kd.temperature=2,3", "kd.temperature=4,5"], ["are the same run"]),
        (["kd.temperature=2,4", "teacher.batch_size=64,8"],
         ["combination kd.temperature=2, teacher.batch_size=8:", "batch_size >= 14"]),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_with_their_combination(file, changes, parts, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["sweep", str(file), *(word for text in changes for word in ("-p", text))])
    message = capsys.readouterr().err
    assert end.value.code == 2 and [part for part in parts if part not in message] == []
    assert not (file.parent.parent / "mlruns").exists(), "nothing was started"


def test_a_missing_file_is_reported_without_a_combination(file):
    with pytest.raises(ParamsError, match="^cannot read .*closest: 'swept.yaml'"):
        load_combinations(file.with_name("swpet.yaml"), ["kd.temperature=2,4"])


@pytest.mark.parametrize(
    ("change", "affected", "compared"),
    [
        ("kd.temperature=2,4", ["kd", "evaluate", "export"], ["kd"]),
        ("student.temperature=2,4", ["kd", "dkd", "evaluate", "export"], ["kd", "dkd"]),
        ("student.alpha=0.2,0.4", ["kd", "evaluate", "export"], ["kd"]),
        ("student.lr=0.1,0.2", ["ce", "kd", "dkd", "evaluate", "export"], ["kd", "dkd"]),
        ("teacher.lr=0.1,0.2", ["teacher", "softlabels", "kd", "dkd", "evaluate", "export"], ["kd", "dkd"]),
        ("evaluate.resamples=100,200", ["evaluate", "export"], ["evaluate"]),
        ("kd.init_from=ce,teacher", ["kd", "evaluate", "export"], ["kd"]),
    ],
)
def test_the_last_affected_phases_are_compared(file, change, affected, compared):
    found = load_combinations(file, [change])
    assert affected_phases(found) == affected and compared_phases(found, affected) == compared


def test_values_without_effect_are_refused(file):
    with pytest.raises(ParamsError, match=r"ce.temperature=2 and ce.temperature=4 are the same run: .* does not read"):
        load_combinations(file, ["ce.temperature=2,4"])


def test_exports_are_left_out_unless_their_parameters_vary(file):
    def names(change):
        found = load_combinations(file, [change])
        return [phase.name for phase in exclude_registering(found, found[0].plan.phases)]

    assert "export" not in names("kd.temperature=2,4") and "evaluate" in names("kd.temperature=2,4")
    assert "export" in names("export.opset=17,18")
