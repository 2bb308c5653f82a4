"""The export phase's library part: the right candidate, proven, in one bundle that can be registered."""

import csv
import json

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from fer_lib import load
from fer_lib.calibration.temperature import Temperature
from fer_lib.datasets.manifest import Manifest, content_id, sample_id
from fer_lib.deploy import latency, packaged
from fer_lib.deploy.bundle_export import export_model, rank
from fer_lib.deploy.predict import Predictor
from fer_lib.errors import BundleError, FerError
from fer_lib.models.bundle import ONNX, WEIGHTS, derive_bundle, read_bundle, write_bundle
from fer_lib.params import ExportParams
from fer_lib.tracking import registry, store


def candidate(pieces, folder, name, macro_f1, **changes):
    metrics = {"val_select": {"macro_f1": macro_f1, "accuracy": 0.5, "ece": 0.1}}
    write_bundle(folder / "best", **pieces | {"name": name, "metrics": metrics} | changes)
    return folder


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """40 noise faces, 30 of them val/select, six test, ten with a box in a larger image."""
    folder, rng, rows = tmp_path_factory.mktemp("manifest"), np.random.default_rng(0), []
    for i in range(40):
        image = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"{i}.png")
        box = (4.0, 6.0, 60.0, 58.0) if i % 4 == 0 else (np.nan,) * 4
        content = content_id(image.tobytes(), None if i % 4 else box)
        sides = dict(zip(("bbox_top", "bbox_left", "bbox_bottom", "bbox_right"), box, strict=True))
        row = dict(sample_id=sample_id("drawn", str(i), content), content_id=content, source="drawn", record=str(i))
        row |= dict(image_path=f"{i}.png", label=i % 7, split="val" if i < 34 else "test")
        row |= dict(val_role="select" if i < 30 else "temperature" if i < 34 else "")
        rows.append(row | sides)
    Manifest(pd.DataFrame(rows), {"root": str(folder)}).write(folder / "manifest.parquet")
    return folder


