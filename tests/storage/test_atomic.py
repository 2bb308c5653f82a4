"""Atomic writes: a folder or file is complete or absent, however its writer ends."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fer_lib.errors import DataError, disk_trouble
from fer_lib.storage import atomic
from fer_lib.storage.atomic import (
    explained,
    fresh_file,
    fresh_folder,
    previous,
    settle,
    write_json,
    write_synced,
)

DEAD = 999999999  # above any process id


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def fill(target, text, **options):
    with fresh_folder(target, **options) as work:
        assert names(work) == [] and not (target / text).exists()
        write_synced(work / text, b"x")


def test_a_folder_is_created_and_replaced_atomically(tmp_path):
    target = tmp_path / "deep" / "out"
    fill(target, "one")
    fill(target, "two")
    assert names(target) == ["two"] and names(target.parent) == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failing_block_keeps_the_old_folder(tmp_path, error):
    target = tmp_path / "out"
    fill(target, "one")
    with pytest.raises(error), fresh_folder(target) as work:
        (work / "half").write_text("half")
        raise error
    assert names(target) == ["one"] and names(tmp_path) == ["out"]


def test_a_failing_rename_restores_the_old_folder(tmp_path, monkeypatch):
    target = tmp_path / "out"
    fill(target, "one")
    real = os.replace

    def fails(source, destination):
        if destination == target and ".partial" in str(source):
            raise PermissionError(13, "Permission denied")
        real(source, destination)

    monkeypatch.setattr(atomic.os, "replace", fails)
    with pytest.raises(DataError, match="read-only for this user"):
        fill(target, "two")
    assert names(target) == ["one"] and names(tmp_path) == ["out"]


def test_a_folder_that_may_not_be_replaced_is_untouched(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine").write_text("mine")
    with pytest.raises(FileExistsError):
        fill(tmp_path / "photos", "x", may_replace=lambda old: (old / "bundle.json").exists())
    assert names(tmp_path / "photos") == ["mine"] and names(tmp_path) == ["photos"]


def test_a_file_at_the_folders_path_is_untouched(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(DataError, match="a file stands where a folder should be"):
        fill(tmp_path / "out", "x")
    assert (tmp_path / "out").read_text() == "mine" and names(tmp_path) == ["out"]


def test_settle_removes_files_of_dead_writers_and_keeps_those_of_living_ones(tmp_path):
    target = tmp_path / "o[u]t"
    fill(target, "one")
    os.replace(target, previous(target))  # killed between its two renames
    for pid in (DEAD, os.getppid()):
        (tmp_path / f".{target.name}.{pid}.partial").mkdir()
    (tmp_path / f".other.{DEAD}.partial").mkdir()
    settle(target)
    assert names(target) == ["one"]
    assert names(tmp_path) == sorted([target.name, f".{target.name}.{os.getppid()}.partial", f".other.{DEAD}.partial"])
    fill(previous(target), "old")  # killed after both renames
    settle(target)
    assert names(target) == ["one"] and not previous(target).exists()


def test_the_next_writer_removes_what_a_killed_process_left(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from fer_lib.storage.atomic import fresh_folder\n"
        "with fresh_folder(Path(sys.argv[1])) as work:\n"
        "    (work / 'half').write_text('half'); os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    target = tmp_path / "out"
    fill(target, "one")
    assert subprocess.run([sys.executable, "-c", code, str(target)]).returncode != 0
    assert names(target) == ["one"] and len(names(tmp_path)) == 2
    fill(target, "two")
    assert names(target) == ["two"] and names(tmp_path) == ["out"]


def test_a_full_disk_is_reported_and_the_old_files_are_kept(tmp_path, monkeypatch):
    fill(tmp_path / "out", "one")
    write_json(tmp_path / "a.json", {"step": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(DataError, match="No space left on device .*free some space"):
        fill(tmp_path / "out", "two")
    with pytest.raises(DataError, match=r"a\.json: No space"):
        write_json(tmp_path / "a.json", {"step": 2})
    assert names(tmp_path / "out") == ["one"] and json.loads((tmp_path / "a.json").read_text()) == {"step": 1}
    assert names(tmp_path) == ["a.json", "out"]


def test_a_failing_write_keeps_the_old_file(tmp_path):
    target = tmp_path / "deep" / "a.json"
    write_json(target, {"é": [1, 2]})
    assert target.read_text(encoding="utf-8") == '{\n  "é": [\n    1,\n    2\n  ]\n}\n'
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(target, bad)
    with pytest.raises(KeyboardInterrupt), fresh_file(target) as work:
        work.write_text("half")
        raise KeyboardInterrupt
    (target.parent / f".a.json.{DEAD}.partial").write_text("left by a writer that was killed")
    write_json(target, 5)
    assert target.read_text() == "5\n" and names(target.parent) == ["a.json"]


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
def test_no_writer_follows_a_link(tmp_path, monkeypatch):
    target, victim = tmp_path / "out" / "a.json", tmp_path / "victim"
    target.parent.mkdir()
    victim.write_text("mine")

    def link(file):
        file.unlink(missing_ok=True)
        file.symlink_to(victim)

    link(target)
    link(target.with_name(f".a.json.{os.getpid()}.partial"))  # before the write
    write_json(target, 5)
    assert target.read_text() == "5\n" and not target.is_symlink() and names(target.parent) == ["a.json"]
    with pytest.raises(DataError, match="cannot write .*a.json.*symbolic link.*remove it"), fresh_file(target) as work:
        link(work)  # while the block runs
    link(target.with_name("b"))
    with pytest.raises(DataError, match="cannot write .*b: .*symbolic link.*remove it"):
        write_synced(target.with_name("b"), b"x")
    monkeypatch.setattr(Path, "unlink", lambda path, missing_ok=False: None)  # after the look for one
    target.with_name(f".c.json.{os.getpid()}.partial").symlink_to(victim)
    with pytest.raises(DataError, match="cannot write .*c.json"):
        write_json(target.with_name("c.json"), 5)
    assert victim.read_text() == "mine" and target.read_text() == "5\n"


def test_a_file_is_synced_then_renamed_then_its_folder_is_synced(tmp_path, disk_calls):
    expected = ["fsync a.json", "rename a.json", "fsync ."]
    for value in ([1] * 5000, [2]):  # a new file, and one that replaces it
        write_json(tmp_path / "a.json", value)
        assert disk_calls(tmp_path) == expected
    with fresh_file(tmp_path / "a.json") as work:
        work.write_text("x" * 5000)
    assert disk_calls(tmp_path) == expected


def test_a_folder_and_its_files_are_synced_before_the_rename(tmp_path, disk_calls):
    fill(tmp_path / "out", "one")
    written, placed = ["fsync out/one", "fsync out"], ["rename out", "fsync ."]
    assert disk_calls(tmp_path) == written + placed
    fill(tmp_path / "out", "two")
    written[0] = "fsync out/two"
    assert disk_calls(tmp_path) == [*written, "rename .out.previous", *placed]


def test_write_synced_syncs_once(tmp_path, disk_calls):
    write_synced(tmp_path / "a", b"x" * 100)
    assert disk_calls(tmp_path) == ["fsync a"]


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (OSError(28, "No space left on device"), "free some space and give the same command again"),
        (OSError(30, "Read-only file system"), "read-only: set FER_HOME"),
        (RuntimeError("(sqlite3.OperationalError) database or disk is full"), "free some space"),
        (
            RuntimeError("(sqlite3.OperationalError) attempt to write a readonly database"),
            "deleted or moved meanwhile, or is read-only",
        ),
        (OSError(2, "No such file or directory"), None),
        (RuntimeError("something else"), None),
    ],
)
def test_disk_trouble_is_found_in_the_chain_of_causes(error, hint):
    outer = ValueError("cannot log")
    outer.__cause__ = KeyError("in between")
    outer.__cause__.__context__ = error
    for found in (disk_trouble(error), disk_trouble(outer)):
        assert found is None if hint is None else hint in found


@pytest.mark.parametrize(
    ("number", "hint"), [(28, "is full"), (13, "read-only"), (20, "a file stands where"), (5, "repair this one")]
)
def test_explained_names_the_path_and_the_next_step(tmp_path, number, hint):
    with pytest.raises(DataError, match=f"cannot write {tmp_path}: .*{hint}"), explained(tmp_path):
        raise OSError(number, os.strerror(number))
