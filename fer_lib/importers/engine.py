"""The import of raw datasets into ``<out>/<name>/``: ``rows.parquet``, ``report.json`` and ``images/``.

An import never changes raw data.  Its folder appears whole or not at all, and a repeated import writes the same bytes.
"""

from __future__ import annotations

import importlib
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fer_lib.datasets.import_folder import (
    REPORT,
    ROWS,
    check_target,
    import_lock,
    printable,
    read_imports,
    refuse_equal_names,
    refuse_other_parts,
    replaceable,
    utf8_text,
    write_clean_report,
)
from fer_lib.datasets.manifest import SCHEMA_VERSION, write_frame
from fer_lib.errors import DataError
from fer_lib.importers.builder import ImportBuilder, Source
from fer_lib.importers.source_table import SOURCES
from fer_lib.params import SourceSpec
from fer_lib.params.strict import closest
from fer_lib.storage.atomic import fresh_folder, write_json
from fer_lib.storage.paths import external
from fer_lib.storage.progress import each, step
from fer_lib.synthetic.dataset import EMBEDDED, embedded_root

__all__ = ["ImportResult", "import_all", "import_source", "load_source", "read_imports"]

COMMON_OPTIONS = frozenset(("source", "root", "name", "splits", "mode", "tolerance"))
DRAWN_OPTIONS = frozenset(("faces", "label_noise", "noise_shape", "duplicates", "leaks"))  # read for root: embedded
SMOKE_ROWS = 20  # of each class in each split of a source, under --smoke
PATH_OPTIONS = ("votes", "images", "image_map")  # files or folders besides root


@dataclass(frozen=True)
class ImportResult:
    """``rows``: the imported frame (columns of the manifest); ``report``: its entry in ``clean_report.json``."""

    rows: pd.DataFrame
    report: dict
    warnings: tuple[str, ...] = ()


def load_source(name: str) -> Source:
    """The declaration of the raw layout ``name`` of :data:`SOURCES`."""
    return importlib.import_module(SOURCES[name]).DECLARATIONS[name]


def import_source(
    spec: SourceSpec, out: Path, smoke: bool = False, part: int = 1, other_parts: Collection[str] = ()
) -> ImportResult:
    """Import one raw dataset to ``<out>/<spec.name or spec.source>``, a further ``part`` of a source to ``...-<part>``.

    ``other_parts``: sample ids of the earlier parts; a row among them is a bad record.
    ``smoke``: import only the first ``SMOKE_ROWS`` rows of each class and split; no image of another row is read, and a
    warning counts them.  Raises :class:`DataError` naming file and row for bad input; the folder then stays as it was.
    Only a folder that an import wrote is replaced, and never one that is, holds or lies in the raw data.
    """
    out = Path(out).absolute()
    name, place = spec.name or spec.source, check(spec, out, part)
    root, target = raw_root(spec), out / place
    importing = step(f"importing {place}", unit="rows")
    with import_lock(out, place), fresh_folder(target, replaceable) as folder, importing as counter:
        builder = ImportBuilder(spec, name, root, folder, counter, SMOKE_ROWS if smoke else 0, place, other_parts)
        load_source(spec.source).read(builder)
        builder.check()
        rows = builder.frame()
        report = import_report(builder, target)
        write_json(folder / REPORT, report)
        write_frame(folder / ROWS, rows, {"schema": SCHEMA_VERSION, "source": name})
    return ImportResult(rows, report, tuple(report["warnings"]))


def import_report(builder: ImportBuilder, out: Path) -> dict:
    """One entry of ``clean_report.json``'s ``reports``: the import of ``builder``, whose folder becomes ``out``."""
    kinds = Counter(kind for kind, _ in builder.bad)
    return printable(
        {
            "type": builder.layout or builder.spec.source,
            "dataset": builder.name,
            "source": str(builder.root),
            "output": str(out),
            "splits": builder.class_counts(),
            "excluded": {split: dict(sorted(counts.items())) for split, counts in sorted(builder.excluded.items())},
            "missing_images": kinds["missing image"],
            "bad_records": dict(sorted(kinds.items())),
            "boxes_outside": builder.boxes_outside,
            "ignored_files": builder.ignored_files,
            "notes": list(builder.notes),
            "warnings": list(builder.warnings),
            "mode": builder.spec.mode,
            "drawn": builder.spec.root == "embedded",
            **builder.details,
        }
    )


