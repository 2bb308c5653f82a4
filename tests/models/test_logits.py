"""A model that loads and fails when it is run is one message that names it."""

import re

import numpy as np
import onnx
import pytest
from failing_models import FAILURES, failing_bundle

from fer_lib.deploy.predict import Predictor
from fer_lib.errors import BundleError
from fer_lib.live.live_model import LiveModel
from fer_lib.models.bundle import ONNX, derive_bundle
from fer_lib.models.logits import logits_function
from fer_lib.params import LiveParams


@pytest.mark.parametrize("kind", FAILURES)
def test_a_failing_model_is_one_message_for_images_and_for_a_session(kind, torch_bundle, faces, tmp_path, capfd):
    bundle = failing_bundle(torch_bundle, tmp_path, kind)
    expected = f"the model in {re.escape(str(bundle.path))} {FAILURES[kind]}.*use another model"
    predictor = Predictor(bundle)
    with pytest.raises(BundleError, match=expected):
        predictor.probs(faces)
    with pytest.raises(BundleError, match=expected):
        LiveModel(bundle, LiveParams())
    assert capfd.readouterr().err == "", "the runtime prints nothing beside it"


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_both_runtimes_refuse_faces_of_another_shape(runtime, onnx_bundle):
    logits = logits_function(onnx_bundle, runtime)
    assert logits(np.zeros((2, 3, 48, 48), np.float32)).shape == (2, 7)
    with pytest.raises(
        BundleError, match=rf"the model in {onnx_bundle.path} fails on faces \[2, 1, 48, 48\]: .*{runtime}"
    ):
        logits(np.zeros((2, 1, 48, 48), np.float32))


def test_a_model_with_an_input_of_another_rank_is_refused_before_it_runs(torch_bundle, tmp_path):
    """Also where a session opens it, with another number of threads."""
    bundle = failing_bundle(torch_bundle, tmp_path, "index")
    model = onnx.load(bundle.path / ONNX)
    model.graph.input[0].type.tensor_type.shape.dim.add().dim_value = 1
    (tmp_path / "rank.onnx").write_bytes(model.SerializeToString())
    other = derive_bundle(torch_bundle, tmp_path / "rank", extra_files={ONNX: tmp_path / "rank.onnx"})
    with pytest.raises(BundleError, match=rf"{tmp_path}.*takes .*\[3, 48, 48, 1\].*export the model again"):
        LiveModel(other, LiveParams(threads=1))
