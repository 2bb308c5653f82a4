"""The sheet of an augmented batch shows what the fit is fed."""

import cv2
import numpy as np

from fer_lib.datasets.batches import train_batches
from fer_lib.datasets.sheets import GAP, LINE
from fer_lib.emotions import EMOTIONS
from fer_lib.params import StudentParams
from fer_lib.training.fit_inputs import open_data
from fer_lib.training.plots import augmented_batch


def test_the_faces_are_those_of_the_first_training_batch(drawn_manifest, pack_cache):
    p = StudentParams(backbone="test_resnet", image_size=32, batch_size=28, imbalance="balanced", seed=3)
    figure = augmented_batch(p, drawn_manifest, pack_cache)
    data = open_data(drawn_manifest, p, pack_cache)
    [batch] = train_batches(data.train, data.sampler, p.augment, 0, 1)
    rows = np.arange(0, 28, 2)  # every second face: at most 16 of 28
    normal = batch.images.transpose(0, 2, 3, 1)
    images = 255 * (normal * data.contract.std + data.contract.mean)
    sheet = np.asarray(figure.axes[0].images[0].get_array())
    step = 96 + GAP
    for place, row in enumerate(rows):
        line, column = divmod(place, 8)
        top, left = line * (2 * step + LINE), column * step
        packed = data.contract.centre(data.train.faces[batch.rows[row]])
        for start, face in ((top, packed), (top + step, np.rint(images[row]).clip(0, 255).astype(np.uint8))):
            shown = cv2.resize(face, (96, 96), interpolation=cv2.INTER_CUBIC)
            assert (sheet[start : start + 96, left : left + 96] == shown).all()
    names = [text.get_text() for text in figure.axes[0].texts if text.get_text()]
    assert names == [EMOTIONS[label] for label in batch.labels[rows]]
    assert "14 of 28 faces" in figure.texts[0].get_text()
