"""The live window without a display: errors when none can be opened, keys and clicks."""

import sys
from types import SimpleNamespace

import cv2
import pytest
from view_factory import make_view

from fer_lib.errors import FerError
from fer_lib.live import window
from fer_lib.live.controls import Controls
from fer_lib.live.draw import draw
from fer_lib.live.latest_value import LatestValue
from fer_lib.params import SmoothingParams

needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="X11 and Wayland displays")


def test_a_build_without_windows_is_reported_with_the_fix(monkeypatch):
    monkeypatch.setattr(cv2, "currentUIFramework", lambda: "")
    with pytest.raises(FerError, match=r"built without windows.*ssh -X.*libgl1.*--web.*--headless"):
        window.check_window()


def test_a_display_and_a_build_with_windows_pass(monkeypatch):
    monkeypatch.setattr(cv2, "currentUIFramework", lambda: "QT5")
    monkeypatch.setattr(window, "_PROBE", "")
    window.check_window()


@needs_linux
@pytest.mark.parametrize("display", ["", ":987"])
def test_an_unreachable_display_is_an_error_and_not_a_crash(monkeypatch, display):
    """With the installed build of OpenCV."""
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(FerError, match="no window can be opened: .*--web"):
        window.check_window()


@needs_linux
@pytest.mark.parametrize(
    ("probe", "failure"),
    [("import time; time.sleep(60)", "the display did not answer in 0 seconds"),
     ("import sys; print('qt: could not connect to display', file=sys.stderr); sys.exit(1)",
      "qt: could not connect to display"), ("import os; os.abort()", "OpenCV ended with code -6")],
)  # fmt: skip
def test_a_display_that_fails_or_hangs_is_reported_with_its_error(monkeypatch, probe, failure):
    monkeypatch.setattr(cv2, "currentUIFramework", lambda: "QT5")
    monkeypatch.setattr(window, "PROBE_SECONDS", 0.4 if "sleep" in probe else 30)
    monkeypatch.setattr(window, "_PROBE", probe)
    with pytest.raises(FerError, match=f"no window can be opened: {failure}.*ssh -X.*--web.*--headless"):
        window.check_window()


@pytest.mark.parametrize(
    "code, key",
    [(-1, ""), (ord("q"), "q"), (ord("Q"), "q"), (0x100000 | ord("3"), "3"), (0xFFB7, "7"), (ord("["), "["),
     (ord("="), "="), (27, ""), (0xFF51, ""), (0x250000, ""), (0, ""), (0xE9, "")],
)  # fmt: skip
def test_key_codes_of_all_backends_are_mapped(code, key):
    assert window.key_of(code) == key


def test_a_click_sets_or_clears_the_label():
    controls, shape = Controls(SmoothingParams()), draw(make_view()).shape
    y = shape[0] - 5
    window.click(controls, shape[1] // 2, y, shape)
    assert (controls.now.label, controls.now.label_source) == (3, "click")
    window.click(controls, 5, 5, shape)
    assert controls.now.label == 3
    window.click(controls, 3, y, shape)
    assert controls.now.label == 0
    window.click(controls, 3, y, shape)
    assert (controls.now.label, controls.now.label_source) == (-1, "click")


class Screen:
    """A recorder of OpenCV's window calls; sends the key ``codes``, reports closed after ``closes`` queries."""

    def __init__(self, monkeypatch, codes=(), closes=None, click=None, raises=False):
        self.codes, self.closes, self.click, self.raises = list(codes), closes, click, raises
        self.calls, self.shown, self.queries, self.mouse = [], [], 0, None
        for name in ("namedWindow", "setMouseCallback", "imshow", "waitKeyEx", "waitKey", "getWindowProperty",
                     "destroyWindow"):  # fmt: skip
            monkeypatch.setattr(cv2, name, getattr(self, name))

    def namedWindow(self, title, flags):
        self.calls.append("open")

    def setMouseCallback(self, title, function):
        self.mouse = function

    def imshow(self, title, image):
        self.shown.append(image)

    def waitKeyEx(self, delay):
        if self.click and self.shown:
            self.mouse(cv2.EVENT_LBUTTONDOWN, *self.click, 0, None)
            self.mouse(cv2.EVENT_MOUSEMOVE, *self.click, 0, None)
            self.click = None
        return self.codes.pop(0) if self.codes else -1

    def waitKey(self, delay):
        return -1

    def getWindowProperty(self, title, which):
        self.queries += 1
        if self.closes is None or self.queries < self.closes:
            return 1.0
        if self.raises:
            raise cv2.error("NULL guiReceiver")
        return 0.0

    def destroyWindow(self, title):
        self.calls.append("close")
        if self.closes is not None:
            raise cv2.error("NULL window")


def session(*views, over=True):
    latest_view = LatestValue()
    made = SimpleNamespace(latest_view=latest_view, controls=Controls(SmoothingParams()))
    for one in views:
        latest_view.put(one)
    if over:
        latest_view.end()
    return made


def test_an_ended_session_is_shown_to_its_last_view(monkeypatch):
    screen, shown = Screen(monkeypatch), make_view()
    window.show(session(shown), "fer live")
    assert screen.calls == ["open", "close"] and len(screen.shown) == 1
    assert (screen.shown[0][..., ::-1] == draw(shown)).all(), "OpenCV shows blue, green, red"


def test_a_session_without_a_view_opens_no_window(monkeypatch):
    screen = Screen(monkeypatch)
    window.show(session(), "fer live")
    assert not screen.calls and not screen.shown


def test_keys_and_clicks_reach_the_controls(monkeypatch):
    shape = draw(make_view()).shape
    screen = Screen(monkeypatch, [ord("]"), ord("v"), -1, ord("o"), ord("q")], click=(3, shape[0] - 3))
    running = session(make_view(), over=False)
    window.show(running, "fer live")
    now = running.controls.now
    assert running.controls.ended and not now.overlay and (now.label, now.label_source) == (0, "click")
    assert (now.smoothing.ema_alpha, now.smoothing.vote_window) == (0.75, 13)
    assert screen.calls == ["open", "close"]


@pytest.mark.parametrize("raises", [False, True], ids=["other backends", "Qt"])
def test_closing_the_window_ends_the_session(monkeypatch, raises):
    screen = Screen(monkeypatch, closes=3, raises=raises)
    running = session(make_view(), over=False)
    window.show(running, "fer live")
    assert running.controls.ended and len(screen.shown) == 1


def test_an_error_while_the_window_is_open_closes_it(monkeypatch):
    screen = Screen(monkeypatch)
    monkeypatch.setattr(window, "draw", lambda v: 1 / 0 if screen.shown else draw(v))
    running = session(make_view(), over=False)

    def show_and_add_view(title, image):
        screen.shown.append(image)
        running.latest_view.put(make_view())

    monkeypatch.setattr(cv2, "imshow", show_and_add_view)
    with pytest.raises(ZeroDivisionError):
        window.show(running, "fer live")
    assert screen.calls == ["open", "close"]
