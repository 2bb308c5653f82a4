"""Atomic writes: a file or folder is complete or absent, also after a kill or a power failure.

Writers fill a temporary path beside the target, sync it and rename it over the target.
"""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from fer_lib.errors import DataError, os_error_hint
from fer_lib.storage.json_files import json_text
from fer_lib.storage.paths import mlruns


@contextmanager
def explained(target: Path) -> Iterator[None]:
    """Turn an OSError raised while writing ``target`` into a :class:`DataError` with the next step."""
    try:
        yield
    except OSError as error:
        hint = os_error_hint(error)
        raise DataError(f"cannot write {target}: {error.strerror or error} ({hint})") from error


@contextmanager
def fresh_folder(target: Path, may_replace: Callable[[Path], bool] = lambda old: True) -> Iterator[Path]:
    """Yield an empty folder that replaces ``target`` when the block succeeds and is removed when it fails.

    Leftovers of killed writers are removed first.  Write files with :func:`write_synced` so that they survive a power
    failure.  Concurrent writers need a lock.

    Raises:
        FileExistsError: ``may_replace(target)`` is false; nothing was written.
        DataError: the disk is full or read-only, or the folder cannot be written for another reason.
    """
    work = _neighbour(target)
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        settle(target)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
    try:
        if target.exists() and not may_replace(target):
            raise FileExistsError(target)
        yield work
        with explained(target):
            sync_folder(work)
            if target.is_dir():  # rename cannot replace a folder that has content
                os.replace(target, previous(target))
            os.replace(work, target)
            sync_folder(target.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        settle(target)


def cached_folder(name: str, write: Callable[[Path], Any]) -> Path:
    """``mlruns/cache/<name>``, made by ``write(folder)`` when absent, by one of the processes that start together."""
    folder = mlruns() / "cache" / name
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.with_name(f"{name}.lock")):
        settle(folder)
        if not folder.is_dir():
            write(folder)
    return folder


def previous(target: Path) -> Path:
    """Path of the old folder between the two renames; readers use it when a writer was killed there."""
    return target.parent / f".{target.name}.previous"


def settle(target: Path) -> None:
    """Remove temporary paths of killed writers of ``target`` and restore an old folder that they moved aside."""
    if previous(target).is_dir():
        if target.exists():
            shutil.rmtree(previous(target))
        else:
            os.replace(previous(target), target)
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
        pid = leftover.name.split(".")[-2]
        if not (pid.isdigit() and psutil.pid_exists(int(pid))):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)


@contextmanager
def fresh_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; its file is synced and renamed over ``target`` at the end.

    No link of that name is written through: one that is there is removed, one that appears later is an error.
    Raises DataError when the disk is full or read-only, or the file cannot be written for another reason.
    """
    work = _neighbour(target)
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        settle(target)
        work.unlink(missing_ok=True)
        try:
            yield work
            with open(work, "rb+", opener=_open_no_link) as handle:
                os.fsync(handle.fileno())
            os.replace(work, target)
            sync_folder(target.parent)
        finally:
            work.unlink(missing_ok=True)


def write_synced(file: Path, content: bytes) -> None:
    """Write and fsync one file.  Raises DataError when it cannot be written, or is a symbolic link."""
    with explained(file), open(file, "wb", opener=_open_no_link) as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def append_synced(file: Path, *parts: Any) -> None:
    """Append bytes or arrays to a file and fsync it.  Raises DataError when it cannot be written."""
    with explained(file), open(file, "ab") as stream:
        stream.writelines(parts)
        stream.flush()
        os.fsync(stream.fileno())


def write_text(target: Path, text: str) -> Path:
    """Write ``text`` as UTF-8 atomically, with its line ends as they are; returns ``target``."""
    with fresh_file(target) as work, open(work, "x", encoding="utf-8", newline="") as stream:  # x follows no link
        stream.write(text)
    return target


def write_json(target: Path, value: Any) -> Path:
    """Write ``value`` as UTF-8 JSON atomically (:func:`json_text`); returns ``target``."""
    return write_text(target, json_text(value))


def _open_no_link(file: str | Path, flags: int) -> int:
    """``os.open``; OSError for a symbolic link, where the system can tell (not on Windows)."""
    return os.open(file, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _neighbour(target: Path) -> Path:
    return target.parent / f".{target.name}.{os.getpid()}.partial"


def sync_folder(path: Path) -> None:
    """Fsync a folder, so that a rename in it survives a power failure."""
    if os.name == "posix":  # Windows cannot open a folder for fsync
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
