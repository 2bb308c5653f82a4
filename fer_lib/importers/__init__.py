"""Raw layouts, one file each, and the import that turns any of them into rows and a folder of pictures.

An import is a view: raw data is never changed.  ``<out>/<name>/`` holds ``rows.parquet``, ``report.json`` and
``images/``, appears whole or not at all, and comes out the same however often it is repeated.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from fer_lib.datasets.import_folder import (
    REPORT,
    ROWS,
    locked,
    names_in_use,
    printable,
    read_imports,
    refuse_foreign,
    refuse_overlap,
    replaceable,
    write_clean_report,
)
from fer_lib.datasets.manifest import SCHEMA_VERSION, write_frame
from fer_lib.errors import DataError
from fer_lib.importers.base import ImportBuilder, Progress
from fer_lib.params import SourceSpec
from fer_lib.params.strict import closest
from fer_lib.storage.atomic import fresh_folder, readable, write_json
from fer_lib.storage.paths import external

__all__ = ["SOURCES", "ImportResult", "Source", "existing", "import_all", "import_source", "read_imports", "register"]

Reader = Callable[[SourceSpec, Path, ImportBuilder], None]
ANY = frozenset(("source", "root", "name", "mode", "tolerance"))  # parameters that every source has
DRAWN = frozenset(("faces", "label_noise", "noise_shape", "duplicates", "leaks"))  # and those of the embedded faces
FILES = ("votes", "images", "image_map")  # parameters that name files or folders beside root


@dataclass(frozen=True)
class Source:
    """A registered layout: its reader, and the parameters that it reads besides those that every source has."""

    read: Reader
    reads: frozenset[str]


SOURCES: dict[str, Source] = {}


@dataclass(frozen=True)
class ImportResult:
    """``rows``: the imported frame (columns of SPEC 3); ``report``: its entry in ``clean_report.json``."""

    rows: pd.DataFrame
    report: dict
    warnings: tuple[str, ...] = ()


def register(name: str, reads: Sequence[str] = ()) -> Callable[[Reader], Reader]:
    """Make ``read(spec, root, draft)`` the reader of the raw layout ``name``.

    ``reads``: the fields of :class:`SourceSpec` that it looks at, besides name, mode and tolerance; others are refused
    when they are set.  Raises ValueError for a field that is none, and for a name that another reader has.
    """
    unknown = sorted(set(reads) - set(SourceSpec.model_fields))
    if unknown:
        raise ValueError(f"source {name!r} reads {unknown[0]!r}, which is no field of SourceSpec")

    def keep(read: Reader) -> Reader:
        known = SOURCES[name].read if name in SOURCES else read
        if (known.__module__, known.__qualname__) != (read.__module__, read.__qualname__):  # a reload is no clash
            raise ValueError(
                f"source {name!r} is registered already, by {known.__module__}: give this one another name"
            )
        SOURCES[name] = Source(read, frozenset(reads))
        return read

    return keep


def import_source(spec: SourceSpec, out: Path, progress: Progress | None = None) -> ImportResult:
    """Import one raw dataset to ``<out>/<spec.name or spec.source>``.

    ``progress(n)`` is called after each of the n rows so far.  Raises :class:`DataError` naming file and row for bad
    input, and then leaves nothing behind; an earlier import of that name stays as it was.  The folder is replaced only
    where an import wrote it, and never where it is, holds or lies in the raw data.
    """
    out = Path(out).absolute()
    name = check(spec, out)
    root, target = raw_root(spec), out / name
    with locked(out, name):
        refuse_foreign(target)
        with fresh_folder(target, replaceable) as folder:
            draft = ImportBuilder(spec, name, folder, progress)
            _read(spec, root, draft)
            draft.check(root)
            rows = draft.frame()
            report = draft.report(root, target)
            write_json(folder / REPORT, report)
            write_frame(folder / ROWS, rows, {"schema": SCHEMA_VERSION, "source": name})
    return ImportResult(rows, report, tuple(report["warnings"]))


def _read(spec: SourceSpec, root: Path, draft: ImportBuilder) -> None:
    try:
        SOURCES[spec.source].read(spec, root, draft)
    except OSError as error:  # files that may not be looked at, anywhere in the raw data
        where = error.filename or root
        raise DataError(
            f"{draft.name}: cannot read {where}: {error.strerror}; check the path and its permissions ({root})"
        ) from error


def import_all(specs: Sequence[SourceSpec], out_dir: Path, progress: Progress | None = None) -> dict:
    """Import every dataset, write ``<out_dir>/clean_report.json`` (SPEC appendix) and return its contents.

    It tells of every import in ``out_dir``, also of earlier ones.  Names, parameters and paths of all are checked
    before the first is read.  When one fails, those before it stand and are reported.
    """
    if not specs:
        raise DataError("no source to import: name at least one under sources")
    out_dir = Path(out_dir).absolute()
    names_in_use([check(spec, out_dir) for spec in specs])
    before = 0
    for spec in specs:
        onward = None if progress is None else partial(_onward, progress, before)  # one count over all of them
        before += len(import_source(spec, out_dir, onward).rows)
        report = write_clean_report(out_dir)
    return report


def _onward(progress: Progress, before: int, done: int) -> None:
    progress(before + done)


def check(spec: SourceSpec, out: Path) -> str:
    """The name under which ``spec`` is imported to ``out``; :class:`DataError` when it can't be, before it is read."""
    if spec.source not in SOURCES:
        hint = closest(spec.source, SOURCES)
        if any(word in spec.source for word in ("affectnet_full", "uniform_7")):  # names of SPEC 2, not layouts
            hint = f": that is the name of a tree of class folders; import it as source tree with name {spec.source}"
        raise DataError(f"unknown source {spec.source!r}{hint}; this version reads {', '.join(sorted(SOURCES))}")
    name = spec.name or spec.source
    if not name.replace("_", "").replace("-", "").isalnum():
        raise DataError(f"source name {name!r}: use letters, digits, - and _ (it becomes a folder name)")
    refuse_unread(spec, name)
    raw = {field: existing(getattr(spec, field), spec) for field in FILES if getattr(spec, field)}
    if spec.root != "embedded":
        raw["root"] = existing(spec.root, spec)
    if printable(out) != str(out):
        raise DataError(f"{printable(out)}: the output folder's path is no UTF-8 text: choose another one")
    with readable(out):
        refuse_overlap(out / name, raw)
        refuse_foreign(out / name)
    return name


