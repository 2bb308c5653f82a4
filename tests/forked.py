"""Processes forked from the kernel server of the tests: one that is started by itself imports for seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from fer_lib.pipeline.kernel_server import OPTIONS
from fer_lib.pipeline.kernels import ForkedKernel


def fork(
    server: str, module: str, folder: Path, *words: str, environment: dict[str, str] | None = None
) -> ForkedKernel | subprocess.Popen:
    """Run ``python -m MODULE WORDS`` in ``folder``; as a new process where ``server`` is empty, as on macOS."""
    command = [sys.executable, *OPTIONS, "-m", module, *words]
    environment = dict(os.environ) if environment is None else environment
    if not server:
        return subprocess.Popen(command, cwd=folder, env=environment)
    return ForkedKernel(server, {"command": command, "cwd": str(folder), "environment": environment})
