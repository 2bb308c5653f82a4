"""Connects one session with its pages: views go to all pages, their commands go to the session's controls."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fer_lib.errors import DataError, FerError, ParamsError, user_message
from fer_lib.live.controls import LIMITS
from fer_lib.live.web import messages
from fer_lib.live.web.browser_camera import BrowserSource

if TYPE_CHECKING:
    from fer_lib.live.session import Session

log = logging.getLogger(__name__)

STATE_SECONDS, PREVIEW_SECONDS = 1 / 30, 1 / 15  # minimum interval
STAMP = struct.Struct("<d")  # header of each JPEG from the browser: seconds by its clock
END_TIMEOUT = 30  # seconds for a session to close its files
MAX_ANSWERS = 256  # a page that reads nothing loses the oldest answers


class SendQueue:
    """The messages that wait for one page: all answers in order, and only the latest state and preview.

    Any thread may ``put``; ``take`` belongs to the event loop in which the queue was made.
    """

    def __init__(self):
        self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
        self._lock = threading.Lock()
        self._answers: deque[dict[str, Any]] = deque(maxlen=MAX_ANSWERS)
        self._latest: dict[str, dict[str, Any] | bytes] = {}

    def put(self, message: dict[str, Any]) -> None:
        """Queue a message that must arrive."""
        with self._lock:
            self._answers.append(message)
        self._notify()

    def replace(self, kind: str, message: dict[str, Any] | bytes) -> None:
        """Queue a message that replaces an unsent one of the same ``kind``."""
        with self._lock:
            self._latest[kind] = message
        self._notify()

    def _notify(self) -> None:
        with contextlib.suppress(RuntimeError):  # the page has closed, and its event loop too
            self._loop.call_soon_threadsafe(self._wake.set)

    async def take(self) -> list[dict[str, Any] | bytes]:
        """All waiting messages; waits for the first one."""
        await self._wake.wait()
        self._wake.clear()
        with self._lock:
            messages = [*self._answers, *self._latest.values()]
            self._answers.clear()
            self._latest.clear()
        return messages


class SessionHub:
    """``phase`` is ``waiting`` until the first page connects, then ``running``, then ``over``.

    Methods may be called from any thread.  ``browser_source``: the session's source where that is a page's camera, else
    None.  ``info`` is sent to every page at first.  Callbacks: ``on_start`` before the session starts, ``on_end`` with
    the error or None after its files are closed, ``close_server`` when a page closes the program.
    """

    def __init__(self, session: Session, browser_source: BrowserSource | None, info: dict[str, Any]):
        self.session, self.browser_source = session, browser_source
        self.info, self.phase = info, "waiting"
        self.summary: dict[str, Any] | None = None
        self.error: BaseException | None = None
        self.on_start: Callable[[], None] = lambda: None
        self.on_end: Callable[[BaseException | None], None] = lambda error: None
        self.close_server: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._pages: list[SendQueue] = []
        self._camera: SendQueue | None = None  # the page that sends images
        self._last_state: dict[str, Any] | None = None
        self._thread: threading.Thread | None = None

    def join(self) -> SendQueue:
        """Add a page and return its messages; the first page starts the session."""
        page = SendQueue()
        with self._lock:
            if self.phase == "waiting" and not self.session.controls.ended:
                self.phase = "running"
                self._thread = threading.Thread(target=self._run, name="fer-page", daemon=True)
                self._thread.start()
            hello = messages.page_config() | self.info | {
                "phase": self.phase, "from_browser": self.browser_source is not None,
                "size": None if self.browser_source is None else self.browser_source.current_size,
                "camera_taken": self._camera is not None,
            }  # fmt: skip
            page.put({"hello": hello})
            if self._last_state is not None:
                page.replace("state", {"state": self._last_state})
            page.replace("setting", {"setting": messages.setting(self.session.controls.now)})
            if self.phase == "over":
                page.put(self._end_message())
            self._pages.append(page)
        return page

    def leave(self, page: SendQueue) -> None:
        with self._lock:
            self._pages.remove(page)
            if self._camera is page:
                self._camera = None

    def receive_image(self, page: SendQueue, data: bytes) -> dict[str, Any]:
        """Feed an image of a page's camera; returns the answer that the page awaits before it sends the next one."""
        try:
            self._feed(page, data)
        except FerError as error:
            return {"ack": True, "error": str(error)}
        return {"ack": True}

    def _feed(self, page: SendQueue, data: bytes) -> None:
        if self.browser_source is None:
            raise DataError("this session's images come from the server, not from the page: load the page again")
        if len(data) <= STAMP.size:
            raise DataError(f"an image of {len(data)} bytes is shorter than its header: load the page again")
        with self._lock:
            self._camera = self._camera or page
            if self._camera is not page:
                raise DataError("another page is this session's camera: close that one first, or watch here")
        self.browser_source.feed(data[STAMP.size :], STAMP.unpack_from(data)[0])

    def command(self, request: Any) -> None:
        """Apply a command, a JSON object with one entry.  ParamsError for an unknown command or a wrong value."""
        if not isinstance(request, dict) or len(request) != 1:
            raise ParamsError("a command is a JSON object with one entry: label, smoothing, overlay, key, end or close")
        (name, value), controls = next(iter(request.items())), self.session.controls
        if name == "close" and value is True:
            self.end()
            self.close_server()
            return
        if self.phase != "running":
            why = "is over: start another with fer live --web" if self.phase == "over" else "has not started yet: wait"
            raise ParamsError(f"{name!r} has no effect: the session {why}")
        _apply_command(controls, name, value)
        self._broadcast("setting", {"setting": messages.setting(controls.now)})
        if controls.ended:
            self.end()

    def end(self) -> None:
        """End the session, also before its start; :meth:`finish` also waits for it."""
        self.session.controls.end()
        if self.browser_source is not None:
            self.browser_source.close()  # the session may be waiting for its first image

    def finish(self) -> None:
        """End the session and wait until its files are closed.  It may be called twice."""
        self.end()
        if self._thread is not None:
            self._thread.join(END_TIMEOUT)
        elif self.phase == "waiting":
            self.session.discard()
            self.phase = "over"

    def result(self) -> dict[str, Any]:
        """The summary.  Raises the error that ended the session early; FerError when it never started."""
        if self.error is not None:
            raise self.error
        if self.phase == "running":
            raise FerError(
                f"the session has not ended within {END_TIMEOUT} s: check the disk, and whether another process "
                f"locks MLflow's database; the files so far are in {self.info.get('folder', 'its folder')}"
            )
        if self.summary is None:
            raise FerError("the session never started, nobody opened the page: open the address that fer live prints")
        return self.summary

    def _run(self) -> None:
        try:
            try:
                self.on_start()
            except BaseException:
                self.session.discard()
                raise
            self.session.start()
            try:
                self._send_views()
            except BaseException:  # no page can see the rest, so close the files
                self.session.controls.end()
                self.session.wait(END_TIMEOUT)
                raise
            self.summary = self.session.wait()
        except BaseException as error:
            self.error = error
            if user_message(error) is None:
                log.exception("the live session failed")
        if self.browser_source is not None:
            self.browser_source.close()
        with self._lock:
            self.phase = "over"
            for page in self._pages:
                page.put(self._end_message())
        self.on_end(self.error)

    def _send_views(self) -> None:
        """Send the latest views to the pages, at a limited rate."""
        last_preview, latest_view = 0.0, self.session.latest_view
        while not latest_view.over:
            start = time.monotonic()
            if (view := latest_view.take(0.5)) is None:
                continue
            self._last_state = messages.state(view, latest_view.skipped)
            self._broadcast("state", {"state": self._last_state})
            if self.browser_source is None and self._pages and start - last_preview >= PREVIEW_SECONDS:
                self._broadcast("preview", messages.preview(view.image))
                last_preview = start
            time.sleep(max(0.0, STATE_SECONDS - (time.monotonic() - start)))

    def _broadcast(self, kind: str, message: dict[str, Any] | bytes) -> None:
        with self._lock:
            for page in self._pages:
                page.replace(kind, message)

    def _end_message(self) -> dict[str, Any]:
        """The last message to a page."""
        error = ""
        if self.error is not None:
            error = user_message(self.error) or f"{type(self.error).__name__}: {self.error} (more in the terminal)"
        facts, files = messages.summary_rows(self.summary or {}), messages.files(self.session.folder)
        return {"over": {"facts": facts, "files": files, "error": error}}


def _apply_command(controls, name: str, value: Any) -> None:
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
        raise ParamsError(f"unknown command {name!r}: {str(value)[:60]!r}; load the page again")
