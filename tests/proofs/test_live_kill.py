"""``kill -9`` of a running session loses its last second at most, and its run is ended by the next command; Ctrl+C,
once or twice, and SIGTERM lose nothing."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from road import command, environment, make_home

from fer_lib.live.recording import recorded_frames
from fer_lib.live.session_files import read_faces, read_frames, read_session
from fer_lib.live.synthetic_session import Moment, render_frames

FPS = 50.0


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("live") / "home")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Ten minutes of 50 frames a second, of a few images over and over."""
    import cv2

    images = render_frames(1337, [Moment(6, 0.0, -1)] * 20)[0]
    file = tmp_path_factory.mktemp("clip") / "long.avi"
    video = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), FPS, (208, 160))
    for i in range(30_000):
        video.write(images[i % 20][..., ::-1])
    video.release()
    return file


def begun(home, clip, out, record="none"):
    """The process of a headless session whose first rows are on disk."""
    words = ("live", "--headless", "--source", str(clip), "--paced", "--model", "packaged", "--detector", "haar",
             "--record", record, "--output", str(out))  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "fer_lib.cli.main", *words], cwd=home, env=environment(home),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    until = time.monotonic() + 120
    while not (out / "per_frame.csv").is_file() or len((out / "per_frame.csv").read_bytes().splitlines()) < 2:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.005)
    return process


@pytest.mark.parametrize(("seconds", "record"), [(2.0, "none"), (3.3, "none"), (4.1, "raw"), (5.7, "raw")])
def test_a_kill_loses_a_second_at_most(home, clip, tmp_path, seconds, record):
    out = tmp_path / "s"
    process = begun(home, clip, out, record)
    time.sleep(seconds)
    before = len(read_frames(out).frame_index)  # what is on disk now cannot be lost
    at = time.monotonic()
    psutil.Process(process.pid).kill()
    process.wait()
    frames = read_frames(out)
    count = len(frames.frame_index)
    assert count >= before and frames.frame_index.tolist() == list(range(count)) and frames.truncated <= 1
    lasted = seconds + (time.monotonic() - at)
    assert count / FPS >= lasted - 1.0 - 0.3, "paced: a second of media is a second of time"
    assert len(read_faces(out)) <= count and read_session(out)["end"] == "it was killed, or still runs"
    events = (out / "events.csv").read_text()
    assert events.startswith("label,") and json.loads((out / "thresholds.json").read_text())["vote_window"] == 15
    if record == "raw":
        found = [index for index, image in recorded_frames(out) if image.shape == (160, 208, 3)]
        assert found == list(range(len(found))) and len(found) / FPS >= lasted - 2.0
        assert np.diff(found).min() == 1


def test_the_run_of_a_killed_session_is_ended(home, tmp_path):
    ended = command("fer_lib.cli.main", "runs", "reap", home=home, cwd=home)
    assert ended.code == 0
    listed = command("fer_lib.cli.main", "runs", home=home, cwd=home)
    assert "live" in listed.out and "RUNNING" not in listed.out and "dead" not in listed.out


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGINT] * 2, [signal.SIGTERM]], ids=["c", "cc", "term"])
def test_a_session_that_is_asked_to_end_closes_its_logs(home, clip, tmp_path, signals):
    process = begun(home, clip, tmp_path / "s", "raw")
    for one in signals:
        time.sleep(0.1)
        process.send_signal(one)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 0 and "written:" in said and "Traceback" not in said, said
    about, frames = read_session(tmp_path / "s"), read_frames(tmp_path / "s")
    assert about["end"] == "it was over or ended by hand" and about["frames"] == len(frames.frame_index)
    assert frames.truncated == 0 and about["recorded"]["raw.mkv"]["frames"] == about["frames"]
