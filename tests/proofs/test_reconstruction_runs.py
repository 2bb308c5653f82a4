"""Every file of the plan and the two-stage file are really run, with ``--smoke``, on raw trees in their native layouts.

No weights are fetched (``pretrained`` is none), all else is as shipped.  The last file of the plan includes
the others, so these then find each of their phases finished.
"""

import json
import re
import shutil
import sqlite3

import pytest
from rawtrees import draw_raw_trees
from road import command, make_home

from fer_lib.datasets.manifest import Manifest
from fer_lib.pipeline.runfile import load_run

BACKBONES = ("resnet18", "resnet50", "tf_efficientnet_b3", "convnext_tiny", "vit_base_patch16_384")
OFFLINE = ("-p", "teacher.pretrained=none")
NEEDED = 27e9  # bytes


def run(home, name, *more, offline=OFFLINE):
    ended = command("fer_lib.cli.main", "run", f"params/{name}.yaml", "--smoke", *offline, *more, home=home, cwd=home)
    assert ended.code == 0, ended.out[-4000:] + ended.err[-2000:]
    return ended


def re_used(ended):
    return set(re.findall(r"^\[\d+/\d+\] (\w+): re-used$", ended.out, re.M))


def done(home, phase):
    """The finished folder of a phase (there is one)."""
    [record] = home.glob(f"mlruns/phases/{phase}-*/done.json")
    return record.parent


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """A home in which the whole plan was run once, two phases at a time; removed again, for it fills 24 GB."""
    home = make_home(tmp_path_factory.mktemp("night") / "home")
    if shutil.disk_usage(home).free < NEEDED:
        pytest.skip(f"checkpoints of 30 teachers need {NEEDED / 1e9:.0f} GB in {home}: set TMPDIR to a larger disk")
    draw_raw_trees(home)
    run(home, "reconstruction/students", "--parallel", "2", "-p", "student.pretrained=none")
    yield home
    shutil.rmtree(home)


def test_the_whole_plan_runs_to_a_registered_student(night):
    plan = load_run(night / "params" / "reconstruction" / "students.yaml", smoke=True)
    for phase in plan.phases:
        assert done(night, phase.name).is_dir()
    exported = json.loads((done(night, "export") / "onnxparity.json").read_text())
    assert exported["max_abs_diff"] < 1e-4
    said = json.loads((done(night, "five_42") / "alignmentreport.json").read_text())
    assert [t["model"] for t in said["teachers"]] == [f"{backbone}_b_42" for backbone in BACKBONES]
    test = json.loads((done(night, "students_test") / "stages.json").read_text())
    assert {(s["parent"], s["child"]) for s in test["stages"]} == {
        (f"{first}_{seed}", f"{second}_{seed}")
        for first, second in (("ce", "kd"), ("kd", "dkd"))
        for seed in (1337, 42, 2025)
    }
    legacy = json.loads((done(night, "legacy_rafdb") / "evaluation.json").read_text())
    assert legacy["sources"] == ["rafdb_basic"]
    assert legacy["models"]["ensemble_pair"]["views"]["none"]["all"]["temperature"]["global_temperature"] == 1.2


def test_the_data_have_the_sources_that_each_set_names(night):
    rows = {
        name: Manifest.read(done(night, name) / "manifest.parquet").frame for name in ("manifest", "audit", "eval_only")
    }
    trained = {"ferplus", "rafdb_basic", "affectnet_full_balanced", "expw_hq"}
    assert set(rows["audit"]["source"]) == set(rows["manifest"]["source"]) == trained
    assert set(rows["eval_only"]["split"]) == {"test"} and not rows["eval_only"]["content_id"].duplicated().any()
    assert {"expw_full", "rafml_argmax", "rafdb_compound_mapped"} <= set(rows["eval_only"]["source"])
    assert set(rows["audit"].query("val_role == 'select'")["source"]) > {"ferplus"}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_backbones_stages_are_set_beside_each_other(night, backbone):
    report = json.loads((done(night, f"{backbone}_stages") / "stages.json").read_text())
    assert [(s["parent"], s["child"]) for s in report["stages"]] == [
        (f"{backbone}_a_{seed}", f"{backbone}_b_{seed}") for seed in (1337, 42, 2025)
    ]
    assert report["sources"] == ["affectnet_full_balanced", "expw_hq", "rafdb_basic"]
    for stage in report["stages"]:
        assert stage["changed"]["optim.lr"] == [3e-4, 1e-4]
        assert stage["changed"]["data.source_counts_after_filter.ferplus"][1] is None
        assert stage["scores"]["all"]["evalset_id"] == report["stages"][0]["scores"]["all"]["evalset_id"]


@pytest.mark.parametrize("name", ["data", *BACKBONES, "ensemble"])
def test_each_other_file_finds_its_phases_finished(night, name):
    before = {f: f.stat().st_mtime_ns for f in night.glob("mlruns/phases/*/done.json")}
    ended = run(night, f"reconstruction/{name}", offline=OFFLINE if name != "data" else ())
    assert {f: f.stat().st_mtime_ns for f in night.glob("mlruns/phases/*/done.json")} == before
    assert re_used(ended) == {p.name for p in load_run(night / "params" / "reconstruction" / f"{name}.yaml").phases}


def test_two_stages_run_and_say_what_the_second_changed(tmp_path):
    home = make_home(tmp_path / "home")
    draw_raw_trees(home, "ferplus", "rafdb_basic")
    run(home, "two_stage")
    assert re_used(run(home, "two_stage")) == {p.name for p in load_run(home / "params" / "two_stage.yaml").phases}
    for name in ("on_val", "on_test"):
        report = json.loads((done(home, name) / "stages.json").read_text())
        [stage] = report["stages"]
        assert (stage["parent"], stage["child"], report["sources"]) == ("stage_a", "stage_b", ["rafdb_basic"])
        assert (done(home, name) / "figures" / "stages.png").is_file()
    with sqlite3.connect(home / "mlruns" / "mlflow.db") as db:  # a smoke run is exported by its id
        of_file = "SELECT run_uuid FROM tags JOIN runs USING (run_uuid) WHERE key = 'fer.kind' AND value = 'run'"
        run_id = db.execute(f"{of_file} ORDER BY start_time").fetchone()[0]
    ended = command("fer_lib.cli.main", "report", "export", run_id, home=home, cwd=home)
    assert ended.code == 0, ended.out + ended.err
    exported = json.loads((home / "docs" / "results" / "two_stage.json").read_text())
    assert set(exported["stages"]) == {"on_val", "on_test"}
