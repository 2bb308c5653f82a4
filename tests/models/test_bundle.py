"""Bundles: round trip, verification on reading, and atomic writing."""

import json
import shutil

import numpy as np
import pytest
import torch

from fer_lib.emotions import EMOTIONS
from fer_lib.errors import BundleError, DataError
from fer_lib.models.bundle import META, WEIGHTS, derive_bundle, read_bundle, write_bundle
from fer_lib.models.bundle_format import checksum
from fer_lib.models.weights import tensors_sha256
from fer_lib.storage import atomic


@pytest.fixture
def copy(torch_bundle, tmp_path):
    return shutil.copytree(torch_bundle.path, tmp_path / "copy")


def rewrite(folder, seal=True, **changes):
    """Change bundle.json, with a matching checksum unless `seal` is off."""
    meta = json.loads((folder / META).read_text()) | changes
    if seal:
        meta["checksum"] = checksum(meta)
    (folder / META).write_text(json.dumps(meta))


def test_round_trip(pieces, torch_bundle):
    read = read_bundle(torch_bundle.path)
    assert read.contract == pieces["contract"] and read.temperature == pieces["temperature"]
    assert read.meta["classes"] == list(EMOTIONS) and read.meta["model"] == pieces["model_config"]
    assert read.meta["ids"]["evalset_id"] == "0123456789ab" and read.meta["logit_bias"] is None
    assert read.meta["training_prior"] == pieces["training_prior"]
    assert set(read.meta["files"]) == {WEIGHTS}
    weights = read.model().state_dict()
    assert set(weights) == set(pieces["state_dict"])
    assert all(torch.equal(weights[k], v) for k, v in pieces["state_dict"].items())
    assert not read.model().training and read.model() is read.model()


def test_weights_hash_depends_on_values_and_dtypes_but_not_on_order(pieces, torch_bundle):
    weights = pieces["state_dict"]
    assert tensors_sha256(dict(reversed(list(weights.items())))) == torch_bundle.weights_sha256
    last = list(weights)[-1]
    assert tensors_sha256(weights | {last: weights[last] + 1e-6}) != torch_bundle.weights_sha256
    assert tensors_sha256(weights | {last: weights[last].double()}) != torch_bundle.weights_sha256


def test_changed_byte_is_detected(copy):
    file = copy / WEIGHTS
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(BundleError, match=rf"{WEIGHTS} is damaged.*--fresh"):
        read_bundle(copy)


def test_truncated_file_is_detected(copy):
    (copy / WEIGHTS).write_bytes((copy / WEIGHTS).read_bytes()[:-100])
    with pytest.raises(BundleError, match=WEIGHTS):
        read_bundle(copy)


def test_missing_file_is_detected(copy):
    (copy / WEIGHTS).unlink()
    with pytest.raises(BundleError, match=f"{WEIGHTS} is missing"):
        read_bundle(copy)


def test_changed_temperature_is_detected(copy):
    meta = json.loads((copy / META).read_text())
    rewrite(copy, seal=False, temperature=meta["temperature"] | {"global_temperature": 1.0})
    with pytest.raises(BundleError, match="changed after it was written"):
        read_bundle(copy)


def test_truncated_json_is_detected(copy):
    (copy / META).write_bytes((copy / META).read_bytes()[:-30])
    with pytest.raises(BundleError, match=f"{META} is not readable JSON"):
        read_bundle(copy)


def test_other_class_order_is_rejected(copy):
    rewrite(copy, classes=[EMOTIONS[1], EMOTIONS[0], *EMOTIONS[2:]])
    with pytest.raises(BundleError, match="class order"):
        read_bundle(copy)


@pytest.mark.parametrize("version", [0, 2, None, "1"])
def test_other_format_version_is_rejected(copy, version):
    rewrite(copy, format_version=version)
    with pytest.raises(BundleError, match="format_version"):
        read_bundle(copy)


@pytest.mark.parametrize("name", ["../secret", "..", ".", ".hidden", "a/b", "C:a", ""])
def test_file_name_outside_the_bundle_is_rejected(copy, name):
    files = json.loads((copy / META).read_text())["files"]
    rewrite(copy, files=files | {name: "00"})
    with pytest.raises(BundleError, match="no plain file name"):
        read_bundle(copy)


def test_folder_without_a_bundle_is_rejected(tmp_path):
    with pytest.raises(BundleError, match=f"{META} is missing"):
        read_bundle(tmp_path)
    with pytest.raises(BundleError, match=f"{META} is missing"):
        read_bundle(tmp_path / "nowhere")


