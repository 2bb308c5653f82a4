"""Who may write a folder: an OS lock that the living process holds, and beside it a file that says who that is.

The system lets go of the lock however the process dies, so nothing ever has to be unlocked.  The holder is a file of
its own because a locked file cannot be read on Windows; what a crash leaves in it is looked at only while the lock is
held, and believed only while the process it names is alive.
"""

from __future__ import annotations

import json
import shlex
import socket
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fer_lib.errors import FerError
from fer_lib.storage.atomic import explained, write_json
from fer_lib.storage.json_files import now

_LOOK = 0.3  # seconds: a look at a lock takes it for less, and so does a new holder to say who it is


class RunLock:
    """A lock held by this process until :meth:`release` (or the end of the ``with`` block)."""

    def __init__(self, lock: Path, what: str):
        """Take ``lock``, whose folder exists, at once.

        Raises:
            FerError: another process holds it; ``what`` (``phase 'a' in /folder``) opens the message, which names
                the holder and the next step.
            DataError: the disk refuses.
        """
        self._lock = FileLock(lock, timeout=_LOOK, poll_interval=0.02, thread_local=False)
        with explained(lock):
            try:
                self._lock.acquire()
            except Timeout as error:  # an OSError too
                raise FerError(_refusal(lock, what)) from error
        self._file, self._facts = _beside(lock), _myself()
        try:
            write_json(self._file, self._facts)
        except BaseException:
            self._lock.release()
            raise

    def tell(self, **facts: Any) -> None:
        """Add to what a process that is refused will read (``run_id``)."""
        self._facts |= facts
        write_json(self._file, self._facts)

    def release(self) -> None:
        """Let go; nothing happens the second time."""
        if self._lock.is_locked:
            self._file.unlink(missing_ok=True)
            self._lock.release()

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_) -> None:
        self.release()


def refuse_if_held(lock: Path, what: str) -> None:
    """FerError that names the holder when a living process holds ``lock``."""
    if lock_is_held(lock):
        raise FerError(_refusal(lock, what))


def holder(lock: Path) -> dict[str, Any] | None:
    """What the holder of a held ``lock`` says: pid, host, user, since, command, run_id.

    None when it has not said so within a moment: the file of a holder that died is never taken for the next one's.
    """
    until = time.monotonic() + _LOOK
    while not _believable(found := _read(_beside(lock))):
        if time.monotonic() > until:
            return None
        time.sleep(0.02)
    return found


def _refusal(lock: Path, what: str) -> str:
    said = holder(lock)
    who = "it has not said which one"
    if said is not None:
        parts = [f"pid {said['pid']} on {said['host']}, user {said['user']}, since {said['since']}"]
        parts += [f"MLflow run {said['run_id']}"] if said.get("run_id") else []
        parts += [f"command: {said['command']}"] if said["command"] else []
        who = "; ".join(parts)
    return (
        f"{what} is being run by another process ({who}): wait for it, or end it and give the same command again; "
        "nothing has to be unlocked"
    )


def _beside(lock: Path) -> Path:
    return lock.with_name(f"{lock.name}.holder.json")


def _read(file: Path) -> Any:
    """The file's content, None when it is not (or not yet) there."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # absent, just being replaced, or a crash of the machine left it empty
        return None


def _believable(said: Any) -> bool:
    """Whether the process that wrote this is alive; one on another host is taken at its word."""
    import psutil

    if not isinstance(said, dict) or not {"pid", "host", "user", "since", "command", "born"} <= said.keys():
        return False
    if said["host"] != socket.gethostname():
        return True
    try:
        return abs(psutil.Process(said["pid"]).create_time() - said["born"]) < 2  # a pid may be given out again
    except psutil.Error:
        return False


def _myself() -> dict[str, Any]:
    import psutil

    own = psutil.Process()
    return {
        "pid": own.pid, "host": socket.gethostname(), "user": own.username(), "since": now(),
        "command": _command(own), "born": own.create_time(),
    }  # fmt: skip


def _command(own) -> str:
    """The command line that a person would know: of a notebook's kernel, that of the program that started it."""
    import psutil

    try:
        words = own.cmdline()
        parent = own.parent()
        if any("ipykernel" in word for word in words) and parent is not None:
            return f"{shlex.join(parent.cmdline())} (pid {parent.pid})"
        return shlex.join(words)
    except psutil.Error:  # another user's process may not be looked at
        return ""


def lock_is_held(path: Path) -> bool:
    """Whether a living process holds this lock file: the system lets go of it however that process dies."""
    if not path.parent.is_dir():
        return False
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    lock.release()
    return False
