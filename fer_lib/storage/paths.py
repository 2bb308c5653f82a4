"""Where things lie: the home folder, the store below it, and paths that are written in run files."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fer_lib.errors import FerError
from fer_lib.storage.atomic import explained


def home() -> Path:
    """The folder that holds ``params/``, ``notebooks/`` and ``mlruns/``.

    ``$FER_HOME``; else the nearest folder at or above the working folder, else at or above this package, that holds
    both ``params`` and ``notebooks``; else the working folder.
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
    """``<home>/mlruns``, created when absent; FerError when it cannot be."""
    folder = (root or home()) / "mlruns"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FerError(f"cannot create the store {folder}: {error}. Set FER_HOME to a folder you can write") from error
    return folder


def phases_dir() -> Path:
    """``<home>/mlruns/phases``: one folder a phase."""
    folder = mlruns() / "phases"
    with explained(folder):
        folder.mkdir(exist_ok=True)
    return folder


def is_uri(value: str) -> bool:
    """Whether an input is a registry URI (or the model that ships with the package) rather than a folder."""
    return value == "packaged" or bool(re.match(r"[a-z]{2,}:/", value))


def external(value: str) -> Path:
    """A file or folder as written in a run file (``~`` and ``$NAME`` expanded): absolute, or below the home."""
    return home() / Path(os.path.expandvars(value)).expanduser()


def below(path: Path, base: Path) -> str:
    """The path relative to ``base`` when it lies below it, so that a moved checkout still reads it; else absolute."""
    return (path.relative_to(base) if path.is_relative_to(base) else path).as_posix()
