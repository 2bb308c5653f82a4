"""A wheel, built and installed where no checkout is, predicts photos in an empty folder of a new user."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image
from road import REPO

from fer_lib.emotions import EMOTIONS
from fer_lib.synthetic.dataset import draw_faces

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def run(*words, cwd: Path, home: Path) -> str:
    """What a command in the shell of a new user prints; it must succeed."""
    user = {"PATH": os.environ["PATH"], "HOME": str(home), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(w) for w in words], cwd=cwd, env=user, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folder of the commands of an environment that holds the wheel and, of this one, its dependencies alone."""
    base = tmp_path_factory.mktemp("wheel")
    source = base / "source"
    shutil.copytree(REPO / "fer_lib", source / "fer_lib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPO / name, source)
    offline = ("--no-deps", "--no-index")
    run(*PIP, "wheel", *offline, "--no-build-isolation", "-w", base / "dist", source, cwd=base, home=base)
    [wheel] = (base / "dist").glob("*.whl")
    shutil.rmtree(source)
    run(sys.executable, "-m", "venv", "--without-pip", base / "env", cwd=base, home=base)
    folders = sysconfig.get_paths(vars={"base": str(base / "env"), "platbase": str(base / "env")})
    python = Path(folders["scripts"]) / "python"
    search = "import importlib.util; print(importlib.util.find_spec('fer_lib'))"
    assert run(python, "-c", search, cwd=base, home=base).strip() == "None", "another fer_lib is in the way"
    run(*PIP, "--python", python, "install", *offline, wheel, cwd=base, home=base)
    # a folder that a .pth file names is searched, but its own .pth files, such as an editable install's, are not read
    (Path(folders["purelib"]) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


@pytest.fixture
def folder(tmp_path):
    """An empty working folder, beside an empty home and a folder of photos: a portrait, and two drawn faces."""
    for name in ("work", "home", "photos"):
        (tmp_path / name).mkdir()
    shutil.copy(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg", tmp_path / "photos")
    faces = np.concatenate(draw_faces(5, seed=6, size=240)[0][3:], axis=1)
    Image.fromarray(faces).save(tmp_path / "photos" / "drawn.png")
    return tmp_path


def test_an_installed_wheel_predicts_each_face_of_a_photo(installed, folder):
    shell = {"cwd": folder / "work", "home": folder / "home"}
    module = run(installed / "python", "-c", "import fer_lib; print(fer_lib.__file__)", **shell)
    assert Path(module.strip()).is_relative_to(installed.parent)
    out = run(installed / "fer", "predict", folder / "photos", "--detector", "haar", "--json", **shell)
    results = {Path(result["path"]).name: result["faces"] for result in json.loads(out)["results"]}
    assert {name: len(faces) for name, faces in results.items()} == {"grace_hopper.jpg": 1, "drawn.png": 2}
    for face in sum(results.values(), []):
        assert face["label"] in EMOTIONS and sum(face["probs"].values()) == pytest.approx(1)
    assert list((folder / "work").iterdir()) == [], "prediction leaves nothing in the working folder"
    out = run(installed / "fer", "predict", "grace_hopper.jpg", cwd=folder / "photos", home=folder / "home")
    assert "grace_hopper.jpg" in out and any(name in out for name in EMOTIONS)
