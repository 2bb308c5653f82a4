"""Makes a manifest of an interchange CSV: decodes its images, computes ids, and assigns val and its roles."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd

from fer_lib.datasets.interchange import SHOWN, CsvRows, read_rows
from fer_lib.datasets.manifest import Manifest, box_of, content_id, sample_id
from fer_lib.datasets.splits import assign_val, assign_val_roles, excluded_from_val
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.faces.decode import decode, open_file
from fer_lib.importers.builder import BadRecord, leaves_photo
from fer_lib.params import CsvParams
from fer_lib.storage.atomic import fresh_file, json_text
from fer_lib.storage.progress import step

Row = dict[str, Any]


def import_csv(path: Path, root: Path, out: Path, params: CsvParams) -> Manifest:
    """Write ``out/manifest.parquet`` and ``out/import_report.json`` and return the manifest.

    Every image is decoded once.  A box that leaves its photo on a side stays
    as it is and is counted.  Raises :class:`DataError` naming file and line for more bad rows than
    ``params.tolerance``; nothing is written then.
    """
    path, root, out = Path(path), Path(root).absolute(), Path(out).absolute()
    table = read_rows(path, root, params.rebase)
    outside = _add_ids(table, root)
    table.check(params.tolerance)
    rows = pd.DataFrame(table.rows).drop(columns="line").sort_values(["source", "record"], ignore_index=True)
    frame = assign_val(rows.assign(val_role=""), params.val_fraction, params.seed)
    frame = assign_val_roles(frame, params.val_roles, params.seed)
    created = params.model_dump(mode="json") | {"csv": path.name}
    manifest = Manifest(frame, {"root": root.as_posix(), "tolerance": params.tolerance, "created": created})
    report = {
        "csv": str(path),
        "form": table.form,
        "root": str(root),
        "manifest": "manifest.parquet",
        "manifest_sha256": manifest.sha256,
        "rows_total": table.total,
        "rows_kept": len(manifest),
        "excluded": {split: dict(sorted(names.items())) for split, names in sorted(table.excluded.items())},
        "bad_rows": dict(sorted(Counter(kind for kind, _ in table.bad).items())),
        "left_out": [where for _, where in table.bad[:SHOWN]],
        "rebased": {rule: table.rebased[rule] for rule in params.rebase},
        "boxes_outside": outside,
        "kept_out_of_val": len(excluded_from_val(rows)),  # contents that are in train or test already
        "moved_to_val": int((frame["split"].to_numpy() != rows["split"].to_numpy()).sum()),
        "counts": {source: int(n) for source, n in frame["source"].value_counts().sort_index().items()},
        "canonical": list(EMOTIONS),
    }
    with fresh_file(out / "import_report.json") as work:  # neither file appears without the other
        work.write_text(json_text(report), encoding="utf-8")
        return manifest.write(out / "manifest.parquet")


def _add_ids(table: CsvRows, root: Path) -> int:
    """Add ids to the rows and drop those without a usable image; returns how many boxes leave their photo."""
    rows_of: dict[str, list[Row]] = defaultdict(list)
    for row in table.rows:
        rows_of[row["image_path"]].append(row)
    outside = 0
    reading = step("reading images", total=len(rows_of), unit="images")
    with reading as counter, ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(lambda path: _check_image(root / path, rows_of[path]), rows_of)
        for done, (problems, leaving) in enumerate(results, 1):
            outside += leaving
            for problem in problems:
                table.problem(*problem)
            counter.update(done)
    table.rows = [row for row in table.rows if "sample_id" in row]
    return outside


def _check_image(path: Path, rows: list[Row]) -> tuple[list[tuple[str, int, str]], int]:
    """Add ids to the rows of one image; returns (kind, line, reason) of bad rows, and how many boxes leave it."""
    try:
        with open_file(path) as file:
            data = file.read()
        size = decode(data).shape[:2]
    except OSError as error:
        kind = "missing picture" if isinstance(error, FileNotFoundError) else "unreadable picture"
        return [(kind, row["line"], f"{path}: {error.strerror or error}") for row in rows], 0
    except DataError as error:
        return [("undecodable picture", row["line"], f"{path}: {error}") for row in rows], 0
    problems, leaving = [], 0
    for row in rows:
        box = box_of(row)
        try:
            leaving += box is not None and leaves_photo(box, size)
        except BadRecord as error:
            problems.append((error.kind, row["line"], f"{path}: {error.reason}"))
            continue
        row["content_id"] = content_id(data, box)
        row["sample_id"] = sample_id(row["source"], row["record"], row["content_id"])
    return problems, leaving
