"""Summary of an import phase: rows by split and class, what was left out, and what the run logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from fer_lib.datasets.import_folder import read_imports
from fer_lib.datasets.manifest import Manifest
from fer_lib.storage.phase_result import PhaseResult

LEFT_OUT = ("excluded", "missing_images", "bad_records")


def imported_rows(out: Path) -> Manifest:
    """The rows of all imports below ``out``."""
    return Manifest(read_imports(out), {"root": str(out)})


def split_table(report: dict[str, Any]) -> pd.DataFrame:
    """One line per source and split, one column per class.  ``report``: from ``import_all``."""
    lines = [
        {"source": entry["dataset"], "split": split, **labels}
        for entry in report["reports"]
        for split, labels in entry["splits"].items()
    ]
    return pd.DataFrame(lines).groupby(["source", "split"], sort=False, as_index=False).sum()  # over a source's parts


def left_out(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Import folder (one per source, or per part of it) -> the counts of what was not imported, by split and name."""
    return {Path(entry["output"]).name: {key: entry[key] for key in LEFT_OUT} for entry in report["reports"]}


def import_result(report: dict[str, Any], rows: Manifest, out: Path) -> PhaseResult:
    """The result of an import phase in ``out``."""
    return PhaseResult(
        ids={"rows_sha256": rows.sha256},
        headline={"rows": len(rows)},
        metrics={"rows": len(rows)},
        artifacts=[out / "clean_report.json"],
        note={
            "action": f"Imported {len({entry['dataset'] for entry in report['reports']})} dataset(s).",
            "result": f"{len(rows)} rows kept; left out: {left_out(report)}.",
            "next": "Build the manifest.",
        },
    )
