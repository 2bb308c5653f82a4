"""Serves the page of one live session: ``fer live --web``."""

from __future__ import annotations

import contextlib
import secrets
import signal
import threading
import webbrowser
from pathlib import Path
from typing import Any

import uvicorn

from fer_lib.live.session import Session
from fer_lib.live.web.browser_camera import BrowserSource
from fer_lib.live.web.server import BROWSER, HOST, config, create_app, listen
from fer_lib.live.web.session_hub import SessionHub
from fer_lib.models.bundle import read_bundle
from fer_lib.params import LiveParams
from fer_lib.pipeline.progress import show_progress
from fer_lib.storage.progress import step
from fer_lib.tracking import store
from fer_lib.tracking.live import LiveRun
from fer_lib.tracking.registry import resolve


def serve(p: LiveParams, folder: Path, port: int, open_browser: bool) -> dict[str, Any]:
    """Serve one session's page on loopback until Ctrl+C or the page's button; the summary.

    ``p.source`` "browser": the camera of whoever opens the page; else the server plays a camera or file.  ``port`` 0:
    a free one.  The session is opened at once and begins when the page is there.  FerError when the port is taken,
    when the session cannot be opened or failed, or when nobody opened the page.
    """
    is_browser = p.source == BROWSER
    with contextlib.ExitStack() as closing:
        listening = closing.enter_context(listen(port))
        token = secrets.token_urlsafe(24)
        name = "browser camera" if is_browser else f"camera {p.source}" if p.source.isdigit() else Path(p.source).name
        about = {"name": name, "folder": str(folder), "record": p.record, "model": p.model}
        with show_progress("live"), step("loading model"):
            bundle = read_bundle(resolve(p.model))
        with show_progress("live"), step("opening the session"):
            source = BrowserSource(name) if is_browser else None
            session = Session(p, bundle, folder, source)
        app = create_app(session, source, token, about)
        hub: SessionHub = app.state.hub
        closing.callback(hub.finish)
        store.configure()
        store.experiment_id()  # a new store takes seconds: better now than before the first image
        server = uvicorn.Server(config(app))
        hub.on_start = lambda: session.end_callbacks.append(LiveRun(p, folder).end)
        hub.on_end = lambda error: _tell_end(error, folder, server.should_exit)
        hub.close_server = lambda: setattr(server, "should_exit", True)
        url = f"http://{HOST}:{listening.getsockname()[1]}/#{token}"
        print(f"Live page: {url}", flush=True)
        print("(this machine only; the session begins when it is opened; Ctrl+C ends it)", flush=True)
        if open_browser:  # it waits in the queue of the socket until the server takes it
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        with _ended_by_ctrl_c():
            server.run(sockets=[listening])
    return hub.result()


@contextlib.contextmanager
def _ended_by_ctrl_c():
    """Ctrl+C and SIGTERM close the server, which ends the session, and nothing more."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again once it is down
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _tell_end(error: BaseException | None, folder: Path, closing: bool) -> None:
    how = "The session has ended" if error is None else "The session failed (the reason comes when the page is closed)"
    print(f"{how}. Logs: {folder}", flush=True)
    if not closing:
        print("The page stays for downloads until Ctrl+C or its button.", flush=True)
