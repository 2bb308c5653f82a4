"""The ONNX files that a fit ends with hold the best and the last weights, or there are none."""

import errno
import json
import re
import shutil

import numpy as np
import onnx
import pytest
import torch

from fer_lib.deploy import onnx_file
from fer_lib.deploy.onnx_file import export_fit
from fer_lib.errors import BundleError, DataError
from fer_lib.models.bundle import Bundle, read_bundle
from fer_lib.models.classifier import build_classifier
from fer_lib.onnx_session import open_session
from fer_lib.params import TeacherParams
from fer_lib.training.checkpoint import checkpoint_weights
from fer_lib.training.results import FinishedFit, fit_result
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
    report = export_fit(folder, "both")
    assert json.loads((folder / "onnxparity.json").read_text()) == report and set(report) == FILES - {"onnxparity.json"}
    best = read_bundle(folder / "best")
    weights, meta = checkpoint_weights(folder / "checkpoint_last")
    last = build_classifier(meta.bundle.model).eval()
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
    onnx_file.checkpoint_bundle(folder / "checkpoint_last", folder / "last")
    shutil.rmtree(folder / "best")
    (folder / "last").rename(folder / "best")
    exports, real = [], onnx_file.export_onnx
    monkeypatch.setattr(onnx_file, "export_onnx", lambda *a: (exports.append(1), real(*a))[1])
    report = export_fit(folder, "both")
    assert exports == [1] and (folder / "best.onnx").read_bytes() == (folder / "last.onnx").read_bytes()
    assert report["last.onnx"] == report["best.onnx"]


@pytest.mark.parametrize(("which", "files"), [("none", set()), ("best", FILES - {"last.onnx"})])
def test_only_what_was_asked_for_is_written(folder, which, files):
    export_fit(folder, which)
    assert {f.name for f in folder.iterdir() if f.name in FILES} == files


@torch.library.custom_op("fer_test::double_back", mutates_args=())
def double_back(x: torch.Tensor) -> torch.Tensor:
    """Something that torch computes and traces, and that no ONNX operator is known for."""
    return x.clone()


@double_back.register_fake
def _(x):
    return torch.empty_like(x)


class Unexportable(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(torch.ops.fer_test.double_back(x))


class Otherwise(torch.nn.Module):
    """Answers in one way while it is exported, in another when it runs."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) + (1.0 if torch.compiler.is_exporting() else 0.0)


def wrapped(monkeypatch, wrapper):
    real = Bundle.model
    monkeypatch.setattr(Bundle, "model", lambda bundle: wrapper(real(bundle)).eval())


CAUSES = {Unexportable: "does not export to ONNX opset 18: .*double_back", Otherwise: "logits differ from torch by 1, "}


@pytest.mark.parametrize(("wrapper", "cause"), CAUSES.items(), ids=["no such operator", "another answer"])
def test_a_model_that_does_not_export_is_told_and_its_weights_stay(folder, monkeypatch, wrapper, cause):
    (folder / "best.onnx").write_bytes(b"of an earlier attempt")
    with monkeypatch.context() as patch:
        wrapped(patch, wrapper)
        report = export_fit(folder, "both")
    assert {f.name for f in folder.iterdir() if f.name in FILES} == {"onnxparity.json"}, "no bad file stays"
    assert json.loads((folder / "onnxparity.json").read_text()) == report
    finished = FinishedFit(TeacherParams(), folder)
    result = fit_result(finished, report)
    warnings = dict(zip(report, result.warnings, strict=True))
    assert result.headline["not written"] == "best.onnx, last.onnx"
    assert {path.name for path in result.artifacts} & FILES == {"onnxparity.json"}
    for file, source in (("best.onnx", "best"), ("last.onnx", "checkpoint_last")):
        assert set(report[file]) == {"error", "weights_sha256", "epoch"}
        assert re.search(f"{file} was not written: .*{cause}", warnings[file]), warnings[file]
        assert f"fer onnx {folder / source} {folder / file} --opset 20" in warnings[file]
    bundle = read_bundle(folder / "best")
    assert report["best.onnx"]["weights_sha256"] == bundle.weights_sha256
    later = onnx_file.export_verified(bundle, folder / "best.onnx", 20)  # what that command does
    assert later["max_abs_diff"] < 1e-4
    result = fit_result(finished, {"best.onnx": later})
    assert not result.warnings and "not written" not in result.headline
    assert {path.name for path in result.artifacts} & FILES == {"best.onnx", "onnxparity.json"}


def test_a_file_that_does_not_load_is_told(folder, monkeypatch):
    """A file that onnxruntime refuses: its errors have no base of their own."""

    def broken(bundle, out, opset):
        out.write_bytes(b"no model")

    monkeypatch.setattr(onnx_file, "export_onnx", broken)
    report = export_fit(folder, "best")
    assert "onnxruntime does not run it (" in report["best.onnx"]["error"]


@pytest.mark.parametrize("at", ["export", "save"])
def test_a_full_disk_is_an_error(folder, monkeypatch, at):
    def full(*words, **named):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((torch.onnx, "export") if at == "export" else (onnx, "save")), full)
    with pytest.raises(DataError, match=r"cannot write .*best\.onnx: No space left .* free some space"):
        export_fit(folder, "both")
    assert not FILES & {f.name for f in folder.iterdir()}


def test_damaged_weights_are_an_error(folder):
    next((folder / "best").glob("*.safetensors")).write_bytes(b"nothing")
    with pytest.raises(BundleError):
        export_fit(folder, "both")
