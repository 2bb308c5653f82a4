"""The live window without a screen: what is said where none can be opened, what keys and clicks do."""

import sys
from types import SimpleNamespace

import cv2
import pytest
from drawn_view import view

from fer_lib.errors import FerError
from fer_lib.live import window
from fer_lib.live.controls import Controls
from fer_lib.live.draw import draw
from fer_lib.live.view import LatestValue
from fer_lib.params import SmoothingParams

needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="screens of X11 and Wayland")


@pytest.fixture
def screen(monkeypatch):
    """A machine with windows and a screen that answers, all of it made up."""
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(cv2, "currentUIFramework", lambda: "QT5")
    monkeypatch.setattr(window, "_probe", lambda: "")
    return monkeypatch


def test_a_screen_and_a_build_with_windows_pass(screen):
    window.check_window()


@needs_linux
def test_without_a_screen_it_says_so_and_what_to_do(screen):
    screen.delenv("DISPLAY")
    with pytest.raises(FerError, match=r"neither \$DISPLAY nor \$WAYLAND_DISPLAY.*ssh -X.*--web.*--headless"):
        window.check_window()


def test_a_build_without_windows_is_named_with_the_way_to_one_that_has_them(screen):
    screen.setattr(cv2, "currentUIFramework", lambda: "")
    with pytest.raises(FerError, match="built without windows.*opencv-python-headless.*libgl1.*--web.*--headless"):
        window.check_window()


@needs_linux
def test_a_screen_that_does_not_answer_is_an_error_and_not_the_end_of_the_process(monkeypatch):
    """In this environment's own build of OpenCV, whichever it is."""
    monkeypatch.setenv("DISPLAY", ":987")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(FerError, match="no window can be opened.*--web"):
        window.check_window()


@needs_linux
def test_wayland_alone_is_told_about_x11(screen):
    screen.delenv("DISPLAY")
    screen.setenv("WAYLAND_DISPLAY", "wayland-0")
    window.check_window()
    screen.setattr(window, "_probe", lambda: "could not connect to display")
    with pytest.raises(FerError, match="display wayland-0: could not connect.*XWayland.*--web"):
        window.check_window()


@needs_linux
def test_a_screen_that_hangs_is_not_waited_for_without_end(screen):
    screen.undo()
    screen.setenv("DISPLAY", ":0")
    screen.setattr(cv2, "currentUIFramework", lambda: "QT5")
    screen.setattr(window, "PROBE_SECONDS", 0.2)
    screen.setattr(window, "_PROBE", "import time; time.sleep(60)")
    with pytest.raises(FerError, match="display :0: it did not answer"):
        window.check_window()


@pytest.mark.parametrize(
    "code, key",
    [(-1, ""), (ord("q"), "q"), (ord("Q"), "q"), (0x100000 | ord("3"), "3"), (0xFFB7, "7"), (ord("["), "["),
     (ord("="), "="), (27, ""), (0xFF51, ""), (0x250000, ""), (0, ""), (0xE9, "")],
)  # fmt: skip
def test_codes_of_all_backends_are_keys(code, key):
    assert window.key_of(code) == key


def test_a_click_labels_another_one_clears_and_one_beside_the_bar_does_nothing():
    controls, shape = Controls(SmoothingParams()), draw(view()).shape
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
    """OpenCV's window calls, kept in a list; ``codes`` are pressed one after another; ``closes`` at that many looks."""

    def __init__(self, monkeypatch, codes=(), closes=None, click=None, raises=False):
        self.codes, self.closes, self.click, self.raises = list(codes), closes, click, raises
        self.calls, self.shown, self.looks, self.mouse = [], [], 0, None
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
        self.looks += 1
        if self.closes is None or self.looks < self.closes:
            return 1.0
        if self.raises:
            raise cv2.error("NULL guiReceiver")
        return 0.0

    def destroyWindow(self, title):
        self.calls.append("close")
        if self.closes is not None:
            raise cv2.error("NULL window")


def session(*views, over=True):
    newest = LatestValue()
    made = SimpleNamespace(newest=newest, controls=Controls(SmoothingParams()))
    for one in views:
        newest.put(one)
    if over:
        newest.end()
    return made


def test_a_session_that_is_over_is_shown_to_its_last_view_and_closed(monkeypatch):
    screen, shown = Screen(monkeypatch), view()
    window.show(session(shown), "fer live")
    assert screen.calls == ["open", "close"] and len(screen.shown) == 1
    assert (screen.shown[0][..., ::-1] == draw(shown)).all(), "OpenCV shows blue, green, red"


def test_a_session_that_ends_before_its_first_view_opens_no_window(monkeypatch):
    screen = Screen(monkeypatch)
    window.show(session(), "fer live")
    assert not screen.calls and not screen.shown


def test_keys_and_clicks_reach_the_controls_and_q_ends(monkeypatch):
    shape = draw(view()).shape
    screen = Screen(monkeypatch, [ord("]"), ord("v"), -1, ord("o"), ord("q")], click=(3, shape[0] - 3))
    running = session(view(), over=False)
    window.show(running, "fer live")
    now = running.controls.now
    assert running.controls.ended and not now.overlay and (now.label, now.label_source) == (0, "click")
    assert (now.smoothing.ema_alpha, now.smoothing.vote_window) == (0.75, 13)
    assert screen.calls == ["open", "close"]


@pytest.mark.parametrize("raises", [False, True], ids=["other backends", "Qt"])
def test_closing_the_window_ends_the_session_and_does_not_open_it_again(monkeypatch, raises):
    screen = Screen(monkeypatch, closes=3, raises=raises)
    running = session(view(), over=False)
    window.show(running, "fer live")
    assert running.controls.ended and len(screen.shown) == 1


def test_what_goes_wrong_while_it_is_open_closes_it(monkeypatch):
    screen = Screen(monkeypatch)
    monkeypatch.setattr(window, "draw", lambda v: 1 / 0 if screen.shown else draw(v))
    running = session(view(), over=False)
    monkeypatch.setattr(screen, "imshow", lambda title, image: (screen.shown.append(image), running.newest.put(view())))
    monkeypatch.setattr(cv2, "imshow", screen.imshow)
    with pytest.raises(ZeroDivisionError):
        window.show(running, "fer live")
    assert screen.calls == ["open", "close"]
