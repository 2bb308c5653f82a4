"""The MLflow store: one SQLite file and one artifact folder below ``<home>/mlruns``.

:func:`configure` points MLflow at it and works around three problems.  Processes that open a new SQLite store at the
same time crash in its migration, so a file lock guards the first opening.  MLflow records absolute artifact paths, so a
moved checkout is re-based when it is opened.  Telemetry is switched off.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sqlite3
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fer_lib.errors import FerError, path_text
from fer_lib.storage.paths import home, mlruns

EXPERIMENT = "fer"
SETTINGS = {  # variables that MLflow reads, some of them when it is imported; a value of the user's is kept
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "5",  # seconds
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
LOCK_TIMEOUT = 600.0  # seconds to wait for a database that another program has locked, and for the store's lock
_PATH_COLUMNS = (  # every column with an absolute artifact path
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
_configured: set[Path] = set()


def tracking_uri(root: Path | None = None) -> str:
    """``sqlite:///<absolute path of mlflow.db>``.

    Raises FerError for a path that means another file in an address: MLflow creates folders by the text of the address
    and opens the file that it means, so that neither the path nor its quoted form leads to one place.
    """
    path = (mlruns(root) / "mlflow.db").as_posix()
    if path_text(path) != path:
        raise FerError(
            f"MLflow cannot keep a store in {path_text(path)}: that name is not UTF-8. Rename the folder or set "
            "FER_HOME to another one"
        )
    if "?" in path or urllib.parse.unquote(path) != path:
        raise FerError(
            f"MLflow cannot keep a store in {mlruns(root)}: a '?' or a '%' before two hexadecimal digits has a meaning "
            "in its address. Rename that folder or set FER_HOME to another one"
        )
    return f"sqlite:///{path}"


def configure(root: Path | str | None = None) -> Path:
    """Point MLflow in this process and its children at the store, and create or re-base it; returns the home.

    Several processes may call it at once, also on a new store.  Later calls are cheap.

    Raises:
        FerError: the store cannot be written or read.
    """
    base = Path(root).expanduser().resolve() if root is not None else home()
    os.environ.update(SETTINGS | os.environ)
    os.environ["MLFLOW_TRACKING_URI"] = uri = tracking_uri(base)
    import mlflow

    if mlflow.get_tracking_uri() != uri:
        mlflow.set_tracking_uri(uri)
    if mlflow.get_registry_uri() != uri:
        mlflow.set_registry_uri(uri)
    if base not in _configured or not (base / "mlruns" / "mlflow.db").is_file():
        import mlflow.store.tracking.sqlalchemy_store  # three quarters of the opening, for which nobody has to wait
        from sqlalchemy import Engine, event

        event.listen(Engine, "before_cursor_execute", _wait_longer, retval=True)
        try:
            with _store_lock(base):
                _open(base)
        except OSError as error:
            if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) and (mlruns(base) / "mlflow.db").is_file():
                return base  # what only reads, as fer models and fer predict, works on a read-only store
            raise FerError(f"cannot write the store {mlruns(base)}: {error}. Set FER_HOME to another folder") from error
        _configured.add(base)
    return base


def _wait_longer(connection, cursor, statement: str, parameters, context, many: bool) -> tuple[str, Any]:
    """Let MLflow wait ``LOCK_TIMEOUT`` where another program, such as a backup, locks the database, not 20 seconds."""
    if statement.startswith("PRAGMA busy_timeout ="):
        statement = f"PRAGMA busy_timeout = {1000 * LOCK_TIMEOUT:.0f}"
    return statement, parameters


@contextlib.contextmanager
def _store_lock(base: Path) -> Iterator[None]:
    """Hold the lock of the store.  Raises FerError when other processes hold it for ``LOCK_TIMEOUT`` seconds."""
    try:
        with FileLock(mlruns(base) / ".store.lock", timeout=LOCK_TIMEOUT):
            yield
    except Timeout as error:
        raise FerError(
            f"other processes have been opening the store {mlruns(base)} for {LOCK_TIMEOUT / 60:.0f} minutes: wait for "
            "them, or end them, and give the same command again"
        ) from error


def _open(base: Path) -> None:
    """Create or re-base the store.  The caller holds its lock."""
    from mlflow import MlflowClient

    folder = mlruns(base)
    database, root_file, unfinished = folder / "mlflow.db", folder / "root.txt", folder / ".store.making"
    if unfinished.is_file():  # its creator was killed: MLflow cannot open half a database, and no run is in it
        database.unlink(missing_ok=True)
    is_new = not database.is_file()
    old = root_file.read_text(encoding="utf-8", errors="replace").strip() if root_file.is_file() else ""
    if not is_new:
        _check_database(database)
        if Path(old).is_absolute() and old != str(base):  # anything else is a damaged file
            _rebase(database, Path(old), base)
    for noisy in ("alembic", "mlflow.store.tracking", "mlflow.system_metrics"):
        logging.getLogger(noisy).setLevel(logging.WARNING)  # the migration logs forty lines, a monitored run four
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it raises what it logs
    if is_new:
        unfinished.touch()
    client = MlflowClient()
    client.search_experiments(max_results=1)  # creates or migrates the database
    if is_new:  # the Default experiment would put artifacts below the working folder
        with contextlib.closing(sqlite3.connect(database, timeout=30)) as db, db:
            db.execute("UPDATE experiments SET artifact_location = ?", (artifact_root(base),))
        unfinished.unlink()
    if old != str(base):
        root_file.write_text(str(base) + "\n", encoding="utf-8")
    if client.get_experiment_by_name(EXPERIMENT) is None:
        client.create_experiment(EXPERIMENT, artifact_location=artifact_root(base))


def _check_database(database: Path) -> None:
    """Raise FerError naming the file when it is not a SQLite database; MLflow's error does not name it."""
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=30)) as db:
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError as error:
        raise FerError(
            f"the store {database} cannot be read ({error}): restore a backup, or move it away to start with an "
            "empty one"
        ) from error


def artifact_root(root: Path | None = None) -> str:
    """The artifact folder as a ``file://`` URI, which also works for a Windows drive."""
    return (mlruns(root) / "artifacts").as_uri()


def _rebase(database: Path, old: Path, new: Path) -> None:
    """Replace the prefix ``old`` of every recorded artifact path by ``new``."""
    prefixes = {(old.as_uri(), new.as_uri()), (str(old), str(new)), ("file://" + old.as_posix(), new.as_uri())}
    prefixes.add((urllib.parse.unquote(old.as_uri()), new.as_uri()))
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as db, db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for table, column in _PATH_COLUMNS:
            if table not in tables:
                continue
            for before, after in prefixes:
                db.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE substr({column}, 1, ?) = ? AND substr({column}, ?, 1) IN ('', '/', '\\')",
                    (after, len(before) + 1, len(before), before, len(before) + 1),
                )


def experiment_id(name: str = EXPERIMENT) -> str:
    """Id of the experiment, which is created when it does not exist.  Raises FerError when it is deleted."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    base = configure()
    client = MlflowClient()
    with _store_lock(base):
        experiment = client.get_experiment_by_name(name)
        if experiment is not None and experiment.lifecycle_stage == "deleted":
            raise FerError(f"the experiment {name!r} is deleted: restore it in the MLflow page or name another one")
        if experiment is not None:
            return experiment.experiment_id
        try:
            return client.create_experiment(name, artifact_location=artifact_root(base))
        except MlflowException as error:
            raise FerError(f"cannot create the experiment {name!r}: {error}") from error
