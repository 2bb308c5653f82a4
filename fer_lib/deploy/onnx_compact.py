"""Compact ONNX files: large weights as int8."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fer_lib.errors import FerError
from fer_lib.storage.atomic import fresh_file

MIN_COMPACT_SIZE = 1024  # smaller weights stay float32: they save no space and would only lose precision


def compact(onnx_path: Path | str, out_path: Path | str) -> Path:
    """Store large Conv, Gemm and MatMul weights as int8 with one scale per output channel; arithmetic stays float32.

    q = round(w / scale_c) in [-127, 127] with scale_c = max|w_c| / 127.  A DequantizeLinear node restores w, so a
    weight's error is at most scale_c / 2.  A file of mostly such weights shrinks to a quarter.
    Raises FerError when no weight is large enough.
    """
    import onnx
    from onnx import helper, numpy_helper

    proto = onnx.load(onnx_path)
    tensors = {t.name: t for t in proto.graph.initializer}
    axes = _channel_axes(proto.graph.node, tensors)
    nodes, compacted = [], []
    for name, axis in axes.items():
        weight = numpy_helper.to_array(tensors[name])
        others = tuple(i for i in range(weight.ndim) if i != axis)
        scale = np.abs(weight).max(axis=others) / np.float32(127)
        scale[scale == 0] = 1.0
        shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
        quantised = np.clip(np.rint(weight / scale.reshape(shape)), -127, 127).astype(np.int8)
        compacted += [
            numpy_helper.from_array(quantised, f"{name}_int8"),
            numpy_helper.from_array(scale.astype(np.float32), f"{name}_scale"),
        ]
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_int8", f"{name}_scale"], [name], axis=axis))
    if not nodes:
        raise FerError(f"{onnx_path}: no weight of {MIN_COMPACT_SIZE} values or more to compact; keep it as it is")
    unchanged = [t for t in proto.graph.initializer if t.name not in axes]
    nodes += proto.graph.node
    del proto.graph.initializer[:], proto.graph.node[:]
    proto.graph.initializer.extend(unchanged + compacted)
    proto.graph.node.extend(nodes)
    onnx.checker.check_model(proto)
    with fresh_file(Path(out_path)) as file:
        onnx.save(proto, file)
    return Path(out_path)


def _channel_axes(nodes, tensors) -> dict[str, int]:
    """Output-channel axis of each large float32 weight; without weights that have another use or two different axes."""
    import onnx

    axes: dict[str, int] = {}
    refused = set()
    for node in nodes:
        for position, name in enumerate(node.input):
            tensor = tensors.get(name)
            if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < MIN_COMPACT_SIZE:
                continue
            axis = _channel_axis(node, len(tensor.dims)) if position == 1 else None
            if axis is None or axes.setdefault(name, axis) != axis:
                refused.add(name)
    return {name: axis for name, axis in axes.items() if name not in refused}


def _channel_axis(node, rank: int) -> int | None:
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    axes = {"Conv": 0, "Gemm": 0 if transposed else 1, "MatMul": rank - 1 if rank >= 2 else None}
    return axes.get(node.op_type)
