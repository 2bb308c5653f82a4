"""Tables and figures of a soft-label phase, and what its run logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from fer_lib.calibration.plot_style import BLUE, FAINT, ORANGE, themed
from fer_lib.models.softlabels_format import METRICS, RANKING, RANKING_CSV, softlabels_sha256
from fer_lib.storage.json_files import read_json
from fer_lib.storage.phase_result import PhaseResult, Registration

FILES = (
    "alignmentreport.json", "classorder.json", "ensemble_metrics.json", "hash_manifest.json", "softlabels_index.jsonl",
    "softlabels.npz", RANKING, RANKING_CSV,
)  # fmt: skip
SHOWN = 20  # lines of the ranking in its figure


def ranking_table(out: Path) -> pd.DataFrame:
    """One line per set of teachers and space, the best first, all scored on the same val/select rows."""
    return pd.read_csv(out / RANKING_CSV)


@themed
def ranking_figure(out: Path) -> Figure:
    """Macro-F1 and accuracy of the first ``SHOWN`` sets of :func:`ranking_table`."""
    table = ranking_table(out)
    best = table.head(SHOWN)
    figure = Figure(figsize=(8.0, 1.4 + 0.28 * len(best)))
    figure.suptitle(f"The best {len(best)} of {len(table)} sets of teachers")
    axes = figure.subplots()
    axes.plot(best["macro_f1"], best.index, "o", color=BLUE, label="macro-F1")
    axes.plot(best["accuracy"], best.index, "s", color=ORANGE, label="accuracy")
    axes.set_yticks(best.index, [f"{line.members}  {line.weights}  {line.space}" for line in best.itertuples()])
    axes.tick_params(axis="y", labelsize=8)
    axes.invert_yaxis()
    axes.grid(axis="x", color=FAINT)
    axes.set_xlabel(f"score on {table['n_used'][0]:,} rows of val/select")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure


def members_table(record: dict[str, Any], out: Path) -> pd.DataFrame:
    """One line per teacher, with its weight and scores on val/select, then the ensemble.

    ``record``: from ``softlabels.export_softlabels``, which wrote ``out``.
    """
    scores = read_json(out / METRICS)
    columns = ("model", "backbone", "weight")
    lines = [{key: t[key] for key in columns} | t["val_select"] for t in record["teachers"]]
    lines.append({"model": "ensemble"} | {key: scores[key] for key in ("accuracy", "macro_f1", "nll", "ece")})
    return pd.DataFrame(lines)


def sharpness_table(record: dict[str, Any]) -> pd.DataFrame:
    """One line per temperature: quantiles of the largest probability and of the entropy (nats)."""
    return pd.DataFrame(record["sharpness"]).set_index("temperature")


def softlabels_result(record: dict[str, Any], out: Path, registration: Registration | None = None) -> PhaseResult:
    """The result of a soft-label phase in ``out``.  Raises BundleError when a file differs from its hash."""
    scores = read_json(out / METRICS)
    weights = [round(t["weight"], 3) for t in record["teachers"]]
    return PhaseResult(
        ids={"softlabels_sha256": softlabels_sha256(out), "evalset_id": record["evalset_id"]},
        headline={"val accuracy": scores["accuracy"], "val macro-F1": scores["macro_f1"]}
        | ({"registered": registration.text} if registration else {}),
        metrics={"ensemble": scores},
        artifacts=[out / name for name in FILES],
        warnings=registration.warnings if registration else [],
        note={
            "action": f"Cached the logits of {len(record['teachers'])} teacher(s) over {record['rows']} training rows.",
            "result": f"Ensemble macro-F1 {scores['macro_f1']:.4f}, accuracy {scores['accuracy']:.4f} on val/select.",
            "decision": f"Weights {weights} in {record['ensemble_space']} space."
            + (f" {registration.message}" if registration else ""),
            "next": "Distil students.",
        },
    )
