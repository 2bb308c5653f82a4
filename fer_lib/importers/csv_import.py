"""An interchange CSV becomes a manifest: its pictures read and decoded, its rows given ids, val and its roles."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd

from fer_lib.datasets.interchange import SHOWN, CsvRows, read_rows
from fer_lib.datasets.manifest import BOX, Manifest, content_id, sample_id
from fer_lib.datasets.splits import assign_val, assign_val_roles, excluded_from_val
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.faces.decode import decode
from fer_lib.params.curate import CsvParams
from fer_lib.storage.atomic import fresh_file, json_text

Progress = Callable[[int, int], None]
Row = dict[str, Any]


def import_csv(path: Path, root: Path, out: Path, params: CsvParams, progress: Progress | None = None) -> Manifest:
    """A CSV as ``out/manifest.parquet`` with ``out/import_report.json`` beside it.

    Every picture is read and decoded once (``progress(done, total)`` counts them).  Boxes that partly leave their photo
    are kept and counted.  Raises :class:`DataError` naming file and line for more bad rows than ``params.tolerance``;
    nothing is written then.
    """
    path, root, out = Path(path), Path(root).absolute(), Path(out).absolute()
    found = read_rows(path, root, params.rebase)
    outside = _look_at_pictures(found, root, progress)
    found.check(params.tolerance)
    rows = pd.DataFrame(found.rows).drop(columns="line").sort_values(["source", "record"], ignore_index=True)
    carved = assign_val(rows.assign(val_role=""), params.val_fraction, params.seed)
    frame = assign_val_roles(carved, params.val_roles, params.seed)
    created = params.model_dump(mode="json") | {"csv": path.name}
    manifest = Manifest(frame, {"root": root.as_posix(), "tolerance": params.tolerance, "created": created})
    report = {
        "csv": str(path),
        "form": found.form,
        "root": str(root),
        "manifest": "manifest.parquet",
        "manifest_sha256": manifest.sha256,
        "rows_total": found.total,
        "rows_kept": len(manifest),
        "excluded": {split: dict(sorted(names.items())) for split, names in sorted(found.excluded.items())},
        "bad_rows": dict(sorted(Counter(kind for kind, _ in found.bad).items())),
        "left_out": [where for _, where in found.bad[:SHOWN]],
        "rebased": {rule: found.rebased[rule] for rule in params.rebase},
        "boxes_outside": outside,
        "kept_out_of_val": len(
            excluded_from_val(rows)
        ),  # contents that could not be chosen: they are trained or tested on
        "moved_to_val": int((frame["split"].to_numpy() != rows["split"].to_numpy()).sum()),
        "counts": {source: int(n) for source, n in frame["source"].value_counts().sort_index().items()},
        "canonical": list(EMOTIONS),
    }
    with fresh_file(out / "import_report.json") as work:  # neither file is ever seen without the other
        work.write_text(json_text(report), encoding="utf-8")
        return manifest.write(out / "manifest.parquet")


def _look_at_pictures(found: CsvRows, root: Path, progress: Progress | None) -> int:
    """Give rows their ids; those without a usable picture become bad rows.  Returns how many boxes leave a photo."""
    photos: dict[str, list[Row]] = defaultdict(list)
    for row in found.rows:
        photos[row["image_path"]].append(row)
    outside = 0
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        looked = pool.map(lambda path: _look(root / path, photos[path]), photos)
        for done, problems in enumerate(looked, 1):
            for kind, line, what in problems:
                if kind == "box leaves the photo":
                    outside += 1
                else:
                    found.problem(kind, line, what)
            if progress is not None:
                progress(done, len(photos))
    found.rows = [row for row in found.rows if "sample_id" in row]
    return outside


def _look(path: Path, rows: list[Row]) -> list[tuple[str, int, str]]:
    """Write ``content_id`` and ``sample_id`` into the rows of one picture; (kind, line, what) of all that is wrong."""
    try:
        data = path.read_bytes()
        height, width = decode(data).shape[:2]
    except OSError as error:
        kind = "missing picture" if isinstance(error, FileNotFoundError) else "unreadable picture"
        return [(kind, row["line"], f"{path}: {error.strerror or error}") for row in rows]
    except DataError as error:
        return [("undecodable picture", row["line"], f"{path}: {error}") for row in rows]
    problems = []
    for row in rows:
        box = [row.get(side) for side in BOX]
        if None not in box:
            top, left, bottom, right = box
            if bottom <= 0 or right <= 0 or top >= height or left >= width:
                said = f"box {tuple(box)} lies outside {path} of {width} x {height} pixels"
                problems.append(("box outside the photo", row["line"], said))
                continue
            if top < 0 or left < 0 or bottom > height or right > width:
                problems.append(("box leaves the photo", row["line"], ""))
        row["content_id"] = content_id(data, None if None in box else box)
        row["sample_id"] = sample_id(row["source"], row["record"], row["content_id"])
    return problems
