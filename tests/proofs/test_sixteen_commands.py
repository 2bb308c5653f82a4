"""Sixteen commands started at once in a home without a store: all end well, and one store holds all that they made."""

import json
import sqlite3
import subprocess
import sys

import pytest
from PIL import Image
from road import environment, make_home

from fer_lib.synthetic.dataset import draw_face

# A phase that another command runs is refused, so each of these runs imports other faces.  All register one model.
DATA = """
name: {name}
phases:
  import: {{sources: [{{source: fer2013, root: embedded, faces: {faces}}}]}}
  manifest: {{val_roles: [0.5, 0.4, 0.1]}}
"""
MODEL = """
  student: {backbone: test_resnet, image_size: 32, embed_dim: 16, epochs: 1, batch_size: 28, lr: 3.0e-3,
    warmup_epochs: 0.5, max_train_batches: 3, threads: 1}
  export: {registered_name: together}
"""
RUNS = {"one": 420, "two": 427, "three": 434, "four": 441}  # name -> faces
COMMANDS = (
    *(f"run params/{name}.yaml" for name in RUNS), "sweep params/data.yaml -p manifest.seed=1,2 --parallel 2",
    "models", "models", "models --json", "runs", "runs", "runs", "runs reap",
    "check --device cpu", "check --device cpu", "predict --whole face.png", "predict --whole --json face.png",
)  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home in which all commands have ended."""
    home = make_home(tmp_path_factory.mktemp("together") / "home")
    (home / "params" / "data.yaml").write_text(DATA.format(name="data", faces=448))
    for name, faces in RUNS.items():
        (home / "params" / f"{name}.yaml").write_text(DATA.format(name=name, faces=faces) + MODEL)
    Image.fromarray(draw_face(seed=5, index=3, size=96).image).save(home / "face.png")
    assert len(COMMANDS) == 16 and not (home / "mlruns").exists()
    outputs = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    processes = [
        subprocess.Popen([sys.executable, "-m", "fer_lib.cli.main", *words.split()], cwd=home, env=environment(home),
                         **outputs)
        for words in COMMANDS
    ]  # fmt: skip
    ended = [(process, process.communicate(timeout=1800)[0]) for process in processes]
    for words, (process, output) in zip(COMMANDS, ended, strict=True):
        assert process.returncode == 0, f"fer {words}: {output}"
        assert "Traceback" not in output and "locked" not in output, f"fer {words}: {output}"
    return home


@pytest.fixture
def database(home):
    with sqlite3.connect(home / "mlruns" / "mlflow.db") as database:
        yield database


def test_there_is_one_whole_store(home, database):
    assert [path.relative_to(home).as_posix() for path in home.rglob("*.db")] == ["mlruns/mlflow.db"]
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert sorted(database.execute("SELECT name FROM experiments")) == [("Default",), ("fer",)]
    assert not (home / "mlruns" / ".store.making").exists()
    assert not [path for path in home.rglob("*") if path.name.endswith((".partial", ".holder.json", ".previous"))]


def test_every_run_is_there_and_finished(home, database):
    found = list(database.execute("SELECT name, status FROM runs"))
    assert {status for _, status in found} == {"FINISHED"}, "nothing is left open, and nothing that lived was ended"
    phases = ["import", "manifest", "student", "export"]
    combinations = ["manifest.seed=1", "manifest.seed=2"]
    swept = ["data sweep", *combinations, "import", "manifest", "manifest"]
    assert sorted(name for name, _ in found) == sorted([*RUNS, *phases * len(RUNS), *swept])
    assert len(list(home.glob("mlruns/phases/*/done.json"))) == 4 * len(RUNS) + 3
    summaries = [json.loads(path.read_text()) for path in home.glob("mlruns/artifacts/*/artifacts/phases.json")]
    ran = [row["run_id"] for summary in summaries for row in summary["phases"] if row["status"] == "ran"]
    assert len(summaries) == len(RUNS) + len(combinations) and all(s["not_started"] == [] for s in summaries)
    assert len(ran) == len(set(ran)) == 4 * len(RUNS) + 3
    for name, phase in (("outputs.json", 4 * len(RUNS) + 3), ("sweep.csv", 1)):
        assert len(list(home.glob(f"mlruns/artifacts/*/artifacts/{name}"))) == phase


def test_every_version_is_registered(database):
    versions = list(database.execute("SELECT name, version, source FROM model_versions ORDER BY version"))
    assert [(name, version) for name, version, _ in versions] == [("together", n) for n in (1, 2, 3, 4)]
    assert len({source for _, _, source in versions}) == 4
    aliases = list(database.execute("SELECT alias, version FROM registered_model_aliases"))
    assert len(aliases) == 1 and aliases[0][0] == "candidate" and aliases[0][1] in (1, 2, 3, 4)
