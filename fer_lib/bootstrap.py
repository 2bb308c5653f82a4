"""Makes the project's own Python environment: ``python3 fer_lib/bootstrap.py [--venv DIR]``.

Standard library only, since it runs before anything is installed.  It makes a virtual environment, installs the pins
of ``requirements.lock`` and the project itself (editable), and checks that OpenCV loads; where the system libraries
that ``opencv-python`` wants for its windows are absent, the headless build of the same version takes its place.  A
stamp, keyed by the lock and ``pyproject.toml``, makes a set-up that has nothing to do return at once; an interrupted
one is taken up again.  Exit code 0: ready; 1: it stopped, and standard error says why and what to do next.
"""

import argparse
import errno
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 - this file is started by whatever python3 the machine has
    sys.exit(
        f"set-up stopped: this is Python {sys.version_info[0]}.{sys.version_info[1]} and the project needs 3.11 or "
        "newer. Install one and name it:\n  make demo PYTHON=python3.12    or    python3.12 fer_lib/bootstrap.py"
    )

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
STAMP = "fer-setup.json"
FREE_BYTES = 4 * 1024**3  # the environment takes 2.4 GB with CPU builds, and pip unpacks beside it
DISK_ADVICE = "Free some space (4 GB for an environment with CPU builds, more with CUDA), then run this again."
NETWORK_SIGNS = (
    "failed to establish a new connection", "temporary failure in name resolution", "nameresolutionerror",
    "getaddrinfo failed", "nodename nor servname", "network is unreachable", "connection refused", "connection reset",
    "connecttimeouterror", "read timed out", "proxyerror", "newconnectionerror",
)  # fmt: skip


class SetupError(Exception):
    """What stopped the set-up, and the next step."""


