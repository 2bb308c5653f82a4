"""Build a verified manifest from imported datasets, and count its rows."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from fer_lib.datasets.cropping import each_image
from fer_lib.datasets.duplicate_records import group_counts
from fer_lib.datasets.import_folder import REPORT, import_folders, read_imports, read_report
from fer_lib.datasets.manifest import BOX, SPLITS, VAL_ROLES, Manifest, count_by, select_sources
from fer_lib.datasets.provenance import any_drawn
from fer_lib.datasets.splits import assign_val, assign_val_roles, excluded_from_val
from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.errors import DataError
from fer_lib.faces.decode import decode
from fer_lib.params import ManifestParams
from fer_lib.storage.atomic import fresh_file
from fer_lib.storage.json_files import json_text

SHOWN = 10


def build_manifest(params: ManifestParams, import_dir: Path, out: Path, name: str = "manifest.parquet") -> Manifest:
    """Join the imports under ``import_dir``, check every image, assign val and its roles.

    Writes ``out/<name>`` and ``out/manifest_validation.json``.  Tolerated missing or undecodable images are left out
    and counted.  Raises :class:`DataError` with the first ten when there are more than ``params.tolerance``; nothing is
    written then.
    """
    import_dir, out = Path(import_dir).absolute(), Path(out).absolute()
    imported = read_imports(import_dir)
    selected = select_sources(imported, params.include_sources, params.exclude_sources, import_dir)
    frame = cap_rows(selected, params.max_per_class)
    out.mkdir(parents=True, exist_ok=True)
    checked = check_images(frame, import_dir, decoding=params.check == "pictures")
    problems = checked["problem"][checked["problem"] != ""]
    if len(problems) > params.tolerance:
        raise DataError(_too_many(problems, params.tolerance))
    usable = frame.drop(index=frame.index[problems.index]).reset_index(drop=True)
    if usable.empty:
        raise DataError(f"none of the {len(frame)} rows under {import_dir} can be used; import the datasets again")
    excluded = excluded_from_val(usable)
    usable = assign_val(usable, params.val_fraction, params.seed)
    usable = assign_val_roles(usable, params.val_roles, params.seed)
    folders, sources = import_folders(import_dir), set(selected["source"])
    described = [folder for folder in folders if (folder / REPORT).is_file()]
    reports = [report for report in map(read_report, described) if report["dataset"] in sources]
    drawn = {s: any_drawn([r.get("drawn") for r in reports if r["dataset"] == s] or [None]) for s in sorted(sources)}
    bad_labels = sum(report.get("bad_records", {}).get("label out of range", 0) for report in reports)
    meta = {
        "root": import_dir.as_posix(),
        "tolerance": params.tolerance,
        "created": params.model_dump(mode="json", exclude={"output_dir", "imports", "smoke", "manifests", "curate"}),
        "drawn": {s: drawn[s] for s in sorted(set(usable["source"])) if drawn[s] is not None},
        "bad_labels": bad_labels if described == folders else None,
    }
    manifest = Manifest(usable, meta)
    report = {
        "manifest": name,
        "root": str(import_dir),
        "manifest_sha256": manifest.sha256,
        **check_report(frame, checked, decoded=params.check == "pictures"),
        "left_out": problems.head(SHOWN).tolist(),
        **row_report(usable, by_val_role={role: int((usable["val_role"] == role).sum()) for role in VAL_ROLES}),
        "rows_capped": len(selected) - len(frame),
        "bad_labels": meta["bad_labels"],
        "kept_out_of_val": len(excluded),
    }
    # both files are written before either is renamed, so neither is ever there without the other
    with fresh_file(out / "manifest_validation.json") as work:
        work.write_text(json_text(report), encoding="utf-8")
        return manifest.write(out / name)


def cap_rows(frame: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most ``most`` rows per source, split and class, the first by sample id (a hash); 0 keeps every row."""
    if most == 0:
        return frame
    frame = frame.reset_index(drop=True)
    rank = frame.sort_values("sample_id").groupby(["source", "split", "label"]).cumcount()
    return frame[rank.reindex(frame.index) < most].reset_index(drop=True)


