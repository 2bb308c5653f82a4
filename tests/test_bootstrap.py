"""The set-up script on a small project of its own, with wheels made here and no network."""

import base64
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
MISSING = "ImportError: libGL.so.1: cannot open shared object file: No such file or directory"
BACKEND = """
import zipfile
def build_editable(directory, config_settings=None, metadata_directory=None):
    name = "tiny-1.0-py3-none-any.whl"
    info = "tiny-1.0.dist-info"
    with zipfile.ZipFile(directory + "/" + name, "w") as z:
        z.writestr(info + "/METADATA", "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1.0\\n")
        z.writestr(info + "/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        z.writestr(info + "/RECORD", "")
    return name
"""


def write_wheel(folder: Path, name: str, version: str, modules: dict[str, str]) -> None:
    """A pure wheel holding ``modules`` (path -> source)."""
    stem, info = f"{name.replace('-', '_')}-{version}", f"{name.replace('-', '_')}-{version}.dist-info"
    files = dict(modules)
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: here\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = [
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip('=')},{len(text)}"
        for path, text in files.items()
    ]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,"]) + "\n"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)


@pytest.fixture
def project(tmp_path) -> Path:
    """A checkout in small: the real script, a lock of one package, an OpenCV that lacks its system library."""
    root = tmp_path / "project"
    (root / "fer_lib").mkdir(parents=True)
    shutil.copy(REPO / "fer_lib/bootstrap.py", root / "fer_lib")
    (root / "requirements.lock").write_text("# pins\nopencv-python==1.0\n")
    (root / "backend.py").write_text(BACKEND)
    (root / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "tiny"\nversion = "1.0"\n'
    )
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    write_wheel(wheels, "opencv-python", "1.0", {"cv2/__init__.py": f"raise ImportError({MISSING[13:]!r})\n"})
    write_wheel(wheels, "opencv-python-headless", "1.0", {"cv2/__init__.py": "BUILD = 'headless'\n"})
    return root


def set_up(project: Path, **env: str) -> subprocess.CompletedProcess:
    offline = {
        "PATH": os.environ["PATH"], "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(project.parent / "wheels"), "HOME": str(project.parent), "TMPDIR": str(project.parent),
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "fer_lib/bootstrap.py"], cwd=project, env={**offline, **env}, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip


def distributions(project: Path) -> set[str]:
    return {p.name.split("-")[0] for p in (project / ".venv").glob("lib/python*/site-packages/*.dist-info")}


@pytest.mark.skipif(os.name == "nt", reason="looks into the environment where Unix puts it")
def test_from_an_interrupted_start_to_a_working_environment_and_back_at_once(project):
    # the index can't be reached: said so, nothing marked as finished
    unreachable = {"PIP_NO_INDEX": "", "PIP_FIND_LINKS": "", "PIP_INDEX_URL": "http://127.0.0.1:9/simple"}
    stopped = set_up(project, **unreachable, PIP_RETRIES="1")
    assert stopped.returncode == 1, stopped.stdout
    assert "package index can't be reached" in stopped.stderr and "Traceback" not in stopped.stderr
    assert not (project / ".venv/fer-setup.json").exists()

    # taken up again, with the headless build in place of the one that does not load
    done = set_up(project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "making" not in done.stdout
    assert "opencv-python-headless 1.0 took its place" in done.stdout and "libGL.so.1" in done.stdout
    assert {"opencv_python_headless", "tiny"} <= distributions(project)
    assert "opencv_python" not in distributions(project)
    code = "import cv2; print(cv2.BUILD)"
    built = subprocess.run([project / ".venv/bin/python", "-c", code], capture_output=True, text=True)
    assert built.stdout.strip() == "headless"

    # nothing changed: at once, and in silence
    start = time.perf_counter()
    warm = set_up(project)
    assert (warm.returncode, warm.stdout) == (0, "")
    assert time.perf_counter() - start < 1.0

    # a changed lock: installed again, and the windowed build (which now loads) comes back alone
    write_wheel(project.parent / "wheels", "opencv-python", "1.1", {"cv2/__init__.py": "BUILD = 'windowed'\n"})
    (project / "requirements.lock").write_text("opencv-python==1.1\n")
    again = set_up(project)
    assert again.returncode == 0, again.stderr
    assert "opencv_python" in distributions(project) and "opencv_python_headless" not in distributions(project)


def test_a_folder_that_is_no_environment_is_left_alone(project):
    (project / ".venv").mkdir()
    (project / ".venv/thesis.txt").write_text("years of work")
    stopped = set_up(project)
    assert stopped.returncode == 1 and "is not a virtual environment" in stopped.stderr
    assert (project / ".venv/thesis.txt").read_text() == "years of work"


def test_a_checkout_without_its_lock_is_named(project):
    (project / "requirements.lock").unlink()
    stopped = set_up(project)
    assert stopped.returncode == 1 and "requirements.lock is missing" in stopped.stderr


@pytest.fixture
def bootstrap(project):
    spec = importlib.util.spec_from_file_location("bootstrap_under_test", project / "fer_lib/bootstrap.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_moved_environment_is_made_anew(bootstrap, project, monkeypatch):
    """Scripts inside an environment carry its path, so a stamp of another place does not count."""
    venv = project / ".venv"
    (venv / "bin").mkdir(parents=True)
    bootstrap.environment_python(venv).parent.mkdir(exist_ok=True)
    bootstrap.environment_python(venv).touch()
    stamp = bootstrap.wanted_stamp(venv)
    (venv / bootstrap.STAMP).write_text(json.dumps(stamp))
    bootstrap.set_up(venv)  # nothing to do: make_environment is not reached
    (venv / bootstrap.STAMP).write_text(json.dumps({**stamp, "venv": str(project / "elsewhere")}))
    monkeypatch.setattr(bootstrap, "installed", lambda venv, name: True)
    with pytest.raises(bootstrap.SetupError, match="is not a virtual environment"):
        bootstrap.set_up(venv)


def test_python_without_venv_says_what_to_install(bootstrap, project, monkeypatch):
    monkeypatch.setattr(bootstrap.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(bootstrap.SetupError, match="apt-get install python3-venv"):
        bootstrap.make_environment(project / ".venv")


def test_a_full_disk_stops_before_anything_is_made(bootstrap, project, monkeypatch):
    monkeypatch.setattr(bootstrap.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 10, 2**30))
    with pytest.raises(bootstrap.SetupError, match=r"1\.0 GB free"):
        bootstrap.make_environment(project / ".venv")
    assert not (project / ".venv").exists()


@pytest.mark.parametrize(
    "printed, said",
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("WARNING: Retrying: NameResolutionError\nERROR: No matching distribution found for numpy", "can't be reached"),
        ("ERROR: No matching distribution found for torch==2.13.0", "Linux x86-64/aarch64"),
        ("something unheard of", "something unheard of"),
    ],
)
def test_what_pip_printed_is_explained(bootstrap, printed, said):
    assert said in bootstrap.explain(printed)


def test_an_old_python_is_told_so():
    code = "import sys, runpy; sys.version_info = (3, 9, 2); runpy.run_path(sys.argv[1], run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code, REPO / "fer_lib/bootstrap.py"], capture_output=True, text=True)
    assert done.returncode == 1 and "this is Python 3.9 and the project needs 3.11" in done.stderr
