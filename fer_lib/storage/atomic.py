"""Writing that is whole or absent, also when the process is killed or the power fails: a temporary neighbour, fsync,
rename; and disk trouble told in plain words."""

from __future__ import annotations

import errno
import glob
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fer_lib.errors import DataError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CLOSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_NOT_A_FOLDER = {errno.EEXIST, errno.ENOTDIR}


@contextmanager
def explained(target: Path) -> Iterator[None]:
    """Turn an ``OSError`` met while writing ``target`` into a :class:`DataError` that says what to do next."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            hint = "the disk, a quota or the file size limit is full: free some space or choose another output folder"
        elif error.errno in _CLOSED:
            hint = "it is read-only for this user: choose another output folder"
        elif error.errno in _NOT_A_FOLDER:
            hint = "a file stands where a folder should be: move it away or choose another output folder"
        else:
            hint = "choose another output folder or repair this one"
        raise DataError(f"cannot write {target}: {error.strerror or error} ({hint})") from error


def disk_trouble(error: BaseException | None) -> str | None:
    """What to do about an error that a full or read-only disk caused somewhere below (MLflow's database too).

    None when nothing of that kind stands in the chain of its causes.
    """
    while error is not None:
        number, text = getattr(error, "errno", None), str(error)
        if number in _FULL or "database or disk is full" in text:
            return "the disk is full: free some space and give the same command again; what is finished is kept"
        if number == errno.EROFS or "attempt to write a readonly database" in text:
            return "the disk is read-only: set FER_HOME to a folder you can write, or make this one writable"
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def readable(source: Path) -> Iterator[None]:
    """Turn an ``OSError`` met while reading ``source`` into a :class:`DataError` that names it."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot read {source}: {error.strerror or error}; check the path and its permissions"
        ) from error


@contextmanager
def fresh_folder(target: Path, may_replace: Callable[[Path], bool] = lambda old: True) -> Iterator[Path]:
    """An empty folder beside ``target`` that takes its place when the block ends well and vanishes when it does not.

    What writers that were killed left is cleared first.  ``may_replace`` says whether what lies at ``target`` may go;
    when it may not, FileExistsError is raised before anything is written.  Files that must outlast a power failure are
    written with :func:`write_synced`.  Two writers at a time need a lock.  Raises :class:`DataError` when the disk
    refuses.
    """
    work = _neighbour(target)
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        settle(target)
        shutil.rmtree(work, ignore_errors=True)
    if target.exists() and not may_replace(target):
        raise FileExistsError(target)
    with explained(target):
        work.mkdir()
    try:
        yield work
        with explained(target):
            _sync_folder(work)
            if target.is_dir():  # a folder with content can't be renamed over, so the old one steps aside first
                os.replace(target, previous(target))
            os.replace(work, target)
            _sync_folder(target.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        settle(target)


def previous(target: Path) -> Path:
    """Where the old folder stands between the two renames: what a reader uses when a writer was killed just there."""
    return target.parent / f".{target.name}.previous"


def settle(target: Path) -> None:
    """Clear what killed writers of ``target`` left beside it, and put an old folder back that they had moved aside."""
    if previous(target).is_dir():
        if target.exists():
            shutil.rmtree(previous(target))
        else:
            os.replace(previous(target), target)
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
        if not _alive(left.name.split(".")[-2]):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


@contextmanager
def fresh_file(target: Path) -> Iterator[Path]:
    """A temporary path beside ``target``; what is written there is synced and renamed onto ``target`` at the end."""
    work = _neighbour(target)
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        settle(target)
    try:
        with explained(target):
            yield work
            with open(work, "rb+") as handle:
                os.fsync(handle.fileno())
            os.replace(work, target)
    finally:
        work.unlink(missing_ok=True)


def write_synced(file: Path, content: bytes) -> None:
    """Write and fsync one file.  Raises :class:`DataError` when the disk refuses."""
    with explained(file), open(file, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def write_json(target: Path, value: Any) -> Path:
    """``value`` as UTF-8 JSON, whole or not at all; returns ``target``."""
    with fresh_file(target) as work:
        work.write_text(json_text(value), encoding="utf-8")
    return target


def json_text(value: Any) -> str:
    """``value`` as indented JSON with a final newline.

    Paths, NumPy scalars and arrays and pydantic models are written as what they hold; NaN and infinities raise
    ``ValueError``, anything else ``TypeError``.
    """
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=_plain) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return value.as_posix()
    if hasattr(value, "tolist"):  # NumPy
        return value.tolist()
    if hasattr(value, "model_dump"):  # pydantic
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _neighbour(target: Path) -> Path:
    return target.parent / f".{target.name}.{os.getpid()}.partial"


def _alive(pid: str) -> bool:
    import psutil

    return pid.isdigit() and psutil.pid_exists(int(pid))


def _sync_folder(path: Path) -> None:
    if os.name == "posix":  # Windows has no handle on a folder to sync
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
