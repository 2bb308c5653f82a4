"""A phase of kind checkpoints in a run file: where its fits come from, and where its choice may be named."""

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
def links(tmp_path, monkeypatch):
    monkeypatch.setenv("FER_HOME", str(tmp_path))

    def read(*overrides):
        (tmp_path / "run.yaml").write_text(RUN)
        plan = load_run(tmp_path / "run.yaml", overrides)
        return {
            phase.name: {
                k: [v.name if isinstance(v, Phase) else v for v in values] for k, values in phase.links.items()
            }
            for phase in plan.phases
        }

    return read


def test_blank_fields_mean_what_they_meant(links):
    found = links()
    assert found["chosen"] == {"manifest": ["manifest"], "fits": ["a", "b"]} and found["pick"]["fits"] == ["ce"]
    assert found["softlabels"]["teachers"] == ["a", "b"] and found["kd"]["init_from"] == []
    assert found["evaluate"]["models"] == ["a", "b", "ce", "kd"] and found["export"]["candidates"] == ["ce", "kd"]


def test_the_chosen_one_may_be_named_where_a_model_may(links):
    found = links("softlabels.teachers=[chosen, a]", "kd.init_from=pick", "evaluate.models=[a, chosen, pick, kd]",
                  "export.candidates=[pick, kd]")  # fmt: skip
    assert found["softlabels"]["teachers"] == ["chosen", "a"] and found["kd"]["init_from"] == ["pick"]
    assert found["evaluate"]["models"] == ["a", "chosen", "pick", "kd"]
    assert found["export"]["candidates"] == ["pick", "kd"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("pick.fits=[chosen]", "'chosen' is a phase of kind 'checkpoints', not teacher or student"),
        ("pick.fits=[softlabels]", "'softlabels' is a phase of kind 'softlabels', not teacher or student"),
        ("kd.softlabels=chosen", "'chosen' is a phase of kind 'checkpoints', not softlabels"),
        ("chosen.fits=[models:/fer-teacher/1]", "holds no checkpoints"),
        ("chosen.alias=v2", "not latest or v1"),
        ("chosen.name=a", "phases 'a' and 'chosen' are both called 'a'"),
    ],
)
def test_what_is_wrong_is_named(links, override, said):
    with pytest.raises(ParamsError) as caught:
        links(override, "evaluate.models=[a, chosen]")
    assert said in str(caught.value)


def test_epochs_that_were_kept_otherwise_are_another_input(tmp_path):
    """Two trainings may end with one best and keep other epochs, which only their keys tell."""
    for name, key in (("one", "k1"), ("two", "k2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "outputs.json").write_text('{"ids": {"weights_sha256": "same"}}')
        (tmp_path / name / "done.json").write_text(f'{{"key": "{key}"}}')
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    assert cache_key.input_id(one) == cache_key.input_id(two)
    assert cache_key.input_id(one, "fits") != cache_key.input_id(two, "fits")
