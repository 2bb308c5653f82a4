"""Run locks: a second process is refused with the owner's name, and a crash leaves nothing to unlock."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from fer_lib.errors import DataError, FerError
from fer_lib.storage import locks
from fer_lib.storage.locks import RunLock, raise_if_locked, read_owner

LOCKING = """
import sys, time
from pathlib import Path
from fer_lib.storage.locks import RunLock
lock = RunLock(Path(sys.argv[1]), "phase 'a'")
lock.describe(run_id="0123abcd")
print("locked", flush=True)
time.sleep(60)
"""


@pytest.fixture
def lock(tmp_path):
    return tmp_path / ".lock"


@pytest.fixture
def other(lock):
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", LOCKING, str(lock)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_refused_with_the_owner_of_the_lock(lock, other):
    began = time.monotonic()
    with pytest.raises(FerError) as refused:
        RunLock(lock, f"phase 'a' in {lock.parent}")
    assert time.monotonic() - began < 0.9
    message = str(refused.value)
    assert message.startswith(f"phase 'a' in {lock.parent} is being run by another process (pid {other.pid}; host ")
    user = re.search(rf"host {re.escape(socket.gethostname())}; user (\S+); since (\S+);", message)
    assert user and user[1] and abs(time.time() - os.path.getmtime(lock)) < 60
    assert "run_id 0123abcd" in message and f"command {sys.executable} -c" in message
    assert message.endswith("give the same command again; nothing has to be unlocked")
    with pytest.raises(FerError, match=f"pid {other.pid}; host"):
        raise_if_locked(lock, "phase 'a'")


def test_a_killed_process_leaves_no_lock(lock, other):
    other.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
    other.wait()
    assert lock.with_name(".lock.holder.json").is_file(), "the owner file of the killed process"
    raise_if_locked(lock, "phase 'a'")
    with RunLock(lock, "phase 'a'"):
        assert read_owner(lock)["pid"] == os.getpid() and "run_id" not in read_owner(lock)
    assert not lock.with_name(".lock.holder.json").exists()
    raise_if_locked(lock, "phase 'a'")


@pytest.mark.parametrize("left", ['{"pid": ', "", "[]", "{}"])
def test_a_lock_without_a_readable_owner_is_still_held(lock, left):
    with RunLock(lock, "phase 'a'"):
        lock.with_name(".lock.holder.json").write_text(left)
        with pytest.raises(FerError, match=r"another process \(which one is not known yet\)"):
            raise_if_locked(lock, "phase 'a'")


def test_a_short_check_of_the_lock_refuses_no_new_owner(lock, monkeypatch):
    check = locks.FileLock(lock)
    check.acquire()
    began = time.monotonic()

    def sleep(seconds, real=time.sleep):
        check.release()
        real(seconds)

    monkeypatch.setattr(time, "sleep", sleep)
    with RunLock(lock, "phase 'a'"):
        assert time.monotonic() - began < 0.3


def test_the_lock_is_released_when_the_owner_file_cannot_be_written(lock, monkeypatch):
    def full(*_):
        raise DataError("cannot write: the disk is full")

    with monkeypatch.context() as m:
        m.setattr(locks, "write_json", full)
        with pytest.raises(DataError, match="is full"):
            RunLock(lock, "phase 'a'")
    with RunLock(lock, "phase 'a'") as run_lock:
        run_lock.release()
        raise_if_locked(lock, "phase 'a'")
