"""The audit of a manifest: exact duplicates and near-duplicates, and the manifest without the rows that leak."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fer_lib.audit import groups
from fer_lib.audit.groups import RULES, WHICH_ONE, Duplicates, leaking_rows
from fer_lib.audit.hashes import cached_hashes
from fer_lib.datasets.duplicate_records import earlier_duplicates, group_counts, group_names, twins_of, unite_twins
from fer_lib.datasets.interchange import spreadsheet_safe
from fer_lib.datasets.manifest import SPLITS, Manifest, count_by
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.params import AuditParams
from fer_lib.storage.atomic import fresh_file, json_text

MANIFEST = "manifest.parquet"
_TABLES = ("duplicate_groups", "near_pairs", "conflicts")
_FIGURES = (
    "matrices", "conflicts", "across_splits", "across_sources", "least_alike", "noise_matrix", "label_noise"
)  # fmt: skip
# all files of an audit, those of its figures and of the label-noise audit included
_FILES = (
    MANIFEST, "outputs.json", "audit.json", *(f"{name}.csv" for name in _TABLES), "label_noise.csv", "label_noise.json",
    *(f"{folder}{name}.png" for folder in ("", "figures/") for name in _FIGURES),
)  # fmt: skip
LISTED = 200  # conflicting groups that the JSON repeats; the CSV has all
EVALUATED = ("test", "val")


@dataclass(frozen=True)
class Audit:
    """``summary`` is the content of ``audit.json``; ``rows`` has each manifest row of each group of two or more.

    ``rows`` has the index of ``manifest.frame`` and the columns of ``duplicate_groups.csv``.  ``pairs`` are the
    near-duplicates by sample id.  ``manifest`` is the audited manifest, ``clean`` the one that is left.
    """

    manifest: Manifest
    clean: Manifest
    rows: pd.DataFrame
    pairs: pd.DataFrame
    summary: dict[str, Any]

    @property
    def conflicts(self) -> pd.DataFrame:
        """The rows of ``rows`` whose group has more than one label."""
        return self.rows[self.rows["labels_in_group"] > 1]


def audit_manifest(params: AuditParams, manifest: Manifest, out: Path, cache_dir: Path | None = None) -> Audit:
    """Find the duplicates in ``manifest``, list them, and write the manifest without those that ``params`` removes.

    Writes into ``out``: ``audit.json`` (the summary), ``duplicate_groups.csv`` (each row of each group),
    ``near_pairs.csv``, ``conflicts.csv`` (groups with several labels) and ``manifest.parquet`` (the rows that
    ``params.remove`` leaves, with groups and near-duplicates: see ``fer_lib.datasets.duplicate_records``).  The files
    of an earlier audit in ``out`` are deleted first and the manifest is written last: a manifest means a whole audit.
    ``cache_dir`` caches the hashes.

    Raises DataError when an image cannot be read, no train row would be left, or ``out`` has a manifest that no audit
    wrote, or the audited one.
    """
    out, start = Path(out).absolute(), time.time()
    _clear(out, manifest)
    hashes = cached_hashes(manifest, cache_dir)
    hashed = time.time()
    duplicates = groups.find_duplicates(manifest.frame, hashes, params.near, params.similarity, params.seed)
    keep = groups.rows_to_keep(manifest.frame, duplicates.group, hashes.area, params.remove)
    train = (manifest.frame["split"] == "train").to_numpy()
    if train.any() and not (keep & train).any():
        raise DataError(f"remove: {params.remove} would leave no train row of {manifest.path or 'the manifest'}: each "
                        "is also in val or test; choose another rule, or another split")  # fmt: skip
    seconds = {"hashing": hashed - start, "searching": time.time() - hashed}
    audit = build_report(manifest, params, duplicates, keep, seconds)
    _write(audit, out)
    return audit


def _write(audit: Audit, out: Path) -> None:
    """Write all files before any is renamed to its name; the manifest, opened first, is renamed last."""
    with ExitStack() as stack:
        audit.clean.write(stack.enter_context(fresh_file(out / MANIFEST)))
        stack.enter_context(fresh_file(out / "audit.json")).write_text(json_text(audit.summary), encoding="utf-8")
        for name, table in zip(_TABLES, (audit.rows, audit.pairs, audit.conflicts), strict=True):
            path = stack.enter_context(fresh_file(out / f"{name}.csv"))
            spreadsheet_safe(table).to_csv(path, index=False, float_format="%.4f")


def _clear(out: Path, manifest: Manifest) -> None:
    """Make ``out`` and delete the files of an earlier audit in it."""
    present = out / MANIFEST
    if manifest.path is not None and manifest.path.resolve() == present.resolve():
        raise DataError(f"{present} is the manifest to be audited, and would be replaced: choose another output folder")
    if present.exists() and not (out / "audit.json").exists():
        raise DataError(f"{present} is a manifest that no audit wrote: choose another output folder, or move it away")
    out.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        (out / name).unlink(missing_ok=True)


def _clean(manifest: Manifest, params: AuditParams, duplicates: Duplicates, keep: np.ndarray) -> Manifest:
    """The rows to keep, with their groups.  The metadata has the audit, and near-duplicates that were removed."""
    group = group_names(manifest.frame, duplicates.group)
    frame = manifest.frame.assign(group=group)[keep].reset_index(drop=True)
    audit = {"of": manifest.sha256, "near": params.near, "similarity": params.similarity, "remove": params.remove}
    twins = twins_of(unite_twins(manifest, earlier_duplicates(manifest.frame, duplicates.group)), frame["sample_id"])
    return Manifest(frame, {**manifest.meta, "root": manifest.root.as_posix(), "audit": audit, "twins": twins})


def build_report(
    manifest: Manifest, params: AuditParams, duplicates: Duplicates, keep: np.ndarray, seconds: dict[str, float]
) -> Audit:
    """The audit of ``manifest`` with ``keep`` bool [N], the rows that stay; ``seconds`` by step."""
    clean = _clean(manifest, params, duplicates, keep)
    frame, ids, left = manifest.frame, manifest.frame["sample_id"].to_numpy(), duplicates.group[keep]
    rows = _rows(frame, duplicates, keep)
    large = duplicates.large.assign(middle=ids[duplicates.large["middle"].to_numpy(int)]).to_dict("records")
    summary = {
        "manifest_sha256": manifest.sha256,
        "rows": len(frame),
        "params": params.model_dump(mode="json", include={"near", "similarity", "remove", "seed"}),
        "exact": group_counts(frame, duplicates.exact),
        "with_near": group_counts(frame, duplicates.group),
        "near_pairs": len(duplicates.pairs),
        "pictures_without_structure": duplicates.blank,
        "largest_group": int(rows["group"].mode().iloc[0]) if len(rows) else None,
        "large_groups": large,
        "warnings": [text for line in large if (text := groups.chain_warning(line))],
        "sources": _matrix(frame, duplicates.group, "source", sorted(set(frame["source"]))),
        "splits": _matrix(frame, duplicates.group, "split", [s for s in SPLITS if (frame["split"] == s).any()]),
        "leaks": {split: _leaks(frame, duplicates, split) for split in EVALUATED},
        "conflicts": _listed(rows[rows["labels_in_group"] > 1]),
        "rule": f"{RULES[params.remove]}; {WHICH_ONE}" if params.remove in ("within", "all") else RULES[params.remove],
        "removed": {
            "rows": int((~keep).sum()),
            "by_split": count_by(frame[~keep], "split"),
            "by_source": count_by(frame[~keep], "source"),
            "by_label": {EMOTIONS[k]: n for k, n in frame["label"][~keep].value_counts().sort_index().items()},
        },
        "clean": {
            "manifest": "manifest.parquet",
            "sha256": clean.sha256,
            "rows": len(clean),
            "by_split": count_by(clean.frame, "split"),
            "leaks": {split: int(leaking_rows(clean.frame, left, split).sum()) for split in EVALUATED},
        },
        "canonical": list(EMOTIONS),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }
    pairs = duplicates.pairs.assign(
        first=ids[duplicates.pairs["first"].astype(int)], second=ids[duplicates.pairs["second"].astype(int)]
    )
    return Audit(manifest, clean, rows, pairs, summary)


def _rows(frame: pd.DataFrame, duplicates: Duplicates, keep: np.ndarray) -> pd.DataFrame:
    several = np.bincount(duplicates.group)[duplicates.group] > 1
    rows = frame.loc[several, ["sample_id", "source", "split", "val_role", "label", "record", "image_path"]].copy()
    rows.insert(0, "group", duplicates.group[several])
    rows.insert(1, "exact_group", duplicates.exact[several])
    rows["labels_in_group"] = rows.groupby("group")["label"].transform("nunique")
    rows.insert(2, "kind", np.where(rows.groupby("group")["exact_group"].transform("nunique") > 1, "near", "exact"))
    rows["label"] = [EMOTIONS[k] for k in rows["label"]]
    rows["kept"] = keep[several]
    return rows.sort_values(["group", "exact_group", "sample_id"])


def _matrix(frame: pd.DataFrame, group: np.ndarray, column: str, names: list[str]) -> dict[str, Any]:
    """``groups``[i][j]: the groups with rows in both (i = j: with two or more); ``rows``: their rows in i."""
    table = pd.crosstab(group, frame[column]).reindex(columns=names, fill_value=0).to_numpy()
    present = table > 0
    groups, rows = present.T.astype(np.int64) @ present, table.T @ present
    twice = table > 1
    np.fill_diagonal(groups, twice.sum(axis=0))
    np.fill_diagonal(rows, (table * twice).sum(axis=0))
    return {"names": names, "groups": groups.tolist(), "rows": rows.tolist()}


def _leaks(frame: pd.DataFrame, duplicates: Duplicates, split: str) -> dict[str, Any]:
    """Rows of ``split`` with a duplicate in train: all, those with an exact one, and all by source."""
    every, exact = (leaking_rows(frame, group, split) for group in (duplicates.group, duplicates.exact))
    return {"rows": int(every.sum()), "exact": int(exact.sum()), "by_source": count_by(frame[every], "source")}


def _listed(conflicts: pd.DataFrame) -> list[dict[str, Any]]:
    listed = conflicts.drop_duplicates("group")["group"].head(LISTED)
    return [
        {"group": int(number), "kind": rows["kind"].iloc[0],
         "rows": rows[["sample_id", "source", "split", "label", "record"]].to_dict("records")}
        for number, rows in conflicts[conflicts["group"].isin(listed)].groupby("group")
    ]  # fmt: skip
