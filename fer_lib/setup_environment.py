"""Creates the environment from ``requirements.lock``: ``python3 fer_lib/setup_environment.py [--venv DIR]``."""

import argparse
import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = (".lock", "-torch.txt", "-uv.txt", "-headless.txt")
SHARED_OPTIONS = "index-url|extra-index-url|find-links|trusted-host|cert|no-index"  # the same names in pip and uv


def uv_options(pip_config: str) -> list:
    """Options for uv, which reads no pip configuration, from the output of ``pip config list``."""
    matches = re.findall(rf"^(global|install|:env:)\.({SHARED_OPTIONS})=(.{{3,}})$", pip_config, re.M)
    settings = {name: value for _, name, value in sorted(matches, key=lambda match: match[0] == ":env:")}  # last wins
    options = [f"--{name}={word}" for name, value in settings.items() for word in ast.literal_eval(value).split()]
    return [re.sub("^--no-index=.*", "--no-index", o) for o in options] + ["--index-strategy=unsafe-best-match"]


def set_up(venv: Path) -> None:
    """Install the locks into ``venv``; return at once if nothing has changed since the last complete set-up."""
    lock, torch, uv, headless = locks = [ROOT / f"requirements{end}" for end in LOCKS]
    config, stamp = venv / "pyvenv.cfg", venv / "fer-setup.txt"
    complete = "\n".join([str(venv), str(ROOT), *(f.read_text("utf-8") for f in (*locks, ROOT / "pyproject.toml"))])
    python = str(venv / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python"))
    if Path(python).exists() and stamp.is_file() and stamp.read_text("utf-8") == complete:
        return
    if venv.exists() and any(venv.iterdir()) and not config.is_file():
        sys.exit(f"set-up stopped: {venv} is not a virtual environment. Name another folder: --venv (make: VENV=...)")
    stamp.unlink(missing_ok=True)
    print(f"set-up: installing {lock.name} into {venv}", flush=True)
    pip, cv2 = [python, "-Im", "pip", "--disable-pip-version-check"], [python, "-Ic", "import cv2"]
    uninstall = [*pip, "uninstall", "-qqy", "opencv-python", "opencv-python-headless"]  # they contain the same files
    moved = config.is_file() and re.search(rf"^command(?!.* {re.escape(str(venv))}$)", config.read_text("utf-8"), re.M)
    if moved or not Path(python).exists() or subprocess.run(uninstall, capture_output=True).returncode:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)  # scripts contain the path
    options = uv_options(subprocess.run([*pip, "config", "list"], capture_output=True, text=True).stdout)
    by_uv = [python, "-Im", "uv", "pip", "install", "--compile-bytecode", "--python", python, *options]
    hashed = ["--no-deps", "--require-hashes", "-r"]
    steps = [["--no-deps", "-r", torch], [*hashed, lock], ["-r", torch]]  # the last one brings torch's CUDA libraries
    commands = [[*pip, "install", "-qq", *hashed, uv], *([*by_uv, *step] for step in steps)]
    if any(subprocess.run(command).returncode for command in commands):
        print("set-up: uv is not available or failed; pip installs the lock in a few minutes", flush=True)
        for step in steps:
            subprocess.run([*pip, "install", *step], check=True)
    subprocess.run([*pip, "install", "-q", "--no-deps", "--no-build-isolation", "-e", str(ROOT)], check=True)
    subprocess.run([*pip, "check"], check=True)
    if subprocess.run(cv2, capture_output=True).returncode:
        print("set-up: opencv-python does not load here; its build without windows replaces it", flush=True)
        for command in (uninstall, [*pip, "install", "-q", *hashed, headless], cv2):
            subprocess.run(command, check=True)
    stamp.write_text(complete, "utf-8")


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - any python3 starts this file
        sys.exit(f"set-up stopped: Python {sys.version.split()[0]} is too old, use 3.11+: make setup PYTHON=python3.12")
    parser = argparse.ArgumentParser(description="Make or refresh the project's Python environment.")
    parser.add_argument("--venv", default=ROOT / ".venv", help="the environment's folder (default: .venv)")
    try:
        set_up(Path(parser.parse_args().venv).absolute())
    except (OSError, subprocess.CalledProcessError, KeyboardInterrupt) as error:
        sys.exit(f"set-up stopped: {str(error) or 'interrupted'}\nCheck network, disk and pip config; run it again.")
