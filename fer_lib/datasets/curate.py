"""Curated manifests: join several manifests, apply the named selections and filters, and count every removed row.

The result depends on the rows alone, not on the order of manifests or rows.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from fer_lib.datasets.build import nested_counts, row_report
from fer_lib.datasets.duplicate_records import join_groups, twins_of, unite_twins
from fer_lib.datasets.interchange import spreadsheet_safe
from fer_lib.datasets.manifest import BOX, SPLITS, VAL_ROLES, Manifest, select_sources
from fer_lib.datasets.parquet_io import COLUMNS
from fer_lib.datasets.provenance import join_drawn
from fer_lib.datasets.quality import measure
from fer_lib.errors import DataError
from fer_lib.params import CurateParams
from fer_lib.storage.atomic import fresh_file, json_text

CURATED_FILES = ("curation_report.json", "removed.csv")  # beside the manifest
SURVIVOR = "the test row before the val row before the train row; then the selection's order of sources; then sample_id"


def curate(manifests: Sequence[Manifest], params: CurateParams, out: Path) -> Manifest:
    """:func:`choose`, written to ``out``: ``manifest.parquet``, ``curation_report.json``, ``removed.csv``."""
    (manifest, report, removed), out = choose(manifests, params), Path(out).absolute()
    # all files are written before any is renamed, so none is ever there without the others
    with fresh_file(out / CURATED_FILES[0]) as report_file, fresh_file(out / CURATED_FILES[1]) as removed_file:
        report_file.write_text(json_text(report), encoding="utf-8")
        removed.to_csv(removed_file, index=False)
        return manifest.write(out / "manifest.parquet")


def choose(manifests: Sequence[Manifest], params: CurateParams) -> tuple[Manifest, dict, pd.DataFrame]:
    """Join, select, filter, de-duplicate, cap: the manifest, its report, and one line per removed row with its step.

    The report counts each step's removed rows by source, split and label.  Raises :class:`DataError` when a source of
    the selection is absent (unless allowed), when a step leaves no row, and when manifests contradict each other.
    """
    joined, about = merge(manifests)
    steps = _Steps(joined.frame)
    absent = _select(steps, params)
    _filter(steps, params, joined)
    if params.deduplicate or params.selected.deduplicate:
        steps.keep("de-duplicated by content", _survivors(steps.frame, params), survivor=SURVIVOR)
    _cap(steps, params)
    inputs = {m.sha256: len(m) for m in manifests}
    created = params.model_dump(mode="json") | {"inputs": sorted(inputs)}
    twins = twins_of(joined.meta["twins"], steps.frame["sample_id"])
    manifest = Manifest(steps.frame.reset_index(drop=True), {**joined.meta, "twins": twins, "created": created})
    report = {
        "selection": params.selection,
        "params": params.model_dump(mode="json"),
        "inputs": [{"manifest_sha256": sha256, "rows": n} for sha256, n in sorted(inputs.items())],
        **about,
        "sources_absent": absent,
        "steps": steps.entries,
        "rows_total": len(joined),
        "rows_kept": len(manifest),
        "manifest": "manifest.parquet",
        "manifest_sha256": manifest.sha256,
        **row_report(manifest.frame),
    }
    return manifest, report, steps.removed()


def merge(manifests: Sequence[Manifest]) -> tuple[Manifest, dict]:
    """The rows of all manifests in one, paths relative to their common root, and a report of the merge.

    A row of several manifests (the same sample id) is kept once; a value that one manifest lacks (soft label,
    confidence, subject, ...) is taken from another.  Raises :class:`DataError` when they disagree on a value.  Two
    values may differ: the path (the first in alphabetical order is used) and the val role (the val rows of a content
    all get their first role in VAL_ROLES).  The report counts both.  Twins are united, and groups that share a row.
    """
    if not manifests:
        raise DataError("no manifest to curate: name at least one")
    root = _common_root([m.root for m in manifests])
    parts = [_relocated(m, root) for m in manifests]
    columns = list(dict.fromkeys(name for part in parts for name in part))
    frame = pd.concat([part.reindex(columns=columns) for part in parts], ignore_index=True)
    frame = frame.sort_values(["source", "record", "sample_id", "image_path"], kind="stable", ignore_index=True)
    frame["val_role"], unified = _unify_val_roles(frame)
    if "group" in frame:
        frame["group"] = join_groups(frame["sample_id"], frame["group"])
    frame, about = _merge_rows(frame)
    bad_labels = [m.meta.get("bad_labels") for m in manifests]
    meta = {
        "root": root.as_posix(),
        "tolerance": sum(int(m.meta.get("tolerance", 0)) for m in manifests),
        "twins": unite_twins(*manifests),
        "bad_labels": None if None in bad_labels else sum(bad_labels),
        "drawn": join_drawn(manifests),
    }
    return Manifest(frame, meta), {"root": root.as_posix(), **about, "val_roles_unified": unified}


def _merge_rows(frame: pd.DataFrame) -> tuple[pd.DataFrame, dict]:
    """One row per sample id of a sorted frame, and counts of repeated, completed and relocated rows."""
    again = frame["sample_id"].duplicated(keep=False)
    lines = frame[again]
    lists = [name for name in frame if pa.types.is_list(COLUMNS[name])]
    rows = lines.assign(**{name: lines[name].map(tuple, na_action="ignore") for name in lists}).groupby("sample_id")
    values = rows.nunique()
    for column in values.columns.drop("image_path"):
        different = values.index[values[column] > 1]
        if len(different):
            row = lines[lines["sample_id"] == different[0]].iloc[0]
            raise DataError(
                f"the manifests disagree on the {column} of {len(different)} rows, for instance record "
                f"{row['record']!r} of {row['source']!r}: build them from one import, or leave that source out of one"
            )
    merged = lines[["sample_id"]].join(rows.first(), on="sample_id")
    filled = lines["sample_id"][(lines.isna() & merged.notna()).any(axis=1)]
    repeated = frame["sample_id"].duplicated()
    about = {
        "rows_in_several": int(repeated.sum()),
        "rows_completed": int(filled.nunique()),
        "paths_in_several": int((values["image_path"] > 1).sum()),
    }
    return pd.concat([frame[~again], merged]).sort_index()[~repeated].reset_index(drop=True), about


def _common_root(roots: Sequence[Path]) -> Path:
    try:
        return Path(os.path.commonpath([root.absolute() for root in roots]))
    except ValueError as error:  # Windows: two drives
        places = ", ".join(sorted(map(str, set(roots))))
        raise DataError(f"the manifests' images lie on different drives ({places}): import them to one") from error


def _relocated(manifest: Manifest, root: Path) -> pd.DataFrame:
    """The rows with paths relative to ``root``, a parent of the manifest's root."""
    prefix = manifest.root.absolute().relative_to(root).as_posix()
    if prefix == ".":
        return manifest.frame
    return manifest.frame.assign(image_path=f"{prefix}/" + manifest.frame["image_path"])


