"""What an audit says: the groups, who shares pictures with whom, conflicting labels, and the manifest that is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fer_lib.audit import group_check
from fer_lib.audit.groups import RULES, WHICH_ONE, Duplicates, leaked
from fer_lib.datasets.interchange import neutral
from fer_lib.datasets.manifest import SPLITS, Manifest
from fer_lib.datasets.near_duplicates import earlier_copies, group_names, twins_of, united_twins
from fer_lib.emotions import EMOTIONS
from fer_lib.params.audit import AuditParams

LISTED = 200  # conflicting groups that the JSON repeats; the CSV has all
EVALUATED = ("test", "val")


@dataclass(frozen=True)
class Audit:
    """``summary`` is the content of ``audit.json``; ``rows`` has a line a row of every group of more than one row.

    ``rows`` keeps the index of ``manifest.frame``; its columns are those of ``duplicate_groups.csv``.  ``pairs`` are
    the near pairs by sample id.  ``manifest`` is the audited one, ``clean`` what is left of it.
    """

    manifest: Manifest
    clean: Manifest
    rows: pd.DataFrame
    pairs: pd.DataFrame
    summary: dict[str, Any]

    @property
    def conflicts(self) -> pd.DataFrame:
        """The lines of ``rows`` whose group carries more than one label."""
        return self.rows[self.rows["labels_in_group"] > 1]

    def tables(self) -> dict[str, pd.DataFrame]:
        """The three CSVs by name, their texts harmless in a spreadsheet."""
        named = {"duplicate_groups": self.rows, "near_pairs": self.pairs, "conflicts": self.conflicts}
        return {name: _harmless(table) for name, table in named.items()}


def _harmless(table: pd.DataFrame) -> pd.DataFrame:
    texts = [c for c in ("source", "record", "image_path") if c in table]
    return table.assign(**{c: table[c].map(lambda text: neutral(str(text))) for c in texts})


def cleaned(manifest: Manifest, params: AuditParams, found: Duplicates, stays: np.ndarray) -> Manifest:
    """The rows that stay, with their groups; its metadata says what was done, and keeps twins that were taken out."""
    group = group_names(manifest.frame, found.group)
    frame = manifest.frame.assign(group=group)[stays].reset_index(drop=True)
    done = {"of": manifest.sha256, "near": params.near, "similarity": params.similarity, "remove": params.remove}
    twins = twins_of(united_twins(manifest, earlier_copies(manifest.frame, found.group)), frame["sample_id"])
    return Manifest(frame, {**manifest.meta, "root": manifest.root.as_posix(), "audit": done, "twins": twins})


def assembled(
    manifest: Manifest, params: AuditParams, found: Duplicates, stays: np.ndarray, clean: Manifest, seconds: dict
) -> Audit:
    """The audit as tables and as JSON."""
    frame, ids = manifest.frame, manifest.frame["sample_id"].to_numpy()
    rows = _rows(frame, found, stays)
    large = found.large.assign(middle=ids[found.large["middle"].to_numpy(int)]).to_dict("records")
    summary = {
        "manifest_sha256": manifest.sha256,
        "rows": len(frame),
        "params": params.model_dump(mode="json", include={"near", "similarity", "remove", "seed"}),
        "exact": _counts(frame, found.exact),
        "with_near": _counts(frame, found.group),
        "near_pairs": len(found.pairs),
        "pictures_without_structure": found.blank,
        "largest_group": int(rows["group"].mode().iloc[0]) if len(rows) else None,
        "large_groups": large,
        "warnings": [said for line in large if (said := group_check.warning(line))],
        "sources": _matrix(frame, found.group, "source", sorted(set(frame["source"]))),
        "splits": _matrix(frame, found.group, "split", [s for s in SPLITS if (frame["split"] == s).any()]),
        "leaks": {split: _leaks(frame, found, split) for split in EVALUATED},
        "conflicts": _listed(rows[rows["labels_in_group"] > 1]),
        "rule": f"{RULES[params.remove]}; {WHICH_ONE}" if params.remove in ("within", "all") else RULES[params.remove],
        "removed": {
            "rows": int((~stays).sum()),
            "by_split": _by(frame[~stays], "split"),
            "by_source": _by(frame[~stays], "source"),
            "by_label": {EMOTIONS[k]: n for k, n in frame["label"][~stays].value_counts().sort_index().items()},
        },
        "clean": {
            "manifest": "manifest.parquet",
            "sha256": clean.sha256,
            "rows": len(clean),
            "by_split": _by(clean.frame, "split"),
            "leaks": {split: int(leaked(clean.frame, found.group[stays], split).sum()) for split in EVALUATED},
        },
        "canonical": list(EMOTIONS),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }
    pairs = found.pairs.assign(
        first=ids[found.pairs["first"].astype(int)], second=ids[found.pairs["second"].astype(int)]
    )
    return Audit(manifest, clean, rows, pairs, summary)


def _rows(frame: pd.DataFrame, found: Duplicates, stays: np.ndarray) -> pd.DataFrame:
    several = np.bincount(found.group)[found.group] > 1
    rows = frame.loc[several, ["sample_id", "source", "split", "val_role", "label", "record", "image_path"]].copy()
    rows.insert(0, "group", found.group[several])
    rows.insert(1, "exact_group", found.exact[several])
    rows["labels_in_group"] = rows.groupby("group")["label"].transform("nunique")
    rows.insert(2, "kind", np.where(rows.groupby("group")["exact_group"].transform("nunique") > 1, "near", "exact"))
    rows["label"] = [EMOTIONS[k] for k in rows["label"]]
    rows["kept"] = stays[several]
    return rows.sort_values(["group", "exact_group", "sample_id"])


def _counts(frame: pd.DataFrame, group: np.ndarray) -> dict[str, int]:
    """Groups of more than one row, and how many of them span splits, sources, labels."""
    seen = frame.groupby(group).agg(
        size=("label", "size"), labels=("label", "nunique"), splits=("split", "nunique"), sources=("source", "nunique")
    )
    seen = seen[seen["size"] > 1]
    return {
        "groups": len(seen),
        "rows": int(seen["size"].sum()),
        "across_splits": int((seen["splits"] > 1).sum()),
        "across_sources": int((seen["sources"] > 1).sum()),
        "conflicting_labels": int((seen["labels"] > 1).sum()),
        "largest": int(seen["size"].max()) if len(seen) else 0,
    }


def _matrix(frame: pd.DataFrame, group: np.ndarray, column: str, names: list[str]) -> dict[str, Any]:
    """``groups``[i][j]: groups with rows in both (i = j: with two or more there); ``rows``: their rows in i."""
    table = pd.crosstab(group, frame[column]).reindex(columns=names, fill_value=0).to_numpy()
    there = table > 0
    groups, rows = there.T.astype(np.int64) @ there, table.T @ there
    twice = table > 1
    np.fill_diagonal(groups, twice.sum(axis=0))
    np.fill_diagonal(rows, (table * twice).sum(axis=0))
    return {"names": names, "groups": groups.tolist(), "rows": rows.tolist()}


def _leaks(frame: pd.DataFrame, found: Duplicates, split: str) -> dict[str, Any]:
    """Rows of ``split`` that also stand in train: all of them, those that do identically, and all by source."""
    every, exact = leaked(frame, found.group, split), leaked(frame, found.exact, split)
    return {"rows": int(every.sum()), "exact": int(exact.sum()), "by_source": _by(frame[every], "source")}


def _listed(conflicts: pd.DataFrame) -> list[dict[str, Any]]:
    wanted = conflicts.drop_duplicates("group")["group"].head(LISTED)
    return [
        {"group": int(number), "kind": rows["kind"].iloc[0],
         "rows": rows[["sample_id", "source", "split", "label", "record"]].to_dict("records")}
        for number, rows in conflicts[conflicts["group"].isin(wanted)].groupby("group")
    ]  # fmt: skip


def _by(frame: pd.DataFrame, column: str) -> dict[str, int]:
    return {str(name): int(n) for name, n in frame[column].value_counts().sort_index().items()}
