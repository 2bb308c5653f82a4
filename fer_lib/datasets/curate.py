"""Curated manifests: several joined into one, and the named selections of SPEC 3 out of it, every removed row counted.

What is done is a function of the rows alone: neither the order of the manifests nor that of their rows matters.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from fer_lib.datasets.build import duplicates, nested_counts
from fer_lib.datasets.interchange import neutral
from fer_lib.datasets.manifest import BOX, SPLITS, VAL_ROLES, Manifest, select_sources
from fer_lib.datasets.near_duplicates import joined_groups, twins_of, united_twins
from fer_lib.datasets.quality import measure
from fer_lib.datasets.training_data import joined_drawn
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.params.curate import CurateParams
from fer_lib.storage.atomic import explained, fresh_file, json_text

Progress = Callable[[int, int], None]
CURATED_FILES = ("curation_report.json", "removed.csv")  # beside the manifest
SURVIVOR = "the test row before the val row before the train row; then the selection's order of sources; then sample_id"


@dataclass(frozen=True)
class Curated:
    """A curated manifest, its report, and a line for each removed row with the step that took it."""

    manifest: Manifest
    report: dict
    removed: pd.DataFrame


def curate(
    manifests: Sequence[Manifest], params: CurateParams, out: Path, progress: Progress | None = None
) -> Manifest:
    """:func:`choose`, written to ``out``: ``manifest.parquet``, ``curation_report.json``, ``removed.csv``."""
    chosen, out = choose(manifests, params, progress), Path(out).absolute()
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
    # all are written before any takes its place, so that none is ever seen without the others
    with fresh_file(out / CURATED_FILES[0]) as report, fresh_file(out / CURATED_FILES[1]) as removed:
        report.write_text(json_text(chosen.report), encoding="utf-8")
        chosen.removed.to_csv(removed, index=False)
        return chosen.manifest.write(out / "manifest.parquet")


def choose(manifests: Sequence[Manifest], params: CurateParams, progress: Progress | None = None) -> Curated:
    """Join, select, filter, de-duplicate, cap.

    Each step's removed rows stand in the report by source, split and label.  ``progress(done, total)`` counts pictures
    where they are measured.  Raises :class:`DataError` when a source of the selection is absent (unless allowed), when
    a step leaves nothing, and when manifests contradict each other.
    """
    joined, about = merge(manifests)
    kept = _Kept(joined.frame)
    absent = _select(kept, params)
    _filter(kept, params, joined, progress)
    if params.deduplicate or params.selected.deduplicate:
        kept.keep("de-duplicated by content", _survivors(kept.frame, params), survivor=SURVIVOR)
    _cap(kept, params)
    inputs = {m.sha256: len(m) for m in manifests}
    created = params.model_dump(mode="json") | {"inputs": sorted(inputs)}
    twins = twins_of(joined.meta["twins"], kept.frame["sample_id"])
    manifest = Manifest(kept.frame.reset_index(drop=True), {**joined.meta, "twins": twins, "created": created})
    report = {
        "selection": params.selection,
        "params": params.model_dump(mode="json"),
        "inputs": [{"manifest_sha256": sha256, "rows": n} for sha256, n in sorted(inputs.items())],
        **about,
        "sources_absent": absent,
        "steps": kept.steps,
        "rows_total": len(joined),
        "rows_kept": len(manifest),
        "manifest": "manifest.parquet",
        "manifest_sha256": manifest.sha256,
        "duplicates": duplicates(manifest.frame),
        "counts": {
            "by_source": {s: int(n) for s, n in manifest.frame["source"].value_counts().sort_index().items()},
            "by_source_split_label": nested_counts(manifest.frame),
        },
        "canonical": list(EMOTIONS),
    }
    return Curated(manifest, report, kept.removed())


def merge(manifests: Sequence[Manifest]) -> tuple[Manifest, dict]:
    """The rows of all manifests in one, paths relative to their common root, and what that took.

    A row that stands in several of them (the same sample id) is kept once.  What one knows of it and another does not
    (soft label, confidence, subject, ...) is taken from the one that knows; :class:`DataError` when they disagree on
    any value.  Only of these there may be two: its path (the first in the alphabet is taken) and its val role, where a
    content whose val rows have different roles gets the first of these in VAL_ROLES for all.  Both are counted.  The
    twins that any of them remembers are united, and so are groups that a row of several manifests links.
    """
    if not manifests:
        raise DataError("no manifest to curate: name at least one")
    root = _common_root([m.root for m in manifests])
    parts = [_moved(m, root) for m in manifests]
    columns = list(dict.fromkeys(name for part in parts for name in part))
    frame = pd.concat([part.reindex(columns=columns) for part in parts], ignore_index=True)
    frame = frame.sort_values(["source", "record", "sample_id", "image_path"], kind="stable", ignore_index=True)
    frame["val_role"], unified = _one_role_a_content(frame)
    if "group" in frame:
        frame["group"] = joined_groups(frame["sample_id"], frame["group"])
    frame, about = _one_line_a_row(frame)
    tolerance = sum(int(m.meta.get("tolerance", 0)) for m in manifests)
    meta = {"root": root.as_posix(), "tolerance": tolerance, "twins": united_twins(*manifests)}
    known = [m.meta.get("bad_labels") for m in manifests]
    meta["bad_labels"] = None if None in known else sum(known)
    meta["drawn"] = joined_drawn(manifests)
    return Manifest(frame, meta), {"root": root.as_posix(), **about, "val_roles_unified": unified}


def _one_line_a_row(frame: pd.DataFrame) -> tuple[pd.DataFrame, dict]:
    """Each sample id once, of sorted lines; how many were there more often, were completed, and had several paths."""
    again = frame["sample_id"].duplicated(keep=False)
    lines, completed = frame[again], np.zeros(again.sum(), bool)
    frame, ids = frame.copy(), lines["sample_id"]
    for column in [name for name in frame if name not in ("sample_id", "image_path")]:
        known = lines[column].notna()
        values = lines.loc[known, column].map(lambda v: tuple(v) if isinstance(v, list | np.ndarray) else v)
        several = values.groupby(ids).nunique()
        if (several > 1).any():
            row = lines[ids == several.index[several > 1][0]].iloc[0]
            raise DataError(
                f"the manifests disagree on the {column} of {int((several > 1).sum())} rows, for instance record "
                f"{row['record']!r} of {row['source']!r}: build them from one import, or leave that source out of one"
            )
        first = lines.loc[known].drop_duplicates("sample_id").set_index("sample_id")[column]
        found = ~known & ids.isin(first.index)
        completed |= found.to_numpy()
        frame.loc[found.index[found], column] = ids[found].map(first)
    repeated = frame["sample_id"].duplicated()
    about = {
        "rows_in_several": int(repeated.sum()),
        "rows_completed": int(ids[completed].nunique()),
        "paths_in_several": int((lines["image_path"].groupby(ids).nunique() > 1).sum()),
    }
    return frame[~repeated].reset_index(drop=True), about


def _common_root(roots: Sequence[Path]) -> Path:
    try:
        return Path(os.path.commonpath([root.absolute() for root in roots]))
    except ValueError as error:  # Windows: two drives
        places = ", ".join(sorted(map(str, set(roots))))
        raise DataError(f"the manifests' pictures lie on different drives ({places}): import them to one") from error


def _moved(manifest: Manifest, root: Path) -> pd.DataFrame:
    """The rows with paths relative to ``root``, which lies above the manifest's own."""
    below = manifest.root.absolute().relative_to(root).as_posix()
    if below == ".":
        return manifest.frame
    return manifest.frame.assign(image_path=f"{below}/" + manifest.frame["image_path"])


