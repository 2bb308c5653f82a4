"""ONNX: export with a dynamic batch, parity with torch, and a compact form (int8 weights, float32 arithmetic)."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fer_lib.errors import FerError, disk_trouble
from fer_lib.faces.contract import Box
from fer_lib.models.bundle import Bundle
from fer_lib.onnx_session import open_session

INPUT, OUTPUT = "faces", "logits"
SMALLEST = 1024  # weights with fewer values stay float32: their bytes don't matter, their error might


class ExportError(FerError):
    """A model does not become an ONNX file that answers as it does; neither its weights nor the disk is to blame."""


def export_onnx(bundle: Bundle, out_path: Path | str, opset: int = 18) -> Path:
    """Write the bundle's torch model as one ONNX file and return its path.

    Input ``faces`` float32 [N,3,S,S] with any N >= 1, output ``logits`` float32 [N,7] before temperature.  Stack traces
    that the exporter attaches (they name this machine's folders) are removed.  Raises BundleError without torch
    weights, ExportError when the exporter, or the checker of what it made, refuses the model, OSError for the disk.
    """
    import onnx
    import torch

    out_path = Path(out_path)
    model, size = bundle.model(), bundle.contract.image_size
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # notes on opset conversion and exporter internals; parity is what decides
            program = torch.onnx.export(
                model,
                (torch.zeros(2, 3, size, size),),  # a batch of 1 would be specialised to a constant
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                opset_version=opset,
                external_data=False,
                verbose=False,
            )
        proto = _stripped(program.model_proto)
        onnx.checker.check_model(proto)
    except Exception as error:  # an exporter ends in its own errors and in those of everything it traces through
        if disk_trouble(error):
            raise
        raise ExportError(
            f"{bundle.name} ({bundle.meta['model']['backbone']}) does not export to ONNX opset {opset}: {said(error)}"
            "; try another opset or backbone"
        ) from error
    finally:
        quiet.setLevel(level)
    return _save(proto, out_path)


def said(error: BaseException) -> str:
    """The cause at the end of the chain: an exporter wraps it in a page of its own."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def parity(
    bundle: Bundle,
    onnx_path: Path | str,
    n: int = 64,
    images: Sequence[np.ndarray] | None = None,
    boxes: Sequence[Box | None] | None = None,
    tolerance: float | None = None,
) -> dict[str, Any]:
    """Compare the ONNX file with the torch model on `n` random inputs and on faces in `images` (uint8 RGB), if any.

    Returns the keys of ``onnxparity.json``: max_abs_diff (of logits), providers, opset, n (inputs compared, random and
    real), and n_real, max_abs_logit (the scale to read the difference against), label_agreement.  Batches of 1 and of
    more than 1 are both run.  Raises FerError when the difference is above `tolerance`, or not a number.
    """
    import onnx
    import torch

    size = bundle.contract.image_size
    faces = np.random.default_rng(0).standard_normal((n, 3, size, size), dtype=np.float32)
    if images:
        items = [(image, box, None) for image, box in zip(images, boxes or [None] * len(images), strict=True)]
        faces = np.concatenate([faces, bundle.contract.batch(items)])
    session, model = open_session(onnx_path), bundle.model()
    ours, theirs = [], []
    for chunk in np.split(faces, [1, *range(33, len(faces), 32)]):
        if len(chunk):
            ours.append(session.run([OUTPUT], {INPUT: chunk})[0])
            with torch.no_grad():
                theirs.append(model(torch.from_numpy(chunk)).numpy())
    ours, theirs = np.concatenate(ours).astype(np.float64), np.concatenate(theirs).astype(np.float64)
    result = {
        "max_abs_diff": float(np.abs(ours - theirs).max()),
        "providers": session.get_providers(),
        "opset": next(o.version for o in onnx.load(onnx_path).opset_import if o.domain in ("", "ai.onnx")),
        "n": len(faces),
        "n_real": len(images or ()),
        "max_abs_logit": float(np.abs(theirs).max()),
        "label_agreement": float((ours.argmax(1) == theirs.argmax(1)).mean()),
    }
    if tolerance is not None and not result["max_abs_diff"] <= tolerance:
        raise FerError(
            f"{onnx_path}: logits differ from torch by {result['max_abs_diff']:.3g}, above the tolerance {tolerance:g} "
            f"(logits reach {result['max_abs_logit']:.3g}); try another opset, or raise parity_tolerance knowingly"
        )
    return result


def compact(onnx_path: Path | str, out_path: Path | str) -> Path:
    """Store large conv, Gemm and MatMul weights as int8 with one scale an output channel; computing stays float32.

    w ~ scale_c * q with q = round(w / scale_c) in [-127, 127] and scale_c = max|w_c| / 127, restored by a
    DequantizeLinear node, so the error of a weight is at most scale_c / 2.  A file of mostly such weights shrinks to a
    quarter.  Raises FerError when there is no weight to compact.
    """
    import onnx
    from onnx import helper, numpy_helper

    proto = onnx.load(onnx_path)
    tensors = {t.name: t for t in proto.graph.initializer}
    axes = _channel_axes(proto.graph.node, tensors)
    nodes, done = [], []
    for name, axis in axes.items():
        weight = numpy_helper.to_array(tensors[name])
        others = tuple(i for i in range(weight.ndim) if i != axis)
        scale = np.abs(weight).max(axis=others) / np.float32(127)
        scale[scale == 0] = 1.0
        shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
        quantised = np.clip(np.rint(weight / scale.reshape(shape)), -127, 127).astype(np.int8)
        done += [
            numpy_helper.from_array(quantised, f"{name}_int8"),
            numpy_helper.from_array(scale.astype(np.float32), f"{name}_scale"),
        ]
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_int8", f"{name}_scale"], [name], axis=axis))
    if not nodes:
        raise FerError(f"{onnx_path}: no weight of {SMALLEST} values or more to compact; keep it as it is")
    kept = [t for t in proto.graph.initializer if t.name not in axes]
    nodes += proto.graph.node
    del proto.graph.initializer[:], proto.graph.node[:]
    proto.graph.initializer.extend(kept + done)
    proto.graph.node.extend(nodes)
    onnx.checker.check_model(proto)
    return _save(proto, Path(out_path))


def _channel_axes(nodes, tensors) -> dict[str, int]:
    """Output-channel axis of each large float32 weight; left out where it has another use, or two uses disagree."""
    import onnx

    axes: dict[str, int] = {}
    refused = set()
    for node in nodes:
        for position, name in enumerate(node.input):
            tensor = tensors.get(name)
            if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < SMALLEST:
                continue
            axis = _channel_axis(node, len(tensor.dims)) if position == 1 else None
            if axis is None or axes.setdefault(name, axis) != axis:
                refused.add(name)
    return {name: axis for name, axis in axes.items() if name not in refused}


def _channel_axis(node, rank: int) -> int | None:
    attributes = {a.name: a for a in node.attribute}
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if "transB" in attributes and attributes["transB"].i else 1
    if node.op_type == "MatMul" and rank >= 2:
        return rank - 1
    return None


def _stripped(proto):
    """The model without names of the exporting machine's files: doc strings, node metadata, intermediate shapes."""
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""
    del proto.graph.value_info[:], proto.graph.metadata_props[:], proto.metadata_props[:], proto.functions[:]
    proto.graph.doc_string = proto.doc_string = ""
    return proto


def _save(proto, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(proto.SerializeToString())
    os.replace(partial, path)
    return path
