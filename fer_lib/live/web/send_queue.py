"""The messages waiting for one page: all answers in order, and only the latest state and preview."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from typing import Any

MAX_ANSWERS = 256  # a page that reads nothing loses the oldest answers


class SendQueue:
    """Any thread may ``put``; ``take`` belongs to the event loop in which the queue was made."""

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
