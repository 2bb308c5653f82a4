"""One session and the pages that look at it: states go out to all of them, what they ask for goes to its controls."""

from __future__ import annotations

import logging
import struct
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fer_lib.errors import DataError, FerError, ParamsError, user_message
from fer_lib.live.browser_source import BrowserSource
from fer_lib.live.controls import LIMITS
from fer_lib.live.web import messages
from fer_lib.live.web.send_queue import SendQueue

if TYPE_CHECKING:
    from fer_lib.live.session import Session

log = logging.getLogger(__name__)

STATE_SECONDS, PREVIEW_SECONDS = 1 / 30, 1 / 15  # between two of them, at least
STAMP = struct.Struct("<d")  # before each JPEG of the browser: seconds by its clock
ENDING_SECONDS = 30  # within which a session that was asked to end has closed its files


class SessionHub:
    """``waiting`` until the first page is there, then ``running``, then ``over``.

    Methods may be called from any thread.  ``about`` is what the pages are told of the session beforehand;
    ``when_begun`` is called with the session before its first picture, ``when_over`` with the error or None once its
    files are closed, ``close_server`` when a page asks for it.
    """

    def __init__(
        self, open_session: Callable[[BrowserSource | None], Session], from_browser: bool, about: dict[str, Any]
    ):
        self.fed = BrowserSource() if from_browser else None
        self.about, self.phase = about, "waiting"
        self.session: Session | None = None
        self.summary: dict[str, Any] | None = None
        self.error: BaseException | None = None
        self.when_begun: Callable[[Session], None] = lambda session: None
        self.when_over: Callable[[BaseException | None], None] = lambda error: None
        self.close_server: Callable[[], None] = lambda: None
        self._open_session = open_session
        self._lock = threading.Lock()
        self._pages: list[SendQueue] = []
        self._camera: SendQueue | None = None  # the page whose camera it is
        self._last: dict[str, Any] | None = None
        self._thread: threading.Thread | None = None
        self._ending = False

    def open(self) -> None:
        """Open the session without beginning it, so that what is wrong shows at once.  Raises what it raises."""
        self.session = self.session or self._open_session(self.fed)

    def join(self, page: SendQueue) -> None:
        """A page is there; the first one begins the session."""
        with self._lock:
            if self.phase == "waiting" and not self._ending:
                self.phase = "running"
                self._thread = threading.Thread(target=self._work, name="fer-page", daemon=True)
                self._thread.start()
            hello = messages.vocabulary() | self.about | {
                "phase": self.phase, "from_browser": self.fed is not None,
                "size": None if self.fed is None else self.fed.known_size, "camera_taken": self._camera is not None,
            }  # fmt: skip
            page.put({"hello": hello})
            if self._last is not None:
                page.replace("state", {"state": self._last})
            if self.session is not None:
                page.replace("setting", {"setting": messages.setting(self.session.controls.now)})
            if self.phase == "over":
                page.put(self._farewell())
            self._pages.append(page)

    def leave(self, page: SendQueue) -> None:
        with self._lock:
            self._pages.remove(page)
            if self._camera is page:
                self._camera = None

    def picture(self, page: SendQueue, data: bytes) -> dict[str, Any]:
        """A page's picture, taken in; the answer for which the page waits before it sends more."""
        try:
            self._feed(page, data)
        except FerError as error:
            return {"ack": True, "error": str(error)}
        return {"ack": True}

    def _feed(self, page: SendQueue, data: bytes) -> None:
        if self.fed is None:
            raise DataError("this session's pictures come from the server, not from the page: load the page again")
        if len(data) <= STAMP.size:
            raise DataError(f"a picture of {len(data)} bytes, which is less than its header: load the page again")
        with self._lock:
            self._camera = self._camera or page
            if self._camera is not page:
                raise DataError("another page is this session's camera: close that one first, or watch here")
        self.fed.feed(data[STAMP.size :], STAMP.unpack_from(data)[0])

    def command(self, asked: Any) -> None:
        """What a page asks for, a JSON object of one entry.  ParamsError, saying why, for what there is not."""
        if not isinstance(asked, dict) or len(asked) != 1:
            raise ParamsError("a command is a JSON object with one entry: label, smoothing, overlay, key, end or close")
        (name, value), session = next(iter(asked.items())), self.session
        if name == "close" and value is True:
            self.end()
            self.close_server()
            return
        if session is None or self.phase != "running":
            why = "is over: begin another by fer live --web" if self.phase == "over" else "has not begun yet: wait"
            raise ParamsError(f"{name!r} changes nothing, for the session {why}")
        _obey(session.controls, name, value)
        self._tell("setting", {"setting": messages.setting(session.controls.now)})
        if session.controls.ended:
            self.end()

    def end(self) -> None:
        """Ask the session to end, whether it has begun or not; :meth:`finish` also waits for it."""
        with self._lock:
            self._ending = True
        if self.session is not None:
            self.session.controls.end()
        if self.fed is not None:
            self.fed.close()  # it may wait for a first picture

    def finish(self) -> None:
        """End the session and wait until its files are closed.  It may be called again."""
        self.end()
        if self._thread is not None:
            self._thread.join(ENDING_SECONDS)
        elif self.session is not None and self.phase == "waiting":
            self.session.discard()
            self.phase = "over"

    def result(self) -> dict[str, Any]:
        """The summary.  Raises what ended the session early, FerError when it never began."""
        if self.error is not None:
            raise self.error
        if self.phase == "running":
            raise FerError(
                f"the session has not ended within {ENDING_SECONDS} s: look what holds the disk, or keeps MLflow's "
                f"database locked; what was written is in {self.about.get('folder', 'its folder')}"
            )
        if self.summary is None:
            raise FerError("no session was begun, for nobody opened the page: open the address that fer live prints")
        return self.summary

    def _work(self) -> None:
        try:
            self.open()
            if self._ending:  # while it was being opened
                self.session.controls.end()
            self._begin(self.session)
            self._tell("setting", {"setting": messages.setting(self.session.controls.now)})
            try:
                self._show(self.session)
            except BaseException:  # nobody sees the rest, so its files are closed
                self.session.controls.end()
                self.session.wait(ENDING_SECONDS)
                raise
            self.summary = self.session.wait()
        except BaseException as error:
            self.error = error
            if not isinstance(error, FerError):
                log.exception("the live session failed")
        if self.fed is not None:
            self.fed.close()
        with self._lock:
            self.phase = "over"
            for page in self._pages:
                page.put(self._farewell())
        self.when_over(self.error)

    def _begin(self, session: Session) -> None:
        try:
            self.when_begun(session)
        except BaseException:
            session.discard()
            raise
        session.start()

    def _show(self, session: Session) -> None:
        """Hand views on, the newest only and not more often than a person sees."""
        pictured, newest = 0.0, session.newest
        while not newest.over:
            began = time.monotonic()
            if (view := newest.take(0.5)) is None:
                continue
            self._last = messages.state(view, newest.skipped)
            self._tell("state", {"state": self._last})
            if self.fed is None and self._pages and began - pictured >= PREVIEW_SECONDS:
                self._tell("picture", messages.preview(view.image))
                pictured = began
            time.sleep(max(0.0, STATE_SECONDS - (time.monotonic() - began)))

    def _tell(self, kind: str, message: dict[str, Any] | bytes) -> None:
        with self._lock:
            for page in self._pages:
                page.replace(kind, message)

    def _farewell(self) -> dict[str, Any]:
        """What a page shows when all is over."""
        error = ""
        if self.error is not None:
            error = user_message(self.error) or f"{type(self.error).__name__}: {self.error} (more in the terminal)"
        found = messages.files(self.session.folder) if self.session is not None else []
        return {"over": {"facts": messages.facts(self.summary or {}), "files": found, "error": error}}


def _obey(controls, name: str, value: Any) -> None:
    if name == "label" and type(value) is int:
        controls.label(value, "page")
    elif name == "smoothing" and isinstance(value, dict) and set(value) <= set(LIMITS):
        controls.smooth(**value)
    elif name == "overlay" and isinstance(value, bool):
        controls.overlay(value)
    elif name == "key" and isinstance(value, str) and controls.key(value):
        pass
    elif name == "end" and value is True:
        controls.end()
    else:
        raise ParamsError(f"{name!r}: {str(value)[:60]!r} is nothing that a session can be asked for")