def _one_role_a_content(frame: pd.DataFrame) -> tuple[pd.Series, int]:
    """The val roles, and how many rows got another one than a manifest gave them."""
    rank = frame["val_role"].map({role: i for i, role in enumerate(VAL_ROLES)})
    first = rank.groupby(frame["content_id"]).transform("min")
    roles = first[frame["split"] == "val"].map(dict(enumerate(VAL_ROLES))).reindex(frame.index).fillna("")
    return roles, int(frame.loc[roles != frame["val_role"], "sample_id"].nunique())


@dataclass
class _Kept:
    """The rows that are left, and what each step took away."""

    frame: pd.DataFrame
    steps: list[dict] = field(default_factory=list)
    _removed: list[pd.DataFrame] = field(default_factory=list)

    def keep(self, step: str, mask, **about) -> None:
        """Keep the rows where ``mask`` holds; DataError when none is left."""
        mask = np.asarray(mask, bool)
        gone = self.frame[~mask]
        entry = {"step": step, "removed": len(gone), "left": int(mask.sum()), "removed_by": nested_counts(gone)}
        self.steps.append(entry | about)
        self._removed.append(gone[["sample_id", "source", "image_path", "label", "split"]].assign(step=step))
        self.frame = self.frame[mask]
        if self.frame.empty:
            counts = ", ".join(f"{s['step']}: {s['removed']}" for s in self.steps if s["removed"])
            raise DataError(f"nothing is left of the manifest; removed by step: {counts}. Ask for less")

    def removed(self) -> pd.DataFrame:
        """Every row that was taken away, with its step; texts that a spreadsheet would run are made harmless."""
        rows = pd.concat(self._removed, ignore_index=True)
        return rows.assign(**{name: rows[name].map(neutral) for name in ("source", "image_path")})


