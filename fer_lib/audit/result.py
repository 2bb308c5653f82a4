"""Tables of an audit, and what its run logs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from fer_lib.audit.label_errors import LabelAudit
from fer_lib.audit.manifest_audit import Audit
from fer_lib.params import AuditParams
from fer_lib.storage.phase_result import PhaseResult

FILES = ("audit.json", "duplicate_groups.csv", "near_pairs.csv", "conflicts.csv", "manifest.parquet")
NOISE_FILES = ("label_noise.csv", "label_noise.json")
CONFLICT_COLUMNS = ["group", "kind", "source", "split", "label", "record", "kept"]


def duplicates_table(audit: Audit) -> pd.DataFrame:
    """Counts of groups and rows: exact duplicates, and with near-duplicates."""
    return pd.DataFrame({"identical": audit.summary["exact"], "identical or nearly": audit.summary["with_near"]})


def leaks_table(audit: Audit) -> pd.DataFrame:
    """One line per evaluated split: its rows that are also in train, exactly, and by source."""
    leaks = audit.summary["leaks"].items()
    return pd.DataFrame({split: {**leak, "by_source": str(leak["by_source"])} for split, leak in leaks}).T


def rows_table(audit: Audit) -> pd.DataFrame:
    """One line per split: rows before, removed and left."""
    before, left = (manifest.frame["split"].value_counts() for manifest in (audit.manifest, audit.clean))
    columns = {"before": before, "removed": audit.summary["removed"]["by_split"], "left": left}
    return pd.DataFrame(columns).fillna(0).astype(int)


def audit_result(params: AuditParams, audit: Audit, noise: LabelAudit | None, out: Path) -> PhaseResult:
    """The result of an audit in ``out``; ``noise``: of the label-noise audit, where it ran."""
    summary = audit.summary
    groups, leaks, removed, left = (summary[key] for key in ("with_near", "leaks", "removed", "clean"))
    suspects = {"labels that look wrong": noise.summary["flagged"]} if noise else {}
    return PhaseResult(
        ids={"manifest_sha256": audit.clean.sha256},
        headline={"rows": left["rows"], "removed": removed["rows"], "groups": groups["groups"], **suspects},
        metrics={"exact": summary["exact"], "with_near": groups, "removed": removed["rows"], **suspects},
        artifacts=[out / name for name in (*FILES, *(NOISE_FILES if noise else ()))],
        note={
            "action": f"Compared {len(audit.manifest)} images, identically{' and nearly' if params.near else ''}.",
            "result": f"{groups['groups']} groups of equal images, {groups['across_splits']} across splits, "
            f"{groups['conflicting_labels']} with unlike labels; {leaks['test']['rows']} test rows are also in train. "
            f"Groups that may be chains: {len(summary['warnings'])}.",
            "decision": f"Removed {removed['rows']} rows ({params.remove}); {left['leaks']['test']} test rows are "
            "still in train.",
            "next": "Train on what is left.",
        },
    )
