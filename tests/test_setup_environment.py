"""``make setup`` and ``make lock`` on a small project, with wheels made here and no network."""

import ast
import base64
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from fer_lib.setup_environment import uv_options

REPO = Path(__file__).resolve().parents[1]
SCRIPT = REPO / "fer_lib/setup_environment.py"
MISSING = "libGL.so.1: cannot open shared object file: No such file or directory"
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


UV = shutil.which("uv", path=Path(sys.executable).parent)
needs_uv = pytest.mark.skipif(UV is None, reason="uv is not installed here")
unix = pytest.mark.skipif(os.name == "nt", reason="looks into the environment where Unix puts it")


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def write_wheel(folder: Path, name: str, version: str, modules: dict[str, str], requires=()) -> None:
    """A pure wheel holding ``modules`` (path -> source)."""
    stem, info = f"{name.replace('-', '_')}-{version}", f"{name.replace('-', '_')}-{version}.dist-info"
    files = dict(modules)
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files[f"{info}/METADATA"] += "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: here\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = [
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip('=')},{len(text)}"
        for path, text in files.items()
    ]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,"]) + "\n"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)


def write_uv_wheel(folder: Path) -> None:
    """A wheel ``uv`` that runs the uv of this environment, so that the set-up finds it without a package index."""
    main = f"import os, sys\nos.execv({UV!r}, ['uv', *sys.argv[1:]])\n"
    write_wheel(folder, "uv", "1.0", {"uv/__init__.py": "", "uv/__main__.py": main})


def write_locks(root: Path, *pins: str, torch: str = "smalltorch==2.0", damaged: str = "") -> None:
    """The four locks of a checkout, with the hashes of the wheels beside it; ``damaged``: a package with another's."""

    def hashed(pin: str) -> str:
        name, _, version = pin.partition("==")
        wheel = root.parent / "wheels" / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
        content = wheel.read_bytes() if wheel.is_file() and name != damaged else b""
        return f"{pin} \\\n    --hash=sha256:{hashlib.sha256(content).hexdigest()}\n"

    headless = next((pin.replace("python", "python-headless") for pin in pins if pin.startswith("opencv")), "")
    (root / "requirements.lock").write_text("# pins\n" + "".join(map(hashed, pins)))
    (root / "requirements-torch.txt").write_text(torch + "\n")
    (root / "requirements-uv.txt").write_text(hashed("uv==1.0"))
    (root / "requirements-headless.txt").write_text(hashed(headless))


@pytest.fixture
def project(tmp_path) -> Path:
    """A small checkout: the real script, a lock of two packages, an OpenCV that lacks its system library."""
    root = tmp_path / "a project"
    (root / "fer_lib").mkdir(parents=True)
    shutil.copy(SCRIPT, root / "fer_lib")
    (root / "backend.py").write_text(BACKEND)
    (root / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "tiny"\nversion = "1.0"\n'
    )
    wheels, cpu = tmp_path / "wheels", tmp_path / "cpu"
    wheels.mkdir()
    cpu.mkdir()
    write_wheel(wheels, "opencv-python", "1.0", {"cv2/__init__.py": f"raise ImportError({MISSING!r})\n"})
    write_wheel(wheels, "opencv-python-headless", "1.0", {"cv2/__init__.py": "BUILD = 'headless'\n"})
    write_wheel(wheels, "smalltorch", "2.0", {"smalltorch.py": "BUILD = 'cuda'\n"}, ["cudalib"])
    write_wheel(cpu, "smalltorch", "2.0+cpu", {"smalltorch.py": "BUILD = 'cpu'\n"})
    write_wheel(wheels, "cudalib", "1.0", {})
    write_wheel(wheels, "other", "1.0", {"other.py": "VERSION = 1\n"})
    write_locks(root, "opencv-python==1.0", "other==1.0")
    return root


def set_up(project: Path, **env: str) -> subprocess.CompletedProcess:
    config = project.parent / "pip.conf"
    config.write_text(f"[global]\nno-index = true\nfind-links =\n    {project.parent}/wheels\n")
    offline = {
        "PATH": os.environ["PATH"], "PIP_CONFIG_FILE": str(config), "HOME": str(project.parent),
        "TMPDIR": str(project.parent),
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "fer_lib/setup_environment.py"], cwd=project, env={**offline, **env}, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip


def distributions(project: Path) -> set[str]:
    folders = (project / ".venv").glob("lib/python*/site-packages/*.dist-info")
    return {folder.name.removesuffix(".dist-info") for folder in folders}


def build(project: Path, module: str) -> str:
    code = f"import {module}; print({module}.BUILD)"
    return subprocess.run([project / ".venv/bin/python", "-c", code], capture_output=True, text=True).stdout.strip()


