"""Import folders: where an import may be written, how a manifest finds imports, and their common report."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from fer_lib.datasets.manifest import read_frame
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.params.strict import first_problem
from fer_lib.storage.atomic import previous, settle, write_json
from fer_lib.storage.json_files import json_text

ROWS, REPORT, IMAGES = "rows.parquet", "report.json", "images"
_DEBRIS = (".DS_Store", "Thumbs.db", "desktop.ini")  # files that a file manager leaves in a folder


@contextmanager
def import_lock(out: Path, name: str) -> Iterator[None]:
    """Hold ``<out>/.<name>.lock``, so that one process at a time writes ``<out>/<name>``."""
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / f".{name}.lock"):
        yield


def check_target(target: Path, raw: dict[str, Path]) -> None:
    """Raise :class:`DataError` when ``target``, which an import replaces whole, is raw data or another's folder.

    ``raw``: parameter -> the file or folder that it names.  Links and other spellings of a path are resolved.
    """
    for field, path in raw.items():
        if any(_within(folder, path) or _within(path, folder) for folder in (target, previous(target))):
            raise DataError(
                f"the import would be written to {target}, which it replaces whole, but {field} ({path}) is that "
                "folder, holds it or lies in it: choose another output folder (-o), or another name for the source"
            )
    if not replaceable(target):
        raise DataError(
            f"{target} stands where the import would be written, but no import wrote it (that leaves {ROWS}, {REPORT} "
            f"and {IMAGES}/, nothing else): choose another output folder or name, or move it away; it stays as it is"
        )


def replaceable(target: Path) -> bool:
    """Whether ``target`` is absent, empty or only has the files of an import."""
    if target.is_symlink() or not target.is_dir():
        return not os.path.lexists(target)
    names = set(os.listdir(target)) - {*_DEBRIS}
    return not names or (ROWS in names and names <= {ROWS, REPORT, IMAGES})


def refuse_other_parts(out: Path, sources: Collection[str], places: Collection[str]) -> None:
    """Raise :class:`DataError` for a folder in ``out`` that has a part of ``sources`` and is not among ``places``."""
    for folder in import_folders(out):
        source = folder.name.rpartition("-")[0]
        if folder.name not in places and source in sources and read_report(folder)["dataset"] == source:
            raise DataError(
                f"{folder} holds a part of {source} from an earlier import, which this import would not replace: "
                "delete it, or choose another output folder (-o)"
            )


def import_folders(import_dir: Path) -> list[Path]:
    """Every folder under ``import_dir`` that an import wrote, by name.

    Leftovers of killed imports are ignored; a folder that one of them moved aside is restored first.
    """
    if not import_dir.is_dir():
        return []
    names = sorted(os.listdir(import_dir))
    for name in names:
        target = import_dir / name.removeprefix(".").removesuffix(".previous")
        if previous(target).name == name and not target.exists():
            with import_lock(import_dir, target.name):
                settle(target)
            names = sorted({*names, target.name})
    return [import_dir / name for name in names if name[0] != "." and (import_dir / name / ROWS).is_file()]


def read_imports(import_dir: Path) -> pd.DataFrame:
    """The rows of every dataset under ``import_dir``, by source and record."""
    folders = import_folders(Path(import_dir))
    if not folders:
        raise DataError(f"{import_dir} holds no imported dataset (no */{ROWS}): run the import phase first")
    frames = [read_frame(folder / ROWS)[0] for folder in folders]
    return pd.concat(frames, ignore_index=True).sort_values(["source", "record"], kind="stable", ignore_index=True)


def write_clean_report(out: Path) -> dict:
    """Write ``<out>/clean_report.json`` about every import in ``out``; returns the report."""
    with import_lock(out, "clean_report"):
        entries = [read_report(folder) | {"output": utf8_text(folder)} for folder in import_folders(out)]
        counts = Counter()
        for entry in entries:
            counts.update(
                {f"{split}|{name}": n for split, of in entry["splits"].items() for name, n in of.items() if n}
            )
        report = {
            "canonical": list(EMOTIONS),
            "mode": "+".join(sorted({entry["mode"] for entry in entries})),
            "source_root": os.pathsep.join(dict.fromkeys(entry["source"] for entry in entries)),
            "out_root": utf8_text(out),
            "warnings": [warning for entry in entries for warning in entry["warnings"]],
            "reports": entries,
            "manifest": {"rows": sum(counts.values()), "counts": dict(sorted(counts.items()))},
        }
        write_json(out / "clean_report.json", report)
    return report


def utf8_text(value: object) -> str:
    r"""``value`` as UTF-8 text: bytes of a file name that are not UTF-8 are written as ``\udc..``."""
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")


def printable(value: Any) -> Any:
    """``value``, of dicts, lists and plain values, with every text utf8_text (see :func:`utf8_text`)."""
    if isinstance(value, dict):
        return {utf8_text(key): printable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [printable(item) for item in value]
    return utf8_text(value) if isinstance(value, str) else value


class ImportReport(BaseModel):
    """What later steps read of an import's report; ``splits``: split -> class -> rows."""

    model_config = ConfigDict(strict=True)  # the report itself is used, not what validation makes of it

    dataset: str
    source: str
    mode: str
    splits: dict[str, dict[str, NonNegativeInt]]
    warnings: list[str]
    bad_records: dict[str, NonNegativeInt] = {}
    drawn: bool | None = None


def read_report(folder: Path) -> dict[str, Any]:
    """The report that an import left in its own folder.  Raises DataError when it is missing or holds another thing."""
    path = folder / REPORT
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        ImportReport.model_validate(report)
        json_text(report)  # ValueError for NaN and infinity, which no report can hold
    except (OSError, ValueError, RecursionError) as error:
        reason = first_problem(error) if isinstance(error, ValidationError) else error
        raise DataError(
            f"{path} is missing or damaged ({reason}): import {folder.name} again, or move {folder} away"
        ) from error
    return report


def _within(inner: Path, outer: Path) -> bool:
    """Whether ``inner`` is ``outer`` or below it, as files on the disk."""
    if not outer.exists():
        return False
    inner = inner.resolve()
    return any(path.exists() and os.path.samefile(path, outer) for path in (inner, *inner.parents))


def refuse_equal_names(names: Iterable[str]) -> None:
    """Raise :class:`DataError` when two names differ only in case, which is one folder on some disks."""
    twice = [name for name, n in Counter(name.casefold() for name in names).items() if n > 1]
    if twice:
        raise DataError(f"two sources are called {twice[0]!r}: give one of them another name")
