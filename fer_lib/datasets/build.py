"""From imported datasets to one verified manifest, and its counts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from fer_lib.datasets.import_folder import REPORT, read_imports
from fer_lib.datasets.manifest import BOX, SPLITS, VAL_ROLES, Manifest, select_sources
from fer_lib.datasets.splits import assign_val, assign_val_roles, excluded_from_val
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.faces.decode import decode
from fer_lib.params import ManifestParams
from fer_lib.storage.atomic import explained, fresh_file, json_text

SHOWN = 10
_CHUNK = 512  # pictures a thread takes at a time


def build_manifest(
    params: ManifestParams,
    import_dir: Path,
    out: Path,
    progress: Callable[[int, int], None] | None = None,
    name: str = "manifest.parquet",
) -> Manifest:
    """Join the imports under ``import_dir``, check every picture, assign val and its roles, write it all to ``out``.

    Writes ``out/<name>`` and ``out/manifest_validation.json``.  ``progress(done, total)`` counts pictures.
    Missing or undecodable pictures beyond ``params.tolerance`` raise :class:`DataError` with the first ten, and nothing
    is written; tolerated ones are left out and counted.
    """
    import_dir, out = Path(import_dir).absolute(), Path(out).absolute()
    imported = read_imports(import_dir)
    selected = select_sources(imported, params.include_sources, params.exclude_sources, import_dir)
    frame = capped(selected, params.max_per_class)
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
    checked = check_pictures(frame, import_dir, progress, decoding=params.check == "pictures")
    failed = checked["problem"] != ""
    if failed.sum() > params.tolerance:
        raise DataError(_too_many(checked[failed], params.tolerance))
    kept = frame[~failed.to_numpy()].reset_index(drop=True)
    if kept.empty:
        raise DataError(f"none of the {len(frame)} rows under {import_dir} can be used; import the datasets again")
    about = {
        "rows_capped": len(selected) - len(frame),
        "bad_labels": bad_labels(import_dir, sorted(set(selected["source"]))),
        "kept_out_of_val": len(
            excluded_from_val(kept)
        ),  # contents that could not be chosen: they are trained or tested on
    }
    kept = assign_val(kept, params.val_fraction, params.seed)
    kept = assign_val_roles(kept, params.val_roles, params.seed)
    created = params.model_dump(mode="json", exclude={"output_dir", "imports", "smoke", "manifests", "curate"})
    meta = {"root": import_dir.as_posix(), "tolerance": params.tolerance, "created": created}
    meta["drawn"] = drawn_sources(import_dir, sorted(set(kept["source"])))
    manifest = Manifest(kept, meta | {"bad_labels": about["bad_labels"]})
    # both files are written before either takes its place, so that neither is ever seen without the other
    with fresh_file(out / "manifest_validation.json") as work:
        report = {"manifest": name, **_validation(manifest, frame, checked, params, import_dir), **about}
        work.write_text(json_text(report), encoding="utf-8")
        return manifest.write(out / name)


def bad_labels(import_dir: Path, sources: Sequence[str]) -> int | None:
    """How many records these imports left out because their label is no class of the source (a tolerated error).

    None, for unknown, when one of them left no report of its own.
    """
    files = [import_dir / source / REPORT for source in sources]
    if not all(file.is_file() for file in files):
        return None
    reports = (json.loads(file.read_text(encoding="utf-8")) for file in files)
    return sum(report["bad_records"].get("label out of range", 0) for report in reports)


def drawn_sources(import_dir: Path, sources: Sequence[str]) -> dict[str, bool]:
    """Source -> whether its faces are drawn (``root: embedded``); without those whose import did not record it."""
    files = {source: import_dir / source / REPORT for source in sources}
    reports = {s: json.loads(file.read_text(encoding="utf-8")) for s, file in files.items() if file.is_file()}
    return {source: report["drawn"] for source, report in reports.items() if "drawn" in report}


def capped(frame: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most ``most`` rows of each class in each split of each source, by sample id (a hash), so always the same ones.

    0 keeps every row.
    """
    if most == 0:
        return frame
    frame = frame.reset_index(drop=True)
    rank = frame.sort_values("sample_id").groupby(["source", "split", "label"]).cumcount()
    return frame[rank.reindex(frame.index) < most].reset_index(drop=True)


def check_pictures(
    frame: pd.DataFrame, root: Path, progress: Callable[[int, int], None] | None = None, decoding: bool = True
) -> pd.DataFrame:
    """Decode every picture once, threads sharing the work; without ``decoding`` only see that each file is there.

    Returns one line a row of ``frame``: ``problem`` ("" or what is wrong), and as bools ``missing``, ``outside`` (its
    box leaves the photo on a side) and ``beyond`` (its box has no pixel of the photo); these two are False where
    nothing was decoded.
    """
    places, paths = pd.factorize(frame["image_path"], sort=True)
    parts = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    looked: list[tuple[str, bool, int, int]] = []
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for seen in pool.map(lambda part: [_look(f"{root}/{path}", decoding) for path in part], parts):
            looked += seen
            if progress is not None:
                progress(len(looked), len(paths))
    problem, missing, height, width = (np.array(column)[places] for column in zip(*looked, strict=True))
    outside, beyond = np.zeros(len(frame), bool), np.zeros(len(frame), bool)
    if decoding and all(side in frame for side in BOX):
        top, left, bottom, right = (frame[side].to_numpy(np.float64) for side in BOX)
        outside = ((top < 0) | (left < 0) | (bottom > height) | (right > width)) & (problem == "")
        beyond = ((bottom <= 0) | (right <= 0) | (top >= height) | (left >= width)) & (problem == "")
    return pd.DataFrame({"problem": problem, "missing": missing, "outside": outside, "beyond": beyond})