@unix
@needs_uv
def test_set_up_resumes_after_a_failure_and_follows_a_changed_lock(project):
    # no index can be reached, so nothing is marked as complete
    unreachable = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}
    stopped = set_up(project, **unreachable)
    assert stopped.returncode == 1, stopped.stdout
    assert "set-up stopped: Command" in stopped.stderr and "Check network" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert not (project / ".venv/fer-setup.txt").exists()
    (project / ".venv/kept").touch()

    # the next run goes on: without uv pip installs the lock, then the OpenCV that loads
    done = set_up(project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "uv is not available" in done.stdout and "its build without windows replaces it" in done.stdout
    assert {"opencv_python_headless-1.0", "smalltorch-2.0", "cudalib-1.0", "other-1.0", "tiny-1.0"} <= distributions(
        project
    )
    assert "opencv_python-1.0" not in distributions(project)
    assert build(project, "cv2") == "headless"

    # nothing changed: no command runs, which would need uv or pip
    warm = set_up(project, PIP_CONFIG_FILE="unreadable")
    assert (warm.returncode, warm.stdout, warm.stderr) == (0, "", "")

    # like an environment of another tool, which notes no command
    config = project / ".venv/pyvenv.cfg"
    config.write_text("".join(line for line in config.open() if not line.startswith("command")))

    # a changed lock: uv installs it, compiled, from the folders of pip's configuration, a local build before the plain
    # one; the OpenCV with windows, which loads now, replaces the headless one
    wheels = project.parent / "wheels"
    write_uv_wheel(wheels)
    write_wheel(wheels, "opencv-python", "1.1", {"cv2/__init__.py": "BUILD = 'windowed'\n"})
    write_wheel(wheels, "smalltorch", "2.1", {"smalltorch.py": "BUILD = 'cuda'\n"}, ["cudalib"])
    write_wheel(project.parent / "cpu", "smalltorch", "2.1+cpu", {"smalltorch.py": "BUILD = 'cpu'\n"})
    write_locks(project, "opencv-python==1.1", "other==1.0", torch="smalltorch==2.1")
    again = set_up(project, PIP_FIND_LINKS=f"{wheels} {project.parent}/cpu")
    assert again.returncode == 0, again.stderr
    assert "uv is not available" not in again.stdout and "Bytecode compiled" in again.stderr
    assert {"opencv_python-1.1", "smalltorch-2.1+cpu"} <= distributions(project)
    assert not any(name.startswith("opencv_python_headless") for name in distributions(project))
    assert (build(project, "cv2"), build(project, "smalltorch")) == ("windowed", "cpu")
    assert (project / ".venv/kept").exists(), "the environment was created again"


@unix
def test_a_package_with_another_hash_is_not_installed(project):
    write_locks(project, "opencv-python==1.0", "other==1.0", damaged="other")
    stopped = set_up(project)
    assert stopped.returncode == 1 and "hash" in stopped.stderr.lower() and "other" in stopped.stderr
    assert "other-1.0" not in distributions(project) and not (project / ".venv/fer-setup.txt").exists()


@unix
def test_packages_that_do_not_fit_together_are_reported(project):
    write_wheel(project.parent / "wheels", "other", "1.0", {"other.py": ""}, ["missing>=3"])
    write_locks(project, "opencv-python==1.0", "other==1.0")
    stopped = set_up(project)
    assert stopped.returncode == 1 and "requires missing" in stopped.stdout


@pytest.mark.parametrize("option, made_in", [("--system-site-packages", "elsewhere"), ("--copies", ".venv")])
def test_a_moved_environment_and_one_without_pip_are_created_again(project, option, made_in):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", option, project / made_in], check=True)
    (project / made_in).rename(project / ".venv")
    (project / "venv.py").write_text("import sys\nsys.exit(f'venv {sys.argv[1:]}')\n")  # found before Python's own
    stopped = set_up(project)
    assert stopped.returncode == 1 and f"venv {['--clear', str(project / '.venv')]}" in stopped.stderr, stopped.stderr


def test_a_folder_that_is_not_an_environment_is_not_changed(project):
    (project / ".venv").mkdir()
    (project / ".venv/thesis.txt").write_text("years of work")
    stopped = set_up(project)
    assert stopped.returncode == 1 and "is not a virtual environment" in stopped.stderr
    assert (project / ".venv/thesis.txt").read_text() == "years of work"


def test_a_missing_lock_is_named(project):
    (project / "requirements.lock").unlink()
    stopped = set_up(project)
    assert stopped.returncode == 1 and "requirements.lock" in stopped.stderr and "Traceback" not in stopped.stderr


def test_an_old_python_gets_a_message_instead_of_a_syntax_error():
    ast.parse(SCRIPT.read_text(), feature_version=(3, 7))
    code = (
        "import sys, runpy; sys.version_info, sys.version = (3, 9, 2), '3.9.2 (main)'\n"
        "runpy.run_path(sys.argv[1], run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code, SCRIPT], capture_output=True, text=True)
    assert done.returncode == 1 and "Python 3.9.2 is too old, use 3.11+: make setup PYTHON=python3" in done.stderr


@pytest.mark.parametrize(
    "pip_config, options",
    [
        ("", []),
        ("global.timeout='60'\nglobal.constraint='/c.txt'", []),
        ("global.find-links='/a\\n/b'", ["--find-links=/a", "--find-links=/b"]),
        ("global.extra-index-url='https://a/simple https://b/simple'",
         ["--extra-index-url=https://a/simple", "--extra-index-url=https://b/simple"]),
        (":env:.find-links='/env'\nglobal.find-links='/file'\ninstall.find-links='/install'", ["--find-links=/env"]),
        ("global.find-links='/file'\ninstall.find-links='/install'", ["--find-links=/install"]),
        (":env:.find-links=''\nglobal.find-links='/file'", ["--find-links=/file"]),
        ("global.no-index='true'\nglobal.cert='/c.pem'", ["--no-index", "--cert=/c.pem"]),
        ("global.index-url=\"https://user:it's@host/simple\"", ["--index-url=https://user:it's@host/simple"]),
    ],
)  # fmt: skip
def test_uv_uses_the_indexes_of_the_pip_configuration(pip_config, options):
    assert uv_options(pip_config) == [*options, "--index-strategy=unsafe-best-match"]


@unix
@needs_uv
@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed here")
def test_make_lock_keeps_pins_and_writes_its_files(project):
    """Pins change only with --upgrade; markers name the platform; no CUDA libraries and no local builds; hashes for all
    but torch."""
    shutil.copy(REPO / "Makefile", project)
    dependencies = '["torch", "tool", "opencv-python"]'
    (project / "pyproject.toml").write_text(
        f'[project]\nname = "tiny"\nversion = "1.0"\nrequires-python = ">=3.11"\ndependencies = {dependencies}\n'
        "[project.optional-dependencies]\ntest = []\nweights = []\n"
    )
    (project / "requirements.lock").write_text("tool==2.0\n")
    uv = (REPO / "Makefile").read_text().partition("uv==")[2].split()[0]
    requires = ["nvidia-cublas; sys_platform == 'linux'", "colorama; sys_platform == 'win32'", "nvidia-ml-py"]
    for name, version in [("torch", "2.0"), ("tool", "2.0"), ("tool", "2.1"), ("nvidia-cublas", "13.0"), ("uv", uv),
                          ("colorama", "0.4"), ("nvidia-ml-py", "13.1"), ("opencv-python", "1.0"),
                          ("opencv-python-headless", "1.0")]:  # fmt: skip
        folder = project.parent / "index" / name
        folder.mkdir(parents=True, exist_ok=True)
        write_wheel(folder, name, version, {}, requires if name == "torch" else ())
        links = "".join(
            f'<a href="{wheel.name}#sha256={sha256(wheel)}">{wheel.name}</a>\n' for wheel in folder.glob("*.whl")
        )
        (folder / "index.html").write_text(f"<html><body>{links}</body></html>")

    def lock(*words: str) -> list[str]:
        env = {"PATH": os.environ["PATH"], "HOME": str(project.parent), "UV_FIND_LINKS": str(project.parent / "cpu"),
               "UV_DEFAULT_INDEX": (project.parent / "index").as_uri()}  # fmt: skip
        done = subprocess.run(
            ["make", "lock", f"VENV={sys.prefix}", *words], cwd=project, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return [pin for pin, hashes in pins("requirements.lock") if len(hashes) == 1]

    def pins(name: str) -> list[tuple[str, list[str]]]:
        """(pin with its marker, its hashes) of each package in a file."""
        text = (project / name).read_text().replace(" \\\n", "\t")
        lines = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
        return [(pin, hashes) for pin, *hashes in lines]

    rest = ["colorama==0.4 ; sys_platform == 'win32'", "nvidia-ml-py==13.1", "opencv-python==1.0"]
    assert lock() == [*rest, "tool==2.0"]
    assert (project / "requirements-torch.txt").read_text() == "torch==2.0\n"
    assert [pin for pin, hashes in pins("requirements-uv.txt") if hashes] == [f"uv=={uv}"]
    assert [pin for pin, hashes in pins("requirements-headless.txt") if hashes] == ["opencv-python-headless==1.0"]
    upgraded = lock("ARGS=--upgrade")
    assert upgraded == [*rest, "tool==2.1"]
    listed = yaml.safe_load((project / "environment.yml").read_text())["dependencies"][-1]["pip"]
    assert listed == ["torch==2.0", *upgraded, "-e ."]
