"""The live page's server in a thread, and a client with the page's protocol."""

import contextlib
import json
import struct
import threading
import time
import urllib.error
import urllib.request

import uvicorn
import websocket

from fer_lib.live.web import server
from fer_lib.live.web.browser_camera import BrowserSource

TOKEN = "the-key"


@contextlib.contextmanager
def serve_page(open_session, from_browser, info=None):
    """(address, hub) of the page of the session ``open_session(source)`` on a free port while the block runs."""
    source = BrowserSource() if from_browser else None
    app = server.create_app(open_session(source), source, TOKEN, info)
    listening = server.listen(0)
    uv = uvicorn.Server(server.config(app))
    thread = threading.Thread(target=uv.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    app.state.hub.close_server = lambda: setattr(uv, "should_exit", True)
    try:
        yield f"127.0.0.1:{listening.getsockname()[1]}", app.state.hub
    finally:
        uv.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


def get(address, path, headers=None):
    """(status, headers, body) of a GET."""
    request = urllib.request.Request(f"http://{address}{path}", headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


class Page:
    """One page's socket."""

    def __init__(self, address, token=TOKEN, **options):
        options = {"origin": f"http://{address}", "timeout": 60} | options
        self.socket = websocket.create_connection(f"ws://{address}/ws?token={token}", **options)
        self.previews, self.index = [], -1  # of the newest state
        self._backlog = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.socket.close()

    def ask(self, command):
        self.socket.send(command if isinstance(command, str) else json.dumps(command))

    def feed(self, jpeg, at):
        self.socket.send_binary(struct.pack("<d", at) + jpeg)

    def wait(self, kind, matches=lambda value: True, seconds=60):
        """The next message of ``kind`` for which ``matches`` is true; earlier messages of that kind are dropped."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for message in [m for m in self._backlog if kind in m]:
                self._backlog.remove(message)
                if matches(message[kind]):
                    return message[kind] if kind != "ack" else message
            self._receive(max(0.01, end - time.monotonic()))
        raise AssertionError(f"no {kind} within {seconds} s")

    def _receive(self, seconds):
        self.socket.settimeout(seconds)
        try:
            data = self.socket.recv()
        except websocket.WebSocketTimeoutException:
            return
        if isinstance(data, bytes):
            self.previews.append(data)
            return
        message = json.loads(data)
        self.index = max(self.index, message.get("state", {}).get("index", -1))
        self._backlog.append(message)
