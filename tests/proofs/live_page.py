"""The page of ``fer live --web`` in headless Chromium, before a fake camera or a film that the server plays.

``python tests/proofs/live_page.py [OUT]`` writes ``live_page.png``, of drawn faces, into OUT (docs/pictures).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import browser
import cv2
import numpy as np

from fer_lib.emotions import EMOTIONS
from fer_lib.live import synthetic_session

SIZE = (1280, 800)  # pixels of the page
FRAME, FACE, NEAR = (640, 480), 460, 0.55  # of the drawn camera's image: the share of it that is looked at
CAMERA_FPS = 30  # at which Chromium plays a file of JPEGs
YUNET = Path(__file__).resolve().parents[3] / "shared" / "data" / "models" / "face_detection_yunet_2023mar.onnx"


def write_camera(file: Path, images: list[np.ndarray], fps: float) -> Path:
    """uint8 RGB images of one size as the file of a fake camera, shown ``fps`` a second."""
    repeats = max(1, round(CAMERA_FPS / fps))
    with open(file, "wb") as stream:
        for image in images:
            stream.write(cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes() * repeats)
    return file


def drawn_film(file: Path, script: list[synthetic_session.Moment], seed: int) -> Path:
    """A drawn person, seen from near, as a video file."""
    with mock.patch.multiple(synthetic_session, SIZE=FRAME, SIDE=FACE):
        images, _ = synthetic_session.render_frames(seed, script)
    rows, columns = (slice(round(n * (1 - NEAR) / 2), round(n * (1 + NEAR) / 2)) for n in FRAME[::-1])
    video = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), synthetic_session.FPS, FRAME)
    for image in images:
        video.write(cv2.resize(image[rows, columns], FRAME)[..., ::-1])
    video.release()
    return file


def fake_camera(file: Path) -> tuple[str, ...]:
    """Chromium's flags for a camera that plays ``file``, which every page may use."""
    return ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
            f"--use-file-for-fake-video-capture={file}")  # fmt: skip


class Live:
    """``fer live --web`` in a process of its own; ``address`` with its key, what it ``said``, its ``folder``."""

    def __init__(self, home: Path, folder: Path, *options: str):
        yunet = ("--detector-model", str(YUNET)) if YUNET.is_file() and "--detector" not in options else ()
        command = [sys.executable, "-m", "fer_lib.cli.main", "live", "--web", "--no-open", "--model", "packaged",
                   "--output", str(folder), *yunet, *options]  # fmt: skip
        self.folder = folder
        self._log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(command, env=os.environ | {"FER_HOME": str(home)}, stdout=self._log,
                                        stderr=self._log)  # fmt: skip
        end = time.monotonic() + 120
        while "Live page: " not in self.said:
            if time.monotonic() > end or self.process.poll() is not None:
                raise RuntimeError(f"fer live --web did not start:\n{self.said}")
            time.sleep(0.1)
        self.address = self.said.partition("Live page: ")[2].split()[0]

    @property
    def said(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def end(self, number: int = signal.SIGINT) -> int:
        """Ctrl+C; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=60)


@contextlib.contextmanager
def live(home: Path, folder: Path, *options: str) -> Iterator[Live]:
    running = Live(home, folder, *options)
    try:
        yield running
    finally:
        running.end()


def open_page(tab: browser.Browser, address: str, size: tuple[int, int] = SIZE) -> None:
    """The page, once it is connected."""
    tab.resize(*size)
    tab.call("Page.navigate", url=address)
    tab.wait("document.getElementById('link') && document.getElementById('link').textContent == 'Connected'", 60)


def start_camera(tab: browser.Browser) -> None:
    tab.evaluate("document.getElementById('start').click()")
    tab.wait("document.querySelector('#bars .number').textContent.includes('%')", 60)


def shown(tab: browser.Browser) -> str:
    return tab.evaluate("document.getElementById('shown').textContent")


def main(out: Path, seed: int = 20, seconds: float = 61.0) -> None:
    """A drawn person for a minute; the labels are what that one means to show, given as somebody would give them."""
    script, given, now = synthetic_session.make_script(seed, rounds=4), -1, 0.0
    with tempfile.TemporaryDirectory() as folder:
        film = drawn_film(Path(folder) / "drawn_person.avi", script, seed)
        with live(Path(folder), Path(folder) / "session", "--source", str(film)) as page, browser.Browser() as tab:
            open_page(tab, page.address)
            while now < seconds or given < 0 or shown(tab) != EMOTIONS[given]:
                said = tab.evaluate("(document.querySelectorAll('#stats dd')[3] || {}).textContent || '0 s'")
                now = float(said.split()[0])
                meant = script[min(int(now * synthetic_session.FPS), len(script) - 1)].manual
                if meant != given:
                    key, given = str(meant + 1) if meant >= 0 else "c", meant
                    tab.press(key, text=key)
                time.sleep(0.05)
                if tab.evaluate("!document.getElementById('over').hidden"):
                    raise RuntimeError("the film is over, and the model never said what is shown: choose another seed")
            time.sleep(0.6)
            tab.picture(out / "live_page.png")
    print(f"wrote live_page.png in {out}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2] / "docs" / "pictures")
