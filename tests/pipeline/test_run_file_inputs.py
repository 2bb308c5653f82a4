"""An ablation whose notebook runs alone: its run file makes its inputs, or what is missing is named."""

import pytest
from toy import notebook

from fer_lib.errors import FerError
from fer_lib.params import AblationParams
from fer_lib.pipeline import folders
from fer_lib.pipeline.cache_key import phase_key
from fer_lib.pipeline.standalone import run_file_inputs, standalone_inputs

TEXT = """
name: compared
seed: 5
phases:
  import: {sources: [{source: fer2013, faces: 70}]}
  manifest: {}
  teacher_a: &fit {kind: teacher, epochs: 2, checkpoint_minutes: 0.001}
  teacher_b: {<<: *fit, epochs: 3}
  on_test: {kind: evaluate}
  compared: {kind: ablation, control: b, variants: {a: [teacher_a], b: [teacher_b]}}
"""


@pytest.fixture(scope="module")
def file(toy_home, in_process_kernel):
    notebook(toy_home / "notebooks" / "14_ablation.ipynb", "ablation", "result = PhaseResult(ids={'a': 1})")
    return toy_home / "params" / "compared.yaml"


def inputs(file, text=TEXT, **values):
    file.write_text(text)
    return run_file_inputs(AblationParams(run_file="params/compared.yaml", **values), "ablation")


def test_the_files_phases_run_once_and_its_settings_hold_where_none_is_set(file):
    params, first = inputs(file)
    [record] = folders.finished_phases(("evaluate",))
    assert first == {"evaluations": [record["folder"]]} and folders.finished_phases(("ablation",)) == []
    assert (params.control, params.seed) == ("b", 5) and params.variants == {"a": ["teacher_a"], "b": ["teacher_b"]}
    params, again = inputs(file, variants={"only": ["teacher_b"], "b": ["teacher_a"]}, control="only")
    assert again == first and (params.control, list(params.variants)) == ("only", ["only", "b"])


def test_the_inputs_are_those_of_the_file_and_not_the_newest(file):
    first, changed = inputs(file)[1], inputs(file, TEXT.replace("epochs: 3", "epochs: 4"))[1]
    assert changed != first and folders.finished_phases(("evaluate",))[0]["folder"] == changed["evaluations"][0]
    assert inputs(file)[1] == first, "the newer evaluation belongs to other settings"
    path, values = folders.notebook_path("ablation"), AblationParams().model_dump(mode="json")
    assert phase_key("ablation", values, first, path) != phase_key("ablation", values, changed, path)
    elsewhere = values | {"run_file": "other.yaml"}
    assert phase_key("ablation", elsewhere, first, path) == phase_key("ablation", values, first, path)


def test_a_missing_dataset_is_named_and_the_newest_evaluation_is_taken(file, capsys):
    inputs(file)
    capsys.readouterr()
    assert inputs(file, TEXT.replace("faces: 70", "root: data/absent")) is None
    printed = capsys.readouterr().out
    assert "params/compared.yaml reads data/absent, which do not exist" in printed and "drawn faces" in printed
    newest = folders.finished_phases(("evaluate",))[0]["folder"]
    assert standalone_inputs("ablation", AblationParams()) == {"evaluations": [newest]}


def test_named_evaluations_need_no_run_file(file):
    assert run_file_inputs(AblationParams(evaluations=["mlruns"], run_file="absent.yaml"), "ablation") is None
    assert run_file_inputs(AblationParams(run_file=""), "ablation") is None


def test_a_file_without_an_ablation_and_one_that_fails_are_messages(file):
    with pytest.raises(FerError, match="has no phase of the kind ablation"):
        inputs(file, TEXT.partition("  compared:")[0])
    with pytest.raises(FerError, match="compared.yaml, whose phases are the inputs of this one, failed"):
        inputs(file, TEXT.replace("manifest: {}", "manifest: {val_fraction: 0.9}"))