def environment_python(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def wanted_stamp(venv: Path) -> dict:
    """What a finished environment at ``venv`` is keyed by.  Its scripts carry its path, so a moved one is remade."""
    digest = hashlib.sha256()
    for file in (LOCK, ROOT / "pyproject.toml"):
        if not file.is_file():
            raise SetupError(f"{file} is missing: this is not a whole checkout. Clone the project again.")
        digest.update(file.read_bytes())
    return {"key": digest.hexdigest(), "venv": str(venv), "project": str(ROOT)}


def read_stamp(venv: Path) -> dict:
    """The stamp of ``venv``; empty when there is none or it does not read (then the set-up is gone through again)."""
    try:
        return json.loads((venv / STAMP).read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return {}


@contextmanager
def only_one(venv: Path):
    """Holds an operating-system lock for ``venv``: two set-ups of one environment wait for each other."""
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
    name = hashlib.sha256(f"{user} {venv}".encode()).hexdigest()[:16]
    with open(Path(tempfile.gettempdir()) / f"fer-lab-setup-{name}.lock", "w") as handle:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(handle.fileno(), msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"another set-up of {venv} is at work; waiting for it")
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def say(text: str) -> None:
    print(f"set-up: {text}", flush=True)


def explain(output: str) -> str:
    """The likely cause of a failed pip or venv, and the next step, from what it printed."""
    text = output.lower()
    lines = output.strip().splitlines()
    errors = [line for line in lines if line.startswith("ERROR") and "Ignored the following" not in line] or lines[-12:]
    said = "\n".join(f"  {line[:300]}" for line in errors[:12])
    if "no space left on device" in text or "errno 28" in text:
        return f"the disk is full. {DISK_ADVICE}\n{said}"
    if any(sign in text for sign in NETWORK_SIGNS):
        return (
            "the package index can't be reached. Check the network (behind a proxy: set HTTPS_PROXY), then run this "
            f"again; what was downloaded is kept.\n{said}"
        )
    if "no matching distribution found" in text:
        return (
            f"the package index offers no build for Python {sys.version_info[0]}.{sys.version_info[1]} here. The pins "
            "are for Python 3.11-3.14 on Linux x86-64/aarch64, Windows and macOS 14+ (arm64); on one of these, check "
            f"which index pip is set to (pip config list).\n{said}"
        )
    return f"it printed:\n{said}"


def make_environment(venv: Path) -> None:
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        raise SetupError(
            "this Python comes without its venv module. On Debian or Ubuntu: sudo apt-get install python3-venv, "
            "then run this again."
        )
    if venv.exists() and (not venv.is_dir() or (any(venv.iterdir()) and not (venv / "pyvenv.cfg").is_file())):
        raise SetupError(
            f"{venv} exists and is not a virtual environment; it was left alone. Name another: --venv (make: VENV=...)."
        )
    folder = next(p for p in (venv, *venv.parents) if p.exists())
    free = shutil.disk_usage(folder).free
    if free < FREE_BYTES:
        raise SetupError(f"{folder} has {free / 1024**3:.1f} GB free. {DISK_ADVICE}")
    say(f"making {venv} with Python {sys.version_info[0]}.{sys.version_info[1]}")
    done = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", str(venv)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if done.returncode:
        raise SetupError(f"the virtual environment {venv} could not be made; {explain(done.stdout)}")


def pip(venv: Path, *arguments: str, steps: int = 0) -> None:
    """Runs the environment's pip; with ``steps`` > 0 and a terminal, one line shows how far it is."""
    env = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PYTHONUNBUFFERED": "1"}
    command = [str(environment_python(venv)), "-m", "pip", *arguments]
    live, seen, lines = steps > 0 and sys.stdout.isatty(), 0, []
    with subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace",
    ) as process:  # fmt: skip
        for line in process.stdout:
            lines.append(line)
            seen += line.startswith("Collecting")
            if live and line.strip():
                width = shutil.get_terminal_size().columns - 1
                print("\r" + f"  {min(seen, steps)}/{steps}  {line.strip()}"[:width].ljust(width), end="", flush=True)
    if live:
        print("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r", end="", flush=True)
    if process.returncode:
        raise SetupError(f"pip {arguments[0]} failed; {explain(''.join(lines))}")


def pins() -> dict[str, str]:
    """name -> version of ``requirements.lock``, markers left out."""
    lines = (line.split(";")[0].strip() for line in LOCK.read_text().splitlines() if not line.startswith("#"))
    return dict(line.split("==") for line in lines if line)


def installed(venv: Path, name: str) -> bool:
    code = f"import importlib.metadata as m; m.version({name!r})"
    return subprocess.run([str(environment_python(venv)), "-c", code], capture_output=True).returncode == 0


def opencv_failure(venv: Path) -> str:
    """Blank when ``import cv2`` works, else what it said."""
    done = subprocess.run([str(environment_python(venv)), "-c", "import cv2"], capture_output=True, text=True)
    return "" if done.returncode == 0 else (done.stderr.strip() or f"exit code {done.returncode}")


def settle_opencv(venv: Path, version: str) -> None:
    """Leaves one build of OpenCV that loads: with windows where the system libraries allow, headless otherwise."""
    failure = opencv_failure(venv)
    if not failure:
        return
    last = failure.splitlines()[-1]
    if "ImportError" not in last:
        raise SetupError(f"OpenCV is installed and does not load:\n{failure}")
    pip(venv, "uninstall", "--yes", "opencv-python")
    pip(venv, "install", "--no-deps", f"opencv-python-headless=={version}")
    failure = opencv_failure(venv)
    if failure:
        raise SetupError(f"neither opencv-python nor opencv-python-headless {version} loads:\n{failure}")
    say(
        f"opencv-python does not load here ({last}). opencv-python-headless {version} took its place: the same "
        f"functions without windows. For windows: sudo apt-get install libgl1 libglib2.0-0, remove {venv}, set up again"
    )


def ready(venv: Path) -> bool:
    return read_stamp(venv) == wanted_stamp(venv) and environment_python(venv).exists()


def set_up(venv: Path) -> None:
    """Brings ``venv`` to what the lock says; does nothing where it is already so."""
    if ready(venv):
        return
    with only_one(venv):
        if ready(venv):
            return
        stamp, wanted = read_stamp(venv), wanted_stamp(venv)
        usable = environment_python(venv).exists() and installed(venv, "pip")
        if not usable or (stamp and stamp["venv"] != wanted["venv"]):
            make_environment(venv)
        (venv / STAMP).unlink(missing_ok=True)  # from here on an interruption must not look finished
        if installed(venv, "opencv-python-headless"):  # the two builds own the same files: never both
            pip(venv, "uninstall", "--yes", "opencv-python-headless")
        wheels = pins()
        say(f"installing {len(wheels)} packages from {LOCK.name} (a few minutes the first time)")
        pip(venv, "install", "--progress-bar", "off", "-r", str(LOCK), steps=len(wheels))
        pip(venv, "install", "--no-deps", "--no-build-isolation", "-e", str(ROOT))
        settle_opencv(venv, wheels["opencv-python"])
        (venv / STAMP).write_text(json.dumps(wanted, indent=1))
        say(f"ready: {venv}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Make or refresh the project's Python environment.")
    parser.add_argument("--venv", default=str(ROOT / ".venv"), help="the environment's folder (default: .venv)")
    try:
        set_up(Path(os.path.abspath(parser.parse_args().venv)))
    except SetupError as stopped:
        print(f"set-up stopped: {stopped}", file=sys.stderr)
        return 1
    except OSError as stopped:
        advice = DISK_ADVICE if stopped.errno == errno.ENOSPC else "Name a folder that can be written: --venv DIR."
        print(f"set-up stopped: {stopped}. {advice}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nset-up stopped by you; run it again and it goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
