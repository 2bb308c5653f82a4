"""Tables of a soft-label phase, and what its run logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from fer_lib.models.softlabels_format import softlabels_sha256
from fer_lib.storage.json_files import read_json
from fer_lib.storage.phase_result import PhaseResult

FILES = (
    "alignmentreport.json", "classorder.json", "ensemble_metrics.json", "hash_manifest.json", "softlabels_index.jsonl",
    "softlabels.npz",
)  # fmt: skip


def members_table(record: dict[str, Any], out: Path) -> pd.DataFrame:
    """One line per teacher, with its weight and scores on val/select, then the ensemble.

    ``record``: from ``softlabels.export_softlabels``, which wrote ``out``.
    """
    metrics = _metrics(out)
    columns = ("model", "backbone", "weight")
    lines = [{key: t[key] for key in columns} | t["val_select"] for t in record["teachers"]]
    lines.append({"model": "ensemble"} | {key: metrics[key] for key in ("accuracy", "macro_f1", "nll", "ece")})
    return pd.DataFrame(lines)


def sharpness_table(record: dict[str, Any]) -> pd.DataFrame:
    """One line per temperature: quantiles of the largest probability and of the entropy (nats)."""
    return pd.DataFrame(record["sharpness"]).set_index("temperature")


def softlabels_result(record: dict[str, Any], out: Path) -> PhaseResult:
    """The result of a soft-label phase in ``out``.  Raises BundleError when a file differs from its hash."""
    metrics = _metrics(out)
    return PhaseResult(
        ids={"softlabels_sha256": softlabels_sha256(out), "evalset_id": record["evalset_id"]},
        headline={"val accuracy": metrics["accuracy"], "val macro-F1": metrics["macro_f1"]},
        metrics={"ensemble": metrics},
        artifacts=[out / name for name in FILES],
        note={
            "action": f"Cached the logits of {len(record['teachers'])} teacher(s) over {record['rows']} training rows.",
            "result": f"Ensemble macro-F1 {metrics['macro_f1']:.4f}, accuracy {metrics['accuracy']:.4f} on val/select.",
            "decision": f"Weights {[round(t['weight'], 3) for t in record['teachers']]} in "
            f"{record['ensemble_space']} space.",
            "next": "Distil students.",
        },
    )


def _metrics(out: Path) -> dict[str, Any]:
    return read_json(out / "ensemble_metrics.json")
