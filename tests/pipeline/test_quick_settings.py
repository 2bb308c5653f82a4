"""A fit alone with its defaults: drawn faces are trained on with the quickstart's settings, photos never are."""

import pytest

from fer_lib.datasets.manifest import Manifest
from fer_lib.params import KINDS, ExportParams, StudentParams, TeacherParams
from fer_lib.pipeline.runfile import load_run
from fer_lib.pipeline.standalone import prepare_standalone, quick_settings


@pytest.fixture(autouse=True)
def at_home(repo, monkeypatch):
    monkeypatch.setenv("FER_HOME", str(repo))


def written(manifest: Manifest, folder, drawn: dict[str, bool]) -> dict[str, str]:
    """The inputs of a fit whose manifest records ``drawn``."""
    folder.mkdir()
    meta = manifest.meta | {"root": str(manifest.root), "drawn": drawn}
    Manifest(manifest.frame, meta).write(folder / "manifest.parquet")
    return {"manifest": str(folder)}


@pytest.fixture
def drawn(drawn_manifest, tmp_path):
    return written(drawn_manifest, tmp_path / "drawn", {"tree": True})


@pytest.mark.parametrize(("kind", "phase"), [("teacher", "teacher"), ("student", "student_ce")])
def test_the_defaults_on_drawn_faces_become_those_of_the_quickstart(kind, phase, drawn, repo, capsys):
    own = KINDS[kind][0](seed=7, threads=1, workers=0)
    found = quick_settings(own, kind, drawn)
    expected = load_run(repo / "params" / "quickstart.yaml").phase(phase).params
    unlike = {k for k in type(own).model_fields if getattr(found, k) != getattr(expected, k)} - {"name"}
    assert (found.seed, found.threads, found.name) == (7, 1, kind) and unlike == {"seed", "threads", "workers"}
    assert found.image_size == 48 and found.epochs < 10
    line = capsys.readouterr().out
    assert line.count("\n") == 1 and f"{phase} in params/quickstart.yaml (test_resnet, 48 px" in line
    assert f'name the manifest: manifest = "{drawn["manifest"]}"' in line


@pytest.mark.parametrize("changed", [{"epochs": 3}, {"ema_decay": 0.5}, {"init_from": "x"}, {"manifest": "named"}])
def test_a_changed_setting_or_a_named_manifest_is_left_alone(changed, drawn, capsys):
    own = TeacherParams(**changed)
    assert quick_settings(own, "teacher", drawn) is own and capsys.readouterr().out == ""


@pytest.mark.parametrize("record", [{"tree": False}, {}, {"another": True}])
def test_photos_are_trained_on_with_the_defaults(record, drawn_manifest, tmp_path, capsys):
    inputs = written(drawn_manifest, tmp_path / "photos", record)
    own = StudentParams()
    assert quick_settings(own, "student", inputs) is own and capsys.readouterr().out == ""


def test_a_smoke_run_gets_the_quickstart_shrunk(drawn):
    assert quick_settings(TeacherParams(smoke=True), "teacher", drawn).max_train_batches == 4


def test_other_phases_and_other_folders_are_left_alone(drawn, tmp_path):
    export = ExportParams()
    assert quick_settings(export, "export", drawn) is export
    teacher = TeacherParams()
    assert quick_settings(teacher, "teacher", {"manifest": str(tmp_path)}) is teacher


def test_the_plan_and_the_key_have_the_settings_that_are_trained_with(drawn, monkeypatch):
    from fer_lib.pipeline import standalone

    monkeypatch.setattr(standalone, "standalone_inputs", lambda kind, params: drawn | {"init_from": ""})
    params, plan = prepare_standalone(TeacherParams(output_dir="some"), "teacher", "teacher")
    assert plan["params"]["image_size"] == params.image_size == 48
    monkeypatch.setattr(standalone, "only_drawn", lambda manifest: False)
    assert prepare_standalone(TeacherParams(output_dir="some"), "teacher", "teacher")[1]["key"] != plan["key"]
