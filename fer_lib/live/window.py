"""The OpenCV window of a live session: shows its newest view, and gives keys and clicks to its controls.

OpenCV wants all of a window's calls in the main thread, so the session works in another one.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import Protocol

import cv2

from fer_lib.errors import FerError
from fer_lib.live.controls import Controls
from fer_lib.live.draw import bar_label, draw
from fer_lib.live.session_files import NO_LABEL
from fer_lib.live.view import LatestValue

PATIENCE = 0.03  # seconds that a view is waited for before keys are looked at again
PROBE_SECONDS = 30.0  # a display over a slow line may take a while to answer
KEYPAD = range(0xFFB0, 0xFFBA)  # X11's digits of the number pad
WITHOUT = "fer live --web shows the session in a browser, --headless records it without showing anything"
_PROBE = "import cv2; cv2.namedWindow('fer', cv2.WINDOW_GUI_NORMAL); cv2.destroyAllWindows()"


class Shown(Protocol):
    """What a window needs of a session."""

    newest: LatestValue
    controls: Controls


def check_window() -> None:
    """FerError, naming what is missing and what to do, where a window cannot be opened.

    OpenCV's own answer to a display that it can't use is to end the process, so another process tries it first.
    """
    linux = sys.platform.startswith("linux")
    if linux and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise FerError(
            "no window can be opened: neither $DISPLAY nor $WAYLAND_DISPLAY names a screen here (over ssh: log in with "
            f"ssh -X). {WITHOUT}"
        )
    if not cv2.currentUIFramework():
        raise FerError(
            f"no window can be opened: this OpenCV {cv2.__version__} was built without windows "
            "(opencv-python-headless, which the set-up takes where system libraries are missing). Install them "
            "(Debian, Ubuntu: sudo apt-get install libgl1 libglib2.0-0), remove the environment's folder and run make "
            f"setup again; or do without: {WITHOUT}"
        )
    if linux and (trouble := _probe()):
        display, hint = os.environ.get("DISPLAY"), "Log in on that screen, or with ssh -X"
        if not display:
            display, hint = os.environ["WAYLAND_DISPLAY"], "This OpenCV wants X11: start XWayland, set $DISPLAY"
        raise FerError(f"no window can be opened on display {display}: {trouble}. {hint}; or do without: {WITHOUT}")


def _probe() -> str:
    """Blank when a process of its own could open a window, else what it said."""
    try:
        done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        return f"it did not answer in {PROBE_SECONDS:.0f} seconds"
    if done.returncode == 0:
        return ""
    said = [line.strip().rstrip(".") for line in done.stderr.splitlines() if line.strip()]
    return said[0] if said else f"OpenCV ended with code {done.returncode}"


def show(session: Shown, title: str) -> None:
    """Show the session until it is over or somebody ends it, by key, by page or by closing the window.

    In the main thread, after :func:`check_window`.  It opens with the first view.
    """
    shape: tuple[int, ...] | None = None

    def clicked(event: int, x: int, y: int, flags: int, _) -> None:
        if event == cv2.EVENT_LBUTTONDOWN and shape is not None:
            click(session.controls, x, y, shape)

    try:
        while not (session.newest.over or session.controls.ended):
            if (view := session.newest.take(timeout=PATIENCE)) is not None:
                picture = draw(view)
                if shape is None:
                    # of the picture's own size: a click's pixel is then one of the picture, whatever the backend
                    cv2.namedWindow(title, cv2.WINDOW_AUTOSIZE | cv2.WINDOW_GUI_NORMAL)
                    cv2.setMouseCallback(title, clicked)
                shape = picture.shape
                cv2.imshow(title, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
            if shape is None:
                continue
            session.controls.key(key_of(cv2.waitKeyEx(1)))
            if not _is_open(title):  # it would come back with the next picture
                session.controls.end()
    finally:
        if shape is not None:
            with contextlib.suppress(cv2.error):  # it was closed already
                cv2.destroyWindow(title)
            cv2.waitKey(1)  # some backends take a window away only when they are asked for events


def _is_open(title: str) -> bool:
    try:
        return cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) >= 1
    except cv2.error:  # what Qt answers once its last window was closed
        return False


def click(controls: Controls, x: int, y: int, shape: tuple[int, ...]) -> None:
    """A click on pixel (``x``, ``y``) of a drawn window: sets the label of the bar, or clears it when it is set."""
    label = bar_label(x, y, shape)
    if label is not None:
        controls.label(NO_LABEL if controls.now.label == label else label, "click")


def key_of(code: int) -> str:
    """The key of OpenCV's ``code``, small letters whatever Caps Lock is; blank for none and for those without a sign.

    Above the low 16 bits some backends report Shift, Num Lock and the like.
    """
    low = code & 0xFFFF
    if code < 0:
        return ""
    if low in KEYPAD:
        return str(low - KEYPAD.start)
    return chr(low).lower() if 32 <= low < 127 else ""
