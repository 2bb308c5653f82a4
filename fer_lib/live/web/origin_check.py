"""Access control of a local server: loopback host names and same-origin requests only.

Listening on loopback is not enough: any web page may send requests or open a WebSocket to 127.0.0.1, and a foreign host
name may resolve to it (DNS rebinding).  Requests with other host names, and those of other pages, are refused.
The port may differ from the server's, because a tunnel has its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

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


class OriginCheck:
    """ASGI middleware: refuses foreign host names and other pages' requests, and adds headers to every response.

    ``command``: the command that prints the address, for the refusals.
    """

    def __init__(self, app, command: str = "fer live", headers: Mapping[str, str] = HEADERS):
        self.app, self.command, self.names = app, command, set(headers)
        self.headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                others = [pair for pair in message.get("headers", []) if pair[0].decode().lower() not in self.names]
                message = message | {"headers": others + self.headers}
            await send(message)

        if (refusal := _refusal(scope)) is None:
            await self.app(scope, receive, send_with_headers)
        elif scope["type"] == "http":
            answer = PlainTextResponse(f"{refusal}: open the address that {self.command} printed.\n", 403)
            await answer(scope, receive, send_with_headers)
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": ""})  # before accept: HTTP 403


def _refusal(scope) -> str | None:
    """The reason to refuse the request; None when it is allowed."""
    headers: dict[str, list[str]] = {"host": [], "origin": [], "sec-fetch-site": [], "sec-fetch-mode": []}
    for name, value in scope["headers"]:
        if (key := name.decode("latin-1").lower()) in headers:
            headers[key].append(value.decode("latin-1").lower())
    host = headers["host"][0] if len(headers["host"]) == 1 else ""
    if not _LOOPBACK.fullmatch(host):
        return f"This server answers to localhost only, not to {host[:80]!r}"
    foreign = "This request comes from another page"
    if headers["origin"] or scope["type"] == "websocket":  # a browser always sends the origin of a socket
        if len(headers["origin"]) != 1 or headers["origin"][0] not in (f"http://{host}", f"https://{host}"):
            return foreign
    # an image or script that another page includes has no Origin header; following a link is a navigation
    if not {"same-origin", "none"}.issuperset(headers["sec-fetch-site"]) and headers["sec-fetch-mode"] != ["navigate"]:
        return foreign
    return None
