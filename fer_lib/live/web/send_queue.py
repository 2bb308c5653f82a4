"""What waits to be sent to one page: every answer in order, and of states and pictures only the newest."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from typing import Any

ANSWERS = 256  # a page that reads nothing for so long loses the oldest


class SendQueue:
    """Any thread may put; the page's own task, in whose event loop it is made, takes."""

    def __init__(self):
        self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
        self._lock = threading.Lock()
        self._answers: deque[dict[str, Any]] = deque(maxlen=ANSWERS)
        self._newest: dict[str, dict[str, Any] | bytes] = {}

    def put(self, message: dict[str, Any]) -> None:
        """Something that must arrive."""
        with self._lock:
            self._answers.append(message)
        self._ring()

    def replace(self, kind: str, message: dict[str, Any] | bytes) -> None:
        """Something of which only the newest of its ``kind`` matters."""
        with self._lock:
            self._newest[kind] = message
        self._ring()

    def _ring(self) -> None:
        with contextlib.suppress(RuntimeError):  # the page is gone and its loop closed
            self._loop.call_soon_threadsafe(self._wake.set)

    async def take(self) -> list[dict[str, Any] | bytes]:
        """What waits, once something does."""
        await self._wake.wait()
        self._wake.clear()
        with self._lock:
            found = [*self._answers, *self._newest.values()]
            self._answers.clear()
            self._newest.clear()
        return found
