"""Every notebook in JupyterLab, run from top to bottom by its menu in headless Chromium.

They run one after another in a new home, each on what those before it made.  Alone, one runs the quickstart first.
"""

import json
import re
import urllib.request
from pathlib import Path

import browser
import pytest
from road import Road, environment, make_home, red_boxes

from fer_lib.params import KINDS
from fer_lib.tracking import store

pytestmark = pytest.mark.skipif(browser.chromium() is None, reason="no chromium here: apt-get install chromium")

SHORT = {"backbone": "test_resnet", "image_size": 48, "epochs": 1}
TOKEN = "proof"
SERVER = ("jupyterlab", "--no-browser", "--allow-root", "--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1",
          "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}", "--LabApp.expose_app_in_browser=True",
          "--LabApp.extension_manager=readonly")  # fmt: skip
NO_NEWS = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
# no address but this machine's: what a page asks of the internet fails at once
LOCAL = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
NOTEBOOK = "[...(window.jupyterapp?.shell.widgets('main') ?? [])][0]"
KERNEL = f"{NOTEBOOK}?.sessionContext?.session?.kernel"
CODE = f"{NOTEBOOK}.content.widgets.map(cell => cell.model).filter(model => model.type == 'code')"
DONE = f"{CODE}.every(model => model.executionCount && model.executionState == 'idle')"
FAILED = f"{CODE}.some(model => model.outputs.toJSON().some(output => output.output_type == 'error'))"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """(home, address) of a JupyterLab that knows no kernel or setting of the user's."""
    base = tmp_path_factory.mktemp("lab")
    make_home(base / "home")
    (base / "CONFIG" / "labconfig").mkdir(parents=True)
    (base / "CONFIG" / "labconfig" / "page_config.json").write_text(json.dumps(NO_NEWS))
    own = {"HOME": str(base), **{f"JUPYTER_{name}_DIR": str(base / name) for name in ("CONFIG", "DATA", "RUNTIME")}}
    env = environment(None) | own | {"IPYTHONDIR": str(base / "ipython"), "JUPYTER_PATH": ""}
    with browser.server(*SERVER, f"--ServerApp.root_dir={base / 'home'}", health="/api", env=env) as address:
        yield base / "home", address


@pytest.fixture
def opened(lab, monkeypatch):
    """That home and its runs; MLflow of this process pointed at its store."""
    home, _ = lab
    monkeypatch.setenv("FER_HOME", str(home))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.tracking_uri(home))  # put back afterwards
    store.configure()
    return Road(home, None)


def set_parameters(notebook: Path, values: dict) -> None:
    """Change lines of the parameter cell, as a person edits them."""
    text = json.loads(notebook.read_text())
    cell = next(c for c in text["cells"] if "parameters" in c["metadata"].get("tags", ()))
    source = "".join(cell["source"])
    for name, value in values.items():
        source, changed = re.subn(rf"^({name}\b.*?) = .*$", rf"\g<1> = {value!r}", source, flags=re.MULTILINE)
        assert changed == 1, name
    cell["source"] = source
    notebook.write_text(json.dumps(text))


def menu(tab, *labels: str) -> None:
    """Choose an entry of JupyterLab's menus: ``menu(tab, "Run", "Run All Cells")``."""
    for label in labels:
        words = "[...document.querySelectorAll('.lm-MenuBar-itemLabel, .lm-Menu-itemLabel')]"
        tab.click(f"{words}.find(item => item.innerText == {json.dumps(label)} && item.offsetParent)")


def ask(address: str, path: str, method: str = "GET"):
    request = urllib.request.Request(f"{address}{path}", method=method, headers={"Authorization": f"token {TOKEN}"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read() or "null")


def run_all_cells(address: str, stem: str, picture: Path) -> None:
    """Open a notebook in a new browser, run it, save it, and end its kernel."""
    try:
        with browser.Browser(LOCAL) as tab:
            tab.resize(1400, 1000)
            tab.call("Page.navigate", url=f"{address}/lab/tree/notebooks/{stem}.ipynb?token={TOKEN}&reset")
            tab.wait(f"{KERNEL}?.status == 'idle'")
            tab.click("document.querySelector('.jp-Notebook h1')")
            menu(tab, "Run", "Run All Cells")
            tab.wait(f"{DONE} || {FAILED}", seconds=900)
            tab.picture(picture)
            menu(tab, "File", "Save Notebook")
            tab.wait(f"!{NOTEBOOK}.context.model.dirty")
    finally:
        sessions = ask(address, "/api/sessions")
        for session in sessions:
            ask(address, f"/api/sessions/{session['id']}", "DELETE")
    assert [(s["path"], s["kernel"]["name"]) for s in sessions] == [(f"notebooks/{stem}.ipynb", "python3")]


@pytest.mark.parametrize("kind", KINDS)
def test_it_runs_from_top_to_bottom(lab, opened, kind, tmp_path):
    (home, address), stem = lab, KINDS[kind][1]
    notebook = home / "notebooks" / f"{stem}.ipynb"
    if kind in ("teacher", "student"):
        set_parameters(notebook, SHORT)
    before = {run.info.run_id for run in opened._search("")}
    run_all_cells(address, stem, tmp_path / f"{stem}.png")
    cells = json.loads(notebook.read_text())["cells"]
    assert red_boxes(cells) == []
    counts = [cell["execution_count"] for cell in cells if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))
    made = [run for run in opened._search(f"tags.`fer.kind` = '{kind}'") if run.info.run_id not in before]
    assert {run.info.status for run in made} == {"FINISHED"}
    assert (home / made[0].data.tags["fer.folder"] / "done.json").is_file()
