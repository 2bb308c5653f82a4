"""The command ``fer live``: logs, printed summary, MLflow run, and the bundle's bias and abstention."""

import json

import numpy as np
import pytest
from road import fer

from fer_lib.live.session_files import read_frames, read_session


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("live") / "home"
    for name in ("params", "notebooks"):
        (home / name).mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FER_HOME", str(home))
        yield home


@pytest.fixture(scope="module")
def ended(home, clip):
    return fer("live", "--headless", "--source", str(clip), "--detector", "haar", "--detect-every", "2")


def test_the_command_prints_log_folder_frame_rate_and_latency(home, ended):
    [folder] = (home / "mlruns" / "live").iterdir()
    assert ended.code == 0 and f"written: {folder}" in ended.out
    assert "60 frames" in ended.out and "frames/s" in ended.out and "p95" in ended.out
    assert len(read_frames(folder).frame_index) == 60 and read_session(folder)["params"]["detect_every"] == 2
    assert not (folder / ".lock.holder.json").exists()


def test_the_command_prints_the_model(ended):
    lines = [line for line in ended.err.splitlines() if line.startswith("model: ")]
    assert lines == ["model: packaged student_dkd (trained on 28,709 faces of fer2013)"] and "model:" not in ended.out


def test_a_session_is_one_mlflow_run(home, ended):
    import mlflow

    client = mlflow.MlflowClient()
    experiments = [e.experiment_id for e in client.search_experiments()]
    [run] = client.search_runs(experiments, "tags.`fer.kind` = 'live'")
    [folder] = (home / "mlruns" / "live").iterdir()
    assert run.info.status == "FINISHED" and run.data.tags["fer.folder"] == f"mlruns/live/{folder.name}"
    assert run.data.params["detector"] == "haar" and run.data.params["smoothing.ema_alpha"] == "0.7"
    assert run.data.metrics["live/frames"] == 60 and run.data.metrics["live/latency_ms/p95"] > 0
    assert {a.path for a in client.list_artifacts(run.info.run_id, "session")} == {
        f"session/{n}" for n in ("per_frame.csv", "events.csv", "demoresultssummary.csv", "thresholds.json",
                                 "per_class_correctness.csv", "faces.csv", "session.json")}  # fmt: skip
    assert "score/raw/accuracy" not in run.data.metrics, "it has no manual label"


def test_a_bundles_bias_and_abstention_are_used(home, clip, tmp_path):
    from fer_lib.deploy.packaged import packaged_bundle
    from fer_lib.models.bundle import ONNX, derive_bundle

    bias, least = [0, 0, 0, 30.0, 0, 0, 0], [0, 0, 0, 1.0, 0, 0, 0]
    bundle = derive_bundle(packaged_bundle(), tmp_path / "biased", logit_bias=bias, abstention=least, weights=False)
    assert bundle.has(ONNX) and bundle.logit_bias.tolist() == bias
    plain = ("live", "--headless", "--source", str(clip), "--detector", "haar", "--model", str(tmp_path / "biased"))
    assert fer(*plain, "--output", str(tmp_path / "s")).code == 0
    frames = read_frames(tmp_path / "s")
    faces = ~np.isnan(frames.probs).any(axis=1)
    assert (frames.probs[faces].argmax(axis=1) == 3).all() and set(frames.pred.tolist()) == {-1, -2}
    assert fer(*plain, "--output", str(tmp_path / "t"), "--abstain", "0").code == 0
    assert set(read_frames(tmp_path / "t").pred.tolist()) == {-1, 3}, "an option overrides the bundle"
    assert json.loads((tmp_path / "t" / "session.json").read_text())["model_facts"]["logit_bias"] == bias


def test_without_a_display_the_command_names_the_alternatives(home, clip, tmp_path, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    ended = fer("live", "--source", str(clip), "--output", str(tmp_path / "s"))
    assert ended.code == 1 and "--headless" in ended.err and "--web" in ended.err
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "trouble", [KeyboardInterrupt(), RuntimeError("the display has gone")], ids=["Ctrl+C", "broken"]
)
def test_leaving_the_window_closes_the_logs(home, clip, tmp_path, monkeypatch, trouble):
    def leave(session, title):
        while session.latest_view.take(5).index < 5:
            pass
        raise trouble

    monkeypatch.setattr("fer_lib.live.window.check_window", lambda: None)
    monkeypatch.setattr("fer_lib.live.window.show", leave)
    words = ("live", "--source", str(clip), "--paced", "--detector", "haar", "--output", str(tmp_path / "s"))
    if isinstance(trouble, KeyboardInterrupt):
        ended = fer(*words)
        assert ended.code == 0 and "written:" in ended.out
    else:
        with pytest.raises(RuntimeError, match="the display has gone"):
            fer(*words)
    about = read_session(tmp_path / "s")
    assert about["end"] == "it was over or ended by hand" and about["ended"]
    assert 5 < about["frames"] == len(read_frames(tmp_path / "s").frame_index) < 60


def find_run(folder):
    """The MLflow run of the session in ``folder``."""
    import mlflow

    client = mlflow.MlflowClient()
    experiments = [e.experiment_id for e in client.search_experiments()]
    [run] = client.search_runs(experiments, f"attributes.run_name = 'live {folder.name}'")
    return run


def test_a_store_error_at_the_end_keeps_the_session_files(home, clip, tmp_path, monkeypatch):
    import mlflow

    def fail(*_):
        raise mlflow.exceptions.MlflowException("no such table: runs")

    monkeypatch.setattr(mlflow.MlflowClient, "set_terminated", fail)
    folder = tmp_path / "refused"
    ended = fer("live", "--headless", "--source", str(clip), "--detector", "haar", "--output", str(folder))
    assert ended.code == 1 and f"files in {folder} are complete" in ended.err and "no such table" in ended.err
    assert "fer runs reap" in ended.err and read_session(folder)["frames"] == 60
    monkeypatch.undo()
    monkeypatch.setenv("FER_HOME", str(home))
    assert fer("runs", "reap").code == 0 and find_run(folder).info.status == "KILLED"
