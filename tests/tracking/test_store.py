"""Opening the store: new, in parallel, after a move, and with clear errors."""

import contextlib
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from forked import fork

from fer_lib.errors import FerError, user_message
from fer_lib.storage import locks, paths
from fer_lib.tracking import store


def test_home_is_fer_home_then_the_nearest_folder_then_the_checkout(tmp_path, monkeypatch, repo):
    monkeypatch.delenv("FER_HOME", raising=False)
    lab = tmp_path / "lab"
    for name in ("params", "notebooks", "deep/er"):
        (lab / name).mkdir(parents=True)
    monkeypatch.chdir(lab / "notebooks")
    assert paths.home() == lab.resolve()
    monkeypatch.chdir(lab / "deep" / "er")
    assert paths.home() == lab.resolve()
    monkeypatch.chdir(tmp_path)
    assert paths.home() == repo, "outside any home, the checkout of the package"
    monkeypatch.setenv("FER_HOME", str(tmp_path / "named"))
    assert paths.home() == (tmp_path / "named").resolve()


@pytest.fixture
def create(tmp_path, kernel_server):
    """``create(code)``: a process that runs ``code`` in the folder ``work``, for the home ``home``."""
    for name in ("work", "home"):
        (tmp_path / name).mkdir()
    environment = os.environ | {"FER_HOME": str(tmp_path / "home")}
    environment.pop("MLFLOW_TRACKING_URI", None)

    def start(code):
        script = tmp_path / "work" / "creator.py"
        if not script.exists():  # another process may be reading it
            script.write_text(f"from fer_lib.tracking import store; store.configure(); {code}")
        return fork(kernel_server.address, "creator", tmp_path / "work", environment=environment)

    return start


def test_four_processes_create_a_store_at_once(tmp_path, create):
    code = (
        "import mlflow; mlflow.start_run(experiment_id=store.experiment_id('together'));"
        "mlflow.log_metric('m', 1); mlflow.end_run()"
    )
    assert [process.wait() for process in [create(code) for _ in range(4)]] == [0] * 4
    with sqlite3.connect(tmp_path / "home" / "mlruns" / "mlflow.db") as db:
        names = sorted(name for (name,) in db.execute("SELECT name FROM experiments"))
        assert names == ["Default", "fer", "together"]
        assert db.execute("SELECT count(*) FROM runs WHERE status = 'FINISHED'").fetchone() == (4,)
    assert [p.name for p in (tmp_path / "home").iterdir()] == ["mlruns"]
    assert not list((tmp_path / "work").glob("mlflow.db")), "no stray mlflow.db"


