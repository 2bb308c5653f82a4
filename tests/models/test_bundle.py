"""Bundles: round trip, verification on reading, and atomic writing."""

import json
import shutil

import numpy as np
import pytest
import torch

from fer_lib.calibration import conformal
from fer_lib.calibration.metrics import softmax
from fer_lib.calibration.temperature import Temperature
from fer_lib.calibration.uncertainty import fit_energy_limit
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import BundleError, DataError
from fer_lib.models.bundle import META, ONNX, WEIGHTS, derive_bundle, read_bundle, write_bundle
from fer_lib.models.bundle_format import checksum
from fer_lib.models.weights import tensors_sha256
from fer_lib.storage import atomic
from fer_lib.storage.json_files import file_sha256


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
    with pytest.raises(BundleError, match=f"{META}: .*line .* column .*--fresh"):
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


def test_sets_and_energy_limit_belong_to_their_temperature(torch_bundle, copy, tmp_path):
    z = np.random.default_rng(0).normal(0, 2, (400, 7))
    sets = conformal.fit(softmax(z), z.argmax(axis=1), per_class=True)
    limit = fit_energy_limit(z)
    bundle = derive_bundle(torch_bundle, tmp_path / "b", conformal=sets, energy_limit=limit)
    assert (bundle.conformal, bundle.energy_limit) == (sets, limit) == (read_bundle(bundle.path).conformal, limit)
    again = derive_bundle(bundle, tmp_path / "c", metrics={"a": 1})
    assert (again.conformal, again.energy_limit) == (sets, limit)
    warmer = derive_bundle(bundle, tmp_path / "d", temperature=Temperature(mode="global", global_temperature=2.5))
    assert (warmer.conformal, warmer.energy_limit) == (None, None)
    meta = json.loads((copy / META).read_text())
    del meta["conformal"], meta["energy_limit"]  # a bundle of an earlier version
    meta["checksum"] = checksum(meta)
    (copy / META).write_text(json.dumps(meta))
    assert (read_bundle(copy).conformal, read_bundle(copy).energy_limit) == (None, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("training_prior", [1 / 7] * 6),
        ("training_prior", [0.5] * 7),
        ("training_prior", [-0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2]),
        ("logit_bias", [0.0] * 6),
        ("logit_bias", [float("inf")] * 7),
        ("abstention", [2.0] * 7),
        ("cost", {"own": 1}),
    ],
)
def test_a_value_that_no_reader_accepts_is_not_written(pieces, tmp_path, name, value):
    with pytest.raises(BundleError, match=name):
        write_bundle(tmp_path / "b", **pieces | {name: value})
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


SETS = {"method": "lac", "alpha": 0.1, "per_class": False, "thresholds": [0.5], "n": [99]}


def forged(meta: dict, where: str, value) -> dict:
    """``meta`` with one value replaced, or removed when ``value`` is ``...``; ``where``: keys joined by dots."""
    meta = json.loads(json.dumps(meta))
    *path, last = where.split(".")
    section = meta
    for key in path:
        section = section[key]
    if value is ...:
        del section[last]
    else:
        section[last] = value
    return meta


@pytest.mark.parametrize(
    "where, value",
    [
        ("model.embed_dim", 10**9),
        ("model.embed_dim", 0),
        ("model.embed_dim", "64"),
        ("model.image_size", 10**6),
        ("model.image_size", 64),  # not the contract's
        ("model.backbone", 5),
        ("model.head", "other"),
        ("model.s", 0),
        ("model.dropout", 1.5),
        ("model.extra", 1),
        ("model.backbone_args", {"checkpoint_path": "evil.pt"}),
        ("model.backbone_args", {"depth": 10**9}),
        ("model.backbone_args", {"norm_layer": ["x"]}),
        ("model", []),
        ("model", ...),
        ("face_contract", ...),
        ("face_contract.image_size", 10**6),
        ("face_contract.std", [0, 0, 0]),
        ("temperature.global_temperature", 1e9),
        ("temperature.global_temperature", 1e-9),
        ("temperature.global_temperature", "1.7"),
        ("temperature.global_temperature", float("nan")),
        ("temperature", "warm"),
        ("temperature", ...),
        ("training_prior", [float("nan")] * 7),
        ("training_prior", [1 / 6] * 6),
        ("training_prior", [0.5] * 7),
        ("training_prior", ...),
        ("abstention", [float("nan")] * 7),
        ("abstention", [2] * 7),
        ("abstention", [0.5] * 3),
        ("conformal", SETS | {"thresholds": [0.5, 0.5]}),
        ("conformal", SETS | {"thresholds": [0.5] * 3, "n": [9] * 3, "per_class": True}),
        ("conformal", SETS | {"thresholds": ["0.5"]}),
        ("conformal", SETS | {"alpha": 1.0}),
        ("energy_limit", {"value": float("nan"), "share": 0.01, "n": 200}),
        ("energy_limit", {"share": 0.01, "n": 200}),
        ("logit_bias", [float("inf")] * 7),
        ("logit_bias", ["0"] * 7),
        ("training_data", []),
        ("training_data", {"sources": {"a": {"rows": -1}}}),
        ("ids", {}),
        ("ids.weights_sha256", "abc"),
        ("metrics", ...),
        ("metrics.val_select", {"macro_f1": "x"}),
        ("name", "a\x1b[2Jb"),
        ("files", {}),
        ("files", []),
        ("files", {"model.safetensors": 5}),
        ("name", 5),
        ("kind", ...),
    ],
)
def test_a_forged_value_with_a_matching_checksum_is_rejected(torch_bundle, copy, where, value):
    meta = forged(torch_bundle.meta, where, value)
    meta["checksum"] = checksum(meta)
    (copy / META).write_text(json.dumps(meta))
    with pytest.raises(BundleError) as error:
        read_bundle(copy)
    message = str(error.value)
    assert str(copy / META) in message and "\n" not in message and len(message) < 600 + len(str(copy))


@pytest.mark.parametrize("content", [b"[]", b"null", b"3", b"", b"\xff\xfe", b"[" * 100_000, b'{"format_version": 1}'])
def test_json_of_something_else_is_rejected(copy, content):
    (copy / META).write_bytes(content)
    with pytest.raises(BundleError, match=META):
        read_bundle(copy)


@pytest.mark.parametrize("change", ["classes", "output", "input", "size"])
def test_an_onnx_file_of_another_shape_is_rejected(copy, change):
    from onnx import TensorProto, helper, save

    size, classes = (32 if change == "size" else 48), (3 if change == "classes" else 7)
    source, target = ("x" if change == "input" else "faces"), ("y" if change == "output" else "logits")
    inputs = [helper.make_tensor_value_info(source, TensorProto.FLOAT, ["n", 3, size, size])]
    outputs = [helper.make_tensor_value_info(target, TensorProto.FLOAT, ["n", classes])]
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [-1, 3 * size * size])
    matrix = helper.make_tensor("matrix", TensorProto.FLOAT, [3 * size * size, classes], [0.0] * 3 * size**2 * classes)
    nodes = [
        helper.make_node("Reshape", [source, "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], [target]),
    ]
    graph = helper.make_graph(nodes, "other", inputs, outputs, [shape, matrix])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), copy / ONNX)
    rewrite(copy, files=json.loads((copy / META).read_text())["files"] | {ONNX: file_sha256(copy / ONNX)})
    with pytest.raises(BundleError, match="export the model again"):
        read_bundle(copy).session()