def _unify_val_roles(frame: pd.DataFrame) -> tuple[pd.Series, int]:
    """One val role per content, and the number of rows whose role changes."""
    rank = frame["val_role"].map({role: i for i, role in enumerate(VAL_ROLES)})
    first = rank.groupby(frame["content_id"]).transform("min")
    roles = first[frame["split"] == "val"].map(dict(enumerate(VAL_ROLES))).reindex(frame.index).fillna("")
    return roles, int(frame.loc[roles != frame["val_role"], "sample_id"].nunique())


@dataclass
class _Steps:
    """The remaining rows, and what each step removed."""

    frame: pd.DataFrame
    entries: list[dict] = field(default_factory=list)
    _removed: list[pd.DataFrame] = field(default_factory=list)

    def keep(self, step: str, mask, **about) -> None:
        """Keep the rows where ``mask`` holds; DataError when no row is left."""
        mask = np.asarray(mask, bool)
        removed = self.frame[~mask]
        entry = {"step": step, "removed": len(removed), "left": int(mask.sum()), "removed_by": nested_counts(removed)}
        self.entries.append(entry | about)
        self._removed.append(removed[["sample_id", "source", "image_path", "label", "split"]].assign(step=step))
        self.frame = self.frame[mask]
        if self.frame.empty:
            counts = ", ".join(f"{s['step']}: {s['removed']}" for s in self.entries if s["removed"])
            raise DataError(f"nothing is left of the manifest; removed by step: {counts}. Ask for less")

    def removed(self) -> pd.DataFrame:
        """Every removed row with its step; texts that a spreadsheet would run are escaped."""
        return spreadsheet_safe(pd.concat(self._removed, ignore_index=True))


