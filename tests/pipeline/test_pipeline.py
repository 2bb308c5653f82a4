"""Toy phases with a real store: runs, re-use, failures and kills.  Only the killed command has real kernels."""

import json
import signal
import time
from pathlib import Path

import pytest
from filelock import FileLock
from forked_command import ForkedCommand
from toy import make_home

from fer_lib.errors import FerError, ParamsError
from fer_lib.params import SoftLabelParams, TeacherParams
from fer_lib.pipeline import cache_key, folders
from fer_lib.pipeline.execution import Execution, open_session
from fer_lib.pipeline.run import run_file, select_phases
from fer_lib.pipeline.runfile import load_run
from fer_lib.pipeline.standalone import standalone_inputs
from fer_lib.report.collect import _find_run, _lineage
from fer_lib.storage import json_files
from fer_lib.tracking import store


@pytest.fixture(scope="module")
def first(toy_home, in_process_kernel):
    assert run_file(toy_home / "params" / "quickstart.yaml") == 0
    return newest_parent()


def client():
    import mlflow

    store.configure()
    return mlflow.MlflowClient()


def all_runs():
    found = client().search_runs([store.experiment_id()], order_by=["attributes.start_time DESC"])
    return [run for run in found]


def newest_parent():
    return next(run for run in all_runs() if run.data.tags["fer.kind"] == "run")


def children(parent):
    return {r.info.run_name: r for r in all_runs() if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id}


def artifacts(run, folder=None):
    return {item.path for item in client().list_artifacts(run.info.run_id, folder)}


def phases_of(parent) -> list[dict]:
    import mlflow

    return mlflow.artifacts.load_dict(f"{parent.info.artifact_uri}/phases.json")["phases"]


def test_a_run_has_one_child_run_per_phase(toy_home, first):
    nested = children(first)
    assert set(nested) == {"import", "manifest", "teacher_a"}
    assert {run.info.status for run in [first, *nested.values()]} == {"FINISHED"}
    assert {"quickstart.yaml", "plan.json", "phases.json"} <= artifacts(first)
    teacher = nested["teacher_a"]
    assert artifacts(teacher, "notebook") == {"notebook/04_train_teacher.ipynb", "notebook/04_train_teacher.html"}
    assert teacher.data.params["epochs"] == "2" and teacher.data.params["augment.flip"] == "0.5"
    assert "output_dir" not in teacher.data.params
    assert teacher.data.metrics == {"val/macro_f1": 0.5} and first.data.metrics["teacher_a/macro-F1"] == 0.5
    assert teacher.data.tags["fer.kind"] == "teacher" and teacher.data.tags["fer.id.resumed_at"] == "0"
    assert [row["status"] for row in phases_of(first)] == ["ran"] * 3
    folder = toy_home / teacher.data.tags["fer.folder"]
    assert folder.name.startswith("teacher_a-") and len(folder.name) == len("teacher_a-") + 12
    record = folders.read_record(folder)
    assert record["run_id"] == teacher.info.run_id and Path(record["inputs"]["manifest"]).is_dir()
    assert not Path(json.loads((folder / "done.json").read_text())["inputs"]["manifest"]).is_absolute()
    assert json_files.read_outputs(record["inputs"]["manifest"])["bundle"] == "manifest.txt"


def test_a_second_run_reuses_every_phase(toy_home, first, capsys):
    began = time.time()
    assert run_file(toy_home / "params" / "quickstart.yaml") == 0
    assert time.time() - began < 10
    again = newest_parent()
    assert again.info.run_id != first.info.run_id and children(again) == {}
    assert again.data.tags["fer.reused.teacher_a"] == children(first)["teacher_a"].info.run_id
    assert again.data.metrics["teacher_a/macro-F1"] == 0.5
    output = capsys.readouterr().out
    assert output.count("re-used") >= 3 and "fer ui" in output