def _look(path: str, decoding: bool) -> tuple[str, bool, int, int]:
    """(what is wrong or "", whether the file is missing, height, width); sizes are 0 where nothing was decoded."""
    if not os.path.isfile(path):
        return f"missing: {path}", True, 0, 0
    if not decoding:
        return "", False, 0, 0
    try:
        height, width = decode(Path(path)).shape[:2]
    except DataError as error:
        return str(error), False, 0, 0
    return "", False, height, width


def _too_many(failed: pd.DataFrame, tolerance: int) -> str:
    shown = "".join(f"\n  row {row}: {problem}" for row, problem in failed["problem"].head(SHOWN).items())
    more = f"\n  and {len(failed) - SHOWN} more" if len(failed) > SHOWN else ""
    return (
        f"{len(failed)} rows have a missing or undecodable picture, tolerance {tolerance}:{shown}{more}\n"
        "repair or remove the raw files and import again, or set tolerance (it becomes part of every metric's id)"
    )


def _validation(
    manifest: Manifest, frame: pd.DataFrame, checked: pd.DataFrame, params: ManifestParams, import_dir: Path
) -> dict:
    failed, missing = checked["problem"] != "", checked["missing"]
    paths = frame["image_path"].reset_index(drop=True)
    attempted = paths[~missing].nunique() if params.check == "pictures" else 0
    undecodable = paths[failed & ~missing].nunique()
    kept = manifest.frame
    return {
        "root": str(import_dir),
        "manifest_sha256": manifest.sha256,
        "rows_total": len(frame),
        "rows_valid": len(kept),
        "missing_paths": int(missing.sum()),
        "decode": {"attempted": int(attempted), "ok": int(attempted - undecodable), "fail": int(undecodable)},
        "left_out": checked["problem"][failed].head(SHOWN).tolist(),
        "boxes_outside": int(checked["outside"].sum()) if params.check == "pictures" else None,
        "duplicates": duplicates(kept),
        "counts": {
            "by_source": {s: int(n) for s, n in kept["source"].value_counts().sort_index().items()},
            "by_source_split_label": nested_counts(kept),
            "by_val_role": {role: int((kept["val_role"] == role).sum()) for role in VAL_ROLES},
        },
        "canonical": list(EMOTIONS),
    }


def duplicates(frame: pd.DataFrame) -> dict:
    """Groups of rows with one content: ``exact`` all, ``across_splits``, ``across_sources``, ``conflicting_labels``.

    ``contents`` is the number of different pictures; ``near`` is null because near-duplicates are the audit's work.
    """
    groups = frame.groupby("content_id").agg(
        size=("label", "size"), labels=("label", "nunique"), splits=("split", "nunique"), sources=("source", "nunique")
    )
    return {
        "exact": int((groups["size"] > 1).sum()),
        "near": None,
        "across_splits": int((groups["splits"] > 1).sum()),
        "across_sources": int((groups["sources"] > 1).sum()),
        "conflicting_labels": int((groups["labels"] > 1).sum()),
        "contents": len(groups),
    }


def nested_counts(frame: pd.DataFrame) -> dict[str, dict[str, dict[str, int]]]:
    """Rows by source, split and class name (classes that are absent count 0)."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for (source, split), rows in frame.groupby(["source", "split"], sort=True):
        labels = np.bincount(rows["label"], minlength=len(EMOTIONS))
        counts.setdefault(source, {})[split] = dict(zip(EMOTIONS, labels.tolist(), strict=True))
    return counts


def twins(manifest: Manifest, split: str = "test", other: str = "train") -> set[str]:
    """Sample ids of ``split`` whose very content also stands in ``other``: the leak to leave out."""
    for name in (split, other):
        if name not in SPLITS:
            raise DataError(f"unknown split {name!r}: use {', '.join(SPLITS)}")
    frame = manifest.frame
    seen = frame.loc[frame["split"] == other, "content_id"]
    return set(frame.loc[(frame["split"] == split) & frame["content_id"].isin(seen), "sample_id"])


def summary(manifest: Manifest) -> pd.DataFrame:
    """Counts to look at: a line a source and split, a column a class, and the total."""
    lines = [
        {"source": source, "split": split, **counts[split], "total": sum(counts[split].values())}
        for source, counts in nested_counts(manifest.frame).items()
        for split in SPLITS
        if split in counts
    ]
    return pd.DataFrame(lines)
