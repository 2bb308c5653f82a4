"""A folder that appears whole or not at all, also when the process is killed or the power fails."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


@contextmanager
def replacing_folder(path: Path, may_replace: Callable[[Path], bool]) -> Iterator[Path]:
    """Give an empty folder to fill; on a clean exit it takes the place of `path`, on an error it is removed.

    Write its files with :func:`write_synced`.  `may_replace` says whether what lies at `path` may go; when it may not,
    FileExistsError is raised before anything is written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _settle(path)
    if path.exists() and not may_replace(path):
        raise FileExistsError(path)
    partial = path.parent / f".{path.name}.partial-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        yield partial
        _sync_dir(partial)
        if path.exists():  # a folder with content can't be renamed over, so the old one steps aside first
            path.rename(previous(path))
        partial.rename(path)
        _sync_dir(path.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if previous(path).is_dir():
        shutil.rmtree(previous(path))


def previous(path: Path) -> Path:
    """Where the old folder stands between the two renames: what a reader uses when a writer was killed just there."""
    return path.parent / f".{path.name}.previous"


def write_synced(file: Path, content: bytes) -> None:
    """Write and fsync one file."""
    with open(file, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_dir(path: Path) -> None:
    if os.name == "posix":  # Windows has no handle on a folder to sync
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _settle(path: Path) -> None:
    """Clear what writers that were killed left behind."""
    if previous(path).is_dir():
        if path.exists():
            shutil.rmtree(previous(path))
        else:
            previous(path).rename(path)
    for left in path.parent.glob(f".{path.name}.partial-*"):
        pid = left.name.rpartition("-")[2]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