def test_a_failing_phase_reports_its_error_and_keeps_the_earlier_ones(toy_home, first, capsys):
    assert run_file(toy_home / "params" / "quickstart.yaml", ["manifest.val_fraction=0.9"]) == 1
    output = "".join(capsys.readouterr().out.split())
    assert "phase'manifest'failed:DataError:row3oftoy.csvhas47pixels" in output and "Traceback" not in output
    parent = newest_parent()
    failed = children(parent)
    assert parent.info.status == "FAILED" and set(failed) == {"manifest"}
    assert failed["manifest"].info.status == "FAILED"
    assert len(artifacts(failed["manifest"], "notebook")) == 2
    folder = toy_home / phases_of(parent)[1]["folder"]
    assert "".join(str(folder / "02_build_manifest.ipynb").split()) in output
    assert "47 pixels" in (folder / "02_build_manifest.ipynb").read_text()
    assert [row["status"] for row in phases_of(parent)] == ["re-used", "failed"]
    assert folders.read_record(folder) is None
    assert folders.read_record(toy_home / phases_of(parent)[0]["folder"]) is not None


def test_interrupted_runs_are_killed_and_resume(toy_home, first, kernel_server, tmp_path):
    changes = ["teacher_a.epochs=15", "teacher_a.checkpoint_minutes=0.1"]
    before = set(toy_home.glob("mlruns/phases/teacher_a-*"))
    options = [word for change in changes for word in ("-p", change)]
    path = toy_home / "params" / "quickstart.yaml"
    command = ForkedCommand(kernel_server.address, toy_home, tmp_path, "run", str(path), *options)
    deadline = time.time() + 120
    steps = None
    while time.time() < deadline and command.poll() is None:
        new = set(toy_home.glob("mlruns/phases/teacher_a-*/steps.txt")) - {f / "steps.txt" for f in before}
        if new and (steps := new.pop()).read_text().strip() not in ("", "0", "1"):
            break
        time.sleep(0.05)
    command.send_signal(signal.SIGINT)
    assert command.wait(timeout=30) == 130 and steps is not None
    parent = newest_parent()
    killed = children(parent)["teacher_a"]
    assert parent.info.status == "KILLED" and killed.info.status == "KILLED"
    assert (
        killed.data.tags["fer.interrupted"] == "interrupted at reading inputs; the same command begins this phase again"
    )
    assert "**Interrupted.** " in killed.data.tags["mlflow.note.content"]
    assert not (steps.parent / ".lock.holder.json").exists() and not (steps.parent / "done.json").exists()
    assert artifacts(killed, "notebook") == {"notebook/04_train_teacher.ipynb", "notebook/04_train_teacher.html"}
    assert folders.read_record(steps.parent) is None
    reached = int(steps.read_text())
    assert 1 < reached < 15
    assert run_file(path, changes) == 0
    assert folders.read_record(steps.parent)["folder"] == str(steps.parent)
    assert json_files.read_outputs(steps.parent)["ids"]["resumed_at"] == reached


def test_fresh_starts_a_new_attempt_and_refuses_a_running_one(toy_home, first, capsys):
    path = toy_home / "params" / "quickstart.yaml"
    folder = Path(folders.finished_phases(("import",))[0]["folder"])
    with FileLock(folder / ".lock"):
        with pytest.raises(FerError, match="another process"):
            run_file(path, only="import", fresh=True)
    assert newest_parent().info.status == "FAILED"
    assert run_file(path, only="import", fresh=True) == 0
    assert folders.read_record(folder) is not None, "the old attempt is kept"
    assert folders.finished_phases(("import",))[0]["folder"] == f"{folder}-2"
    assert phases_of(newest_parent())[0]["status"] == "ran" and len(phases_of(newest_parent())) == 1
    manifest = Path(folders.finished_phases(("manifest",))[0]["folder"])
    with pytest.raises(FerError, match="two attempts of phase 'import'.* its file again with --fresh"):
        _lineage([Path(f"{folder}-2"), manifest], [])
    capsys.readouterr()
    assert run_file(path, ["manifest.val_fraction=0.9"], fresh=True) == 1
    assert "the same command without --fresh continues from here" in " ".join(capsys.readouterr().out.split())


