"""The kernel of a phase: a fork of the kernel server where one runs, else a new process."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import sys
import uuid
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner

from fer_lib.pipeline.kernel_server import OPTIONS

START_TIMEOUT = 120.0  # seconds for the server to import its libraries


class ForkedKernel:
    """A kernel that the server forked, with the interface of Popen.  Its exit code is unknown."""

    stdin = stdout = stderr = None

    def __init__(self, server: str, request: dict[str, Any]):
        """Raises OSError or ValueError when the server at this address has ended."""
        self.returncode: int | None = None
        self._connection = socket.socket(socket.AF_UNIX)
        try:
            self._connection.settimeout(START_TIMEOUT)
            self._connection.connect(server)
            self._connection.sendall(json.dumps(request).encode() + b"\n")
            with self._connection.makefile("r", encoding="utf-8") as file:
                self.pid = int(file.readline())
            self._handle = os.pidfd_open(self.pid)  # becomes readable when the kernel ends
        except BaseException:
            self._connection.close()
            raise

    def poll(self) -> int | None:
        """0 when the kernel has ended."""
        if self.returncode is None and select.select([self._handle], [], [], 0)[0]:
            self.returncode = 0
            os.close(self._handle)
            self._connection.close()
        return self.returncode

    def wait(self) -> int:
        """Wait for the end of the kernel."""
        if self.returncode is None:
            select.select([self._handle], [], [])
        return self.poll()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            signal.pidfd_send_signal(self._handle, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class _Provisioner(LocalProvisioner):
    """Starts a kernel through the server at the address ``server``."""

    server = ""

    async def launch_kernel(self, cmd: list[str], **options: Any):
        try:
            request = {"command": cmd, "cwd": options["cwd"], "environment": options["env"]}
            self.process = await asyncio.to_thread(ForkedKernel, self.server, request)  # seconds for the first one
        except (OSError, ValueError):  # no server, or it has ended
            return await super().launch_kernel(cmd, **options)
        self.pid = self.pgid = self.process.pid
        return self.connection_info


def kernel_manager(environment: dict[str, str], cwd: Path, server: str) -> type[AsyncKernelManager]:
    """A class of kernel managers for this interpreter, whatever kernels the user has installed.

    Args:
        environment: changes to the environment of this process; cwd: the kernel's working folder.
        server: address of a kernel server, or "".
    """
    argv = [sys.executable, *OPTIONS, "-m", "ipykernel_launcher", "-f", "{connection_file}"]

    class PhaseKernelManager(AsyncKernelManager):
        kernel_spec = KernelSpec(argv=argv, display_name="Python 3", language="python")

        def start_kernel(self, **options):
            self.kernel_id = str(uuid.uuid4())
            self.provisioner = _Provisioner(kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self)
            self.provisioner.server = server
            return super().start_kernel(env=os.environ | environment, cwd=str(cwd), **options)

    return PhaseKernelManager
