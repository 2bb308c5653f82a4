"""The parameters of a notebook: its cell, papermill's values and ``advanced``; what the pipeline passes to it."""

from pathlib import Path

import pytest

from fer_lib.errors import ParamsError
from fer_lib.params import KINDS, AuditParams, EvaluateParams, ImportParams, TeacherParams
from fer_lib.params.data import NoiseParams
from fer_lib.pipeline.phase_task import cell_names, injected_values
from fer_lib.pipeline.runfile import load_run
from fer_lib.storage.json_files import json_text

REPO = Path(__file__).resolve().parents[2]
RUN_FILES = sorted(path for path in (REPO / "params").rglob("*.yaml") if "phases:" in path.read_text())
CELL = {"epochs": 60, "seed": 1337, "smoke": False}


def test_a_field_comes_from_its_own_name_then_from_advanced_then_from_the_model():
    named = {**CELL, "epochs": 20, "advanced": {"ema_decay": 0.99}, "mixup": 0.2, "run": object(), "In": []}
    assert TeacherParams.collect(named, "teacher") == TeacherParams(epochs=20, ema_decay=0.99, mixup=0.2)
    assert TeacherParams.collect({}, "teacher") == TeacherParams()


@pytest.mark.parametrize(
    ("namespace", "message"),
    [
        ({"advanced": {"ema_decai": 0.9}}, "^phase 'b': advanced: unknown key 'ema_decai' .closest: 'ema_decay'.$"),
        (
            {**CELL, "advanced": {"epochs": 3}},
            "^phase 'b': advanced: 'epochs' is set outside it too: keep one of ",
        ),
        ({"advanced": ["ema_decay"]}, "^phase 'b': advanced must be a dict of parameters, got .'ema_decay'.$"),
        ({"advanced": {"ema_decay": 2}}, "^phase 'b': key 'ema_decay': Input should be less than 1, got 2$"),
        ({"epochs": 0}, "^phase 'b': key 'epochs': Input should be greater than or equal to 1, got 0$"),
        ({"advanced": {"advanced": {}}}, "^phase 'b': advanced: 'advanced' belongs to the parameters cell"),
    ],
)
def test_a_wrong_parameter_is_one_message(namespace, message):
    with pytest.raises(ParamsError, match=message):
        TeacherParams.collect(namespace, "b")


@pytest.mark.parametrize(
    ("phases", "override"),
    [("import: {advanced: {seed: 3}}", ""), ("import: {}", "import.advanced={seed: 3}"),
     ("import: {}", "import.advanced.seed=3")],
)  # fmt: skip
def test_run_files_and_overrides_keep_the_flat_names(tmp_path, phases, override):
    (tmp_path / "run.yaml").write_text(f"phases:\n  {phases}\n")
    with pytest.raises(ParamsError, match="'advanced' belongs to the parameters cell of a notebook.*write ema_decay"):
        load_run(tmp_path / "run.yaml", [override] if override else [])


@pytest.mark.parametrize("file", RUN_FILES, ids=lambda path: path.stem)
def test_what_the_pipeline_passes_means_the_same_parameters(file):
    for phase in load_run(file).phases:
        cell = cell_names(REPO / "notebooks" / f"{phase.notebook}.ipynb")
        values = injected_values(phase.params, cell)
        assert KINDS[phase.kind][0].collect(values, phase.name) == phase.params
        assert list(values)[: len(cell)] == cell and values["advanced"] == {}, "an edited cell changes no run"


def test_the_pipeline_passes_the_cell_and_what_is_no_default():
    params = TeacherParams(epochs=9, mixup=0.5, augment={"flip": 0.0}, output_dir="there")
    values = injected_values(params, ["epochs", "advanced", "seed", "augment", "unknown"])
    assert values == {"epochs": 9, "advanced": {}, "seed": 1337, "augment": {"flip": 0.0}, "mixup": 0.5,
                      "output_dir": "there"}  # fmt: skip
    assert injected_values(ImportParams(), ["sources"])["sources"][0]["source"] == "fer2013", "plain values"
    assert injected_values(AuditParams(), ["noise_nets"]) == {"noise_nets": {}}
    noise = AuditParams(noise_nets=NoiseParams(augment={"flip": 0.1}))
    assert AuditParams.collect(injected_values(noise, []), "audit") == noise, "nested defaults of unlike models"


def test_the_names_of_a_cell(tmp_path):
    cells = [{"cell_type": "code", "metadata": {}, "source": ["other = 1"]}]
    tagged = {"tags": ["parameters"]}
    cells.append({"cell_type": "code", "metadata": tagged, "source": ["a: int = 1  # b = 2\n", "c = d = 3"]})
    (tmp_path / "n.ipynb").write_text(json_text({"cells": cells}))
    assert cell_names(tmp_path / "n.ipynb") == ["a", "c", "d"]
    (tmp_path / "n.ipynb").write_text(json_text({"cells": cells[:1]}))
    assert cell_names(tmp_path / "n.ipynb") == []
    assert injected_values(ImportParams(), []) == {}


def test_rules_for_answers_at_their_defaults_leave_the_cache_key():
    for changed in ({"conformal": "aps"}, {"alpha": 0.2}, {"sets_per_class": True}, {"risk": 0.1}):
        p = EvaluateParams.collect({"advanced": changed}, "e")
        unused = [EvaluateParams.unused_fields(params.model_dump()) for params in (EvaluateParams(), p)]
        assert unused[0] - unused[1] == set(changed)
    for wrong in ({"conformal": "best"}, {"alpha": 0.0}, {"risk": 1.0}):
        with pytest.raises(ParamsError):
            EvaluateParams.collect({"advanced": wrong}, "e")


def test_a_prior_correction_is_a_method_or_seven_shares_and_none_leaves_the_cache_key():
    shares = [0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
    for value in ("none", "em", "uniform", shares):
        assert EvaluateParams.collect({"advanced": {"prior_correction": value}}, "e").prior_correction == value
    assert "prior_correction" in EvaluateParams.unused_fields(EvaluateParams().model_dump())
    assert "prior_correction" not in EvaluateParams.unused_fields(EvaluateParams(prior_correction="em").model_dump())
    for wrong, message in (("me", "'none', 'em' or 'uniform'"), ([0.5, 0.5], "at least 7 items"),
                           ([0.0, 0.4, 0.2, 0.1, 0.1, 0.1, 0.1], "greater than 0")):  # fmt: skip
        with pytest.raises(ParamsError, match=message):
            EvaluateParams.collect({"advanced": {"prior_correction": wrong}}, "e")