@pytest.fixture(scope="module")
def exported(pieces, manifest, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    weak = candidate(pieces, folder / "weak", "weak", 0.3)
    strong = candidate(pieces, folder / "strong", "strong", 0.6)
    test = {"macro_f1": 0.55, "accuracy": 0.6, "ece": 0.02, "evalset_id": "f" * 12}
    derive_bundle(
        read_bundle(strong / "best"),
        folder / "evaluation" / "bundles" / "strong",
        temperature=Temperature(mode="global", global_temperature=0.8),
        metrics={"test": test},
    )
    inputs = {"candidates": [weak, strong], "evaluation": folder / "evaluation", "manifest": manifest}
    return export_model(ExportParams(compact=True), inputs, folder / "out"), folder


def test_the_best_on_val_select_is_exported_as_the_evaluation_calibrated_it(exported, pieces):
    result, folder = exported
    final = read_bundle(result["bundle"])
    assert result["selected"] == final.name == "strong"
    assert [r["name"] for r in result["ranking"]] == ["strong", "weak"]
    assert final.temperature.global_temperature == 0.8 and final.meta["metrics"]["test"]["macro_f1"] == 0.55
    assert set(final.meta["files"]) == {WEIGHTS, ONNX} and final.contract == pieces["contract"]
    assert result["onnx_bytes"] == (final.path / ONNX).stat().st_size


def test_its_files(exported):
    result, folder = exported
    out = folder / "out"
    assert sorted(p.name for p in out.iterdir()) == [
        "bundle",
        "cache",
        "latencybenchmarks.csv",
        "onnxparity.json",
        "packaged",
        "test_openings.jsonl",
    ]
    report = json.loads((out / "onnxparity.json").read_text())
    assert {"max_abs_diff", "providers", "opset", "n"} <= set(report) and report["max_abs_diff"] <= 1e-4
    assert report["n"] == 64 + 30 and report["n_real"] == 30
    assert report["compact"]["max_abs_diff"] > report["max_abs_diff"]
    assert report["compact"]["ratio"] == report["compact"]["bytes_fp32"] / report["compact"]["bytes"] > 2.8
    rows = list(csv.DictReader((out / "latencybenchmarks.csv").open()))
    assert list(rows[0]) == list(latency.COLUMNS)
    assert {(r["precision"], r["runtime"]) for r in rows} == {
        ("fp32", "onnxruntime"), ("int8-weights", "onnxruntime"), ("fp32", "torch")
    }  # fmt: skip


def test_measuring_the_small_file_is_logged_as_an_opening_of_the_test_rows(exported, manifest):
    result, folder = exported
    line = json.loads((folder / "out" / "test_openings.jsonl").read_text())
    small, whole = read_bundle(folder / "out" / "packaged"), Manifest.read(manifest / "manifest.parquet")
    assert line["evalset_id"] == small.meta["metrics"]["test"]["evalset_id"]
    assert (line["purpose"], line["n"], line["manifest_sha256"]) == ("compact export", 6, whole.sha256)
    assert list(line["weights"].values()) == [[small.weights_sha256]]


def test_the_shipped_file_is_compared_on_real_faces(exported, manifest):
    result, _ = exported
    bundle = read_bundle(result["bundle"])
    noted = bundle.meta["metrics"]["onnx"]
    assert noted["n"] == 30 and noted["rows"] == "val/select"
    rows = Manifest.read(manifest / "manifest.parquet").rows("val", "select")
    images = [np.asarray(Image.open(rows.resolve(p))) for p in rows.frame["image_path"]]
    columns = ["bbox_top", "bbox_left", "bbox_bottom", "bbox_right"]
    boxes = [None if np.isnan(b).any() else tuple(b) for b in rows.frame[columns].to_numpy(float)]
    onnx, weights = (Predictor(bundle, runtime=r).probs(images, boxes) for r in ("onnx", "torch"))
    assert noted["max_abs_prob_diff"] == pytest.approx(np.abs(onnx - weights).max(), abs=1e-9)
    assert noted["accuracy_onnx"] == pytest.approx((onnx.argmax(1) == rows.labels).mean())
    assert 0 < noted["max_abs_prob_diff"] < 0.1


def test_the_small_file_is_a_bundle_of_its_own_that_was_measured_itself(exported, manifest):
    result, folder = exported
    small, full = read_bundle(folder / "out" / "packaged"), read_bundle(result["bundle"])
    assert set(small.meta["files"]) == {ONNX} and small.weights_sha256 == full.weights_sha256
    assert (small.path / ONNX).stat().st_size < (full.path / ONNX).stat().st_size / 2.8
    rows = Manifest.read(manifest / "manifest.parquet").rows("test")
    images = [np.asarray(Image.open(rows.resolve(p))) for p in rows.frame["image_path"]]
    columns = ["bbox_top", "bbox_left", "bbox_bottom", "bbox_right"]
    boxes = [None if np.isnan(b).any() else tuple(b) for b in rows.frame[columns].to_numpy(float)]
    probs = Predictor(small, runtime="onnx").probs(images, boxes)
    test = small.meta["metrics"]["test"]
    assert test["nll"] == pytest.approx(-np.log(probs[np.arange(6), rows.labels]).mean(), abs=1e-5)
    assert test["n_expected"] == test["n_used"] == 6
    assert small.meta["metrics"]["test_float32"]["macro_f1"] == full.meta["metrics"]["test"]["macro_f1"] == 0.55


def test_registered_and_loaded_by_alias(exported, tmp_path, monkeypatch):
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    monkeypatch.setenv("FER_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    try:
        store.configure()
        bundle = read_bundle(exported[0]["bundle"])
        registry.register_model(bundle, "fer-student", "champion")
        rng = np.random.default_rng(9)
        faces = [rng.integers(0, 256, (48, 48, 3), dtype=np.uint8) for _ in range(5)]
        served = mlflow.pyfunc.load_model("models:/fer-student@champion").predict(faces)
        np.testing.assert_allclose(served.to_numpy(), Predictor(bundle, runtime="onnx").probs(faces), atol=1e-6)
        (row,) = registry.list_models()
        assert (row["macro_f1"], row["measured_on"], row["evalset_id"]) == (0.55, "test", "f" * 12)
    finally:
        mlflow.set_tracking_uri(before[0])
        mlflow.set_registry_uri(before[1])


def test_without_evaluation_and_manifest(pieces, tmp_path):
    folder = candidate(pieces, tmp_path / "s", "only", 0.4)
    result = export_model(ExportParams(), {"candidates": [folder], "evaluation": "", "manifest": ""}, tmp_path / "out")
    final = read_bundle(result["bundle"])
    assert final.temperature == pieces["temperature"] and "onnx" not in final.meta["metrics"]
    assert result["parity"]["n_real"] == 0 and "compact" not in result["parity"]
    assert not (tmp_path / "out" / "test_openings.jsonl").exists(), "no test row was read"


def test_parity_above_the_tolerance_stops_the_export(pieces, tmp_path):
    folder = candidate(pieces, tmp_path / "s", "only", 0.4)
    with pytest.raises(FerError, match="above the tolerance 1e-12"):
        export_model(ExportParams(parity_tolerance=1e-12), {"candidates": [folder]}, tmp_path / "out")
    assert not (tmp_path / "out" / "bundle").exists()


def test_candidates_measured_on_different_rows_are_not_ranked(pieces, tmp_path):
    a = candidate(pieces, tmp_path / "a", "a", 0.4)
    b = candidate(pieces, tmp_path / "b", "b", 0.5, ids={"evalset_id": "another"})
    with pytest.raises(FerError, match="different rows.*(a: 0123456789ab, b: another)"):
        rank([a, b])
    with pytest.raises(FerError, match="no candidate"):
        rank([])
    with pytest.raises(BundleError, match="no macro-F1"):
        rank([candidate(pieces, tmp_path / "c", "c", float("nan"))])


def test_an_evaluation_of_other_weights_is_refused(pieces, tmp_path):
    folder = candidate(pieces, tmp_path / "s", "only", 0.4)
    other = {k: v + 1 if v.is_floating_point() else v for k, v in pieces["state_dict"].items()}
    assert not all(torch.equal(other[k], v) for k, v in pieces["state_dict"].items())
    write_bundle(tmp_path / "e" / "bundles" / "only", **pieces | {"name": "only", "state_dict": other})
    with pytest.raises(BundleError, match="other weights"):
        export_model(ExportParams(), {"candidates": [folder], "evaluation": tmp_path / "e"}, tmp_path / "out")


def test_packaged(onnx_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(packaged, "FOLDER", tmp_path / "packaged_model")
    with pytest.raises(FerError, match="ships no packaged model"):
        load("packaged")
    derive_bundle(onnx_bundle, tmp_path / "packaged_model", weights=False)
    predictor = load("packaged")
    assert predictor.runtime == "onnx" and predictor.bundle.weights_sha256 == onnx_bundle.weights_sha256
