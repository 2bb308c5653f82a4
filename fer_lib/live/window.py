"""The OpenCV window of a live session: shows the latest view, and forwards keys and clicks to the controls.

OpenCV requires all window calls in the main thread, so the session runs in other threads.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import TYPE_CHECKING

import cv2

from fer_lib.errors import FerError
from fer_lib.live.controls import Controls
from fer_lib.live.draw import bar_label, draw
from fer_lib.live.session_files import NO_LABEL

if TYPE_CHECKING:
    from fer_lib.live.session import Session

VIEW_TIMEOUT = 0.03  # seconds to wait for a view before keys are read again
PROBE_SECONDS = 30.0  # a display over a slow connection may take a while
KEYPAD = range(0xFFB0, 0xFFBA)  # X11 codes of the digits 0 to 9 on the keypad
ADVICE = (
    "Use a screen of this machine, or ssh -X (under Wayland: XWayland), and an OpenCV with windows (Debian, Ubuntu: "
    "sudo apt-get install libgl1 libglib2.0-0, then remove the environment's folder and run make setup again); or else "
    "fer live --web shows the session in a browser, and --headless records it without showing anything"
)
_PROBE = "import cv2; cv2.namedWindow('fer', cv2.WINDOW_GUI_NORMAL); cv2.destroyAllWindows()"


def check_window() -> None:
    """FerError, with the cause and the next step, when no window can be opened.

    OpenCV ends the process when it cannot use the display, so a child process tries it first.
    """
    failure = "" if cv2.currentUIFramework() else f"this OpenCV {cv2.__version__} was built without windows"
    if not failure and sys.platform.startswith("linux"):
        failure = _probe()
    if failure:
        raise FerError(f"no window can be opened: {failure}. {ADVICE}")


def _probe() -> str:
    """Blank when a child process can open a window, else its error."""
    try:
        result = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        return f"the display did not answer in {PROBE_SECONDS:.0f} seconds"
    if result.returncode == 0:
        return ""
    lines = [line.strip().rstrip(".") for line in result.stderr.splitlines() if line.strip()]
    return lines[0] if lines else f"OpenCV ended with code {result.returncode}"


def show(session: Session, title: str) -> None:
    """Show the session until it is over or somebody ends it, by key, by page or by closing the window.

    Call it in the main thread, after :func:`check_window`.  The window opens with the first view.
    """
    shape: tuple[int, ...] | None = None

    def on_mouse(event: int, x: int, y: int, flags: int, _) -> None:
        if event == cv2.EVENT_LBUTTONDOWN and shape is not None:
            click(session.controls, x, y, shape)

    try:
        while not (session.latest_view.over or session.controls.ended):
            if (view := session.latest_view.take(timeout=VIEW_TIMEOUT)) is not None:
                image = draw(view)
                if shape is None:
                    # not resizable, so that a click's coordinates are image pixels in every backend
                    cv2.namedWindow(title, cv2.WINDOW_AUTOSIZE | cv2.WINDOW_GUI_NORMAL)
                    cv2.setMouseCallback(title, on_mouse)
                shape = image.shape
                cv2.imshow(title, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            if shape is None:
                continue
            session.controls.key(key_of(cv2.waitKeyEx(1)))
            if not _is_open(title):  # imshow would open it again
                session.controls.end()
    finally:
        if shape is not None:
            with contextlib.suppress(cv2.error):  # the user has closed it
                cv2.destroyWindow(title)
            cv2.waitKey(1)  # some backends close a window only while they process events


def _is_open(title: str) -> bool:
    try:
        return cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) >= 1
    except cv2.error:  # Qt raises after its last window is closed
        return False


def click(controls: Controls, x: int, y: int, shape: tuple[int, ...]) -> None:
    """Handle a click on pixel (``x``, ``y``): set the label of the bar's segment, or clear it if it is set."""
    label = bar_label(x, y, shape)
    if label is not None:
        controls.label(NO_LABEL if controls.now.label == label else label, "click")


def key_of(code: int) -> str:
    """The lower-case character of OpenCV's key ``code``; blank for no key and for keys without a character.

    Some backends report Shift, Num Lock and other modifiers above the low 16 bits.
    """
    low = code & 0xFFFF
    if code < 0:
        return ""
    if low in KEYPAD:
        return str(low - KEYPAD.start)
    return chr(low).lower() if 32 <= low < 127 else ""
