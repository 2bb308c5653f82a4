"""Atomic writes: a file or folder is whole or absent, also after a kill or a power failure.

A temporary neighbour is written, synced and renamed over the target.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fer_lib.errors import DataError, os_error_hint


@contextmanager
def explained(target: Path) -> Iterator[None]:
    """Turn an ``OSError`` met while writing ``target`` into a :class:`DataError` that says what to do next."""
    try:
        yield
    except OSError as error:
        hint = os_error_hint(error)
        raise DataError(f"cannot write {target}: {error.strerror or error} ({hint})") from error


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
            sync_folder(work)
            if target.is_dir():  # a folder with content can't be renamed over, so the old one steps aside first
                os.replace(target, previous(target))
            os.replace(work, target)
            sync_folder(target.parent)
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
    """A temporary path beside ``target``; what is written there is synced and renamed onto ``target`` at the end.

    Raises :class:`DataError` when the disk refuses.
    """
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
            sync_folder(target.parent)
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


def sync_folder(path: Path) -> None:
    """Put a folder's list of names safely on the disk, which a rename needs as a file's content needs fsync."""
    if os.name == "posix":  # Windows has no handle on a folder to sync
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
