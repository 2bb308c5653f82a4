"""The ONNX files that a fit ends with hold the best and the last weights, or there are none."""

import json
import shutil

import numpy as np
import pytest
import torch

from fer_lib.deploy import fit_onnx
from fer_lib.deploy.bundle import read_bundle
from fer_lib.deploy.onnx import open_session
from fer_lib.errors import FerError
from fer_lib.models.classifier import build_classifier
from fer_lib.params import TeacherParams
from fer_lib.training.checkpoint import checkpoint_weights
from fer_lib.training.teacher import train_teacher

FILES = {"best.onnx", "last.onnx", "onnxparity.json"}


@pytest.fixture(scope="module")
def fit(drawn_manifest, pack_cache, tmp_path_factory):
    """A fit with a moving average, taken to its end; its ``best/`` is of an earlier epoch than its last checkpoint."""
    out = tmp_path_factory.mktemp("fit")
    p = TeacherParams(
        backbone="test_resnet", image_size=32, embed_dim=16, epochs=2, batch_size=28, lr=3e-3, warmup_epochs=0.0,
        plain_epochs=2, ramp_end=2, arcface_s=8.0, ema_decay=0.5, max_train_batches=3, threads=1, device="cpu",
    )  # fmt: skip
    events = train_teacher(p, drawn_manifest, out, pack_cache)
    while next(events)["event"] != "epoch":
        pass
    shutil.copytree(out / "best", out.parent / "best-of-the-first")
    list(events)
    shutil.rmtree(out / "best")
    shutil.move(out.parent / "best-of-the-first", out / "best")
    return out


@pytest.fixture
def folder(fit, tmp_path):
    return shutil.copytree(fit, tmp_path / "fit")


def logits(file, faces):
    return open_session(file).run(["logits"], {"faces": faces})[0]


def test_each_file_holds_its_own_weights(folder):
    report = fit_onnx.export_fit(folder, "both")
    assert json.loads((folder / "onnxparity.json").read_text()) == report and set(report) == FILES - {"onnxparity.json"}
    best = read_bundle(folder / "best")
    weights, meta = checkpoint_weights(folder / "checkpoint_last")
    last = build_classifier(meta["bundle"]["model_config"]).eval()
    last.load_state_dict(weights)
    faces = np.random.default_rng(1).standard_normal((4, 3, 32, 32), dtype=np.float32)
    with torch.no_grad():
        expected = {f"{name}.onnx": net(torch.from_numpy(faces)).numpy() for name, net in
                    (("best", best.model()), ("last", last))}  # fmt: skip
    for name, wanted in expected.items():
        np.testing.assert_allclose(logits(folder / name, faces), wanted, atol=1e-4)
        assert report[name]["max_abs_diff"] < 1e-4 and {"providers", "opset", "n"} <= set(report[name])
    assert np.abs(expected["best.onnx"] - expected["last.onnx"]).max() > 1e-2, "two models"
    assert [report[name]["epoch"] for name in ("best.onnx", "last.onnx")] == [0, 1]
    assert report["best.onnx"]["weights_sha256"] == best.weights_sha256 != report["last.onnx"]["weights_sha256"]


def test_one_model_is_exported_once(folder, monkeypatch):
    """The last epoch may be the best one: its file is the same, its entry says which epoch it is."""
    fit_onnx.checkpoint_bundle(folder / "checkpoint_last", folder / "last")
    shutil.rmtree(folder / "best")
    (folder / "last").rename(folder / "best")
    exports, real = [], fit_onnx.export_onnx
    monkeypatch.setattr(fit_onnx, "export_onnx", lambda *a: (exports.append(1), real(*a))[1])
    report = fit_onnx.export_fit(folder, "both")
    assert exports == [1] and (folder / "best.onnx").read_bytes() == (folder / "last.onnx").read_bytes()
    assert report["last.onnx"] == report["best.onnx"]


@pytest.mark.parametrize(("which", "files"), [("none", set()), ("best", FILES - {"last.onnx"})])
def test_only_what_was_asked_for_is_written(folder, which, files):
    fit_onnx.export_fit(folder, which)
    assert {f.name for f in folder.iterdir() if f.name in FILES} == files


def test_a_file_that_answers_otherwise_is_an_error(folder, monkeypatch):
    real = fit_onnx.parity
    monkeypatch.setattr(fit_onnx, "parity", lambda *a, **k: real(*a, **k) | {"max_abs_diff": float("nan")})
    with pytest.raises(FerError, match=r"best\.onnx: logits differ from torch by nan, .*set onnx: none"):
        fit_onnx.export_fit(folder, "both")
    assert not FILES & {f.name for f in folder.iterdir()}, "none is left to be taken for a good one"
