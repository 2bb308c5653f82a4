"""``fer ui``: MLflow's page, on this machine and for its own page only."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import Annotated

import typer


def mlflow_page():
    """MLflow's ASGI app, which trusts the pages of every local port, behind a check that refuses them.

    MLflow finds it by the entry point ``fer-lab`` of the group ``mlflow.app`` and serves it in place of MLflow's app.
    """
    from mlflow.server.fastapi_app import app

    from fer_lib.live.web.origin_check import OriginCheck

    return OriginCheck(app, "fer ui", {"cross-origin-resource-policy": "same-origin"})


def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="the port to listen on")] = 5000,
) -> None:
    """Serve MLflow's page at http://127.0.0.1:PORT until Ctrl+C."""
    from fer_lib.errors import FerError
    from fer_lib.tracking import store

    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise FerError(f"port {port} is in use: open http://127.0.0.1:{port} if that is MLflow, else use --port")
    base = store.configure()
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--app-name", "fer-lab", "--no-serve-artifacts",  # the page reads the artifact folder itself
        "--backend-store-uri", store.tracking_uri(base), "--default-artifact-root", store.artifact_root(base),
    ]  # fmt: skip
    typer.echo(f"MLflow's page: http://127.0.0.1:{port} (up in about ten seconds; Ctrl+C ends it)")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended either way, the server must not be left behind
    server = subprocess.Popen(command, env=environment, cwd=base)
    try:
        code = server.wait()
    except KeyboardInterrupt:
        server.terminate()
        server.wait(timeout=20)
        code = 0
    if code:
        raise FerError(f"the MLflow server ended with code {code}: its message is above")
