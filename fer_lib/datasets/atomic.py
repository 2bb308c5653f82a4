"""Writing that is whole or absent: a temporary neighbour, fsync, rename; and disk trouble told in plain words."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fer_lib.errors import DataError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CLOSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_NOT_A_FOLDER = {errno.EEXIST, errno.ENOTDIR}
_ASIDE = "replaced"


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
def fresh_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside ``target`` that takes its place when the block ends well and vanishes when it does not.

    A folder that stood there before is replaced only then.  Raises :class:`DataError` when the disk refuses.
    """
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    try:
        work.chmod(0o777 & ~_umask())  # mkdtemp's 0700 would follow the folder to its final place
        yield work
        with explained(target):
            if target.is_dir():
                aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
                os.replace(target, aside / _ASIDE)
                os.replace(work, target)
                shutil.rmtree(aside)
            else:
                os.replace(work, target)
    finally:
        if work.exists():
            shutil.rmtree(work)


def settle(target: Path) -> None:
    """Clear what killed writers of ``target`` left beside it; call it under the lock that guards ``target``.

    A writer killed between its two renames left no ``target``: the folder it had moved aside goes back.
    """
    for path in target.parent.glob(f".{target.name}.*.partial"):
        if (path / _ASIDE).is_dir() and not target.exists():
            os.replace(path / _ASIDE, target)
        shutil.rmtree(path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def fresh_file(target: Path) -> Iterator[Path]:
    """A temporary path beside ``target``; what is written there is synced and renamed onto ``target`` at the end."""
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        work = target.parent / f".{target.name}.{os.getpid()}.partial"
    try:
        with explained(target):
            yield work
            with open(work, "rb+") as handle:
                os.fsync(handle.fileno())
            os.replace(work, target)
    finally:
        work.unlink(missing_ok=True)


def write_json(target: Path, value: Any) -> None:
    """``value`` as UTF-8 JSON, whole or not at all."""
    with fresh_file(target) as work:
        work.write_text(json_text(value), encoding="utf-8")


def json_text(value: Any) -> str:
    """``value`` as indented JSON with a final newline; NaN and infinities raise ``ValueError``."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