def test_weights_of_another_model_are_rejected(pieces, tmp_path):
    written = write_bundle(tmp_path / "b", **pieces | {"model_config": pieces["model_config"] | {"embed_dim": 32}})
    with pytest.raises(BundleError, match="does not fit the model"):
        written.model()


@pytest.mark.parametrize("prior", [[1 / 7] * 6, [0.5] * 7, [-0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2]])
def test_prior_that_is_no_distribution_is_rejected(pieces, tmp_path, prior):
    with pytest.raises(BundleError, match="training_prior"):
        write_bundle(tmp_path / "b", **pieces | {"training_prior": prior})
    assert not list(tmp_path.iterdir())


def test_metrics_without_a_json_form_are_converted(pieces, tmp_path):
    metrics = {"nan": float("nan"), "inf": np.float64(np.inf), "n": np.int64(3), "array": np.eye(2), "path": tmp_path}
    written = write_bundle(tmp_path / "b", **pieces | {"metrics": metrics})
    expected = {"nan": None, "inf": None, "n": 3, "array": [[1.0, 0.0], [0.0, 1.0]], "path": str(tmp_path)}
    assert written.meta["metrics"] == expected


def test_bundle_with_only_onnx_has_no_torch_model(onnx_bundle, tmp_path):
    packaged = derive_bundle(onnx_bundle, tmp_path / "p", weights=False)
    assert not (packaged.path / WEIGHTS).exists()
    assert packaged.weights_sha256 == onnx_bundle.weights_sha256
    assert packaged.session().get_inputs()[0].name == "faces"
    with pytest.raises(BundleError, match="runtime 'onnx'"):
        packaged.model()


def test_bundle_without_onnx_has_no_session(torch_bundle):
    with pytest.raises(BundleError, match="09_export_onnx"):
        torch_bundle.session()


def test_bundle_without_weights_and_onnx_is_rejected(pieces, tmp_path):
    with pytest.raises(BundleError, match="without weights"):
        write_bundle(tmp_path / "b", **pieces | {"state_dict": None})


def test_failed_write_keeps_the_old_bundle(pieces, tmp_path, monkeypatch):
    path = tmp_path / "best"
    write_bundle(path, **pieces | {"metrics": {"epoch": 1}})
    write_bundle(path, **pieces | {"metrics": {"epoch": 2}})
    assert read_bundle(path).meta["metrics"] == {"epoch": 2}

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(atomic.os, "fsync", full)
        with pytest.raises(DataError, match="No space"):
            write_bundle(path, **pieces | {"metrics": {"epoch": 3}})
    assert read_bundle(path).meta["metrics"] == {"epoch": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["best"]


def test_bundle_is_synced_before_it_is_renamed(pieces, tmp_path, disk_calls):
    (tmp_path / "more.txt").write_text("more")
    path = tmp_path / "home" / "best"
    written = ["fsync best/model.safetensors", "fsync best/more.txt", "fsync best/bundle.json", "fsync best"]
    write_bundle(path, **pieces, extra_files={"more.txt": tmp_path / "more.txt"})
    assert disk_calls(path.parent) == [*written, "rename best", "fsync ."]
    write_bundle(path, **pieces, extra_files={"more.txt": tmp_path / "more.txt"})
    assert disk_calls(path.parent) == [*written, "rename .best.previous", "rename best", "fsync ."]


def test_old_bundle_is_read_when_a_writer_was_killed_between_its_renames(pieces, tmp_path):
    path = tmp_path / "best"
    write_bundle(path, **pieces | {"metrics": {"epoch": 1}})
    path.rename(atomic.previous(path))  # the state after such a kill
    (tmp_path / ".best.999999999.partial").mkdir()
    assert read_bundle(path).meta["metrics"] == {"epoch": 1}
    write_bundle(path, **pieces | {"metrics": {"epoch": 2}})
    assert read_bundle(path).meta["metrics"] == {"epoch": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["best"]


def test_folder_of_other_files_is_not_replaced(pieces, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("mine")
    with pytest.raises(BundleError, match="left alone"):
        write_bundle(tmp_path / "photos", **pieces)
    assert (tmp_path / "photos" / "a.txt").read_text() == "mine"


def test_derived_bundle_can_replace_its_source(torch_bundle, copy):
    derived = derive_bundle(read_bundle(copy), copy, ids={"run_id": "r"}, metrics={"test": {"accuracy": 0.5}})
    assert derived.weights_sha256 == torch_bundle.weights_sha256
    assert derived.meta["ids"]["run_id"] == "r" and "val_select" in derived.meta["metrics"]
