"""A real OpenCV window on a virtual screen: every key, a click on the label bar, the overlay, both ways to close it.

It skips without Xvfb, xdotool or a build of OpenCV with windows:
``apt-get install xvfb xdotool libgl1 libglib2.0-0``.
"""

import contextlib
import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn_window import TITLE

from fer_lib.emotions import EMOTIONS
from fer_lib.live.colours import RGB
from fer_lib.live.draw import HEIGHT, bar_height, bar_label

MISSING = [name for name in ("Xvfb", "xdotool") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not here: {', '.join(MISSING)} (apt-get install xvfb xdotool)"),
    pytest.mark.skipif(not cv2.currentUIFramework(), reason="this OpenCV was built without windows"),
]
START = {"label": -1, "source": "", "overlay": True, "ema_alpha": 0.7, "hysteresis_delta": 0.08, "vote_window": 15,
         "vote_min_count": 8}  # fmt: skip


@pytest.fixture(scope="module")
def screen():
    """An X display of its own, 1400 x 900; its name."""
    reads, writes = os.pipe()
    command = ["Xvfb", "-displayfd", str(writes), "-screen", "0", "1400x900x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=[writes], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(writes)
    with os.fdopen(reads) as said:
        number = said.readline().strip()
    assert number, "Xvfb did not start"
    yield f":{number}"
    server.terminate()
    server.wait(timeout=20)


class Shown:
    """The window of drawn_window.py on a screen."""

    def __init__(self, display: str, folder: Path):
        self.states, self.log = folder / "states.jsonl", folder / "log.txt"
        self.environment = {k: v for k, v in os.environ.items() if k != "WAYLAND_DISPLAY"} | {"DISPLAY": display}
        script = Path(__file__).with_name("drawn_window.py")
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(script), str(self.states)], env=self.environment, stdout=log, stderr=log
            )
        self.id = self.wait(lambda: self.tool("search", "--onlyvisible", "--name", TITLE, check=False).split())[-1]
        self.wait(lambda: self.place()[3] == HEIGHT)  # it has the size of its image once that is shown
        self.tool("windowfocus", "--sync", self.id)

    def tool(self, *words: str, check: bool = True) -> str:
        done = subprocess.run(["xdotool", *words], env=self.environment, capture_output=True, text=True, timeout=30)
        assert not check or done.returncode == 0, f"xdotool {' '.join(words)}: {done.stderr}"
        return done.stdout

    def wait(self, condition, seconds: float = 60):
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, self.log.read_text() + "".join(self.read_states())
            time.sleep(0.05)
        return found

    def place(self) -> tuple[int, int, int, int]:
        """x, y, width, height of the window on the screen."""
        said = self.tool("getwindowgeometry", "--shell", self.id)
        return tuple(int(re.search(rf"^{name}=(-?\d+)$", said, re.M)[1]) for name in ("X", "Y", "WIDTH", "HEIGHT"))

    def read_states(self) -> list[str]:
        return self.states.read_text().splitlines(keepends=True) if self.states.exists() else []

    def becomes(self, **changed) -> None:
        """Wait until the controls are START with these changed."""
        self.wait(lambda: (lines := self.read_states()) and json.loads(lines[-1]) == START | changed, 10)

    def press(self, key: str) -> None:
        self.tool("key", "--clearmodifiers", key)

    def click(self, x: int, y: int) -> None:
        left, top, _, _ = self.place()
        self.tool("mousemove", "--sync", str(left + x), str(top + y), "click", "1")

    def picture(self) -> np.ndarray:
        """What the screen shows of the window, uint8 RGB."""
        from PIL import ImageGrab

        left, top, width, height = self.place()
        pixels = ImageGrab.grab(xdisplay=self.environment["DISPLAY"]).convert("RGB")
        return np.asarray(pixels.crop((left, top, left + width, top + height)))

    def close_button(self) -> None:
        """What a window manager sends when its X is pressed."""
        x11 = ctypes.CDLL("libX11.so.6")
        x11.XOpenDisplay.restype = ctypes.c_void_p
        display = ctypes.c_void_p(x11.XOpenDisplay(self.environment["DISPLAY"].encode()))
        protocols, delete = (x11.XInternAtom(display, name, False) for name in (b"WM_PROTOCOLS", b"WM_DELETE_WINDOW"))
        # an XClientMessageEvent: type, serial, send_event, display, window, message_type, format, data
        event = (ctypes.c_long * 24)(33, 0, 0, display.value, int(self.id), protocols, 32, delete, 0)
        assert x11.XSendEvent(display, ctypes.c_ulong(int(self.id)), False, ctypes.c_long(0), event)
        x11.XCloseDisplay(display)

    def is_over(self) -> None:
        """It ends by itself, in order, and the window is gone."""
        assert self.process.wait(timeout=20) == 0, self.log.read_text()
        assert json.loads(self.read_states()[-1]) == {"ended": True, "over": True}
        assert not self.tool("search", "--name", TITLE, check=False).split()


@pytest.fixture
def shown(screen, tmp_path):
    window = Shown(screen, tmp_path)
    yield window
    with contextlib.suppress(ProcessLookupError):
        window.process.kill()
    window.process.wait(timeout=20)


def test_every_key_does_what_it_says_and_q_ends(shown):
    shown.becomes()
    for label in range(7):
        shown.press(str(label + 1))
        shown.becomes(label=label, source="key")
    shown.press("c")
    shown.becomes(source="key")
    for key, changed in (
        ("bracketleft", {"ema_alpha": 0.65}), ("bracketright", {}), ("minus", {"hysteresis_delta": 0.06}),
        ("equal", {}), ("v", {"vote_window": 13}), ("b", {}), ("n", {"vote_min_count": 7}), ("m", {}),
        ("o", {"overlay": False}), ("o", {}), ("Escape", {}), ("x", {}),
    ):  # fmt: skip
        shown.press(key)
        shown.becomes(source="key", **changed)
    shown.press("q")
    shown.is_over()


def test_a_click_on_each_segment_labels_and_a_second_one_clears(shown):
    _, _, width, height = shown.place()
    y = height - bar_height(height) // 2
    for label in range(7):
        x = (2 * label + 1) * width // 14
        assert bar_label(x, y, (height, width)) == label
        shown.click(x, y)
        shown.becomes(label=label, source="click")
    shown.click(x, height // 3)  # on the image: nothing
    shown.click(x, y)
    shown.becomes(source="click")
    shown.press("q")
    shown.is_over()


def test_the_screen_shows_picture_panel_and_the_label_in_the_bar(shown, tmp_path):
    from PIL import Image

    _, _, width, height = shown.place()
    shown.press("6")
    shown.becomes(label=5, source="key")
    top = height - bar_height(height)

    def chosen() -> bool:
        bar = shown.picture()[top:]
        segment = bar[:, 5 * width // 7 : 6 * width // 7]
        return (segment == RGB[5]).all(axis=2).mean() > 0.6

    shown.wait(chosen)
    seen = shown.picture()
    Image.fromarray(seen).save(tmp_path / "window.png")
    for label in range(len(EMOTIONS)):
        assert (seen[top:] == RGB[label]).all(axis=2).sum() > 100, EMOTIONS[label]
    shown.press("o")
    shown.wait(lambda: shown.place()[2] < width - 250)
    narrow = shown.place()[2]
    shown.click(narrow // 14, height - 5)  # the bar fills the narrower window
    shown.becomes(label=0, source="click", overlay=False)
    shown.press("q")
    shown.is_over()


def test_closing_the_window_ends_the_session(shown):
    shown.becomes()
    shown.close_button()
    shown.is_over()
