"""MLflow's page of a home in headless Chromium: what a person reads there, and images of it.

``python tests/proofs/browser.py [OUT]`` writes ``mlflow_runs.png`` and ``mlflow_compare.png`` of the store of this
home ($FER_HOME or the checkout) into OUT (docs/pictures).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fer_lib.storage import paths
from fer_lib.tracking import store

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars",
         "--remote-debugging-port=0")  # fmt: skip
RUNS_SIZE, COMPARE_SIZE = (1400, 720), (1400, 1200)  # pixels
COLUMNS = ("params.`backbone`", "params.`mode`", "metrics.`best/accuracy`", "metrics.`best/macro_f1`",
           "metrics.`best_scaled/ece`")  # fmt: skip
PANEL_CLOSED = {"mlflow.assistant.panelOpen_v1": "false", "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true"}


def chromium() -> str | None:
    """The browser's path, None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


@contextlib.contextmanager
def page(home: Path) -> Iterator[str]:
    """``fer ui`` on a free port while the block runs; its address."""
    env = os.environ | {"FER_HOME": str(home)}
    with server("fer_lib.cli.main", "ui", "--port={port}", health="/health", env=env) as base:
        yield base


@contextlib.contextmanager
def server(*words: str, health: str, env: dict[str, str]) -> Iterator[str]:
    """``python -m WORDS`` while the block runs; its address once ``health`` answers.

    ``{port}`` in the words becomes a free port.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", *(word.format(port=port) for word in words)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        try:
            _wait_for(f"http://127.0.0.1:{port}{health}", process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=60)


def _wait_for(url: str, process: subprocess.Popen, log, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.5)
    log.seek(0)
    raise RuntimeError(f"the server did not answer at {url}:\n{log.read().decode()[-3000:]}")


class Browser:
    """One tab of a headless Chromium, driven over its debugging socket; use as ``with Browser() as browser:``.

    ``flags`` are added to its command; ``events`` are what the page told meanwhile, as (method, parameters).
    """

    def __init__(self, *flags: str):
        self.flags, self.events = flags, []

    def __enter__(self) -> Browser:
        import websocket

        self.profile = tempfile.TemporaryDirectory()
        command = [chromium(), *FLAGS, *self.flags, f"--user-data-dir={self.profile.name}", "about:blank"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port = self._read_port(Path(self.profile.name) / "DevToolsActivePort")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=60) as answer:
            tab = next(t for t in json.load(answer) if t["type"] == "page")
        self.socket = websocket.create_connection(tab["webSocketDebuggerUrl"], suppress_origin=True, timeout=300)
        self.calls = 0
        return self

    def _read_port(self, file: Path, seconds: float = 120) -> str:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            if file.is_file() and (lines := file.read_text().split()):
                return lines[0]
            time.sleep(0.2)
        raise RuntimeError(f"chromium did not start (exit code {self.process.poll()})")

    def __exit__(self, *error) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait(timeout=60)
        with contextlib.suppress(OSError):  # a helper process may still be writing its profile
            self.profile.cleanup()

    def call(self, method: str, **parameters) -> dict[str, Any]:
        """One command of the DevTools protocol; its result."""
        self.calls += 1
        self.socket.send(json.dumps({"id": self.calls, "method": method, "params": parameters}))
        while (answer := json.loads(self.socket.recv())).get("id") != self.calls:
            self.events.append((answer["method"], answer["params"]))
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def open(self, url: str, size: tuple[int, int], shown: str, remember: dict[str, str]) -> str:
        """Go to ``url`` with these entries in the page's storage; the text that is read there once it has ``shown``."""
        width, height = size
        self.resize(width, height)
        self.call("Page.navigate", url=url.partition("#")[0] + "health")  # the same origin, without the application
        self.wait("location.pathname == '/health' && document.readyState == 'complete'")
        self.evaluate(f"Object.entries({json.dumps(remember)}).forEach(([k, v]) => localStorage.setItem(k, v))")
        self.call("Page.navigate", url=url)
        self.wait(f"document.body && document.body.innerText.includes({json.dumps(shown)})")
        time.sleep(3)  # plots are drawn after the text
        return self.evaluate("document.body.innerText")

    def press(self, key: str, text: str = "", modifiers: int = 0) -> None:
        """A key as a person presses it: ``text`` for one that writes something; modifiers 1 Alt, 2 Ctrl, 8 Shift."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowLeft": 37, "ArrowRight": 39}
        code = codes.get(key, ord(key.upper()) if len(key) == 1 else 0)
        parameters = {"key": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        down = parameters | ({"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"})
        self.call("Input.dispatchKeyEvent", **down)
        self.call("Input.dispatchKeyEvent", type="keyUp", **parameters)

    def click(self, element: str) -> None:
        """A left click on the middle of an element, which a JavaScript expression gives, once it is there."""
        self.wait(element)
        place = f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])(({element}).getBoundingClientRect())"
        x, y = self.evaluate(place)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def resize(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def wait(self, condition: str, seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while not self.evaluate(f"!!({condition})"):
            if time.monotonic() > end:
                raise RuntimeError(f"after {seconds:.0f} s not yet: {condition}")
            time.sleep(0.5)

    def picture(self, path: Path) -> None:
        """What is in the window, as a PNG file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


