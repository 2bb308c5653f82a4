"""A tiny trained-looking bundle, and the same with its ONNX file, made once."""

import numpy as np
import pytest
import torch

from fer_lib.calibration import conformal
from fer_lib.calibration.metrics import softmax
from fer_lib.calibration.temperature import Temperature
from fer_lib.calibration.uncertainty import fit_energy_limit
from fer_lib.deploy.onnx_file import export_onnx
from fer_lib.deploy.predict import Predictor
from fer_lib.faces.contract import FaceContract
from fer_lib.models.bundle import ONNX, derive_bundle, write_bundle
from fer_lib.models.classifier import build_classifier

CONFIG = dict(backbone="test_efficientnet", image_size=48, embed_dim=64, dropout=0.2, head="cosine", s=12.0)
SUMMARY = {"macro_f1": 0.41, "accuracy": 0.52, "ece": 0.03}


@pytest.fixture(scope="session")
def pieces():
    """The keyword arguments of write_bundle for a small model whose batch statistics were warmed up."""
    torch.manual_seed(3)
    model = build_classifier(CONFIG).train()
    with torch.no_grad():
        for _ in range(10):
            model(torch.randn(16, 3, 48, 48))
    return dict(
        name="tiny",
        kind="student",
        model_config=CONFIG,
        state_dict=model.eval().state_dict(),
        contract=FaceContract(image_size=48, clahe=True),
        temperature=Temperature(mode="global", global_temperature=1.7, n=100),
        training_prior=[0.1, 0.05, 0.1, 0.3, 0.15, 0.1, 0.2],
        ids={"manifest_sha256": "ab" * 32, "evalset_id": "0123456789ab", "protocol_id": "ba9876543210"},
        metrics={"val_select": SUMMARY},
    )


@pytest.fixture(scope="session")
def torch_bundle(pieces, tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("bundles") / "tiny", **pieces)


@pytest.fixture(scope="session")
def onnx_bundle(torch_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    return derive_bundle(
        torch_bundle, folder / "tiny", extra_files={ONNX: export_onnx(torch_bundle, folder / "exported.onnx")}
    )


@pytest.fixture(scope="session")
def ruled_bundle(onnx_bundle, tmp_path_factory):
    """The same with conformal sets, an energy limit and abstention, from logits of noise images."""
    rng = np.random.default_rng(6)
    images = [rng.integers(0, 256, (48, 48, 3), dtype=np.uint8) for _ in range(120)]
    scaled = onnx_bundle.temperature.apply(Predictor(onnx_bundle).logits(images))
    probs = softmax(scaled)
    return derive_bundle(
        onnx_bundle, tmp_path_factory.mktemp("bundles") / "ruled", abstention=[np.median(probs.max(axis=1))] * 7,
        conformal=conformal.fit(probs, rng.integers(0, 7, 120), alpha=0.4), energy_limit=fit_energy_limit(scaled, 0.3),
    )  # fmt: skip


@pytest.fixture
def faces():
    rng = np.random.default_rng(5)
    return [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((48, 48), (61, 40), (120, 130), (20, 20))]
