"""Prediction applies the contract, the temperature and the detector, and refuses other input."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

from fer_lib.deploy.predict import FacePrediction, Predictor, annotate
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError, FerError
from fer_lib.faces.detectors import Face


class Two:
    """A detector that found two faces, in place of a cascade that would find none in noise."""

    def detect(self, image):
        return [Face((5.0, 10.0, 90.0, 95.0), 0.9, None), Face((30.0, 60.0, 60.0, 90.0), 0.7, None)]


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def test_both_runtimes_agree_with_a_hand_made_forward(onnx_bundle, faces):
    import torch

    batch = onnx_bundle.contract.batch([(f, None, None) for f in faces])
    with torch.no_grad():
        logits = onnx_bundle.model()(torch.from_numpy(batch)).numpy().astype(np.float64)
    expected = softmax(logits / 1.7, axis=1)
    assert np.abs(expected - softmax(logits, axis=1)).max() > 0.01  # or the temperature could be missing unseen
    for runtime in ("onnx", "torch"):
        predictor = Predictor(onnx_bundle, runtime=runtime)
        np.testing.assert_allclose(predictor.logits(faces), logits, atol=1e-4)
        probs = predictor.probs(faces)
        assert probs.dtype == np.float64 and probs.shape == (len(faces), 7)
        np.testing.assert_allclose(probs, expected, atol=1e-5)
        np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-12)


def test_a_target_prior_moves_the_probabilities_by_bayes_rule(onnx_bundle, faces):
    target = [0.1, 0.1, 0.2, 0.1, 0.2, 0.2, 0.1]
    plain, moved = (Predictor(onnx_bundle, target_prior=t).probs(faces) for t in (None, target))
    joint = plain * (np.array(target) / onnx_bundle.meta["training_prior"])
    np.testing.assert_allclose(moved, joint / joint.sum(1, keepdims=True), atol=1e-12)
    same = Predictor(onnx_bundle, target_prior=onnx_bundle.meta["training_prior"]).probs(faces)
    np.testing.assert_allclose(same, plain, atol=1e-12)


def test_auto_takes_what_the_bundle_holds(onnx_bundle, torch_bundle):
    assert Predictor(onnx_bundle).runtime == "onnx" and Predictor(torch_bundle).runtime == "torch"
    with pytest.raises(FerError, match="runtime 'tflite'"):
        Predictor(torch_bundle, runtime="tflite")


def test_more_than_one_batch_and_none(onnx_bundle, faces):
    predictor = Predictor(onnx_bundle)
    many = predictor.probs([faces[i % 4] for i in range(130)])
    np.testing.assert_allclose(many, predictor.probs(faces)[np.arange(130) % 4], atol=1e-6)
    assert predictor.probs([]).shape == (0, 7)


def test_faces_of_a_photo(onnx_bundle, faces):
    predictor = Predictor(onnx_bundle)
    predictor.__dict__["detector"] = Two()
    photo = faces[2]
    first, second = predictor.predict(photo)
    assert first.box == (5.0, 10.0, 90.0, 95.0) and first.score == 0.9
    expected = predictor.probs([photo], [second.box])[0]
    assert list(second.probs) == list(EMOTIONS)
    np.testing.assert_allclose(list(second.probs.values()), expected, atol=1e-6)
    assert second.label == EMOTIONS[expected.argmax()] and second.confidence == pytest.approx(expected.max(), abs=1e-6)
    assert [p.probs for p in predictor.predict(png(photo))] == [first.probs, second.probs]


def test_faces_at_known_boxes_ask_no_detector(onnx_bundle, faces):
    predictor = Predictor(onnx_bundle)
    predictor.detector = None
    boxes = [(15.0, 20.0, 35.0, 40.0), (2.0, 4.0, 46.0, 48.0)]
    found = predictor.predict(faces[0], boxes=boxes)
    assert [face.box for face in found] == boxes and {face.score for face in found} == {None}
    expected = predictor.probs([faces[0]] * 2, boxes)
    assert [list(face.probs.values()) for face in found] == expected.tolist()
    assert predictor.predict(faces[0], boxes=[]) == []


def test_no_face_and_the_whole_picture(onnx_bundle):
    predictor = Predictor(onnx_bundle, detector="haar")
    blank = np.full((200, 300, 3), 128, np.uint8)
    assert predictor.predict(blank) == []
    (face,) = predictor.predict(blank, whole=True)
    assert face.box == (0.0, 0.0, 200.0, 300.0) and face.score is None


@pytest.mark.parametrize(
    "bad, what",
    [
        (np.zeros((48, 48, 3)), "float64"),
        (np.zeros((48, 48), np.uint8), r"uint8 \[48, 48\]"),
        (np.zeros((48, 48, 4), np.uint8), r"uint8 \[48, 48, 4\]"),
        (np.zeros((0, 48, 3), np.uint8), r"uint8 \[0, 48, 3\]"),
        ([[1, 2, 3]], "got list"),
    ],
)
def test_other_arrays_are_refused_by_position(onnx_bundle, faces, bad, what):
    with pytest.raises(DataError, match=f"image 1: .*{what}"):
        Predictor(onnx_bundle).logits([faces[0], bad])


def test_unequal_lists_are_refused(onnx_bundle, faces):
    with pytest.raises(DataError, match="4 images, 1 boxes"):
        Predictor(onnx_bundle).logits(faces, boxes=[None])


def test_an_annotated_picture_has_its_box_and_leaves_the_original(faces):
    photo = np.zeros((200, 200, 3), np.uint8)
    face = FacePrediction((50.0, 40.0, 150.0, 140.0), 0.9, "Happy", 0.75, {})
    drawn = annotate(photo, [face])
    assert not photo.any() and drawn.shape == photo.shape
    assert drawn[50, 60].any() and drawn[149, 60].any() and not drawn[100, 90].any()
    assert drawn[36:49, 42:90].any()  # the label above the box