def test_nobody_waits_for_the_imports_of_another_process(tmp_path):
    """Sixteen commands that queue for each other's imports would wait for minutes."""
    code = (
        "import sys; from fer_lib.tracking import store;"
        "store._open = lambda base: print('mlflow.store.tracking.sqlalchemy_store' in sys.modules); store.configure()"
    )
    environment = os.environ | {"FER_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


def test_a_store_that_others_are_opening_is_waited_for(tmp_path, monkeypatch, add_store):
    monkeypatch.setenv("FER_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # put back afterwards
    monkeypatch.setattr(store, "LOCK_TIMEOUT", 0.1)
    add_store(tmp_path)
    lock = FileLock(tmp_path / "mlruns" / ".store.lock")
    with lock, pytest.raises(FerError, match="opening the store .*mlruns for .* give the same command again"):
        store.configure()
    store.configure()
    with lock, pytest.raises(FerError, match="opening the store"):
        store.experiment_id()


def test_mlflow_waits_while_another_program_locks_the_database(tmp_path, monkeypatch, add_store):
    """A backup may lock it; MLflow alone gives up after 20 seconds."""
    import mlflow
    from mlflow.tracking._tracking_service.utils import _get_store
    from sqlalchemy import text

    monkeypatch.setenv("FER_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # put back afterwards
    add_store(tmp_path)
    store.configure()
    with _get_store().ManagedSessionMaker() as session:
        assert session.execute(text("PRAGMA busy_timeout")).scalar() == 1000 * store.LOCK_TIMEOUT > 20_000
    monkeypatch.setattr(store, "LOCK_TIMEOUT", 0.1)
    run = mlflow.MlflowClient().create_run(store.experiment_id())
    with contextlib.closing(sqlite3.connect(tmp_path / "mlruns" / "mlflow.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(mlflow.MlflowException, match="database is locked") as error:
            mlflow.MlflowClient().log_metric(run.info.run_id, "a", 1.0)
    assert "keeps the store mlruns/mlflow.db locked: end it and give the same command" in user_message(error.value)


def test_a_moved_home_opens_with_its_artifacts(tmp_path, monkeypatch):
    import mlflow

    old, new = tmp_path / "old home", tmp_path / "new_home"
    old.mkdir()
    monkeypatch.setenv("FER_HOME", str(old))
    store.configure()
    experiment = store.experiment_id()
    with mlflow.start_run(experiment_id=experiment) as run:
        mlflow.log_text("seven", "classes.txt")
    client = mlflow.MlflowClient()
    client.create_registered_model("m")
    client.create_model_version("m", source=f"{run.info.artifact_uri}/model", run_id=run.info.run_id)
    beside = client.create_experiment("elsewhere", artifact_location=f"{old.as_uri()}-archive/artifacts")

    old.rename(new)
    monkeypatch.setenv("FER_HOME", str(new))
    assert store.configure() == new
    moved = mlflow.MlflowClient()
    uri = moved.get_run(run.info.run_id).info.artifact_uri
    assert uri.startswith((new / "mlruns" / "artifacts").as_uri())
    assert mlflow.artifacts.load_text(f"{uri}/classes.txt") == "seven"
    assert moved.get_experiment(experiment).artifact_location == store.artifact_root(new)
    assert moved.get_model_version("m", "1").source.startswith(new.as_uri())
    assert f"{old.as_uri()}-archive" in moved.get_experiment(beside).artifact_location, (
        "a folder with a longer name is not below it"
    )
    with mlflow.start_run(experiment_id=store.experiment_id()):
        mlflow.log_text("more", "more.txt")
    assert not old.exists(), "nothing is written to the old path"


def test_experiments_are_below_the_store_and_a_deleted_one_is_an_error(tmp_path, monkeypatch):
    import mlflow

    monkeypatch.setenv("FER_HOME", str(tmp_path))
    store.configure()
    assert mlflow.MlflowClient().get_experiment("0").artifact_location == store.artifact_root(tmp_path)
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    mlflow.MlflowClient().delete_experiment(store.experiment_id("gone"))
    with pytest.raises(FerError, match="'gone' is deleted"):
        store.experiment_id("gone")


def test_an_unusable_home_is_a_clear_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FER_HOME", str(tmp_path / "file"))
    with pytest.raises(FerError, match="FER_HOME"):
        store.configure()


def test_an_invalid_database_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("FER_HOME", str(tmp_path))
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns" / "mlflow.db").write_text("not a database, but long enough to be looked at " * 20)
    with pytest.raises(FerError, match=r"mlflow\.db cannot be read .*move it away"):
        store.configure()


def test_a_lock_is_held_while_its_process_lives(tmp_path):
    path = tmp_path / "a.lock"
    assert not locks.is_locked(path) and not locks.is_locked(tmp_path / "no" / "folder.lock")
    with FileLock(path):
        assert locks.is_locked(path)
    assert not locks.is_locked(path)
    code = (f"from filelock import FileLock; import time; lock = FileLock({str(path)!r}); lock.acquire();"
            "print('held', flush=True); time.sleep(60)")  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n" and locks.is_locked(path)
    process.kill()
    process.wait()
    assert not locks.is_locked(path) and Path(path).parent.is_dir()


@pytest.mark.parametrize("tables", [1, 20])
def test_a_store_whose_creator_was_killed_is_created_again(tmp_path, monkeypatch, create, tables):
    home = tmp_path / "home"
    creator, database, found = create(""), home / "mlruns" / "mlflow.db", 0
    while found < tables:
        assert creator.poll() is None, "killed in time"
        if database.is_file():
            with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(database)) as db:
                found = db.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()[0]
    creator.kill()
    creator.wait()
    assert (home / "mlruns" / ".store.making").is_file()
    monkeypatch.setenv("FER_HOME", str(home))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # put back afterwards
    assert store.experiment_id() == "1"
    assert not (home / "mlruns" / ".store.making").exists()


@pytest.mark.parametrize("name", ["q?x", "a%20b", "%3F"])
def test_a_home_that_an_address_would_change_is_refused_and_nothing_is_written_beside_it(name, tmp_path, monkeypatch):
    home = tmp_path / name
    home.mkdir()
    monkeypatch.setenv("FER_HOME", str(home))
    with pytest.raises(FerError, match="Rename that folder or set FER_HOME"):
        store.configure()
    assert [folder.name for folder in tmp_path.iterdir()] == [name]
    assert not list(home.rglob("*.db"))


def test_a_home_with_other_signs_in_its_name_is_used(tmp_path, monkeypatch):
    home = tmp_path / "100% größer #1 & 'so'"
    home.mkdir()
    monkeypatch.setenv("FER_HOME", str(home))
    store.configure()
    assert store.experiment_id() and (home / "mlruns" / "mlflow.db").is_file()
    assert [folder.name for folder in tmp_path.iterdir()] == [home.name]


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode there")
def test_a_home_whose_name_is_not_utf8_is_refused(tmp_path):
    home = Path(os.fsdecode(os.fsencode(tmp_path) + b"/h\xff"))
    home.mkdir()
    with pytest.raises(FerError, match=r"h.udcff/mlruns/mlflow.db: that name is not UTF-8. Rename"):
        store.configure(home)
    assert not list(home.rglob("*.db"))


@pytest.mark.parametrize("content", [b"\xff\xfe\0x", b"elsewhere", b"\0"])
def test_a_damaged_root_file_is_written_again(tmp_path, monkeypatch, content):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # put back afterwards
    store.configure(tmp_path)
    (tmp_path / "mlruns" / "root.txt").write_bytes(content)
    store._configured.clear()
    store.configure(tmp_path)
    assert (tmp_path / "mlruns" / "root.txt").read_text() == f"{tmp_path}\n"
