"""The figure of a photo on which a model's predictions are drawn."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from matplotlib.figure import Figure

from fer_lib.calibration.plot_style import themed
from fer_lib.datasets.manifest import BOX, Manifest, box_of
from fer_lib.deploy.predict import Predictor, annotate
from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.faces.contract import Box
from fer_lib.faces.decode import decode
from fer_lib.synthetic.dataset import draw_face

PHOTO_WIDTH = 900  # pixels


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
