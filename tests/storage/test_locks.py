"""Who holds a run: a second process is refused at once and told by whom, and a crash leaves nothing to unlock."""

import json
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
from fer_lib.storage.locks import RunLock, holder, refuse_if_held

HOLDING = """
import sys, time
from pathlib import Path
from fer_lib.storage.locks import RunLock
hold = RunLock(Path(sys.argv[1]), "phase 'a'")
hold.tell(run_id="0123abcd")
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def lock(tmp_path):
    return tmp_path / ".lock"


@pytest.fixture
def other(lock):
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLDING, str(lock)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_refused_at_once_and_told_who_holds_it(lock, other):
    began = time.monotonic()
    with pytest.raises(FerError) as refused:
        RunLock(lock, f"phase 'a' in {lock.parent}")
    assert time.monotonic() - began < 0.9
    said = str(refused.value)
    assert said.startswith(f"phase 'a' in {lock.parent} is being run by another process (pid {other.pid} on ")
    user = re.search(rf"on {re.escape(socket.gethostname())}, user (\S+), since (\S+);", said)
    assert user and user[1] and abs(time.time() - os.path.getmtime(lock)) < 60
    assert "MLflow run 0123abcd" in said and f"command: {sys.executable} -c" in said
    assert said.endswith("give the same command again; nothing has to be unlocked")
    with pytest.raises(FerError, match=f"pid {other.pid} on"):
        refuse_if_held(lock, "phase 'a'")


def test_after_a_kill_nothing_has_to_be_unlocked(lock, other):
    other.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
    other.wait()
    assert lock.with_name(".lock.holder.json").is_file(), "what the crash left"
    refuse_if_held(lock, "phase 'a'")
    with RunLock(lock, "phase 'a'"):
        assert holder(lock)["pid"] == os.getpid() and "run_id" not in holder(lock)
    assert not lock.with_name(".lock.holder.json").exists()
    refuse_if_held(lock, "phase 'a'")


@pytest.mark.parametrize("left", ["gone", "another process of that number", "half", "nothing", "a list"])
def test_a_stale_holder_is_never_taken_for_the_living_one(lock, left, monkeypatch):
    """Between taking the lock and saying so, the file of the one before may still lie there."""
    with RunLock(lock, "phase 'a'"):
        file = lock.with_name(".lock.holder.json")
        mine = json.loads(file.read_text())
        old = {
            "gone": mine | {"pid": 999_999_999},
            "another process of that number": mine | {"born": mine["born"] - 60},
        }
        file.write_text({"half": '{"pid": ', "nothing": "", "a list": "[]"}.get(left) or json.dumps(old.get(left)))
        if left == "nothing":
            file.unlink()
        assert holder(lock) is None
        with pytest.raises(FerError, match=r"another process \(it has not said which one\)"):
            refuse_if_held(lock, "phase 'a'")
        monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")  # whose processes can't be looked at
        assert (holder(lock) is not None) == (left in old)


def test_a_look_at_a_lock_does_not_refuse_who_comes_just_then(lock, monkeypatch):
    looked = locks.FileLock(lock)
    looked.acquire()
    began = time.monotonic()

    def sleep(seconds, real=time.sleep):
        looked.release()
        real(seconds)

    monkeypatch.setattr(time, "sleep", sleep)
    with RunLock(lock, "phase 'a'"):
        assert time.monotonic() - began < 0.3


def test_a_holder_that_cannot_be_written_lets_go(lock, monkeypatch):
    def full(*_):
        raise DataError("cannot write: the disk is full")

    with monkeypatch.context() as m:
        m.setattr(locks, "write_json", full)
        with pytest.raises(DataError, match="is full"):
            RunLock(lock, "phase 'a'")
    with RunLock(lock, "phase 'a'") as hold:
        hold.release()
        refuse_if_held(lock, "phase 'a'")
