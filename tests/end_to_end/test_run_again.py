"""The same command again, with one parameter changed, with one that fails, and with one that does not exist."""

import shutil
import time

from road import PHASES, command, fer

from fer_lib.pipeline import folders


def test_the_same_command_re_uses_every_phase_in_seconds(walked):
    before = walked.parents()
    stamps = {f: f.stat().st_mtime_ns for f in (walked.home / "mlruns" / "phases").rglob("*") if f.name != ".lock"}
    ended = fer("run", str(walked.file))
    assert ended.code == 0 and ended.cpu < 15
    [parent] = [p for p in walked.parents() if p.info.run_id not in {b.info.run_id for b in before}]
    assert walked.statuses(parent) == dict.fromkeys(PHASES, "re-used") and walked.nested(parent) == {}
    assert parent.info.status == "FINISHED"
    original, originals = walked.walk
    assert {name: parent.data.tags[f"fer.reused.{name}"] for name in PHASES} == {
        name: originals[name].info.run_id for name in PHASES
    }
    assert parent.data.metrics == original.data.metrics
    assert {f: f.stat().st_mtime_ns for f in stamps} == stamps


def test_a_changed_parameter_runs_its_phase_and_what_depends_on_it_alone(walked):
    import mlflow

    ended = fer("run", str(walked.file), "-p", "student_kd.temperature=3")
    assert ended.code == 0, ended.out + ended.err
    parent = walked.parents()[0]
    anew = ["student_kd", "evaluate", "export", "ablation"]
    assert walked.statuses(parent) == {name: "ran" if name in anew else "re-used" for name in PHASES}
    nested = walked.nested(parent)
    assert set(nested) == set(anew) and {run.info.status for run in nested.values()} == {"FINISHED"}
    assert nested["student_kd"].data.params["temperature"] == "3.0"
    _, first = walked.walk
    ids = [runs["student_kd"].data.tags["fer.id.weights_sha256"] for runs in (first, nested)]
    assert ids[0] != ids[1], "another temperature makes another student"
    was, now = (walked.json(runs["evaluate"], "evaluation.json")["models"] for runs in (first, nested))
    assert now["student_ce"]["views"] == was["student_ce"]["views"]
    assert now["student_kd"]["weights_sha256"] == ids[1]
    candidate = mlflow.MlflowClient().get_model_version_by_alias("fer-student", "candidate")
    assert candidate.run_id == nested["export"].info.run_id and int(candidate.version) > 1
    assert mlflow.MlflowClient().get_model_version("fer-student", "1").run_id == first["export"].info.run_id


def test_a_phase_that_fails_says_why_and_leaves_the_earlier_ones_intact(walked):
    finished = {r["folder"] for r in folders.finished_phases()}
    ended = fer("run", str(walked.file), "-p", "teacher_b.lr=1e+30")
    assert ended.code == 1
    said = " ".join(ended.out.split())
    assert "phase 'teacher_b' failed: FerError: the loss became nan" in said and "lower lr" in said
    assert "Traceback" not in ended.out + ended.err
    parent = walked.parents()[0]
    reached = PHASES[: PHASES.index("teacher_b") + 1]
    settled = dict.fromkeys([*reached[:-1], "score"], "re-used")  # a score needs no phase, so it waits for none
    assert walked.statuses(parent) == settled | {"teacher_b": "failed"}
    nested = walked.nested(parent)
    assert parent.info.status == "FAILED" and set(nested) == {"teacher_b"}
    run = nested["teacher_b"]
    assert run.info.status == "FAILED"
    cells = walked.json(run, "notebook/04_train_teacher.ipynb")["cells"]
    errors = [o for c in cells if c["cell_type"] == "code" for o in c["outputs"] if o["output_type"] == "error"]
    assert [e["ename"] for e in errors] == ["FerError"]
    assert "the loss became nan" in walked.artifact(run, "notebook/04_train_teacher.html").read_text()
    output = walked.folder(run) / "04_train_teacher.ipynb"
    assert output.is_file() and "".join(str(output).split()) in "".join(ended.out.split())
    assert folders.read_record(walked.folder(run)) is None
    assert {r["folder"] for r in folders.finished_phases()} == finished


def test_an_ensemble_finds_its_members_where_the_checkout_was_moved_to(walked, tmp_path):
    from fer_lib.evaluation.evaluate import subjects

    _, first = walked.walk
    for name in ("softlabels", "teacher_a", "teacher_b"):
        folder = walked.folder(first[name])
        shutil.copytree(folder, tmp_path / folder.name, ignore=shutil.ignore_patterns(".lock"))
    [ensemble] = subjects([], [tmp_path / walked.folder(first["softlabels"]).name])
    assert [bundle.name for bundle in ensemble.bundles] == ["teacher_a", "teacher_b"]
    assert all(bundle.path.resolve().is_relative_to(tmp_path) for bundle in ensemble.bundles)


def test_an_unknown_key_is_named_within_two_seconds(walked):
    before = len(walked.parents())
    began = time.monotonic()
    ended = command("fer_lib.cli.main", "run", "params/tiny.yaml", "-p", "student_kd.temprature=3", home=walked.home,
                    cwd=walked.home, timeout=60)  # fmt: skip
    wall = time.monotonic() - began
    assert ended.code == 2 and ended.out == ""
    for part in ("'student_kd'", "'temprature'", "closest: 'temperature'"):
        assert part in ended.err
    assert ended.cpu < 2, f"{ended.cpu:.2f} processor seconds ({wall:.1f} s by the clock)"
    assert len(walked.parents()) == before