def _select(steps: _Steps, params: CurateParams) -> list[str]:
    """Select sources and splits; returns the selection's absent sources."""
    wanted, present = params.selected.sources, set(steps.frame["source"])
    absent = [source for source in wanted if source not in present]
    if absent and not params.allow_missing:
        raise DataError(
            f"{params.selection} is made of {', '.join(wanted)}; the manifests lack {', '.join(absent)} (they have "
            f"{', '.join(sorted(present))}): import these, or set allow_missing to go on without them"
        )
    selected = steps.frame["source"].isin(wanted) if wanted else np.ones(len(steps.frame), bool)
    steps.keep(f"sources of {params.selection}", selected)
    left = select_sources(steps.frame, params.include_sources, params.exclude_sources, params.selection)
    steps.keep("sources included and excluded", steps.frame.index.isin(left.index))
    splits = [s for s in params.selected.splits if not params.splits or s in params.splits]
    steps.keep(f"splits {', '.join(splits) or '(none)'}", steps.frame["split"].isin(splits))
    return absent


def _filter(steps: _Steps, params: CurateParams, joined: Manifest) -> None:
    """Confidence, box size, blur; rows without a confidence stay and are counted."""
    if params.min_confidence:
        confidence = steps.frame.get("confidence", pd.Series(np.nan, index=steps.frame.index)).astype(float)
        high = ~(confidence < params.min_confidence)
        steps.keep(f"confidence >= {params.min_confidence:g}", high, unmeasured=int(confidence.isna().sum()))
    boxed = BOX[0] in steps.frame and steps.frame[BOX[0]].notna().all()
    if params.min_blur or (params.min_box and not boxed):
        measured = measure(Manifest(steps.frame, joined.meta)).set_index(steps.frame.index)
        pixels, sharp = measured["box_px"], measured["blur"]
    elif params.min_box:
        top, left, bottom, right = (steps.frame[side] for side in BOX)
        pixels = np.minimum(bottom - top, right - left)
    if params.min_box:
        steps.keep(f"box >= {params.min_box} px", pixels >= params.min_box)
    if params.min_blur:
        steps.keep(f"blur >= {params.min_blur:g}", sharp[steps.frame.index] >= params.min_blur)


def _survivors(frame: pd.DataFrame, params: CurateParams) -> np.ndarray:
    """bool [N]: the row of each content that stays, as SURVIVOR says."""
    order = {source: i for i, source in enumerate(params.selected.sources)}
    ranks = frame.assign(
        split=-frame["split"].map(SPLITS.index), selected=frame["source"].map(lambda s: order.get(s, len(order)))
    )
    first = ranks.sort_values(["split", "selected", "source", "sample_id"]).drop_duplicates("content_id").index
    return frame.index.isin(first)


def _cap(steps: _Steps, params: CurateParams) -> None:
    """Cap rows within each of the capped splits, the narrowest group first, by a hash of seed and sample id."""
    caps = (
        (params.max_per_class_and_source, ["source", "label"], "class and source"),
        (params.max_per_class, ["label"], "class"),
        (params.max_per_source, ["source"], "source"),
    )
    for most, keys, name in caps:
        if most:
            digests = [hashlib.sha256(f"cap:{params.seed}:{i}".encode()).hexdigest() for i in steps.frame["sample_id"]]
            ranked = steps.frame.assign(digest=digests).sort_values("digest")
            rank = ranked.groupby(["split", *keys]).cumcount().reindex(steps.frame.index)
            mask = (rank < most) | ~steps.frame["split"].isin(params.cap_splits)
            steps.keep(f"at most {most} of each {name} in {', '.join(params.cap_splits)}", mask)
