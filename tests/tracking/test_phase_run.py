"""The MLflow run of a phase: what it logs, how it ends, and the lock on its folder."""

import json
import math
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from fer_lib.errors import FerError
from fer_lib.pipeline import standalone
from fer_lib.storage import json_files, locks, paths
from fer_lib.storage.phase_result import PhaseResult
from fer_lib.tracking import records, store

pytestmark = pytest.mark.usefixtures("at_home")


def fetch(run):
    import mlflow

    return mlflow.MlflowClient().get_run(run.run_id)


def test_the_log_of_test_row_access_is_attached():
    with standalone.phase_run("import", {"seed": 3}) as run:
        (run.output_dir / "test_openings.jsonl").write_text("{}\n")
        run.finish(PhaseResult())
    folder = paths.mlruns() / "artifacts" / run.run_id / "artifacts"
    assert (folder / "test_openings.jsonl").read_text() == "{}\n"


def test_metrics_figures_and_the_result_are_logged(lab, capsys):
    from matplotlib.figure import Figure

    with standalone.phase_run("import", {"seed": 1}) as run:
        run.metrics({"val": {"f1": np.float64(0.5), "per_class": {"Happy": 1}}, "text": "no", "flag": True}, step=3)
        figure = Figure()
        assert run.figure(figure, "empty.png") is figure, "the cell shows it"
        run.note(intent="To see.")
        assert locks.is_locked(run.output_dir / ".lock")
        for path in (run.output_dir / "report.json", lab / "buffer.json", run.output_dir / "best" / "bundle.json"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(f'"{path.stem}"')
        run.finish(PhaseResult(
            ids={"rows": "abc"}, headline={"rows": np.int64(5), "val": {"F1": 1 / 3}}, metrics={"n": 7},
            bundle=run.output_dir / "best",
            note={"next": "Nothing.", "result": "It works."}, tags={"fer.gates": "passed"}, warnings=["slow", "few"],
            artifacts=[run.output_dir / "report.json", run.output_dir / "best", lab / "buffer.json"],
            artifact_folders={lab / "buffer.json": "buffers/0"},
        ))  # fmt: skip
    seen = fetch(run)
    assert seen.info.status == "FINISHED" and not locks.is_locked(run.output_dir / ".lock")
    assert seen.data.metrics == {"val/f1": 0.5, "val/per_class/Happy": 1.0, "n": 7.0}
    assert seen.data.params["seed"] == "1" and json.loads(seen.data.params["sources"])[0]["source"] == "fer2013"
    assert seen.data.tags["mlflow.note.content"] == "**Intent.** To see.\n\n**Result.** It works.\n\n**Next.** Nothing."
    assert seen.data.tags["fer.id.rows"] == "abc" and seen.data.tags["fer.kind"] == "import"
    assert seen.data.tags["fer.gates"] == "passed" and seen.data.tags["fer.warning"] == "slow\nfew"
    assert "rows: 5\nval F1: 0.3333\nrows: abc\n" in capsys.readouterr().out
    folder = paths.mlruns() / "artifacts" / run.run_id / "artifacts"
    assert (folder / "figures" / "empty.png").read_bytes().startswith(b"\x89PNG")
    logged = ("report.json", "best/bundle.json", "buffers/0/buffer.json")
    assert [json.loads((folder / name).read_text()) for name in logged] == ["report", "bundle", "buffer"]
    outputs = {"ids": {"rows": "abc"}, "bundle": "best", "headline": {"rows": 5, "val": {"F1": 1 / 3}}}
    assert json_files.read_outputs(run.output_dir) == outputs == json.loads((folder / "outputs.json").read_text())
    done = json.loads((run.output_dir / "done.json").read_text())
    assert done["run_id"] == run.run_id and done["params"]["seed"] == 1 and done["kind"] == "import"
    assert run.output_dir == paths.phases_dir() / f"import-{run.key[:12]}"


def test_an_error_fails_the_run_and_leaves_it_unfinished():
    with pytest.raises(ValueError, match="broken"):
        with standalone.phase_run("import", {"seed": 2}) as run:
            raise ValueError("broken")
    assert fetch(run).info.status == "FAILED" and not (run.output_dir / "done.json").exists()
    with pytest.raises(FerError, match=r"without run.finish\(result\).*last cell"):
        with standalone.phase_run("import", {"seed": 2}) as second:
            pass
    assert second.output_dir == run.output_dir and fetch(second).info.status == "FAILED"


def test_running_the_first_cell_again_ends_the_earlier_run():
    first = standalone.phase_run("import", {"seed": 3})
    second = standalone.phase_run("import", {"seed": 3})
    assert fetch(first).info.status == "KILLED" and fetch(second).info.status == "RUNNING"
    second.finish(PhaseResult())
    first.close("FAILED")
    assert fetch(second).info.status == "FINISHED" and fetch(first).info.status == "KILLED"


def test_a_run_from_the_pipeline_is_resumed(monkeypatch, tmp_path):
    import mlflow

    run_id = mlflow.MlflowClient().create_run(store.experiment_id(), run_name="nested").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    values = {"seed": 4, "output_dir": str(tmp_path / "import_b-0")}
    plan = {"phase": "import_b", "kind": "import", "key": "k" * 64, "params": {}, "run_id": None, "inputs": {}}
    records.write_plan(plan | {"output_dir": values["output_dir"]}, tmp_path)
    with standalone.phase_run("import", values) as run:
        run.finish(PhaseResult())
    assert run.run_id == run_id and run.name == "import_b" and run.key == "k" * 64
    assert fetch(run).info.run_name == "nested" and fetch(run).data.params["seed"] == "4"


def test_follow_logs_each_epoch_and_warnings(capsys):
    import mlflow

    with standalone.phase_run("import", {"seed": 5}) as run:
        history = [
            {
                "epoch": 0,
                "train": {"loss": 2.0},
                "val": {"macro_f1": 0.1, "confusion": [[1]]},
                "timing": {"warning": "slow"},
            }
        ]
        history.append({"epoch": 1, "train": {"loss": 9.0}})  # its event follows
        (run.output_dir / "history.json").write_text(json.dumps(history))
        events = [
            {"event": "start", "total_steps": 20, "steps_per_epoch": 10, "resumed_at_step": 10, "epochs_done": 1},
            {"event": "note", "message": "the ramp never ends", "level": "warning"},
            {"event": "epoch", "epoch": 1, "train": {"loss": 1.0}, "val": None},
            {"event": "end", "best_epoch": 1, "best_macro_f1": 0.3},
        ]
        assert run.follow(iter(events))["best_epoch"] == 1
        run.finish(PhaseResult())
    client = mlflow.MlflowClient()
    assert [(m.step, m.value) for m in client.get_metric_history(run.run_id, "train/loss")] == [(0, 2.0), (1, 1.0)]
    seen = fetch(run)
    assert seen.data.metrics["best_macro_f1"] == 0.3 and "val/confusion" not in seen.data.metrics
    assert seen.data.tags["fer.warning"] == "slow\nthe ramp never ends"
    assert "epoch 2/2  loss 1" in capsys.readouterr().out
    assert json.loads((run.output_dir / "progress.json").read_text())["epochs"] == 2


def test_the_event_source_is_closed_when_logging_fails(monkeypatch):
    closed = []

    def events():
        try:
            yield {"event": "start", "total_steps": 20, "steps_per_epoch": 10}
            yield {"event": "epoch", "epoch": 0, "train": {"loss": 1.0}}
        finally:
            closed.append(True)

    source = events()  # the reference keeps it from being garbage collected
    with standalone.phase_run("import", {"seed": 15}) as run:
        monkeypatch.setattr(run, "metrics", lambda *a, **k: (_ for _ in ()).throw(OSError("no space")))
        with pytest.raises(OSError, match="no space"):
            run.follow(source)
        run.finish(PhaseResult())
    assert closed == [True]


def test_step_events_update_the_progress_and_sometimes_mlflow(monkeypatch):
    import mlflow

    from fer_lib.storage import progress
    from fer_lib.tracking import event_logger

    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    clock = iter([0.0, 10.0, 31.0, 31.0, 40.0])  # the logger's start, then one call per event and one per MLflow write
    monkeypatch.setattr(event_logger, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    steps = [{"event": "step", "step": 3 * i, "total_steps": 40, "epoch": 0.3 * i, "loss": 2.0 - i / 4,
              "images_per_sec": 100.0 + i} for i in (1, 2, 3)]  # fmt: skip
    shown = []
    with standalone.phase_run("import", {"seed": 9}) as run:

        def events():
            yield {"event": "start", "total_steps": 40, "steps_per_epoch": 10}
            for step in steps:
                yield step
                shown.append(json.loads((run.output_dir / "progress.json").read_text()))

        run.follow(events())
        run.finish(PhaseResult())
    assert [line["text"] for line in shown] == [
        f"epoch 1/4  loss {2 - i / 4:.2f}  {100 + i} images/s" for i in (1, 2, 3)
    ]
    assert [(line["done"], line["total"], line["first"]) for line in shown] == [(3 * i, 40, 0) for i in (1, 2, 3)]
    assert [(line["epoch"], line["epochs"]) for line in shown] == [(0.3 * i, 4) for i in (1, 2, 3)]
    logged = mlflow.MlflowClient().get_metric_history(run.run_id, "live/loss")
    assert [(m.step, m.value) for m in logged] == [(6, 1.5)], "only the one after 30 seconds"


def test_system_metrics_are_logged_for_fits_only(lab, monkeypatch):
    """CPU, memory and GPU metrics are in the run of a fit, and in no other."""
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    shutil.copyfile(lab / "notebooks" / "01_import_datasets.ipynb", lab / "notebooks" / "04_train_teacher.ipynb")
    found = {}
    for kind, values in (("teacher", {"manifest": str(lab)}), ("import", {"seed": 16})):
        with standalone.phase_run(kind, values) as run:
            until = time.monotonic() + (20 if kind == "teacher" else 1)
            while not _system_metrics(run) and time.monotonic() < until:
                time.sleep(0.05)
            run.finish(PhaseResult())
        found[kind] = _system_metrics(run)
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_percentage"} <= found["teacher"]
    assert found["import"] == set()


def _system_metrics(run) -> set[str]:
    return {key for key in fetch(run).data.metrics if key.startswith("system/")}


def test_the_earlier_run_of_a_folder_is_ended():
    import mlflow

    dead = mlflow.MlflowClient().create_run(store.experiment_id()).info.run_id
    probe = standalone.phase_run("import", {"seed": 7})
    probe.close("FAILED")
    plan = json.loads((probe.output_dir / "phase.json").read_text())
    records.write_json(probe.output_dir / "phase.json", plan | {"run_id": dead})
    standalone.phase_run("import", {"seed": 7}).close("FAILED")
    assert mlflow.MlflowClient().get_run(dead).info.status == "KILLED"


def test_wrong_calls_raise_clear_errors(tmp_path):
    run = standalone.phase_run("import", {"seed": 8})
    with pytest.raises(FerError, match="intent, action, result"):
        run.note(outcome="x")
    with pytest.raises(FerError, match="no file .*absent.png"):
        run.artifact(tmp_path / "absent.png")
    with pytest.raises(FerError, match="outputs.json"):
        json_files.read_outputs(tmp_path)


def test_numbers_returns_only_numeric_leaves():
    nested = {"a": {"b": 1, "c": np.float32(0.5)}, "d": True, "e": "x", "f": None, "g": [1], "h": math.nan}
    found = records.numbers(nested)
    assert found.keys() == {"a/b", "a/c", "h"} and found["a/c"] == 0.5 and math.isnan(found["h"])


def test_a_failing_json_write_keeps_the_old_file(tmp_path):
    path = records.write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(TypeError):
        records.write_json(path, {"new": object()})
    assert json_files.read_json(path) == {"old": 1}


def test_a_phase_writes_the_steps_of_its_process_at_most_four_times_per_second(monkeypatch):
    from fer_lib.storage import progress

    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "_last_call", 0.0)
    with standalone.phase_run("import", {"seed": 21}) as run:
        texts = []
        with progress.step("packing faces", total=2840, unit="faces") as packing:
            for done, seconds in ((0, 0.0), (100, 0.1), (1200, 1.2), (1300, 0.1), (2000, 0.1), (2600, 0.2)):
                now[0] += seconds
                packing.update(done)
                texts.append(json.loads((run.output_dir / "progress.json").read_text())["text"])
        run.finish(PhaseResult())
    assert [text.split("  ")[0].split()[-1] for text in texts] == [
        "0/2,840", "0/2,840", "1,200/2,840", "1,200/2,840", "1,200/2,840", "2,600/2,840"
    ]  # fmt: skip
    assert texts[2].endswith("  923 faces/s"), "1,200 in 1.3 seconds"
    before = (run.output_dir / "progress.json").read_bytes()
    with progress.step("after the phase"):
        assert (run.output_dir / "progress.json").read_bytes() == before


def test_a_resumed_fit_counts_from_where_it_resumed(monkeypatch):
    from fer_lib.storage import progress

    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    shown = []
    with standalone.phase_run("import", {"seed": 22}) as run:
        row = {"event": "epoch", "epoch": 0, "train": {"loss": 2.5}, "val": {"macro_f1": 0.412}}
        (run.output_dir / "history.json").write_text(json.dumps([row]))

        def events():
            yield {"event": "start", "total_steps": 60, "steps_per_epoch": 10, "resumed_at_step": 12, "epochs_done": 1}
            shown.append(json.loads((run.output_dir / "progress.json").read_text()))
            with progress.step("validating", total=900):
                shown.append(json.loads((run.output_dir / "progress.json").read_text()))
            yield {"event": "step", "step": 18, "total_steps": 60, "epoch": 1.8, "loss": 2.06, "images_per_sec": 99.6}
            shown.append(json.loads((run.output_dir / "progress.json").read_text()))

        run.follow(events())
        run.finish(PhaseResult())
    start, validating, step = shown
    assert (start["text"], start["done"], start["first"]) == ("epoch 2/6  val 0.41", 12, 12)
    assert progress.seconds_left(start) is None and progress.percent(start) == 20
    assert validating["text"] == "epoch 2/6  val 0.41  validating 0/900" and validating["total"] == 60
    assert step["text"] == "epoch 2/6  loss 2.06  val 0.41  100 images/s" and (step["done"], step["first"]) == (18, 12)


def test_a_notebook_shows_a_logged_warning_once_and_as_plain_output():
    code = (
        "import logging; from fer_lib.tracking.records import set_up_notebook; set_up_notebook(); set_up_notebook();"
        "log = logging.getLogger('fer_lib.faces'); log.info('unseen'); log.warning('weak')"
    )
    done = subprocess.run([sys.executable, "-m", "IPython", "-c", code], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.splitlines()[-1:], done.stderr) == (0, ["Warning: weak"], "")
    assert done.stdout.count("weak") == 1 and "unseen" not in done.stdout