def refuse_unread(spec: SourceSpec, name: str) -> None:
    """Raise :class:`DataError` for a parameter that is set although this source does not look at it."""
    mine = ANY | SOURCES[spec.source].reads | (DRAWN if spec.root == "embedded" else set())
    for field, value in SourceSpec.model_fields.items():
        if field in mine or getattr(spec, field) == value.default:
            continue
        others = sorted(other for other, source in SOURCES.items() if field in source.reads)
        who = "only drawn faces do (root: embedded)" if field in DRAWN else f"{', '.join(others) or 'no source'} does"
        raise DataError(
            f"{name}: {field} is set to {getattr(spec, field)!r}, but source {spec.source} does not read it ({who}): "
            "leave it out"
        )


def raw_root(spec: SourceSpec) -> Path:
    """Where the raw data lies: the drawn faces for ``embedded``, else ``spec.root`` (``~`` and ``$NAME`` expanded)."""
    if spec.root == "embedded":
        from fer_lib.synthetic.dataset import embedded_root

        return Path(embedded_root(spec)).absolute()
    return existing(spec.root, spec)


def existing(path: str, spec: SourceSpec) -> Path:
    """A file or folder that a spec names, absolute or below the home; :class:`DataError` when it isn't there."""
    found = external(path)
    with readable(found):
        there = found.exists()
    if not there:
        raise DataError(f"{spec.name or spec.source}: {found} does not exist; check the path given for this source")
    return found


for _module in pkgutil.iter_modules(__path__):  # readers register themselves, so a new one is a new file and no more
    importlib.import_module(f"{__name__}.{_module.name}")
