"""Faces behind the scores: errors and right answers, faces on which teachers disagree, and an annotated photo."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure

from fer_lib.calibration.metrics import softmax
from fer_lib.calibration.plot_style import themed
from fer_lib.datasets.facepack import open_or_build
from fer_lib.datasets.manifest import BOX, Manifest, box_of
from fer_lib.datasets.sheets import face_grid
from fer_lib.deploy.predict import Predictor, annotate
from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.faces.contract import Box
from fer_lib.faces.decode import decode
from fer_lib.models.bundle import Bundle, read_bundle
from fer_lib.models.ensemble import disagreement
from fer_lib.models.inference import predict_logits
from fer_lib.models.softlabels import cached_logits
from fer_lib.params import FitParams, SoftLabelParams
from fer_lib.synthetic.dataset import draw_face

WIDE = 8  # faces in a line of a sheet
PHOTO_WIDTH = 900  # pixels


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

    ``teachers``: bundle folders.  The logits are those that the soft labels are made of, from the cache.
    """
    if len(teachers) < 2:
        return None
    bundles, train = [read_bundle(folder) for folder in teachers], manifest.rows(split="train")
    options = dict(flip_average=p.flip_average, batch_size=p.batch_size, device=device, pack_kind=p.pack)
    logits, packs = zip(*[cached_logits(bundle, train, cache_dir, **options) for bundle in bundles], strict=True)
    rows, divergence, probs = packs[0].manifest, disagreement(list(logits)), np.stack([softmax(z) for z in logits])
    order = np.lexsort((rows.frame["sample_id"].to_numpy(), -divergence))[:shown]
    frame = rows.frame.reset_index(drop=True).iloc[order]

    def caption(row) -> str:
        votes = [f"{i}: {EMOTIONS[q.argmax()]} {q.max():.2f}" for i, q in enumerate(probs[:, row.name], 1)]
        return "\n".join([f"label {EMOTIONS[row['label']]}", *votes])

    names = ", ".join(f"{i}: {bundle.name}" for i, bundle in enumerate(bundles, 1))
    lines = [(name, frame.iloc[at]) for name, at in _lines("most unlike", np.arange(len(frame)))]
    title = f"Teachers disagree most on these of {len(rows):,} training faces\n{names}"
    return face_grid(rows, lines, title, caption)


@themed
def annotated_photo(predictor: Predictor, manifest: Manifest | None = None) -> Figure:
    """A photo of the manifest's val/select rows with the predictions drawn on its faces, and its labels in the title.

    Where no such row has a box: one val/select face per class side by side.  Without a manifest: drawn faces.
    """
    photo, boxes, labels = _drawn_faces() if manifest is None else _photo(manifest)
    faces = predictor.predict(photo, boxes=boxes)
    scale = PHOTO_WIDTH / photo.shape[1]
    size = (PHOTO_WIDTH, round(scale * photo.shape[0]))
    photo = cv2.resize(photo, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    faces = [replace(face, box=tuple(scale * edge for edge in face.box)) for face in faces]
    figure = Figure(figsize=(PHOTO_WIDTH / 100, size[1] / 100 + 0.5))
    axes = figure.subplots()
    axes.imshow(annotate(photo, faces))
    axes.set_axis_off()
    axes.set_title(f"{predictor.name}. Labels from left to right: {', '.join(EMOTIONS[y] for y in labels)}", wrap=True)
    return figure


def _photo(manifest: Manifest) -> tuple[np.ndarray, list[Box], list[int]]:
    """The val/select photo with the most boxes, else faces side by side; its boxes and labels from left to right."""
    rows = manifest.rows(split="val", val_role="select")
    frame = rows.frame.sort_values("sample_id")
    boxed = frame[frame[BOX[0]].notna()] if BOX[0] in frame else frame.head(0)
    if boxed.empty:
        one_per_class = frame.drop_duplicates("label").sort_values("label")
        images = [decode(rows.resolve(row)) for _, row in one_per_class.iterrows()]
        return *_side_by_side(images), one_per_class["label"].tolist()
    faces = boxed[boxed["image_path"] == boxed.groupby("image_path").size().idxmax()].sort_values(BOX[1])
    boxes = [box_of(row) for _, row in faces.iterrows()]
    return decode(rows.resolve(faces.iloc[0])), boxes, faces["label"].tolist()


def _drawn_faces() -> tuple[np.ndarray, list[Box], list[int]]:
    labels = list(range(NUM_CLASSES))
    return *_side_by_side([draw_face(1337, label, label, size=128).image for label in labels]), labels


def _side_by_side(images: list[np.ndarray]) -> tuple[np.ndarray, list[Box]]:
    """The images at the height of the largest on one grey strip, and their boxes."""
    side = max(image.shape[0] for image in images)
    edge = side // 6
    strip, boxes = [], []
    left = edge
    for image in images:
        width = round(image.shape[1] * side / image.shape[0])
        face = image if image.shape[0] == side else cv2.resize(image, (width, side), interpolation=cv2.INTER_CUBIC)
        strip.append(cv2.copyMakeBorder(face, 2 * edge, edge, edge, 0, cv2.BORDER_CONSTANT, value=(200, 200, 200)))
        boxes.append((2.0 * edge, float(left), 2.0 * edge + side, float(left + face.shape[1])))
        left += face.shape[1] + edge
    photo = np.concatenate(strip, axis=1)
    return cv2.copyMakeBorder(photo, 0, 0, 0, edge, cv2.BORDER_CONSTANT, value=(200, 200, 200)), boxes
