"""Faces behind the scores: errors and surest right answers of a model, and faces on which teachers disagree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from fer_lib.calibration.metrics import softmax
from fer_lib.datasets.facepack import open_or_build
from fer_lib.datasets.manifest import Manifest
from fer_lib.datasets.sheets import face_grid
from fer_lib.emotions import EMOTIONS
from fer_lib.models.bundle import Bundle
from fer_lib.models.ensemble import disagreement
from fer_lib.models.ensemble_folder import open_teachers
from fer_lib.models.inference import predict_logits
from fer_lib.models.softlabels import cached_logits
from fer_lib.params import FitParams, SoftLabelParams

WIDE = 8  # faces in a line of a sheet


def select_predictions(
    best: Bundle, manifest: Manifest, p: FitParams, cache_dir: Path, device: torch.device
) -> tuple[Manifest, np.ndarray]:
    """The val/select rows on which a fit scored ``best``, and its calibrated probabilities there, float64 [N, 7]."""
    rows = manifest.rows(split="val", include_sources=p.include_sources, exclude_sources=p.exclude_sources)
    pack = open_or_build(rows, best.contract, cache_dir, int(rows.meta.get("tolerance", 0)), kind=p.pack)
    logits = predict_logits(best.model().to(device), pack, p.batch_size, device, max_batches=p.max_val_batches)
    frame = pack.manifest.frame.iloc[: len(logits)].reset_index(drop=True)
    select = (frame["val_role"] == "select").to_numpy()
    scaled = logits[select] if best.temperature is None else best.temperature.apply(logits[select])
    return Manifest(frame[select].reset_index(drop=True), rows.meta, rows.path), softmax(scaled)


def answer_sheet(rows: Manifest, probs: np.ndarray, title: str, shown: int = 16) -> Figure:
    """The ``shown`` errors with the least probability of their label, and the ``shown`` surest right answers.

    ``probs`` [N, 7] of ``rows``.  Under each face: its label > the prediction, each with its probability.
    """
    labels, predicted = rows.labels, probs.argmax(axis=1)
    of_label = probs[np.arange(len(labels)), labels]
    order = np.argsort(rows.frame["sample_id"].to_numpy(), kind="stable")  # breaks ties
    order = order[np.argsort(of_label[order], kind="stable")]
    wrong = (predicted != labels)[order]
    captions = [
        f"{EMOTIONS[y]} {p:.2f}" + (f"\n> {EMOTIONS[k]} {top:.2f}" if k != y else "")
        for y, p, k, top in zip(labels, of_label, predicted, probs.max(axis=1), strict=True)
    ]
    lines = _lines("worst errors", order[wrong][:shown]) + _lines("surest right", order[~wrong][::-1][:shown])
    heading = f"{title}: {wrong.sum():,} of {len(labels):,} faces wrong\nlabel > prediction, with their probabilities"
    return face_grid(rows, [(name, rows.frame.iloc[at]) for name, at in lines], heading, lambda row: captions[row.name])


def _lines(name: str, positions: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Positions in lines of ``WIDE``, labelled by their ranks."""
    parts = [(start, positions[start : start + WIDE]) for start in range(0, len(positions), WIDE)]
    return [(f"{name}\n{start + 1} to {start + len(part)}", part) for start, part in parts]


def disagreement_sheet(
    p: SoftLabelParams, manifest: Manifest, teachers: list[Path], cache_dir: Path, device: torch.device, shown: int = 16
) -> Figure | None:
    """The training faces on which the teachers disagree most, with each teacher's prediction; None for one teacher.

    ``teachers``: bundle folders, or an ensemble's.  The logits are those of the soft labels, from the cache.
    """
    bundles, train = open_teachers(teachers)[0], manifest.rows(split="train")
    if len(bundles) < 2:
        return None
    options = dict(flip_average=p.flip_average, batch_size=p.batch_size, device=device, pack_kind=p.pack)
    logits, packs = zip(*[cached_logits(bundle, train, cache_dir, **options) for bundle in bundles], strict=True)
    rows, divergence, probs = packs[0].manifest, disagreement(list(logits)), np.stack([softmax(z) for z in logits])
    order = np.lexsort((rows.frame["sample_id"].to_numpy(), -divergence))[:shown]
    frame = rows.frame.reset_index(drop=True).iloc[order]

    def caption(row) -> str:
        votes = [f"{i}: {EMOTIONS[q.argmax()]} {q.max():.2f}" for i, q in enumerate(probs[:, row.name], 1)]
        return "\n".join([f"label {EMOTIONS[row['label']]}", *votes])

    names = ", ".join(f"{i}: {bundle.name}" for i, bundle in enumerate(bundles, 1))
    lines = [(name, frame.iloc[at]) for name, at in _lines("disagreement", np.arange(len(frame)))]
    title = f"Teachers disagree most on these of {len(rows):,} training faces\n{names}"
    return face_grid(rows, lines, title, caption)
