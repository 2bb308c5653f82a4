"""Where everything is kept: one SQLite file and one artifact folder below ``<home>/mlruns``.

MLflow is told about it in one place, :func:`configure`, which also cures three of its habits: several processes that
open a cold SQLite store at once crash in its migration (so the first opening happens under a file lock), artifact
roots are written down absolute (so a checkout that was moved is re-based on its next opening), and telemetry is on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fer_lib.errors import FerError
from fer_lib.storage.paths import home, mlruns

EXPERIMENT = "fer"
PATIENCE = 600.0  # seconds that a fit waits for a database that another program keeps locked
_ABSOLUTE = (  # every column in which MLflow writes down an absolute artifact path
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
_configured: set[Path] = set()


def tracking_uri(root: Path | None = None) -> str:
    """``sqlite:///<absolute path of mlflow.db>``."""
    return f"sqlite:///{(mlruns(root) / 'mlflow.db').as_posix()}"


def configure(root: Path | str | None = None) -> Path:
    """Point MLflow of this process (and of its children, by environment) at the store; create or re-base it if need be.

    Safe to call from several processes at once, also on a cold store, and cheap to call again.  Returns the home.
    """
    base = Path(root).expanduser().resolve() if root is not None else home()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "5")  # seconds
    os.environ.setdefault("MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK", "true")
    os.environ["MLFLOW_TRACKING_URI"] = uri = tracking_uri(base)
    import mlflow

    if mlflow.get_tracking_uri() != uri:
        mlflow.set_tracking_uri(uri)
    if mlflow.get_registry_uri() != uri:
        mlflow.set_registry_uri(uri)
    if base not in _configured or not (base / "mlruns" / "mlflow.db").is_file():
        try:
            with FileLock(mlruns(base) / ".store.lock", timeout=120):
                _open(base)
        except Timeout as error:
            raise FerError(
                f"another process has been creating the store {mlruns(base)} for two minutes: end it and try again"
            ) from error
        except OSError as error:
            raise FerError(f"cannot write the store {mlruns(base)}: {error}. Set FER_HOME to another folder") from error
        _configured.add(base)
    return base


def _open(base: Path) -> None:
    """Create or re-base the store; the caller holds its lock."""
    from mlflow import MlflowClient

    folder = mlruns(base)
    database, mark, making = folder / "mlflow.db", folder / "root.txt", folder / ".store.making"
    if making.is_file():  # whoever made it was killed, and MLflow cannot go on with half a database; no run is in it
        database.unlink(missing_ok=True)
    cold = not database.is_file()
    if not cold:
        _readable(database)
    if not cold and mark.is_file() and (old := mark.read_text(encoding="utf-8").strip()) != str(base):
        _rebase(database, Path(old), base)
    for noisy in ("alembic", "mlflow.store.tracking"):
        logging.getLogger(noisy).setLevel(logging.WARNING)  # the migration prints forty lines about nothing
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # what it logs as an error it raises too
    if cold:
        making.touch()
    client = MlflowClient()
    client.search_experiments(max_results=1)  # opens the database, so creates or migrates it
    if cold:  # MLflow's own experiment would put artifacts in whatever folder the process was started in
        with contextlib.closing(sqlite3.connect(database, timeout=30)) as db, db:
            db.execute("UPDATE experiments SET artifact_location = ?", (artifact_root(base),))
        making.unlink()
    if not mark.is_file() or mark.read_text(encoding="utf-8").strip() != str(base):
        mark.write_text(str(base) + "\n", encoding="utf-8")
    if client.get_experiment_by_name(EXPERIMENT) is None:
        client.create_experiment(EXPERIMENT, artifact_location=artifact_root(base))


def _readable(database: Path) -> None:
    """FerError when the file is no SQLite database: MLflow would end in forty lines that do not name it."""
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=30)) as db:
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError as error:
        raise FerError(
            f"the store {database} cannot be read ({error}): put a backup in its place, or move it away and an empty "
            "one is made"
        ) from error


def artifact_root(root: Path | None = None) -> str:
    """The artifact folder as a ``file://`` URI (which also works for a Windows drive)."""
    return (mlruns(root) / "artifacts").as_uri()


def _rebase(database: Path, old: Path, new: Path) -> None:
    """Rewrite every recorded artifact path that began with ``old`` so that it begins with ``new``."""
    prefixes = {(old.as_uri(), new.as_uri()), (str(old), str(new)), ("file://" + old.as_posix(), new.as_uri())}
    prefixes.add((urllib.parse.unquote(old.as_uri()), new.as_uri()))
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as db, db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for table, column in _ABSOLUTE:
            if table not in tables:
                continue
            for before, after in prefixes:
                db.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE substr({column}, 1, ?) = ? AND substr({column}, ?, 1) IN ('', '/', '\\')",
                    (after, len(before) + 1, len(before), before, len(before) + 1),
                )


def experiment_id(name: str = EXPERIMENT) -> str:
    """Id of the experiment, created with its artifacts below the store when it is new."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    base = configure()
    client = MlflowClient()
    with FileLock(mlruns(base) / ".store.lock", timeout=120):
        found = client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            raise FerError(f"the experiment {name!r} is deleted: restore it in the MLflow page or name another one")
        if found is not None:
            return found.experiment_id
        try:
            return client.create_experiment(name, artifact_location=artifact_root(base))
        except MlflowException as error:
            raise FerError(f"cannot create the experiment {name!r}: {error}") from error


def retry_while_locked(call: Callable[[], Any]) -> Any:
    """``call()``, again and again while another program keeps the database locked: no fit ends of a backup.

    MLflow by itself waits 20 seconds.  Raises FerError after ``PATIENCE`` seconds.
    """
    from mlflow.exceptions import MlflowException

    until = time.monotonic() + PATIENCE
    while True:
        try:
            return call()
        except MlflowException as error:
            if "database is locked" not in str(error):
                raise
            if time.monotonic() > until:
                raise FerError(
                    f"another program has kept {mlruns() / 'mlflow.db'} locked for {PATIENCE / 60:.0f} minutes: end it "
                    "and give the same command again"
                ) from error
        time.sleep(1.0)
