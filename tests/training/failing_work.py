"""Work of one of several processes that fails; a new process that unpickles it imports little."""

import os
from collections.abc import Iterator


class Exit:
    """Rank 1 kills itself by ``signal_number``, or exits when it is 0; rank 0 waits for it."""

    def __init__(self, signal_number: int):
        self.signal_number = signal_number

    def __call__(self, context) -> Iterator[dict]:
        yield {"event": "start"}
        if context.process_index == 1:
            os.kill(os.getpid(), self.signal_number) if self.signal_number else os._exit(3)
        context.wait_for_everyone()
        yield {"event": "end"}


class Raise:
    """Rank 1 raises ``error``; rank 0 waits for it."""

    def __init__(self, error: Exception):
        self.error = error

    def __call__(self, context) -> Iterator[dict]:
        yield {"event": "start"}
        if context.process_index == 1:
            raise self.error
        context.wait_for_everyone()
        yield {"event": "end"}
