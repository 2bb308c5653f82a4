"""No command looks a host up, connects to one, or writes outside its folders; ONNX Runtime does so unless told."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest
from live_page import drawn_film
from network_log import in_namespace
from PIL import Image
from road import REPO

from fer_lib.live.synthetic_session import make_script
from fer_lib.synthetic.dataset import draw_face

FER = [sys.executable, "-m", "fer_lib.cli.main"]
PAGE = """
import signal, subprocess, sys, time, urllib.request
page = subprocess.Popen([sys.executable, "-m", "fer_lib.cli.main", "ui", "--port", "5055"])
for attempt in range(300):
    time.sleep(1)
    try:
        for path in ("/health", "/", "/ajax-api/2.0/mlflow/experiments/get?experiment_id=1",
                     "/ajax-api/3.0/mlflow/ui-telemetry"):
            print(path, urllib.request.urlopen("http://127.0.0.1:5055" + path, timeout=60).status)
        break
    except OSError as error:
        last = error
else:
    sys.exit(f"no answer: {last}")
page.terminate()
sys.exit(page.wait(60))
"""
CACHES = {".cache/matplotlib", ".config/matplotlib", ".cache/fontconfig", ".ipython/profile_default"}  # in SECURITY.md


def allowed() -> bool:
    """Whether this machine allows network namespaces."""
    if not all(shutil.which(name) for name in ("unshare", "ip")):
        return False
    return (
        subprocess.run(["unshare", "--map-root-user", "--net", "--mount", "true"], capture_output=True).returncode == 0
    )


pytestmark = pytest.mark.skipif(not allowed(), reason="no network namespaces here (unshare --map-root-user --net)")


@pytest.fixture
def user(tmp_path):
    """Environment of a new user with an empty home, an empty working folder and an empty temporary folder."""
    for name in ("home", "fer", "tmp", "work"):
        (tmp_path / name).mkdir()
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(REPO),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(tmp_path / "home"),
        "FER_HOME": str(tmp_path / "fer"),
        "TMPDIR": str(tmp_path / "tmp"),
        "OMP_NUM_THREADS": "1",
    }


def written(root: Path) -> set[str]:
    """Files below a folder, by their path in it."""
    return {file.relative_to(root).as_posix() for file in root.rglob("*") if not file.is_dir()}


def test_the_log_sees_a_look_up_and_a_packet(user, tmp_path):
    """The control: without it, an empty log would prove nothing."""
    connect = "import socket; socket.create_connection(('203.0.113.9', 443), 2)"
    name = "import socket; socket.getaddrinfo('example.org', 443)"
    log = in_namespace([[sys.executable, "-c", code] for code in (name, connect)], tmp_path, user, 60)
    assert "example.org" in log["lookups"] and "203.0.113.9" in log["packets"]


def test_onnx_runtime_leaves_a_queue_unless_it_is_told(user, tmp_path):
    """Control: with telemetry on, ONNX Runtime writes into the home."""
    [model, *_] = sorted((REPO / "fer_lib").rglob("*.onnx"))
    open_model = f"import onnxruntime; onnxruntime.InferenceSession({str(model)!r})"
    in_namespace([[sys.executable, "-c", open_model]], tmp_path, user, 60)
    left = written(tmp_path / "home")
    assert any("onnxruntime" in name for name in left), left


def test_nothing_gets_out_of_a_run_a_prediction_a_live_session_and_the_page(user, tmp_path):
    shutil.copy(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg", tmp_path / "photo.jpg")
    Image.fromarray(draw_face(seed=5, index=3, size=240).image).save(tmp_path / "face.png")
    film = drawn_film(tmp_path / "film.avi", make_script(3), seed=3)
    for name in ("notebooks", "params"):
        shutil.copytree(REPO / name, tmp_path / "fer" / name)
    before = written(REPO)
    commands = [
        [*FER, "run", str(REPO / "params" / "quickstart.yaml"), "--parallel", "2"],
        [*FER, "predict", str(tmp_path / "photo.jpg"), str(tmp_path / "face.png"), "--annotate", str(tmp_path / "out")],
        [*FER, "predict", str(tmp_path / "photo.jpg"), "--model", "models:/fer-demo@candidate"],
        [*FER, "live", "--source", str(film), "--headless", "--output", str(tmp_path / "session"), "--record", "raw"],
        [*FER, "live", "replay", str(tmp_path / "session"), "--model", "packaged", "--out", str(tmp_path / "replay")],
        [*FER, "runs"],
        [sys.executable, "-c", PAGE],
    ]
    log = in_namespace(commands, tmp_path / "work", user, 1800)
    assert log["codes"] == [0] * len(commands), [
        text for text, code in zip(log["outputs"], log["codes"], strict=True) if code
    ]
    assert log["lookups"] == [] and log["packets"] == []
    strays = {name for name in written(tmp_path / "home") if not any(name.startswith(folder) for folder in CACHES)}
    assert strays == set(), strays
    assert written(tmp_path / "work") == set()
    assert {name for name in written(REPO) - before if ".git/" not in name} == set()
