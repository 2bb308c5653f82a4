"""A photo is annotated with the model's own predictions, and its labels are named."""

import cv2
import numpy as np
import pandas as pd

from fer_lib.datasets.manifest import BOX, Manifest
from fer_lib.deploy.packaged import packaged_bundle
from fer_lib.deploy.photo_figure import PHOTO_WIDTH, annotated_photo
from fer_lib.deploy.predict import Predictor, annotate
from fer_lib.emotions import EMOTIONS


def image(figure):
    return np.asarray(figure.axes[0].images[0].get_array())


def test_the_photo_with_most_boxes_is_annotated(tmp_path, flat_manifest):
    photo = np.random.default_rng(0).integers(0, 255, (60, PHOTO_WIDTH, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "photo.png"), photo[..., ::-1])
    boxes = [(5.0, 400.0, 55.0, 450.0), (5.0, 20.0, 55.0, 70.0)]
    rows = [
        dict(flat_manifest.frame.iloc[0]) | {"sample_id": f"p{i}", "content_id": f"p{i}", "label": 3 + i}
        | {"image_path": "photo.png"} | dict(zip(BOX, box, strict=True))
        for i, box in enumerate(boxes)
    ]  # fmt: skip
    photos = Manifest(pd.concat([flat_manifest.frame, pd.DataFrame(rows)], ignore_index=True), flat_manifest.meta)
    predictor = Predictor(packaged_bundle())
    figure = annotated_photo(predictor, photos)
    expected = annotate(photo, predictor.predict(photo, boxes=[boxes[1], boxes[0]]))
    assert (image(figure) == expected).all()
    assert figure.axes[0].get_title().endswith("left to right: Sad, Happy")


def test_faces_without_boxes_are_shown_side_by_side_one_per_class(flat_manifest):
    predictor = Predictor(packaged_bundle())
    reverse = Manifest(flat_manifest.frame.assign(label=5 - flat_manifest.labels), flat_manifest.meta)
    figure = annotated_photo(predictor, reverse)
    assert figure.axes[0].get_title().endswith("left to right: " + ", ".join(EMOTIONS[:6]))
    shown = image(figure)
    scale = PHOTO_WIDTH / (6 * (48 + 8) + 8)
    centres = [round(scale * (8 + 24 + i * 56)) for i in range(6)]
    assert [shown[round(scale * 40), x, 0] for x in centres] == [200 - 40 * i for i in range(6)]


def test_without_a_manifest_the_faces_are_drawn():
    predictor = Predictor(packaged_bundle())
    figure = annotated_photo(predictor)
    assert figure.axes[0].get_title() == f"{predictor.name}. Labels from left to right: {', '.join(EMOTIONS)}"
    assert image(figure).shape[1] == PHOTO_WIDTH