def students(home: Path) -> list:
    """Two finished student runs of unlike modes that one command ran, the newest there are."""
    import mlflow

    store.configure(home)
    client = mlflow.MlflowClient()
    experiments = [e.experiment_id for e in client.search_experiments()]
    query = "tags.`fer.kind` = 'student' and attributes.status = 'FINISHED'"
    families: dict[str, dict[str, Any]] = {}
    for run in client.search_runs(experiments, query, order_by=["attributes.start_time DESC"]):
        modes = families.setdefault(run.data.tags["fer.lock"], {})  # a command holds one lock of its own
        modes.setdefault(run.data.params["mode"], run)
        if len(modes) == 2:
            return list(modes.values())
    raise RuntimeError(f"{home} has no run with two students of unlike modes: fer run params/quickstart.yaml")


def runs_list(browser: Browser, base: str, runs: list) -> str:
    """The text of the experiment's list, opened down to these runs, with a few columns that one compares."""
    import mlflow

    experiment, opened = runs[0].info.experiment_id, {}
    for run in runs:
        while above := run.data.tags.get("mlflow.parentRunId"):
            opened[above], run = True, mlflow.MlflowClient().get_run(above)
    shown = {"selectedColumns": list(COLUMNS), "runsExpanded": opened}
    key = f'MLflowLocalStorage-1.1-ExperimentPage-["{experiment}"]-ReactComponentState'
    url = f"{base}/#/experiments/{experiment}/runs"
    return browser.open(url, RUNS_SIZE, runs[0].info.run_name, PANEL_CLOSED | {key: json.dumps(shown)})


def comparison(browser: Browser, base: str, runs: list) -> str:
    """The text of MLflow's page that compares these runs, with only what differs and without its plots."""
    ids = ",".join(f"%22{run.info.run_id}%22" for run in runs)
    url = f"{base}/#/compare-runs?runs=[{ids}]&experiments=[%22{runs[0].info.experiment_id}%22]"
    browser.open(url, COMPARE_SIZE, "Show diff only", PANEL_CLOSED)
    browser.evaluate("document.querySelectorAll('[role=switch]').forEach(toggle => toggle.click())")
    browser.evaluate("[...document.querySelectorAll('*')].findLast(e => e.innerText == 'Visualizations').click()")
    time.sleep(1)
    return browser.evaluate("document.body.innerText")


def main(out: Path) -> None:
    runs = students(paths.home())
    with page(paths.home()) as base, Browser() as browser:
        runs_list(browser, base, runs)
        browser.picture(out / "mlflow_runs.png")
        comparison(browser, base, runs)
        browser.picture(out / "mlflow_compare.png")
    print(f"wrote mlflow_runs.png and mlflow_compare.png in {out}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2] / "docs" / "pictures")
