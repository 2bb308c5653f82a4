"""The model of a session follows the rules of its bundle, as prediction does."""

import numpy as np

from fer_lib.deploy.predict import Predictor
from fer_lib.live.live_model import LiveModel
from fer_lib.live.smoothing import Smoothed
from fer_lib.params import LiveParams


def test_notes_and_sets_are_those_of_a_prediction(ruled_bundle):
    images = list(np.random.default_rng(7).integers(0, 256, (30, 48, 48, 3), dtype=np.uint8))
    expected = Predictor(ruled_bundle).predict_crops(images)
    model = LiveModel(ruled_bundle, LiveParams())
    probs, energies = model.outputs(ruled_bundle.contract.batch([(image, None, None) for image in images]))
    np.testing.assert_allclose(probs, [list(face.probs.values()) for face in expected], atol=1e-6)
    averages = [Smoothed(p, int(p.argmax()), True, 9, float(e)) for p, e in zip(probs, energies, strict=True)]
    assert [model.notes(average) for average in averages] == [face.notes for face in expected]
    assert [model.label_set(average) for average in averages] == [face.label_set for face in expected]
    assert len({tuple(face.notes) for face in expected}) > 1
    lost = Smoothed(None, -1, False, 0)
    assert model.notes(lost) == model.label_set(lost) == []


def test_another_temperature_has_no_sets_and_no_limit(ruled_bundle):
    model = LiveModel(ruled_bundle, LiveParams(temperature=1.0))
    average = Smoothed(np.full(7, 1 / 7), 0, True, 9, 1e9)
    assert model.notes(average) == ["ambiguous"] and model.label_set(average) == []
