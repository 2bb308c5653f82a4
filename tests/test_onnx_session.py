"""No library sends telemetry: the switches are set before the imports, in every process."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

REPO = Path(__file__).resolve().parents[1]
[ENTRY] = (REPO / "fer_lib").rglob("pyfunc_entry.py")
# Prints the switch as it is when ONNX Runtime begins to be imported.
WATCH = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            print("ORT_DISABLE_TELEMETRY", os.environ.get("ORT_DISABLE_TELEMETRY"))
assert "onnxruntime" not in sys.modules
sys.meta_path.insert(0, Watch())
"""
OPEN = """
try:
    open_session(b"no model")
except Exception as error:
    print(type(error).__name__)
"""
WAYS = {
    "the package": "import fer_lib, onnxruntime",
    "open_session": f"from fer_lib.onnx_session import open_session{OPEN}",
    "a registered model": f"import runpy\nrunpy.run_path({str(ENTRY)!r})\nimport onnxruntime",
    "a worker process": """
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
import fer_lib
with ProcessPoolExecutor(1, get_context("spawn")) as pool:
    print("ORT_DISABLE_TELEMETRY", pool.submit(os.getenv, "ORT_DISABLE_TELEMETRY").result())
""",
}


def run(code, **environment):
    env = {k: v for k, v in os.environ.items() if not k.endswith("DISABLE_TELEMETRY")} | environment
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, env=env, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_telemetry_is_off_before_the_runtime_is_imported(way):
    assert "ORT_DISABLE_TELEMETRY 1" in run(WATCH + way)


def test_the_runtime_writes_no_device_id(tmp_path):
    """It writes one into the user's cache folder as it is imported, unless telemetry is off."""
    run("import fer_lib, onnxruntime; onnxruntime.SessionOptions()", HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))
    assert [p.name for p in tmp_path.rglob("*") if "onnxruntime" in p.name or "device" in p.name.lower()] == []


def test_the_users_setting_is_kept():
    assert "ORT_DISABLE_TELEMETRY 0" in run(WATCH + WAYS["the package"], ORT_DISABLE_TELEMETRY="0")


def test_telemetry_is_off_before_the_first_cell_of_a_kernel(tmp_path):
    cell = nbformat.v4.new_code_cell("import os; print(os.environ['ORT_DISABLE_TELEMETRY'])")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "a.ipynb")
    run(
        "import os; from pathlib import Path; from fer_lib.pipeline.papermill import execute\n"
        "folder = Path(os.environ['FOLDER'])\n"
        "execute(folder / 'a.ipynb', folder / 'out.ipynb', {}, folder, {})",
        FOLDER=str(tmp_path),
    )
    outputs = json.loads((tmp_path / "out.ipynb").read_text())["cells"][-1]["outputs"]
    assert "1\n" in ["".join(output.get("text", "")) for output in outputs]


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_only_one_module_imports_the_runtime():
    """All others open their models through it, so none can import the runtime first."""
    scripts = [path for room in ("fer_lib", "benchmarks") for path in (REPO / room).rglob("*.py")]
    texts = {path: path.read_text() for path in scripts}
    for path in (REPO / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        texts[path] = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    names = {path: {name.split(".")[0] for name in imports(ast.parse(text))} for path, text in texts.items()}
    assert [path.name for path in names if "onnxruntime" in names[path]] == ["onnx_session.py"]


def test_mlflows_telemetry_is_off_before_its_import():
    """The kernel server imports MLflow before any store is configured; its client would write an id into the home."""
    code = "import fer_lib, mlflow.telemetry.utils as utils; print(utils.MLFLOW_DISABLE_TELEMETRY.get())"
    env = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


WATCH_NETWORK = """
import sys
sys.addaudithook(lambda event, args: event in ("socket.connect", "socket.getaddrinfo") and print("network", args))
"""
HUB = """
import fer_lib
from huggingface_hub.utils import build_hf_headers
print(build_hf_headers()["user-agent"])
"""


def test_the_hubs_client_sends_neither_versions_nor_a_look_up_of_its_own(tmp_path):
    """With telemetry, it adds torch's version to every request, and fetches a list of programs to look for."""
    off = run(WATCH_NETWORK + HUB, HF_HOME=str(tmp_path))
    on = run(WATCH_NETWORK + HUB, HF_HOME=str(tmp_path), HF_HUB_DISABLE_TELEMETRY="0")
    assert "hf_hub/" in off and "torch/" not in off and "network" not in off
    assert "torch/" in on and "network" in on, "the control: the user's setting is kept"


def test_no_import_opens_a_connection(tmp_path):
    libraries = "timm, onnx, mlflow, papermill, jupyterlab.labapp"
    assert run(WATCH_NETWORK + f"import fer_lib, {libraries}", HF_HOME=str(tmp_path)) == ""
    assert "network" in run(WATCH_NETWORK + "import socket; socket.getaddrinfo('localhost', 1)"), "the control"
