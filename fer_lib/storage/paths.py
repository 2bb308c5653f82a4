"""Paths: the home folder, the store below it, and paths in run files."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fer_lib.errors import FerError


def home() -> Path:
    """The folder that holds ``params/``, ``notebooks/`` and ``mlruns/``.

    ``$FER_HOME``; else the nearest folder with both ``params`` and ``notebooks`` at or above the working folder, else
    at or above this package; else the working folder.
    """
    if named := os.environ.get("FER_HOME"):
        return Path(named).expanduser().resolve()
    here = Path.cwd().resolve()
    for start in (here, Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            if (folder / "params").is_dir() and (folder / "notebooks").is_dir():
                return folder
    return here


def mlruns(root: Path | None = None) -> Path:
    """``<home>/mlruns``, created when absent.  Raises FerError when it cannot be created."""
    folder = (root or home()) / "mlruns"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FerError(f"cannot create the store {folder}: {error}. Set FER_HOME to a folder you can write") from error
    return folder


def phases_dir() -> Path:
    """``<home>/mlruns/phases``, with one folder per phase."""
    folder = mlruns() / "phases"
    folder.mkdir(exist_ok=True)
    return folder


def is_uri(value: str) -> bool:
    """Whether an input is a registry URI or ``packaged`` (the model in this package) rather than a folder."""
    return value == "packaged" or bool(re.match(r"[a-z]{2,}:/", value))


def external(value: str) -> Path:
    """Path of a file or folder in a run file: ``~`` and ``$NAME`` are expanded, a relative path starts at the home."""
    return home() / Path(os.path.expandvars(value)).expanduser()


def below(path: Path, base: Path) -> str:
    """The path relative to ``base`` when it lies below it, so that a checkout can be moved; else absolute."""
    return (path.relative_to(base) if path.is_relative_to(base) else path).as_posix()
