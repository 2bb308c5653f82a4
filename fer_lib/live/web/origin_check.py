"""Who may talk to the page's server: this machine's browsers, from the page itself, with the key of its address.

Listening on loopback is not enough.  Any web page may open a socket to 127.0.0.1, and a foreign name may be made to
point there (DNS rebinding), so names other than loopback ones and sockets of other origins are refused, whatever key
they know.  The port may be another one than the server's, for a tunnel has its own.
"""

from __future__ import annotations

import re
import secrets

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
    """ASGI middleware: refuses foreign names and origins, and puts :data:`HEADERS` on every answer."""

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
            await send({"type": "websocket.close", "code": 1008, "reason": ""})  # before it is accepted: HTTP 403


def _refusal(scope) -> str | None:
    """Why this request is not for us, None when it is."""
    found: dict[str, list[str]] = {"host": [], "origin": []}
    for name, value in scope["headers"]:
        if (key := name.decode("latin-1").lower()) in found:
            found[key].append(value.decode("latin-1"))
    host = found["host"][0] if len(found["host"]) == 1 else ""
    if not _LOOPBACK.fullmatch(host):
        return f"This server answers to localhost only, not to {host[:80]!r}: open the address that fer live printed."
    if found["origin"] or scope["type"] == "websocket":  # a browser always names a socket's origin
        own = [f"{scheme}://{host}".lower() for scheme in ("http", "https")]
        if len(found["origin"]) != 1 or found["origin"][0].lower() not in own:
            return "Another page asks for this: open the address that fer live printed."
    return None


class Key:
    """The secret part of the page's address."""

    def __init__(self, token: str):
        self._token = token.encode()

    def fits(self, said: str | None) -> bool:
        return secrets.compare_digest((said or "").encode(), self._token)
