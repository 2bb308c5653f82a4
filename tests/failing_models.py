"""ONNX models with the inputs and outputs of a classifier that load, and fail when they are run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fer_lib.models.bundle import ONNX, Bundle, derive_bundle

FAILURES = {  # kind -> part of the message
    "index": "fails on faces .*indices element out of data bounds",
    "memory": "fails on faces .*output tensor would require more than",
    "rank": "fails on faces .*cannot be reshaped",
    "shape": r"fails on faces .*it gives logits \[\d+, \d+\]",
}


def _nodes(kind: str) -> list[onnx.NodeProto]:
    """From ``plain`` [N, 7] and ``top`` (int64, the largest pixel of all faces) to ``logits``."""
    make = helper.make_node
    if kind == "index":
        return [make("Gather", ["table", "top"], ["value"]), make("Add", ["plain", "value"], ["logits"])]
    if kind == "rank":
        return [make("Reshape", ["plain", "top_shape"], ["line"]), make("Add", ["plain", "line"], ["logits"])]
    repeats = "many" if kind == "memory" else "four"
    return [make("Mul", [repeats, "top_shape"], ["times"]), make("Concat", ["one", "times"], ["repeats"], axis=0),
            make("Tile", ["plain", "repeats"], ["logits"])]  # fmt: skip


def failing_model(kind: str, size: int, base: int = 1) -> bytes:
    """A model of :data:`FAILURES`; ``base`` 0: "index" fails only on faces with a pixel of 1 or more."""
    make = helper.make_node
    arrays = {
        "weights": np.zeros((3 * size * size, 7), np.float32), "table": np.zeros(1, np.float32),
        "base": np.array(base), "one": np.array([1]), "many": np.array([2**45]), "four": np.array([4]),
    }  # fmt: skip
    nodes = [
        make("Flatten", ["faces"], ["flat"]), make("MatMul", ["flat", "weights"], ["plain"]),
        make("ReduceMax", ["faces"], ["largest"], keepdims=0),
        make("Cast", ["largest"], ["whole"], to=TensorProto.INT64), make("Add", ["whole", "base"], ["top"]),
        make("Unsqueeze", ["top", "axis"], ["top_shape"]),
        *_nodes(kind),
    ]  # fmt: skip
    arrays["axis"] = np.array([0])
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("faces", TensorProto.FLOAT, ["N", 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 7])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


def failing_bundle(bundle: Bundle, folder: Path, kind: str, base: int = 1) -> Bundle:
    """A copy of ``bundle`` in ``folder`` whose ONNX file is a :func:`failing_model`."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "failing.onnx"
    file.write_bytes(failing_model(kind, bundle.contract.image_size, base))
    return derive_bundle(bundle, folder / "failing", extra_files={ONNX: file})
