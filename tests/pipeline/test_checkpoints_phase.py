"""Phases of kind checkpoints in a run file: their fits, and the fields that may name them."""

import pytest

from fer_lib.errors import ParamsError
from fer_lib.pipeline import cache_key
from fer_lib.pipeline.runfile import Phase, load_run

RUN = """
phases:
  import: {sources: [{source: fer2013}]}
  manifest: {}
  a: {kind: teacher}
  b: {kind: teacher}
  chosen: {kind: checkpoints}
  softlabels: {}
  ce: {kind: student}
  pick: {kind: checkpoints, fits: [ce]}
  kd: {kind: student, mode: kd}
  evaluate: {}
  export: {}
"""


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    monkeypatch.setenv("FER_HOME", str(tmp_path))

    def read(*overrides):
        (tmp_path / "run.yaml").write_text(RUN)
        plan = load_run(tmp_path / "run.yaml", overrides)
        return {
            phase.name: {
                k: [v.name if isinstance(v, Phase) else v for v in values] for k, values in phase.inputs.items()
            }
            for phase in plan.phases
        }

    return read


def test_blank_fields_do_not_use_checkpoints_phases(inputs):
    found = inputs()
    assert found["chosen"] == {"manifest": ["manifest"], "fits": ["a", "b"]} and found["pick"]["fits"] == ["ce"]
    assert found["softlabels"]["teachers"] == ["a", "b"] and found["kd"]["init_from"] == []
    assert found["evaluate"]["models"] == ["a", "b", "ce", "kd"] and found["export"]["candidates"] == ["ce", "kd"]


def test_a_checkpoints_phase_may_be_named_as_a_model(inputs):
    found = inputs("softlabels.teachers=[chosen, a]", "kd.init_from=pick", "evaluate.models=[a, chosen, pick, kd]",
                  "export.candidates=[pick, kd]")  # fmt: skip
    assert found["softlabels"]["teachers"] == ["chosen", "a"] and found["kd"]["init_from"] == ["pick"]
    assert found["evaluate"]["models"] == ["a", "chosen", "pick", "kd"]
    assert found["export"]["candidates"] == ["pick", "kd"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pick.fits=[chosen]", "'chosen' is a phase of kind 'checkpoints', not teacher or student"),
        ("pick.fits=[softlabels]", "'softlabels' is a phase of kind 'softlabels', not teacher or student"),
        ("kd.softlabels=chosen", "'chosen' is a phase of kind 'checkpoints', not softlabels"),
        ("chosen.fits=[models:/fer-teacher/1]", "holds no checkpoints"),
        ("chosen.alias=v2", "not latest or v1"),
        ("chosen.name=a", "phases 'a' and 'chosen' are both called 'a'"),
    ],
)
def test_wrong_values_are_named(inputs, override, message):
    with pytest.raises(ParamsError) as caught:
        inputs(override, "evaluate.models=[a, chosen]")
    assert message in str(caught.value)


def test_fits_are_inputs_by_cache_key(tmp_path):
    """Two fits may have the same best weights and different saved epochs; only their keys differ."""
    for name, key in (("one", "k1"), ("two", "k2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "outputs.json").write_text('{"ids": {"weights_sha256": "same"}}')
        (tmp_path / name / "done.json").write_text(f'{{"key": "{key}"}}')
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    assert cache_key.input_id(one) == cache_key.input_id(two)
    assert cache_key.input_id(one, "fits") != cache_key.input_id(two, "fits")