def import_all(specs: Sequence[SourceSpec], out_dir: Path, smoke: bool = False) -> dict:
    """Import every dataset, write ``<out_dir>/clean_report.json`` and return its contents.

    ``smoke``: see :func:`import_source`.  The report covers every import in ``out_dir``, earlier ones included.  All
    names, parameters and paths are checked before the first dataset is read.  When one import fails, the imports before
    it stay and are reported.  Specs with the same ``name`` are parts of one source, and ids are unique over them.
    """
    if not specs:
        raise DataError("no source to import: name at least one under sources")
    out_dir = Path(out_dir).absolute()
    names = [spec.name for spec in specs]
    parts = [names[:i].count(name) + 1 if name else 1 for i, name in enumerate(names)]
    places = [check(spec, out_dir, part) for spec, part in zip(specs, parts, strict=True)]
    refuse_equal_names(places)
    refuse_other_parts(out_dir, {spec.name or spec.source for spec in specs}, places)
    ids: dict[str, set[str]] = defaultdict(set)
    for spec, part in each("dataset", list(zip(specs, parts, strict=True))):
        rows = import_source(spec, out_dir, smoke, part, ids[spec.name or spec.source]).rows
        ids[spec.name or spec.source].update(rows["sample_id"])
        report = write_clean_report(out_dir)
    return report


def check(spec: SourceSpec, out: Path, part: int = 1) -> str:
    """The folder in ``out`` to which ``spec`` is imported; :class:`DataError` when it cannot be imported there."""
    if spec.source not in SOURCES:
        hint = closest(spec.source, SOURCES)
        if any(word in spec.source for word in ("affectnet_full", "uniform_7")):  # datasets, not layouts
            hint = f": this dataset is a tree of class folders; import it as source tree with name {spec.source}"
        raise DataError(f"unknown source {spec.source!r}{hint}; this version reads {', '.join(sorted(SOURCES))}")
    name = spec.name or spec.source
    if not name.replace("_", "").replace("-", "").isalnum():
        raise DataError(f"source name {name!r}: use letters, digits, - and _ (it becomes a folder name)")
    refuse_unread_options(spec, name)
    raw = {field: existing(getattr(spec, field), name) for field in PATH_OPTIONS if getattr(spec, field)}
    if spec.root != "embedded":
        raw["root"] = existing(spec.root, name)
    elif spec.source not in EMBEDDED:
        known = ", ".join(EMBEDDED)
        raise DataError(f"source {spec.source!r} has no embedded faces: give its root, or use one of {known}")
    if utf8_text(out) != str(out):
        raise DataError(f"{utf8_text(out)}: the output folder's path is no UTF-8 text: choose another one")
    place = name if part == 1 else f"{name}-{part}"
    check_target(out / place, raw)
    return place


def refuse_unread_options(spec: SourceSpec, name: str) -> None:
    """Raise :class:`DataError` for a parameter that is set although this source does not read it."""
    readable = COMMON_OPTIONS.union(load_source(spec.source).options, DRAWN_OPTIONS if spec.root == "embedded" else ())
    for field, value in SourceSpec.model_fields.items():
        if field in readable or getattr(spec, field) == value.default:
            continue
        others = ", ".join(other for other in sorted(SOURCES) if field in load_source(other).options) or "no source"
        reader = "only drawn faces do (root: embedded)" if field in DRAWN_OPTIONS else f"{others} does"
        raise DataError(
            f"{name}: {field} is set to {getattr(spec, field)!r}, but source {spec.source} does not read it "
            f"({reader}): leave it out"
        )


def raw_root(spec: SourceSpec) -> Path:
    """The raw data: the drawn faces for ``embedded``, else ``spec.root`` (``~`` and ``$NAME`` expanded)."""
    if spec.root == "embedded":
        with step(f"drawing {spec.faces:,} faces"):
            return embedded_root(spec).absolute()
    return external(spec.root)


def existing(value: str, name: str) -> Path:
    """The absolute path of a file or folder in a spec; :class:`DataError` when it does not exist."""
    path = external(value)
    if not path.exists():
        raise DataError(f"{name}: {path} does not exist; check the path given for this source")
    return path