def test_only_and_from_select_phases(toy_home, first, monkeypatch, capsys):
    path = toy_home / "params" / "quickstart.yaml"
    plan = load_run(path)
    assert [p.name for p in select_phases(plan, only="manifest")] == ["manifest"]
    assert [p.name for p in select_phases(plan, from_="manifest")] == ["manifest", "teacher_a"]
    assert [p.name for p in select_phases(plan, until={"manifest"})] == ["import", "manifest"]
    with pytest.raises(ParamsError, match="closest: 'manifest'"):
        select_phases(plan, only="manifets")
    with pytest.raises(ParamsError, match="exclude each other"):
        select_phases(plan, only="manifest", from_="manifest")
    assert run_file(path, from_="manifest") == 0
    assert [row["status"] for row in phases_of(newest_parent())] == ["re-used", "re-used"]
    monkeypatch.setattr(cache_key, "reachable", lambda code: {"fer_lib.models": "edited"})  # changes every key
    capsys.readouterr()
    plan = load_run(path)
    with open_session(fresh=False) as shared:
        execution = Execution(shared, plan, select_phases(plan, only="teacher_a"), reuse_earlier=True)
    assert {name: str(folder) for name, folder in execution.folders.items()} == {
        "import": folders.finished_phases(("import",))[0]["folder"],
        "manifest": folders.finished_phases(("manifest",))[0]["folder"],
    }
    assert capsys.readouterr().out.count("made by other code") == 2
    with pytest.raises(FerError, match="needs 'manifest', which has not finished"):
        run_file(path, ["manifest.seed=5"], only="teacher_a")


def test_a_standalone_notebook_uses_the_newest_phases(toy_home, first):
    manifest = standalone_inputs("teacher", TeacherParams())["manifest"]
    assert manifest == folders.finished_phases(("manifest",))[0]["folder"]
    teachers = standalone_inputs("softlabels", SoftLabelParams())["teachers"]
    assert teachers == [folders.finished_phases(("teacher",))[0]["folder"]]


def test_a_phase_of_a_smoke_run_is_an_input_of_smoke_phases_alone(toy_home, first):
    full = folders.finished_phases(("manifest",))[0]["folder"]
    assert run_file(toy_home / "params" / "quickstart.yaml", until={"manifest"}, smoke=True) == 0
    rehearsed = folders.finished_phases(("manifest",))[0]["folder"]
    assert rehearsed != full, "a smoke run never reuses a full phase"
    assert standalone_inputs("teacher", TeacherParams())["manifest"] == full
    assert standalone_inputs("teacher", TeacherParams(smoke=True))["manifest"] == rehearsed
    assert run_file(toy_home / "params" / "quickstart.yaml") == 0
    rows = phases_of(newest_parent())
    assert {row["status"] for row in rows} == {"re-used"} and full.endswith(rows[1]["folder"].rpartition("/")[2])


def test_a_name_exports_no_smoke_run(toy_home, first):
    path = toy_home / "params" / "measured.yaml"
    text = (toy_home / "params" / "quickstart.yaml").read_text()
    text = text.replace("manifest: {}", "manifest: {val_fraction: 0.07}")  # no test before built it in other attempts
    path.write_text(text.replace("name: toy", "name: measured") + "  evaluate: {}\n")
    runs = []
    for smoke in (False, True):
        assert run_file(path, smoke=smoke, fresh=True) == 0
        runs.append(newest_parent().info.run_id)
    assert _find_run("measured", toy_home)[0].info.run_id == runs[0]
    assert _find_run(runs[1], toy_home)[0].info.run_id == runs[1], "an id names any run"


def test_a_standalone_notebook_runs_missing_phases_first(tmp_path, monkeypatch, add_store, in_process_kernel):
    home = make_home(tmp_path / "cold")
    add_store(home)
    monkeypatch.setenv("FER_HOME", str(home))
    notebook = home / "notebooks" / "02_build_manifest.ipynb"
    in_process_kernel(notebook, home / "out.ipynb", {"seed": 3}, home, {})
    [record] = folders.finished_phases(("manifest",))
    [needed] = folders.finished_phases(("import",))
    assert record["inputs"] == {"imports": needed["folder"], "manifests": []} and record["params"]["seed"] == 3
    states = {run.info.run_name: run.info.status for run in all_runs()}
    assert states == {"manifest": "FINISHED", "import": "FINISHED", "toy": "FINISHED"}
    assert folders.finished_phases(("teacher",)) == []
