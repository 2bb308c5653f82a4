"""Locks on folders: an OS lock that a process holds while it lives, and a file beside it that names the process.

The operating system releases the lock when the process ends, however it ends, so nobody has to unlock anything.  The
owner stands in a second file because Windows cannot read a locked file.  A crash can leave that file behind, so it
counts only while the lock is held.
"""

from __future__ import annotations

import re
import shlex
import socket
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from fer_lib.errors import FerError
from fer_lib.storage.atomic import write_json
from fer_lib.storage.json_files import now, try_read_json

_TIMEOUT = 0.3  # seconds: is_locked holds a lock for less, and a new owner writes its file in less


class RunLock(AbstractContextManager):
    """A lock that this process holds until :meth:`release` or the end of the ``with`` block."""

    def __init__(self, lock: Path, what: str):
        """Acquire ``lock`` at once; its folder must exist.

        Raises:
            FerError: another process holds it.  The message begins with ``what`` (``phase 'a' in /folder``) and names
                the owner and the next step.
            OSError: the lock file cannot be opened.
            DataError: the owner file cannot be written.
        """
        self._lock = FileLock(lock, timeout=_TIMEOUT, poll_interval=0.02, thread_local=False)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise FerError(_locked_message(lock, what)) from error
        self._owner_file, self._owner = _owner_path(lock), _this_process()
        try:
            write_json(self._owner_file, self._owner)
        except BaseException:
            self._lock.release()
            raise

    def describe(self, **facts: Any) -> None:
        """Add facts (``run_id``) to the owner file, which other processes read."""
        self._owner |= facts
        write_json(self._owner_file, self._owner)

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        if self._lock.is_locked:
            self._owner_file.unlink(missing_ok=True)
            self._lock.release()

    def __exit__(self, *_) -> None:
        self.release()


def is_locked(path: Path) -> bool:
    """Whether a living process holds this lock file."""
    if not path.parent.is_dir():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def raise_if_locked(lock: Path, what: str) -> None:
    """Raise FerError naming the owner when a living process holds ``lock``."""
    if is_locked(lock):
        raise FerError(_locked_message(lock, what))


def read_owner(lock: Path) -> dict[str, Any]:
    """Facts about the owner of a held ``lock``: pid, host, user, since, run_id, command; {} before they are written."""
    owner = try_read_json(_owner_path(lock))
    return owner if isinstance(owner, dict) else {}


def _locked_message(lock: Path, what: str) -> str:
    owner = read_owner(lock)
    names = ("pid", "host", "user", "since", "run_id", "command")
    facts = [f"{name} {owner[name]}" for name in names if owner.get(name)]
    return (
        f"{what} is being run by another process ({'; '.join(facts) or 'which one is not known yet'}): wait for it, or "
        "end it and give the same command again; nothing has to be unlocked"
    )


def _owner_path(lock: Path) -> Path:
    return lock.with_name(f"{lock.name}.holder.json")


def _this_process() -> dict[str, Any]:
    own = psutil.Process()
    return {
        "pid": own.pid, "host": socket.gethostname(), "user": own.username(), "since": now(), "command": _command(own),
    }  # fmt: skip


def _command(own: psutil.Process) -> str:
    """The command line of a process; for a notebook's kernel, that of the program that started it."""
    try:
        kernel = re.compile("ipykernel|kernel_server")
        starter = own
        while any(map(kernel.search, starter.cmdline())) and starter.parent():
            starter = starter.parent()
        words = shlex.join(starter.cmdline())
        return words if starter == own else f"{words} (pid {starter.pid})"
    except psutil.Error:  # the process belongs to another user
        return ""
