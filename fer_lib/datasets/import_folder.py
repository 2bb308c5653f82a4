"""The folders that imports leave: where one may go, finding them again, and the report over all of them."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from filelock import FileLock

from fer_lib.datasets.manifest import read_frame
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.storage.atomic import explained, previous, readable, settle, write_json

ROWS, REPORT, IMAGES = "rows.parquet", "report.json", "images"
_DEBRIS = (".DS_Store", "Thumbs.db", "desktop.ini")  # what looking into a folder may leave there


@contextmanager
def locked(out: Path, name: str) -> Iterator[None]:
    """Hold ``<out>/.<name>.lock``, so that one process at a time writes ``<out>/<name>``."""
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / f".{name}.lock")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def refuse_overlap(target: Path, raw: dict[str, Path]) -> None:
    """Raise :class:`DataError` when ``target``, which an import replaces whole, is, holds or lies in raw data.

    ``raw``: parameter -> the file or folder that it names.  Links and other spellings of a path are seen through.
    """
    for field, path in raw.items():
        for folder in (target, previous(target)):
            if _within(folder, path) or _within(path, folder):
                raise DataError(
                    f"the import would be written to {target}, which it replaces whole, but {field} ({path}) is that "
                    "folder, holds it or lies in it: choose another output folder (-o), or another name for the source"
                )


def replaceable(target: Path) -> bool:
    """Whether nothing but an earlier import's work would be lost with ``target``."""
    if target.is_symlink() or not target.is_dir():
        return not os.path.lexists(target)
    found = set(os.listdir(target)) - {*_DEBRIS}
    return not found or (ROWS in found and found <= {ROWS, REPORT, IMAGES})


def refuse_foreign(target: Path) -> None:
    """Raise :class:`DataError` naming ``target`` unless it is absent, empty or a folder that an import wrote."""
    with explained(target):
        mine = replaceable(target)
    if not mine:
        raise DataError(
            f"{target} stands where the import would be written, but no import wrote it (that leaves {ROWS}, {REPORT} "
            f"and {IMAGES}/, nothing else): choose another output folder or name, or move it away; it stays as it is"
        )


def import_folders(import_dir: Path) -> list[Path]:
    """Every folder under ``import_dir`` that an import wrote, by name.

    What killed imports left is no import; an old folder that one had moved aside is put back first.
    """
    if not import_dir.is_dir():
        return []
    with readable(import_dir):
        names = sorted(os.listdir(import_dir))
    for name in names:
        target = import_dir / name.removeprefix(".").removesuffix(".previous")
        if previous(target).name == name and not target.exists():
            with locked(import_dir, target.name), explained(target):
                settle(target)
            names = sorted({*names, target.name})
    return [import_dir / name for name in names if name[0] != "." and (import_dir / name / ROWS).is_file()]


def read_imports(import_dir: Path) -> pd.DataFrame:
    """The rows of every dataset under ``import_dir``, by source and record."""
    found = import_folders(Path(import_dir))
    if not found:
        raise DataError(f"{import_dir} holds no imported dataset (no */{ROWS}): run the import phase first")
    frames = [read_frame(folder / ROWS)[0] for folder in found]
    return pd.concat(frames, ignore_index=True).sort_values(["source", "record"], kind="stable", ignore_index=True)


def write_clean_report(out: Path) -> dict:
    """Write ``<out>/clean_report.json`` (SPEC appendix) over every import that lies in ``out``; returns its contents.

    So it tells of all that a manifest built from ``out`` holds, whichever commands imported it.
    """
    with locked(out, "clean_report"):
        entries = [_entry(folder) for folder in import_folders(out)]
        counts = Counter()
        for entry in entries:
            counts.update(
                {f"{split}|{name}": n for split, of in entry["splits"].items() for name, n in of.items() if n}
            )
        report = {
            "canonical": list(EMOTIONS),
            "mode": "+".join(sorted({entry["mode"] for entry in entries})),
            "source_root": os.pathsep.join(dict.fromkeys(entry["source"] for entry in entries)),
            "out_root": printable(out),
            "warnings": [warning for entry in entries for warning in entry["warnings"]],
            "reports": entries,
            "manifest": {"rows": sum(counts.values()), "counts": dict(sorted(counts.items()))},
        }
        write_json(out / "clean_report.json", report)
    return report


def printable(value: object) -> str:
    r"""``value`` as text that any file takes: bytes of a file name that are no UTF-8 are written as ``\udc..``."""
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")


def _entry(folder: Path) -> dict:
    """The report that an import left in its own folder."""
    path = folder / REPORT
    try:
        with readable(path):
            entry = json.loads(path.read_text(encoding="utf-8"))
        if not {"dataset", "source", "mode", "splits", "warnings"} <= set(entry):
            raise ValueError("keys are missing")
    except (DataError, ValueError, TypeError) as error:  # TypeError: something else than a mapping
        raise DataError(
            f"{path} is missing or damaged ({error}): import {folder.name} again, or move {folder} away"
        ) from error
    return entry | {"output": printable(folder)}


def _within(inner: Path, outer: Path) -> bool:
    """Whether ``inner`` is ``outer`` or lies below it, by what the disk says they are."""
    if not outer.exists():
        return False
    inner = inner.resolve()
    return any(path.exists() and os.path.samefile(path, outer) for path in (inner, *inner.parents))


def names_in_use(names: Iterable[str]) -> None:
    """Raise :class:`DataError` when two of the names would be one folder, on some disks at least."""
    twice = [name for name, n in Counter(name.casefold() for name in names).items() if n > 1]
    if twice:
        raise DataError(f"two sources are called {twice[0]!r}: give one of them another name")
