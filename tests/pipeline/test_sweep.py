"""Sweeps: shared phases, failures and ranking.  The first runs in parallel, with real kernels."""

import csv
import io
from pathlib import Path

import pytest

from fer_lib.pipeline import papermill, sweep_table
from fer_lib.pipeline.sweep import sweep_file

CHANGES = ["manifest.val_fraction=0.05,0.1", "teacher_a.epochs=3,13"]
EXECUTE = papermill.execute  # before in_process_kernel replaces it


@pytest.fixture(scope="module")
def base(toy_home, in_process_kernel):
    """The home; ``in_process_kernel`` holds for sweeps that are not parallel."""
    return toy_home


def artifact(run, name: str) -> Path:
    import mlflow

    return Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=name))


@pytest.fixture(scope="module")
def first(base, stored, kernel_server):
    """One of four combinations fails."""
    (base / "unlucky").write_text("0.1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(papermill, "execute", EXECUTE)
        code = sweep_file(base / "params" / "quickstart.yaml", CHANGES, parallel=2)
    (base / "unlucky").unlink()
    return code, stored.newest("sweep")


def test_a_failing_combination_stops_no_other_and_shared_phases_run_once(base, first, stored):
    code, sweep = first
    assert code == 1 and sweep.info.status == "FAILED"
    nested = stored.below(sweep)
    assert {name: run.info.status for name, run in nested.items()} == {
        "manifest.val_fraction=0.05, teacher_a.epochs=3": "FINISHED",
        "manifest.val_fraction=0.05, teacher_a.epochs=13": "FINISHED",
        "manifest.val_fraction=0.1, teacher_a.epochs=3": "FINISHED",
        "manifest.val_fraction=0.1, teacher_a.epochs=13": "FAILED",
    }
    one = nested["manifest.val_fraction=0.1, teacher_a.epochs=3"]
    assert one.data.params == {"manifest.val_fraction": "0.1", "teacher_a.epochs": "3"}
    assert one.data.tags["fer.kind"] == "run" and one.data.metrics["teacher_a/val macro-F1"] == pytest.approx(0.53)
    ran = [name for run in nested.values() for name in stored.below(run)]
    assert sorted(ran) == ["import", "manifest", "manifest", *["teacher_a"] * 4]
    assert len(list(base.glob("mlruns/phases/import-*"))) == 1 and len(list(base.glob("mlruns/phases/manifest-*"))) == 2
    rows = [row for run in nested.values() for row in stored.json(run, "phases.json")["phases"]]
    assert [row["status"] for row in rows if row["phase"] == "import"].count("re-used") == 3


def test_rows_measured_on_different_faces_are_not_ranked_together(first, stored):
    summary = stored.json(first[1], "sweep.json")
    groups = summary["groups"]
    assert [[row["rank"] for row in group["rows"]] for group in groups] == [[1, 2], [1], [None]]
    assert "rows-0.05" in groups[0]["measured"] and "ranked apart" in groups[0]["measured"]
    assert {row["status"] for row in groups[2]["rows"]} == {"teacher_a failed"}
    assert [c["status"] for c in summary["combinations"]] == ["FINISHED", "FINISHED", "FINISHED", "FAILED"]
    assert "fer.best" not in first[1].data.tags, "no best one when not all can be compared"


def test_the_same_command_resumes_and_compares(base, first, stored, capsys):
    assert sweep_file(base / "params" / "quickstart.yaml", CHANGES) == 0
    sweep = stored.newest("sweep")
    assert sweep.info.status == "FINISHED" and sweep.data.tags["fer.sweep.teacher_a.epochs"] == "3,13"
    ran = [name for run in stored.below(sweep).values() for name in stored.below(run)]
    assert ran == ["teacher_a"], "only the failed phase"
    groups = stored.json(sweep, "sweep.json")["groups"]
    assert [[row["rank"] for row in group["rows"]] for group in groups] == [[1, 2], [1, 2]]
    assert [row["values"]["teacher_a.epochs"] for row in groups[0]["rows"]] == ["13", "3"]
    rows = list(csv.DictReader(io.StringIO(artifact(sweep, "sweep.csv").read_text())))
    found = [(row["group"], row["rank"], row["teacher_a.epochs"], row["val macro-F1"]) for row in rows]
    assert found == [(group, *line) for group in "12" for line in (("1", "13", "0.63"), ("2", "3", "0.53"))]
    assert artifact(sweep, "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert " ".join(capsys.readouterr().out.split()).count("so ranked apart") == 2


def test_the_best_combination_is_printed_with_its_command(base, first, stored, capsys):
    path = base / "params" / "quickstart.yaml"
    assert sweep_file(path, ["teacher_a.epochs=3,13", "teacher_a.checkpoint_minutes=0.01"]) == 0
    output = capsys.readouterr().out
    assert f"fer run {path} -p teacher_a.epochs=13 -p teacher_a.checkpoint_minutes=0.01" in output
    assert stored.newest("sweep").data.tags["fer.best"] == "teacher_a.epochs=13"
    assert stored.below(stored.newest("sweep")).keys() == {"teacher_a.epochs=3", "teacher_a.epochs=13"}


def row(values, score=None, evalset="e", evaluated=None, protocol="p", **scores):
    scores = scores | ({"val macro-F1": score} if score is not None else {})
    return {"combination": 0, "values": values, "phase": "kd", "status": "finished", "run_id": "r", "scores": scores,
            "evalset_id": evalset, "protocol_id": protocol, "evaluated_on": evaluated or {}}  # fmt: skip


def test_a_group_has_the_rows_measured_on_the_same_faces():
    rows = [row({"t": "1"}, 0.5, evaluated={"evaluate": "x"}), row({"t": "2"}, 0.7), row({"t": "3"}, 0.6, evalset="f"),
            row({"t": "4"}, 0.7, evaluated={"evaluate": "y"}), row({"t": "5"}, evalset=None)]  # fmt: skip
    groups = sweep_table.grouped(rows)
    ranks = [[(r["values"]["t"], r["rank"]) for r in group] for group in groups]
    assert ranks == [[("2", 1), ("1", 2)], [("3", 1)], [("4", 1)], [("5", None)]]
    assert sweep_table.best(groups) is None and sweep_table.best(groups[:1]) == 0
    tied = sweep_table.grouped([row({"t": str(i)}, score) for i, score in enumerate((0.5, 0.7, 0.7, 0.1))])
    assert [r["rank"] for r in tied[0]] == [1, 1, 3, 4] and sweep_table.best(tied) is None
    unknown = sweep_table.grouped([row({"t": "1"}, 0.5, evalset=None), row({"t": "2"}, 0.7, evalset=None)])
    assert [r["rank"] for r in unknown[0]] == [None, None], "the faces are unknown"


def test_rows_of_another_protocol_are_ranked_with_a_remark():
    """Another image size or CLAHE: the same rows, so the sizes can be compared, but not the same protocol."""
    alike = sweep_table.grouped([row({"size": "48"}, 0.5), row({"size": "64"}, 0.6)])
    assert sweep_table.headings(alike) == ["val on e"]
    other = sweep_table.grouped([row({"size": "48"}, 0.5), row({"size": "64"}, 0.6, protocol="q")])
    [heading] = sweep_table.headings(other)
    assert heading == "val on e (as 2 protocols: not all see the same pixels of them)" and sweep_table.best(other) == 0
    [_, first, second] = csv.reader(io.StringIO(sweep_table.as_csv(other)))
    assert "q" in first and "p" in second


def test_spreadsheet_formulas_are_escaped():
    groups = sweep_table.grouped([row({"=1+1": "=cmd()", "n": "-3"}, 0.5, lowest=-0.5)])
    [head, line] = csv.reader(io.StringIO(sweep_table.as_csv(groups)))
    assert "'=1+1" in head and "'=cmd()" in line and "-0.5" in line


def test_the_plot_has_one_line_per_setting():
    rows = [
        row({"s": s, "m": m}, 0.5 + float(s) / 100, **{"evaluate macro-F1": 0.4}) for s in ("8", "16") for m in "ab"
    ]
    figure = sweep_table.plot_scores("a sweep", sweep_table.grouped(rows))
    [axes] = figure.axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines["kd, m=a: val macro-F1"] == [[8.0, 0.58], [16.0, 0.66]] and len(lines) == 4
    assert axes.get_xlabel() == "s" and "kd, m=b: evaluate macro-F1" in lines
    assert sweep_table.plot_scores("none", sweep_table.grouped([row({"s": "1"})])) is None


def test_a_student_without_distillation_is_shared_by_all_temperatures(base, first, stored):
    (base / "soft").mkdir()
    file = base / "params" / "students.yaml"
    file.write_text(
        "name: students\nphases:\n  import: {sources: [{source: fer2013, faces: 70}]}\n  manifest: {}\n"
        "  student_ce: {kind: student}\n  student_kd: {kind: student, mode: kd, softlabels: soft}\n"
    )
    assert sweep_file(file, ["student.temperature=4,5"]) == 0
    nested = stored.below(stored.newest("sweep"))
    ran = [name for run in nested.values() for name in stored.below(run) if name.startswith("student")]
    assert sorted(ran) == ["student_ce", "student_kd", "student_kd"]
    assert len(list(base.glob("mlruns/phases/student_ce-*"))) == 1
