"""Label errors: the rows of a manifest ranked by the probability that their label is wrong.

Confident learning (Northcutt, Jiang, Chuang 2021) on out-of-fold probabilities.  Everywhere ``probs`` is float [N, K],
each row predicted by a model that was not trained on it, and ``labels`` is int [N].  In matrices [K, K] rows are the
given label and columns the true label.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fer_lib.calibration import metrics
from fer_lib.datasets.interchange import spreadsheet_safe
from fer_lib.datasets.manifest import Manifest, count_by
from fer_lib.datasets.openings import log_test_opening
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.params.data import NoiseParams
from fer_lib.storage.atomic import fresh_file, write_json
from fer_lib.storage.progress import step

FLAG_FROM = 0.5  # probability of an error from which a label is flagged
LISTED = 100  # first rows of the list, repeated in the JSON


def thresholds(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """t_j, the mean probability of class j over the rows labelled j (eq. 2): float64 [K], infinite without such rows.

    A class that the models are seldom sure of has a low threshold, so a rare or difficult class does not look noisy.
    """
    k = probs.shape[1]
    sums = np.bincount(labels, weights=self_confidence(probs, labels), minlength=k)
    counts = np.bincount(labels, minlength=k)
    return np.divide(sums, counts, out=np.full(k, np.inf), where=counts > 0)


def confident_classes(probs: np.ndarray, least: np.ndarray) -> np.ndarray:
    """The true class under which each row is counted, int64 [N]: the likeliest at or above its threshold, or -1."""
    over = np.where(probs >= least, probs, -1.0)
    return np.where((over >= 0).any(axis=1), over.argmax(axis=1), -1)


def confident_joint(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """C_ij, the number of rows with given label i that are confidently of class j (eq. 1): int64 [K, K]."""
    k = probs.shape[1]
    true = confident_classes(probs, thresholds(probs, labels))
    counted = true >= 0
    return np.bincount(labels[counted] * k + true[counted], minlength=k * k).reshape(k, k)


def calibrated_joint(joint: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The joint scaled so that row i sums to the number of rows labelled i (eq. 3, in counts): float64 [K, K].

    A class of which no row is counted has all of them on the diagonal.
    """
    counts = np.bincount(labels, minlength=len(joint)).astype(np.float64)
    totals = joint.sum(axis=1, keepdims=True)
    shares = np.divide(joint, totals, out=np.eye(len(joint)), where=totals > 0)
    return shares * counts[:, None]


def self_confidence(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """p_i of the given label i, float64 [N]: low where the label looks wrong."""
    return probs[np.arange(len(labels)), labels]


def normalised_margin(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """p_i - max_{j != i} p_j for given label i, float64 [N] in [-1, 1]: low where the label looks wrong."""
    others = probs.copy()
    others[np.arange(len(labels)), labels] = -np.inf
    return self_confidence(probs, labels) - others.max(axis=1)


def true_class_probs(probs: np.ndarray, labels: np.ndarray, transition: np.ndarray) -> np.ndarray:
    """P(true class j | image, given label i) = p_j T_ij / sum_k p_k T_ik, by Bayes' rule: float64 [N, K].

    A label that no class explains is taken to be right.
    """
    parts = probs * transition[labels]
    totals = parts.sum(axis=1, keepdims=True)
    return np.divide(parts, totals, out=np.eye(probs.shape[1])[labels], where=totals > 0)


@dataclass(frozen=True)
class LabelErrors:
    """The estimate for N rows.

    ``thresholds`` float64 [K]; ``joint`` int64 [K, K], the confident joint, and ``noise`` float64 [K, K], its
    calibration; ``transition`` float64 [K, K], P(given label i | true label j) by ``noise``; ``refined`` float64
    [K, K], the expected rows by :func:`true_class_probs`; ``label_error_prob`` float64 [N], by the same; ``suggested``
    int64 [N], the likeliest other label; ``flagged`` bool [N], label_error_prob >= 0.5.
    """

    thresholds: np.ndarray
    joint: np.ndarray
    noise: np.ndarray
    transition: np.ndarray
    refined: np.ndarray
    label_error_prob: np.ndarray
    suggested: np.ndarray

    @property
    def flagged(self) -> np.ndarray:
        return self.label_error_prob >= FLAG_FROM


def wrong_share(counts: np.ndarray) -> float:
    """The share of the rows counted in [K, K] that lie off the diagonal.

    Of ``refined``: the mean probability of a label error.  Of ``noise`` it is too high where the models themselves err.
    """
    return float(1.0 - np.trace(counts) / counts.sum())


def find_label_errors(probs, labels) -> LabelErrors:
    """Confident learning on ``probs`` [N, K], whose rows sum to 1, and ``labels`` [N].

    Raises DataError for arrays of another shape or content.
    """
    probs, labels = metrics.checked_probs(probs, labels)
    joint = confident_joint(probs, labels)
    noise = calibrated_joint(joint, labels)
    given = noise.sum(axis=0)
    transition = np.divide(noise, given, out=np.eye(len(noise)), where=given > 0)
    true = true_class_probs(probs, labels, transition)
    others = probs.copy()
    others[np.arange(len(labels)), labels] = -1.0
    return LabelErrors(
        thresholds=thresholds(probs, labels),
        joint=joint,
        noise=noise,
        transition=transition,
        refined=np.eye(probs.shape[1])[labels].T @ true,
        label_error_prob=1.0 - self_confidence(true, labels),
        suggested=others.argmax(axis=1),
    )


def rows_to_exclude(errors: LabelErrors, labels: np.ndarray) -> np.ndarray:
    """bool [N]: the flagged rows, but at most half of each class: its likeliest errors."""
    exclude = errors.flagged
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        exclude[rows[np.argsort(-errors.label_error_prob[rows], kind="stable")][len(rows) // 2 :]] = False
    return exclude


@dataclass(frozen=True)
class LabelAudit:
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
) -> LabelAudit:
    """Audit the labels of the rows in ``p.splits``; writes ``label_noise.csv`` and ``label_noise.json`` into ``out``.

    Each round fits one net per fold.  From the second round on, the nets are trained without the rows flagged in the
    round before (at most half of a class), so that they predict the true class rather than the given label.  The
    logits of all rounds are averaged.  Reading test rows is logged.  Raises DataError when the manifest has no rows
    there or too few for the folds.
    """
    from fer_lib.datasets.facepack import open_or_build
    from fer_lib.devices import resolve_device
    from fer_lib.training.cross_validation import assign_folds, out_of_fold
    from fer_lib.training.fit_inputs import make_contract

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
        errors = find_label_errors(probs, labels)
        left_out = int((~trained_on).sum())
        trained_on = ~rows_to_exclude(errors, labels)
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
) -> LabelAudit:
    labels, names, at = rows.labels, np.array(EMOTIONS), np.arange(len(rows))
    frame = rows.frame[["sample_id", "content_id", "source", "split", "record", "image_path"]].assign(
        given=names[labels],
        suggested=names[errors.suggested],
        wrongness=errors.label_error_prob,
        self_confidence=self_confidence(probs, labels),
        normalised_margin=normalised_margin(probs, labels),
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
        "splits": count_by(rows.frame, "split"),
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
    return LabelAudit(ranked, errors, rows, summary)
