"""The label-noise audit: confident learning on out-of-fold predictions, and a ranked list of likely label errors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fer_lib.audit import confident_learning
from fer_lib.audit.confident_learning import LabelErrors, wrong_share
from fer_lib.audit.manifest_audit import spreadsheet_safe
from fer_lib.calibration import metrics
from fer_lib.calibration.plot_style import themed
from fer_lib.datasets.manifest import Manifest
from fer_lib.datasets.openings import log_test_opening
from fer_lib.datasets.sheets import face_grid
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.params.data import NoiseParams
from fer_lib.storage.atomic import fresh_file, write_json
from fer_lib.storage.progress import step

LISTED = 100  # first rows of the list, repeated in the JSON


@dataclass(frozen=True)
class NoiseReport:
    """``ranked``: one row per audited row, the likeliest label error first (columns as in ``label_noise.csv``).

    ``errors`` and ``manifest`` are in the order of the audited rows; ``summary`` is the content of
    ``label_noise.json``.
    """

    ranked: pd.DataFrame
    errors: LabelErrors
    manifest: Manifest
    summary: dict[str, Any]


def audit_labels(
    manifest: Manifest,
    p: NoiseParams,
    out: Path,
    cache_dir: Path,
    *,
    seed: int = 1337,
) -> NoiseReport:
    """Audit the labels of the rows in ``p.splits``; writes ``label_noise.csv`` and ``label_noise.json`` into ``out``.

    Each round fits one net per fold.  From the second round on, the nets are trained without the rows flagged in the
    round before (at most half of a class), so that they predict the true class rather than the given label.  The
    logits of all rounds are averaged.  Reading test rows is logged.  Raises DataError when the manifest has no rows
    there or too few for the folds.
    """
    from fer_lib.datasets.facepack import open_or_build
    from fer_lib.devices import resolve_device
    from fer_lib.training.cross_validation import assign_folds, out_of_fold
    from fer_lib.training.fit_data import make_contract

    rows = rows_to_audit(manifest, p)
    nets, device = _nets(p, seed), resolve_device(p.device)
    log_test_opening(rows, {}, "label noise", cache_dir, out, manifest_sha256=manifest.sha256)
    pack = open_or_build(rows, make_contract(nets), cache_dir, int(manifest.meta.get("tolerance", 0)), kind=p.pack)
    labels = pack.manifest.labels
    fold = assign_folds(pack.manifest.frame, p.folds, seed)
    trained_on = np.ones(len(labels), bool)
    total, left_out = np.zeros((len(labels), len(EMOTIONS))), 0
    for number in range(p.rounds):
        with step(f"round {number + 1}/{p.rounds}"):
            total += out_of_fold(pack, fold, trained_on, nets, cache_dir, device)
        probs = metrics.softmax(total / (number + 1))
        errors = confident_learning.find_label_errors(probs, labels)
        left_out = int((~trained_on).sum())
        trained_on = ~confident_learning.rows_to_exclude(errors, labels)
    report = _report(pack.manifest, probs, errors, p, seed, left_out)
    with fresh_file(out / "label_noise.csv") as work:
        spreadsheet_safe(report.ranked).to_csv(work, index=False, float_format="%.6f")
    write_json(out / "label_noise.json", report.summary)
    return report


def rows_to_audit(manifest: Manifest, p: NoiseParams) -> Manifest:
    """The rows of ``p.splits``.  DataError when there are none."""
    frame = manifest.frame[manifest.frame["split"].isin(p.splits)]
    if frame.empty:
        raise DataError(f"{manifest.path or 'manifest'} has no rows in {', '.join(p.splits)}: name other noise splits")
    return Manifest(frame.reset_index(drop=True), manifest.meta, manifest.path)


def _nets(p: NoiseParams, seed: int):
    """The nets' training.  Only the last epoch is evaluated, so the held-out rows select no checkpoint."""
    from fer_lib.params import StudentParams

    shared = p.model_dump(exclude={"splits", "folds", "rounds", "shown"})
    return StudentParams(
        name="noise", seed=seed, dropout=0.0, imbalance="none", warmup_epochs=0.1 * p.epochs, min_lr=0.0,
        eval_every=p.epochs, checkpoint_every=p.epochs + 1, **shared,
    )  # fmt: skip


