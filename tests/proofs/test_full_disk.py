"""A home on a disk that fills up while a teacher trains: the command says so, and the same command goes on later."""

import json
import os
import subprocess
import sys
import time

import pytest
from road import command, environment, make_home
from victim import RUN_FILE, WORDS

TEACHER_ONLY = RUN_FILE.split("  softlabels")[0]


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=120m", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_ends_the_command_in_plain_words_and_the_same_command_goes_on(disk):
    home = make_home(disk / "home")
    (home / "params" / "killed.yaml").write_text(TEACHER_ONLY.format(minutes=0.02, threads=1))
    process = subprocess.Popen(
        [sys.executable, "-m", *WORDS], cwd=home, env=environment(home), stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not list(home.glob("mlruns/phases/teacher-*/checkpoint_last/state.json")):
        assert process.poll() is None
        time.sleep(0.05)
    filler = disk / "filler"
    with open(filler, "wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:  # full
                pass
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 1 and "Traceback" not in said, said
    assert "disk is full: free some space and give the same command again" in said
    [state] = home.glob("mlruns/phases/teacher-*/checkpoint_last/state.json")
    reached = state.stat().st_mtime
    os.unlink(filler)
    ended = command(*WORDS, home=home, cwd=home)
    assert ended.code == 0, ended.out + ended.err
    [folder] = home.glob("mlruns/phases/teacher-*")
    report = json.loads((folder / "alignmentreport.json").read_text())
    assert report["init"]["resume"] is True and (folder / "done.json").stat().st_mtime > reached
    shown = command("fer_lib.cli.main", "runs", home=home, cwd=home)
    assert "RUNNING" not in shown.out and "dead" not in shown.out
