"""Parameters of negative learning: neglconfig.json, refusals, and what the keys of a fit depend on."""

import json

import pytest

from fer_lib.errors import ParamsError
from fer_lib.params import NegativeParams, StudentParams, TeacherParams
from fer_lib.params.strict import validate
from fer_lib.pipeline.phase_task import injected_values
from fer_lib.pipeline.runfile import load_run
from fer_lib.training.resume_check import fit_key

FILE = {"draw": "lowest", "weight": 0.2, "class_ratios": {"Happy": 0.1}, "lowest": 2}


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("FER_HOME", str(tmp_path))
    (tmp_path / "neglconfig.json").write_text(json.dumps(FILE, indent=2))
    return tmp_path / "neglconfig.json"


@pytest.mark.parametrize("path", ["neglconfig.json", "$FER_HOME/neglconfig.json"])
def test_a_file_gives_the_parameters_and_switches_negative_learning_on(config, path):
    p = TeacherParams(negative={"config": path})
    assert p.negative == NegativeParams(method="negl", **FILE) and p.negative.config == ""
    config.unlink()  # a phase gets the values, not the path
    assert TeacherParams.collect(injected_values(p, ["advanced"]), "t") == p


def test_a_file_can_be_named_in_a_run_file_and_in_an_override(config, tmp_path):
    run = tmp_path / "run.yaml"
    phases = "phases:\n  import: {sources: [{source: fer2013}]}\n  manifest: {}\n  teacher: {%s}\n"
    run.write_text(phases % "negative: {config: neglconfig.json}")
    assert load_run(run).phase("teacher").params.negative.weight == 0.2
    run.write_text(phases % "")
    plan = load_run(run, ["teacher.negative.config=neglconfig.json"])
    assert plan.phase("teacher").params.negative == NegativeParams(method="negl", **FILE)
    with pytest.raises(ParamsError, match=r"negative: ratio and config: .*neglconfig.json are both set: keep one"):
        load_run(run, ["teacher.negative.ratio=0.3", "teacher.negative.config=neglconfig.json"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"ratoi": 0.5}', r"neglconfig.json': unknown key 'ratoi' \(closest: 'ratio'\)$"),
        ('{"ratio": 1.5}', r"neglconfig.json': key 'ratio': Input should be less than or equal to 1, got 1.5"),
        ('{"class_ratios": {"Joy": 0.5}}', r"neglconfig.json': key 'class_ratios': unknown class 'Joy'"),
        ('{"config": "a.json"}', "neglconfig.json: 'config' names another file"),
        ("[0.5]", "neglconfig.json: it must hold a mapping, got list"),
        ('{"ratio": 0.5,', r"neglconfig.json, line 1, column \d+: not valid YAML"),
        (None, "cannot read .*neglconfig.json: No such file"),
    ],
)
def test_a_wrong_file_is_one_message(config, content, message):
    config.write_text(content) if content else config.unlink()
    with pytest.raises(ParamsError, match=message):
        validate(StudentParams, {"negative": {"config": "neglconfig.json"}}, "student")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"negative": {"shares": [0.6, 0.2, 0.3]}}, "'negative.shares': Input should be three shares that sum to 1"),
        ({"negative": {"metod": "negl"}}, r"unknown key 'negative.metod' \(closest: 'method'\)"),
        ({"negative": {"class_ratios": {"sad": 0.1}}}, r"unknown class 'sad' \(closest: 'Sad'\)"),
        ({"negative": {"method": "selnlpl"}, "processes": 2}, "negative.method: selnlpl.*processes: 1"),
        ({"negative": {"method": "selnlpl"}, "mixup": 0.2}, "negative.method: selnlpl.*mixup: 0"),
    ],
)
def test_a_wrong_parameter_is_one_message(values, message):
    with pytest.raises(ParamsError, match=message):
        validate(TeacherParams, values, "teacher")


def test_keys_depend_on_negative_learning_only_when_it_is_on():
    for model in (TeacherParams, StudentParams):
        plain, idle, active = (
            model(negative=values) for values in ({}, {"draw": "lowest"}, {"method": "negl", "draw": "lowest"})
        )
        assert fit_key(plain, {}) == fit_key(idle, {}) != fit_key(active, {})
        assert fit_key(active, {}) != fit_key(model(negative={"method": "negl", "draw": "uniform"}), {})
    assert "softlabels" in StudentParams.unused_fields({"mode": "ce"})
    confusion = StudentParams(negative={"method": "negl", "draw": "confusion"})
    assert "softlabels" not in StudentParams.unused_fields(confusion.model_dump())
