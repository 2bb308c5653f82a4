"""The ONNX file computes what torch computes, at every batch size, and its compact form nearly so."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fer_lib.deploy import latency
from fer_lib.deploy.onnx_compact import compact
from fer_lib.deploy.onnx_parity import parity
from fer_lib.errors import FerError
from fer_lib.models.bundle import ONNX
from fer_lib.onnx_session import open_session


def test_parity_on_random_and_real_faces(onnx_bundle, faces):
    result = parity(onnx_bundle, onnx_bundle.path / ONNX, n=40, images=faces)
    assert {"max_abs_diff", "providers", "opset", "n"} <= set(result)
    assert 0 < result["max_abs_diff"] < 1e-4 < result["max_abs_logit"]
    assert result["opset"] == 18 and result["n"] == 40 + len(faces) and result["n_real"] == len(faces)
    assert result["label_agreement"] == 1.0


def test_parity_reports_a_changed_bias(onnx_bundle, tmp_path):
    proto = onnx.load(onnx_bundle.path / ONNX)
    bias = next(t for t in proto.graph.initializer if list(t.dims) == [64])
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.05), bias.name))
    onnx.save(proto, tmp_path / "wrong.onnx")
    assert parity(onnx_bundle, tmp_path / "wrong.onnx", n=4)["max_abs_diff"] > 1e-4


def test_any_batch_size(onnx_bundle):
    batch = np.random.default_rng(0).standard_normal((7, 3, 48, 48), dtype=np.float32)
    whole = onnx_bundle.session().run(["logits"], {"faces": batch})[0]
    single = np.concatenate([onnx_bundle.session().run(["logits"], {"faces": batch[i : i + 1]})[0] for i in range(7)])
    assert whole.shape == (7, 7)
    np.testing.assert_allclose(whole, single, atol=1e-5)


def test_the_file_stands_alone_and_names_no_machine(onnx_bundle, repo):
    content = (onnx_bundle.path / ONNX).read_bytes()
    assert str(repo).encode() not in content and b"site-packages" not in content
    assert [p.suffix for p in onnx_bundle.path.glob("*.data")] == []


def test_compact_is_small_and_close(onnx_bundle, tmp_path):
    source = onnx_bundle.path / ONNX
    small = compact(source, tmp_path / "small.onnx")
    assert small.stat().st_size < source.stat().st_size / 2.8  # the graph itself weighs much in a model this small
    result = parity(onnx_bundle, small, n=64)
    assert 0 < result["max_abs_diff"] < 0.1 * result["max_abs_logit"]
    kept = {t.name: t for t in onnx.load(small).graph.initializer}
    assert any(t.data_type == TensorProto.INT8 for t in kept.values())
    assert all(np.prod(t.dims) < 1024 for t in kept.values() if t.data_type == TensorProto.FLOAT)


def graph(nodes, weights, width):
    inputs = [helper.make_tensor_value_info("faces", TensorProto.FLOAT, ["N", *width])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", "C"])]
    made = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(w, n) for n, w in weights.items()])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize(
    "node, shape, channel_axis",
    [
        (helper.make_node("MatMul", ["faces", "w"], ["logits"]), (100, 40), 1),
        (helper.make_node("Gemm", ["faces", "w"], ["logits"]), (100, 40), 1),
        (helper.make_node("Gemm", ["faces", "w"], ["logits"], transB=1), (40, 100), 0),
    ],
)
def test_the_scale_is_one_an_output_channel(tmp_path, node, shape, channel_axis):
    """Channels of very different size keep their own precision: each weight errs by at most half its channel's step."""
    rng = np.random.default_rng(1)
    weight = rng.standard_normal(shape).astype(np.float32)
    grow = np.logspace(-3, 3, 40).astype(np.float32)
    weight *= grow[None, :] if channel_axis == 1 else grow[:, None]
    weight[(slice(None), 7) if channel_axis == 1 else 7] = 0  # a dead channel stays exactly dead
    onnx.save(graph([node], {"w": weight}, [100]), tmp_path / "m.onnx")
    small = compact(tmp_path / "m.onnx", tmp_path / "s.onnx")
    eye = np.eye(100, dtype=np.float32)
    restored = open_session(small).run(None, {"faces": eye})[0]
    weight = weight if channel_axis == 1 else weight.T
    step = np.abs(weight).max(axis=0) / 127
    assert (np.abs(restored - weight) <= step * 0.5001 + 1e-9).all()
    assert (restored[:, 7] == 0).all() and np.abs(restored - weight).max() > 0


def test_small_and_shared_tensors_stay_float(tmp_path):
    rng = np.random.default_rng(1)
    weights = {
        "small": rng.standard_normal((100, 10)).astype(np.float32),
        "shared": rng.standard_normal((100, 100)).astype(np.float32),
        "large": rng.standard_normal((100, 100)).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["faces", "large"], ["a"]),
        helper.make_node("MatMul", ["a", "shared"], ["b"]),
        helper.make_node("Add", ["b", "shared"], ["c"]),
        helper.make_node("MatMul", ["c", "small"], ["logits"]),
    ]
    onnx.save(graph(nodes, weights, [100]), tmp_path / "m.onnx")
    small = onnx.load(compact(tmp_path / "m.onnx", tmp_path / "s.onnx"))
    names = {t.name: t.data_type for t in small.graph.initializer}
    assert names["small"] == names["shared"] == TensorProto.FLOAT and names["large_int8"] == TensorProto.INT8
    assert "large" not in names
    alone = helper.make_node("MatMul", ["faces", "small"], ["logits"])
    onnx.save(graph([alone], {"small": weights["small"]}, [100]), tmp_path / "n.onnx")
    with pytest.raises(FerError, match="no weight of 1024"):
        compact(tmp_path / "n.onnx", tmp_path / "x.onnx")


def test_latency_rows(onnx_bundle):
    rows = latency.benchmark(onnx_bundle, {"fp32": onnx_bundle.path / ONNX}, batches=(1, 4), iterations=5)
    assert [(r["runtime"], r["batch"]) for r in rows] == [
        ("onnxruntime", 1), ("onnxruntime", 4), ("torch", 1), ("torch", 4)
    ]  # fmt: skip
    for row in rows:
        assert list(row) == list(latency.COLUMNS) and row["threads"] == 1 and row["size"] == 48
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert row["images_per_sec"] == pytest.approx(row["batch"] / row["p50_ms"] * 1e3)