def check_images(frame: pd.DataFrame, root: Path, decoding: bool = True) -> pd.DataFrame:
    """Decode every image once, in threads; without ``decoding`` check only that each file exists.

    Returns one line per row of ``frame``: ``problem`` (text, "" for none) and the bools ``missing``, ``outside`` (the
    box extends beyond the photo) and ``beyond`` (the box has no pixel of it).  The last two are False without decoding.
    """
    results = each_image(frame, lambda path: _check_image(f"{root}/{path}", decoding), "checking images")
    problem, missing, height, width = map(np.array, zip(*results, strict=True))
    outside, beyond = np.zeros(len(frame), bool), np.zeros(len(frame), bool)
    if decoding and all(side in frame for side in BOX):
        top, left, bottom, right = (frame[side].to_numpy(np.float64) for side in BOX)
        outside = ((top < 0) | (left < 0) | (bottom > height) | (right > width)) & (problem == "")
        beyond = ((bottom <= 0) | (right <= 0) | (top >= height) | (left >= width)) & (problem == "")
    return pd.DataFrame({"problem": problem, "missing": missing, "outside": outside, "beyond": beyond})


def _check_image(path: str, decoding: bool) -> tuple[str, bool, int, int]:
    """(problem or "", whether the file is missing, height, width); sizes are 0 without decoding."""
    if not os.path.isfile(path):
        return f"missing: {path}", True, 0, 0
    if not decoding:
        return "", False, 0, 0
    try:
        height, width = decode(Path(path)).shape[:2]
    except DataError as error:
        return str(error), False, 0, 0
    return "", False, height, width


def _too_many(problems: pd.Series, tolerance: int) -> str:
    shown = "".join(f"\n  row {row}: {problem}" for row, problem in problems.head(SHOWN).items())
    more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return (
        f"{len(problems)} rows have a missing or undecodable image, tolerance {tolerance}:{shown}{more}\n"
        "repair or remove the raw files and import again, or set tolerance (it becomes part of every metric's id)"
    )


def check_report(frame: pd.DataFrame, checked: pd.DataFrame, decoded: bool = True) -> dict:
    """The counts of a report about ``checked``, the result of :func:`check_images` for ``frame``."""
    failed, missing, paths = checked["problem"] != "", checked["missing"], frame["image_path"].reset_index(drop=True)
    attempted = paths[~missing].nunique() if decoded else 0
    undecodable = paths[failed & ~missing].nunique()
    return {
        "rows_total": len(frame),
        "rows_valid": int((~failed).sum()),
        "missing_paths": int(missing.sum()),
        "decode": {"attempted": attempted, "ok": attempted - undecodable, "fail": undecodable},
        "boxes_outside": int(checked["outside"].sum()) if decoded else None,
    }


def row_report(frame: pd.DataFrame, **counts: dict) -> dict:
    """The part of a report that every manifest has: duplicates, counts of rows (and ``counts``), class names."""
    return {
        "duplicates": duplicates(frame),
        "counts": {"by_source": count_by(frame, "source"), "by_source_split_label": nested_counts(frame), **counts},
        "canonical": list(EMOTIONS),
    }


def duplicates(frame: pd.DataFrame) -> dict:
    """Groups of rows with equal content: ``exact`` all, ``across_splits``, ``across_sources``, ``conflicting_labels``.

    ``contents`` is the number of different contents; ``near`` is null because the audit finds near-duplicates.
    """
    counts = group_counts(frame, frame["content_id"])
    spans = {name: counts[name] for name in ("across_splits", "across_sources", "conflicting_labels")}
    return {"exact": counts["groups"], "near": None, **spans, "contents": frame["content_id"].nunique()}


def count_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows by source and split (the index) and class name (the columns); an absent class counts 0."""
    table = frame.groupby(["source", "split"])["label"].value_counts().unstack(fill_value=0)
    return table.reindex(columns=range(NUM_CLASSES), fill_value=0).set_axis(EMOTIONS, axis=1)


def nested_counts(frame: pd.DataFrame) -> dict[str, dict[str, dict[str, int]]]:
    """The counts of :func:`count_table` as source -> split -> class name -> rows."""
    parts = count_table(frame).groupby(level="source")
    return {source: part.droplevel("source").to_dict("index") for source, part in parts}


def leaked_ids(manifest: Manifest, split: str = "test") -> set[str]:
    """Sample ids of the rows of ``split`` whose content is also in train: exact duplicates that leak."""
    frame = manifest.frame
    contents = frame.loc[frame["split"] == "train", "content_id"]
    return set(frame.loc[(frame["split"] == split) & frame["content_id"].isin(contents), "sample_id"])


def summary(manifest: Manifest) -> pd.DataFrame:
    """Row counts: one line per source and split, one column per class, and the total."""
    table = count_table(manifest.frame)
    table = table.loc[sorted(table.index, key=lambda place: (place[0], SPLITS.index(place[1])))]
    return table.assign(total=table.sum(axis=1)).reset_index()
