"""Access control of the page's server: loopback host names, same origin, and the secret key of the address.

Listening on loopback is not enough: any web page may open a WebSocket to 127.0.0.1, and a foreign host name may resolve
to it (DNS rebinding).  Requests with other host names and sockets of other origins are refused even with the right key.
The port may differ from the server's, because a tunnel has its own.
"""

from __future__ import annotations

import re

from fastapi.responses import PlainTextResponse

_LOOPBACK = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?", re.IGNORECASE)
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]


class OriginCheck:
    """ASGI middleware: refuses foreign host names and origins, and adds :data:`HEADERS` to every response."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                replaced = [pair for pair in message.get("headers", []) if pair[0].decode().lower() not in HEADERS]
                message = message | {"headers": replaced + _HEADERS}
            await send(message)

        if (refusal := _refusal(scope)) is None:
            await self.app(scope, receive, send_with_headers)
        elif scope["type"] == "http":
            await PlainTextResponse(refusal + "\n", 403)(scope, receive, send_with_headers)
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": ""})  # before accept: HTTP 403


def _refusal(scope) -> str | None:
    """The reason to refuse the request; None when it is allowed."""
    headers: dict[str, list[str]] = {"host": [], "origin": []}
    for name, value in scope["headers"]:
        if (key := name.decode("latin-1").lower()) in headers:
            headers[key].append(value.decode("latin-1"))
    host = headers["host"][0] if len(headers["host"]) == 1 else ""
    if not _LOOPBACK.fullmatch(host):
        return f"This server answers to localhost only, not to {host[:80]!r}: open the address that fer live printed."
    if headers["origin"] or scope["type"] == "websocket":  # a browser always sends the origin of a socket
        own = [f"{scheme}://{host}".lower() for scheme in ("http", "https")]
        if len(headers["origin"]) != 1 or headers["origin"][0].lower() not in own:
            return "This request comes from another page: open the address that fer live printed."
    return None
