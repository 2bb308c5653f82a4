"""Raw layouts, one file each, and the import that turns any of them into rows and a folder of pictures.

An import is a view: raw data is never changed.  ``<out>/<name>/`` holds ``rows.parquet`` and ``images/``, appears whole
or not at all, and comes out the same however often it is repeated.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from filelock import FileLock

from fer_lib.atomic import explained, fresh_folder, settle, write_json
from fer_lib.datasets.manifest import SCHEMA_VERSION, read_frame, write_frame
from fer_lib.datasets.sources.base import Draft, Progress
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.params import SourceSpec
from fer_lib.runfile import external

Source = Callable[[SourceSpec, Path, Draft], None]
SOURCES: dict[str, Source] = {}


@dataclass(frozen=True)
class ImportResult:
    """``rows``: the imported frame (columns of SPEC 3); ``report``: its entry in ``clean_report.json``."""

    rows: pd.DataFrame
    report: dict
    warnings: tuple[str, ...] = ()


def register(name: str) -> Callable[[Source], Source]:
    """Make ``read(spec, root, draft)`` the reader of the raw layout ``name``."""

    def keep(read: Source) -> Source:
        SOURCES[name] = read
        return read

    return keep


def import_source(spec: SourceSpec, out: Path, progress: Progress | None = None) -> ImportResult:
    """Import one raw dataset to ``<out>/<spec.name or spec.source>``.

    ``progress(n)`` is called after each of the n rows so far.  Raises :class:`DataError` naming file and row for bad
    input, and then leaves nothing behind; an earlier import of that name stays as it was.
    """
    if spec.source not in SOURCES:
        raise DataError(f"unknown source {spec.source!r}: this version reads {', '.join(sorted(SOURCES))}")
    name = spec.name or spec.source
    if not name.replace("_", "").replace("-", "").isalnum():
        raise DataError(f"source name {name!r}: use letters, digits, - and _ (it becomes a folder name)")
    root = raw_root(spec)
    out = Path(out).absolute()
    target = out / name
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / f".{name}.lock")
        lock.acquire()
    try:
        settle(target)
        with fresh_folder(target) as folder:
            draft = Draft(spec, name, folder, progress)
            SOURCES[spec.source](spec, root, draft)
            draft.check(root)
            rows = draft.frame()
            write_frame(folder / "rows.parquet", rows, {"schema": SCHEMA_VERSION, "source": name})
    finally:
        lock.release()
    return ImportResult(rows, draft.report(root, target), tuple(draft.warnings))


def import_all(specs: Sequence[SourceSpec], out_dir: Path, progress: Progress | None = None) -> dict:
    """Import every dataset, write ``<out_dir>/clean_report.json`` (SPEC appendix) and return its contents."""
    if not specs:
        raise DataError("no source to import: name at least one under sources")
    names = [spec.name or spec.source for spec in specs]
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise DataError(f"two sources are called {twice[0]!r}: give one of them another name")
    out_dir = Path(out_dir).absolute()
    results = [import_source(spec, out_dir, progress) for spec in specs]
    counts = Counter()
    for result in results:
        counts.update(f"{s}|{EMOTIONS[i]}" for s, i in zip(result.rows["split"], result.rows["label"], strict=True))
    report = {
        "canonical": list(EMOTIONS),
        "mode": "+".join(sorted({spec.mode for spec in specs})),
        "source_root": os.pathsep.join(dict.fromkeys(result.report["source"] for result in results)),
        "out_root": str(out_dir),
        "warnings": [warning for result in results for warning in result.warnings],
        "reports": [result.report for result in results],
        "manifest": {"rows": sum(len(result.rows) for result in results), "counts": dict(sorted(counts.items()))},
    }
    write_json(out_dir / "clean_report.json", report)
    return report


def raw_root(spec: SourceSpec) -> Path:
    """Where the raw data lies: the drawn faces for ``embedded``, else ``spec.root`` (``~`` and ``$NAME`` expanded)."""
    if spec.root == "embedded":
        from fer_lib.datasets.synthetic import embedded

        return Path(embedded(spec)).absolute()
    return existing(spec.root, spec)


def existing(path: str, spec: SourceSpec) -> Path:
    """A file or folder that a spec names, absolute or below the home; :class:`DataError` when it isn't there."""
    found = external(path)
    if not found.exists():
        raise DataError(f"{spec.name or spec.source}: {found} does not exist; check the path given for this source")
    return found


def read_imports(import_dir: Path) -> pd.DataFrame:
    """The rows of every dataset under ``import_dir``, by source and record."""
    import_dir = Path(import_dir)
    found = sorted(import_dir.glob("*/rows.parquet")) if import_dir.is_dir() else []
    if not found:
        raise DataError(f"{import_dir} holds no imported dataset (no */rows.parquet): run the import phase first")
    frames = [read_frame(path)[0] for path in found]
    return pd.concat(frames, ignore_index=True).sort_values(["source", "record"], kind="stable", ignore_index=True)


for _module in pkgutil.iter_modules(__path__):  # readers register themselves, so a new one is a new file and no more
    importlib.import_module(f"{__name__}.{_module.name}")
