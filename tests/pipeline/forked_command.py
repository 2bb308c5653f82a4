"""``fer`` as a process that is forked from the kernel server of the tests and shares it.

Started by itself, a command and its kernel server import for fifteen processor seconds before the first phase.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from fer_lib.pipeline import workers


class ForkedCommand:
    """A running ``fer ARGUMENTS``; what it prints and its exit code go to files in ``folder``."""

    def __init__(self, server: str, home: Path, folder: Path, *arguments: str):
        self._output, self._code = folder / "output.txt", folder / "code.txt"
        words = [server, str(home), str(self._output), str(self._code), *arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        from forked import fork  # the process of the command has no ``tests`` on its path

        here = Path(__file__)
        self._process = fork(server, here.stem, here.parent, *words, environment=environment)
        self.pid, self.poll = self._process.pid, self._process.poll
        self.kill, self.send_signal = self._process.kill, self._process.send_signal

    def wait(self, timeout: float = 60.0) -> int:
        """The exit code."""
        until = time.monotonic() + timeout
        while self.poll() is None:
            assert time.monotonic() < until, f"the command goes on: {self.output}"
            time.sleep(0.05)
        return int(self._code.read_text())

    @property
    def output(self) -> str:
        return self._output.read_text()


def main(server: str, home: str, output: str, code: str, *arguments: str) -> None:
    """The command, in its process."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started the tests with SIGINT ignored
    with open(output, "w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.chdir(home)
    shared = SimpleNamespace(address=server, start=lambda: None, close=lambda: None)
    workers.KernelServer = lambda environment: shared
    from fer_lib.cli.main import main as fer

    try:
        fer(list(arguments))
    except SystemExit as end:
        Path(code).write_text(str(end.code))


if __name__ == "__main__":
    main(*sys.argv[1:])
