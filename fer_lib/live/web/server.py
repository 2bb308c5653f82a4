"""The page's server: FastAPI on loopback, one WebSocket per page, and downloads of the logs after the session.

The page's files are beside this module; the page loads nothing from other hosts.  Images of a browser's camera go
through the socket into the session only, unless the session records them.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import secrets
import signal
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, PlainTextResponse, Response

from fer_lib.errors import FerError, ParamsError
from fer_lib.live.session_files import LOGS
from fer_lib.live.web import messages
from fer_lib.live.web.browser_camera import MAX_BYTES, BrowserSource
from fer_lib.live.web.origin_check import OriginCheck
from fer_lib.live.web.session_hub import STAMP, SendQueue, SessionHub

if TYPE_CHECKING:
    from fer_lib.live.session import Session

HOST = "127.0.0.1"
BROWSER = "browser"  # LiveParams.source: the camera of the browser that opens the page
ARCHIVE = "logs.zip"
NO_KEY = 4401  # WebSocket close code: the address lacks its key
PAGE = {
    "": ("index.html", "text/html; charset=utf-8"), "live.js": ("live.js", "text/javascript; charset=utf-8"),
    "camera.js": ("camera.js", "text/javascript; charset=utf-8"),
    "drawing.js": ("drawing.js", "text/javascript; charset=utf-8"),
    "live.css": ("live.css", "text/css; charset=utf-8"), "icon.svg": ("icon.svg", "image/svg+xml"),
}  # fmt: skip


def create_app(
    session: Session, browser_source: BrowserSource | None, token: str, info: dict[str, Any] | None = None
) -> FastAPI:
    """The application of one session, which the first page starts.

    ``info``: ``name`` of the source, ``folder``, ``record`` and ``model``, for display.  ``app.state.hub`` is the
    :class:`SessionHub`.
    """
    hub, key = SessionHub(session, browser_source, info or {}), token.encode()

    @contextlib.asynccontextmanager
    async def lifespan(app):
        yield
        await run_in_threadpool(hub.finish)

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=lifespan)
    app.state.hub = hub
    app.add_middleware(OriginCheck)
    _add_page(app)

    @app.get("/files/{name}")
    def file(name: str, token: str = "") -> Response:
        """One log file, or all of them as a ZIP archive."""
        if not secrets.compare_digest(token.encode(), key):
            return _refusal(403, "This address lacks its key: use the links of the page.")
        if hub.phase != "over":
            return _refusal(409, "The logs are still written: end the session first.")
        folder = session.folder
        if name == ARCHIVE:
            return _download(_zip_logs(folder), f"{folder.name}.zip")
        if name not in (entry["name"] for entry in messages.files(folder)):  # no other path is reachable
            return _refusal(404, f"The session left no file {name[:80]!r}.")
        return FileResponse(folder / name, media_type="application/octet-stream", filename=name)

    @app.websocket("/ws")
    async def page(ws: WebSocket, token: str = "") -> None:
        await ws.accept()
        if not secrets.compare_digest(token.encode(), key):
            await ws.close(NO_KEY, "this address lacks its key: open the one that fer live printed")
            return
        outgoing = hub.join()
        sending = asyncio.create_task(_send(ws, outgoing))
        try:
            await _receive(ws, outgoing, hub)
        finally:
            hub.leave(outgoing)
            sending.cancel()

    return app


def _add_page(app: FastAPI) -> None:
    here = Path(__file__).parent

    def answer(name: str, kind: str) -> Callable[[], Response]:
        content = (here / name).read_bytes()
        return lambda: Response(content, media_type=kind)

    for path, (name, kind) in PAGE.items():
        app.get(f"/{path}")(answer(name, kind))


async def _send(ws: WebSocket, outgoing: SendQueue) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # the page has closed
        while True:
            for message in await outgoing.take():
                if isinstance(message, bytes):
                    await ws.send_bytes(message)
                else:
                    await ws.send_text(json.dumps(message, separators=(",", ":")))


async def _receive(ws: WebSocket, outgoing: SendQueue, hub: SessionHub) -> None:
    """Handle messages until the page closes: acknowledge every image, answer a failed command with its error."""
    while (message := await ws.receive())["type"] == "websocket.receive":
        if (data := message.get("bytes")) is not None:
            outgoing.put(await run_in_threadpool(hub.receive_image, outgoing, data))
            continue
        try:
            hub.command(_parse_command(message.get("text") or ""))
        except FerError as error:
            outgoing.put({"error": str(error)})


def _parse_command(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ParamsError(f"a command is a JSON object, not {text[:60]!r}: load the page again") from error


def _refusal(status: int, why: str) -> Response:
    return PlainTextResponse(why + "\n", status)


def _download(content: bytes, name: str) -> Response:
    return Response(content, headers={"content-disposition": f'attachment; filename="{name}"'},
                    media_type="application/zip")  # fmt: skip


def _zip_logs(folder: Path) -> bytes:
    """All logs as one ZIP archive, without the videos, which may be large."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in messages.files(folder, LOGS):
            archive.write(folder / entry["name"], f"{folder.name}/{entry['name']}")
    return stream.getvalue()


def config(app: FastAPI) -> uvicorn.Config:
    """The uvicorn configuration of the page, without request logs."""
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    return uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, proxy_headers=False, ws="websockets-sansio",
        ws_max_size=MAX_BYTES + STAMP.size, ws_per_message_deflate=False, timeout_graceful_shutdown=3,
    )  # fmt: skip


def listen(port: int) -> socket.socket:
    """A listening socket on loopback.  FerError when the port is taken."""
    listening = socket.socket()
    try:
        with socket.socket() as probe:
            if port and probe.connect_ex((HOST, port)) == 0:
                raise FerError(f"port {port} is in use: end what uses it, or give another --port (0: a free one)")
        if hasattr(signal, "SIGHUP"):  # not on Windows, where SO_REUSEADDR lets two servers share a port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST, port))
        listening.listen(64)
    except OSError as error:
        listening.close()
        raise FerError(f"port {port} cannot be listened on ({error.strerror}): give another --port") from error
    except BaseException:
        listening.close()
        raise
    return listening