def _select(kept: _Kept, params: CurateParams) -> list[str]:
    """Sources and splits; returns the sources of the selection that are not there."""
    wanted, held = params.selected.sources, set(kept.frame["source"])
    absent = [source for source in wanted if source not in held]
    if absent and not params.allow_missing:
        raise DataError(
            f"{params.selection} is made of {', '.join(wanted)}; the manifests lack {', '.join(absent)} (they have "
            f"{', '.join(sorted(held))}): import these, or set allow_missing to go on without them"
        )
    chosen = [source for source in wanted if source in held]
    if wanted and not chosen:
        raise DataError(f"{params.selection}: none of {', '.join(wanted)} is there: import at least one")
    named = kept.frame["source"].isin(chosen) if wanted else np.ones(len(kept.frame), bool)
    kept.keep(f"sources of {params.selection}", named)
    left = select_sources(kept.frame, params.include_sources, params.exclude_sources, params.selection)
    kept.keep("sources included and excluded", kept.frame.index.isin(left.index))
    splits = [s for s in params.selected.splits if not params.splits or s in params.splits]
    if not splits:
        raise DataError(
            f"{params.selection} holds only {', '.join(params.selected.splits)}: no such split was asked for"
        )
    kept.keep(f"splits {', '.join(splits)}", kept.frame["split"].isin(splits))
    return absent


def _filter(kept: _Kept, params: CurateParams, joined: Manifest, progress: Progress | None) -> None:
    """Confidence, box size, blur; rows that have no confidence stay and are counted."""
    if params.min_confidence:
        has = kept.frame.get("confidence", pd.Series(np.nan, index=kept.frame.index)).astype(float)
        low = has < params.min_confidence
        kept.keep(f"confidence >= {params.min_confidence:g}", ~low, unmeasured=int(has.isna().sum()))
    boxed = BOX[0] in kept.frame and kept.frame[BOX[0]].notna().all()
    if params.min_blur or (params.min_box and not boxed):
        measured = measure(Manifest(kept.frame, joined.meta), progress).set_index(kept.frame.index)
        pixels, sharp = measured["box_px"], measured["blur"]
    elif params.min_box:
        top, left, bottom, right = (kept.frame[side] for side in BOX)
        pixels = np.minimum(bottom - top, right - left)
    if params.min_box:
        kept.keep(f"box >= {params.min_box} px", pixels >= params.min_box)
    if params.min_blur:
        kept.keep(f"blur >= {params.min_blur:g}", sharp[kept.frame.index] >= params.min_blur)


def _survivors(frame: pd.DataFrame, params: CurateParams) -> np.ndarray:
    """Which rows stay when each content stands once: see SURVIVOR."""
    order = {source: i for i, source in enumerate(params.selected.sources)}
    ranks = pd.DataFrame(
        {
            "split": -frame["split"].map(SPLITS.index),
            "named": frame["source"].map(lambda source: order.get(source, len(order))),
            "source": frame["source"],
            "sample_id": frame["sample_id"],
            "content_id": frame["content_id"],
        }
    )
    first = ranks.sort_values(["split", "named", "source", "sample_id"]).drop_duplicates("content_id").index
    return frame.index.isin(first)


def _cap(kept: _Kept, params: CurateParams) -> None:
    """Caps within each of the capped splits, the narrowest group first; which rows stay is by hash of seed and id."""
    caps = (
        (params.max_per_class_and_source, ["source", "label"], "class and source"),
        (params.max_per_class, ["label"], "class"),
        (params.max_per_source, ["source"], "source"),
    )
    for most, keys, name in caps:
        if most:
            digests = [hashlib.sha256(f"cap:{params.seed}:{i}".encode()).hexdigest() for i in kept.frame["sample_id"]]
            ranked = kept.frame.assign(digest=digests).sort_values("digest")
            rank = ranked.groupby(["split", *keys]).cumcount().reindex(kept.frame.index)
            mask = (rank < most) | ~kept.frame["split"].isin(params.cap_splits)
            kept.keep(f"at most {most} of each {name} in {', '.join(params.cap_splits)}", mask)