def _report(
    rows: Manifest, probs: np.ndarray, errors: LabelErrors, p: NoiseParams, seed: int, left_out: int
) -> NoiseReport:
    labels, names, at = rows.labels, np.array(EMOTIONS), np.arange(len(rows))
    frame = rows.frame[["sample_id", "content_id", "source", "split", "record", "image_path"]].assign(
        given=names[labels],
        suggested=names[errors.suggested],
        wrongness=errors.label_error_prob,
        self_confidence=confident_learning.self_confidence(probs, labels),
        normalised_margin=confident_learning.normalised_margin(probs, labels),
        suggested_probability=probs[at, errors.suggested],
        flagged=errors.flagged,
    )
    # sample_id breaks ties, so the list does not depend on the order of the rows
    ranked = frame.sort_values(["wrongness", "sample_id"], ascending=[False, True]).reset_index(drop=True)
    ranked.insert(0, "rank", at + 1)
    counts = np.bincount(labels, minlength=len(EMOTIONS))
    wrong = counts - np.diag(errors.refined)
    per_class = {
        name: {"rows": int(n), "wrong": float(w), "share": float(w / n) if n else 0.0,
               "threshold": float(t) if np.isfinite(t) else None}
        for name, n, w, t in zip(EMOTIONS, counts, wrong, errors.thresholds, strict=True)
    }  # fmt: skip
    summary = {
        "manifest_sha256": rows.sha256,
        "rows": len(rows),
        "splits": {s: int(n) for s, n in rows.frame["split"].value_counts().sort_index().items()},
        "params": p.model_dump(mode="json", exclude={"device", "threads", "pack"}) | {"seed": seed},
        "left_out_of_the_last_round": left_out,
        "agreement": float((probs.argmax(axis=1) == labels).mean()),
        "noise_share": {"confident_joint": wrong_share(errors.noise), "refined": wrong_share(errors.refined)},
        "flagged": int(errors.flagged.sum()),
        "ranked_by": "wrongness: 1 - T_ii p_i / sum_j T_ij p_j, for label i; T = P(given | true)",
        "transition": errors.transition.tolist(),
        "classes": list(EMOTIONS),
        "confident_joint": errors.joint.tolist(),
        "noise_matrix": errors.noise.tolist(),
        "refined_matrix": errors.refined.tolist(),
        "per_class": per_class,
        "top": ranked.head(LISTED).drop(columns=["content_id"]).to_dict("records"),
    }
    return NoiseReport(ranked, errors, rows, summary)


@themed
def noise_matrix_figure(report: NoiseReport) -> Figure:
    """The expected rows by given label and true label.  The diagonal has no colour, so label errors stand out."""
    noise, k = report.errors.refined, len(EMOTIONS)
    totals = noise.sum(axis=1, keepdims=True)
    share = np.divide(noise, totals, out=np.zeros_like(noise), where=totals > 0)
    off = np.where(np.eye(k, dtype=bool), 0.0, share)
    figure = Figure(figsize=(7.4, 6.4))
    axes = figure.subplots()
    top = max(float(off.max()), 1e-9)
    image = axes.imshow(off, cmap="Reds", vmin=0.0, vmax=top)
    for i in range(k):
        for j in range(k):
            axes.text(
                j, i, f"{noise[i, j]:,.0f}\n{100 * share[i, j]:.1f} %", ha="center", va="center", fontsize=8.5,
                color="white" if off[i, j] > 0.6 * top else "grey" if i == j else "black",
            )  # fmt: skip
    axes.set_xticks(range(k), EMOTIONS, rotation=30, ha="right")
    axes.set_yticks(range(k), [f"{e}\n(n = {n:,.0f})" for e, n in zip(EMOTIONS, totals[:, 0], strict=True)])
    axes.set(xlabel="true label, as estimated", ylabel="given label")
    joint, refined = (100 * report.summary["noise_share"][name] for name in ("confident_joint", "refined"))
    axes.set_title(f"{len(report.ranked):,} labels: {refined:.1f} % wrong, {joint:.1f} % by the confident joint")
    figure.colorbar(image, ax=axes, shrink=0.75, label="share of the given label's rows that is wrong")
    return figure


def noise_sheet(report: NoiseReport, shown: int = 48, columns: int = 8) -> Figure:
    """The ``shown`` faces at the top of the list, with the given label, the suggested one and the error probability."""
    top = report.ranked.head(shown)
    frame = report.manifest.frame.set_index("sample_id", drop=False).loc[top["sample_id"]].reset_index(drop=True)
    captions = {
        row.sample_id: f"{row.given} > {row.suggested}\n{row.wrongness:.3f} ({row.split})" for row in top.itertuples()
    }
    lines = [
        (f"{first + 1} to {min(first + columns, len(frame))}", frame.iloc[first : first + columns])
        for first in range(0, len(frame), columns)
    ]
    title = "Labels that look wrong: given > suggested, and the probability of an error"
    return face_grid(report.manifest, lines, title, lambda row: captions[row["sample_id"]])
