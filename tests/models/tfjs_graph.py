"""TensorFlow.js graphs of the tests: one drawn at random in the shape of faceres-deep, and a node-by-node evaluation.

The evaluation reads the node list of the JSON and computes in float64, channels last as the graph is.  On the real
graph at 224 px it agrees with TensorFlow.js 4.22 (CPU backend) to 2.1e-6.
"""

import base64
import io
import json
import tarfile

import numpy as np
import torch
from torch.nn import functional as F

FILES = ("package/models/faceres-deep.json", "package/models/faceres-deep.bin")
# of each depthwise convolution: stride, and the channels after its pointwise one (Howard et al. 2017)
BLOCKS = [(1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512), *[(1, 512)] * 5, (2, 1024), (1, 1024)]


def random_graph(seed: int = 0) -> dict[str, bytes]:
    """The two files of a graph with random constants: names, shapes and order of operations are the real one's."""
    rng, constants, nodes = np.random.default_rng(seed), {}, []

    def constant(name, value):
        constants[name] = np.asarray(value, "<f4")
        return name

    def node(op, name, *inputs, **attr):
        nodes.append({"name": name, "op": op, "input": list(inputs), "attr": attr})
        return name

    def convolve(op, name, x, kernel, stride):
        text = {key: {"s": base64.b64encode(value).decode()} for key, value in
                {"padding": b"SAME", "data_format": b"NHWC"}.items()}  # fmt: skip
        return node(op, name, x, kernel, strides={"list": {"i": ["1", str(stride), str(stride), "1"]}}, **text)

    def finish(layer, x, out):
        x = node("Add", f"{layer}_bn/add", x, constant(f"{layer}_bn/batchnorm_1/sub", rng.normal(0, 0.05, out)))
        x = node("Relu", f"{layer}_relu/Relu", x)
        x = node("Minimum", f"{layer}_relu/min", x, constant(f"{layer}_relu/Cast", 6.0))
        return node("Maximum", f"{layer}_relu/max", x, constant(f"{layer}_relu/Const_1", 0.0))

    def spread(*shape, fan_in):
        return rng.normal(0, (2 / fan_in) ** 0.5, shape)

    kernel = constant("conv1/convolution/merged_input", spread(3, 3, 3, 32, fan_in=27) / 128)
    x, width = finish("conv1", convolve("Conv2D", "conv1", "input_1", kernel, 2), 32), 32
    for number, (stride, out) in enumerate(BLOCKS, 1):
        layer = f"conv_dw_{number}"
        kernel = constant(f"{layer}/depthwise_kernel", spread(3, 3, width, 1, fan_in=9))
        x = convolve("DepthwiseConv2dNative", layer, x, kernel, stride)
        x = node("Mul", f"{layer}_bn/mul", x, constant(f"{layer}_bn/batchnorm_1/mul", rng.uniform(0.8, 2.4, width)))
        x, layer = finish(layer, x, width), f"conv_pw_{number}"
        kernel = constant(f"{layer}/convolution/merged_input", spread(1, 1, width, out, fan_in=width))
        x, width = finish(layer, convolve("Conv2D", layer, x, kernel, 1), out), out
    constants["axes"] = np.array([1, 2], "<i4")
    node("Mean", "global_pooling/Mean", x, "axes")
    entries = [{"name": k, "shape": list(v.shape), "dtype": v.dtype.name} for k, v in constants.items()]
    listed = [{"name": name, "op": "Const"} for name in constants] + [{"name": "input_1", "op": "Placeholder"}, *nodes]
    graph = {"modelTopology": {"node": listed}, "weightsManifest": [{"paths": ["x.bin"], "weights": entries}]}
    content = json.dumps(graph).encode(), b"".join(value.tobytes() for value in constants.values())
    return dict(zip(FILES, content, strict=True))


def write_archive(path, contents: dict[str, bytes]):
    """A .tgz with these members beside one of another name."""
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, data in {"package/package.json": b"{}", **contents}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def evaluate(contents: dict[str, bytes], image: torch.Tensor, border: float = 0.0) -> torch.Tensor:
    """``global_pooling/Mean`` float64 [N, 1024] of pixels float64 [N, H, W, 3]; ``border`` is padded to the image."""
    graph, data = (contents[name] for name in FILES)
    graph, values, offset = json.loads(graph), {}, 0
    for entry in graph["weightsManifest"][0]["weights"]:
        kind, count = {"float32": "<f4", "int32": "<i4"}[entry["dtype"]], int(np.prod(entry["shape"]))
        array = np.frombuffer(data, kind, count, offset)
        values[entry["name"]] = torch.from_numpy(array.reshape(entry["shape"]).astype(np.float64))
        offset += array.nbytes
    assert offset == len(data)
    for node in graph["modelTopology"]["node"]:
        if node["op"] == "Placeholder":
            values[node["name"]] = image
        elif node["op"] != "Const":
            inputs = [values[name] for name in node["input"]]
            values[node["name"]] = _operation(node, inputs, border if node["input"][0] == "input_1" else 0.0)
        if node["name"] == "global_pooling/Mean":
            return values[node["name"]]
    raise AssertionError("no global_pooling/Mean")


def _operation(node: dict, inputs: list[torch.Tensor], border: float) -> torch.Tensor:
    if node["op"] in ("Conv2D", "DepthwiseConv2dNative"):
        attr, (x, kernel) = node["attr"], inputs
        assert [base64.b64decode(attr[k]["s"]) for k in ("padding", "data_format")] == [b"SAME", b"NHWC"]
        stride, depthwise = int(attr["strides"]["list"]["i"][1]), node["op"] != "Conv2D"
        pads = []
        for size in (x.shape[2], x.shape[1]):
            missing = max((-(-size // stride) - 1) * stride + len(kernel) - size, 0)
            pads += [missing // 2, missing - missing // 2]
        x = F.pad(x, (0, 0, *pads), value=border).permute(0, 3, 1, 2)
        weight = kernel.permute((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))
        return F.conv2d(x, weight, stride=stride, groups=kernel.shape[2] if depthwise else 1).permute(0, 2, 3, 1)
    return {
        "Add": lambda a, b: a + b,
        "Mul": lambda a, b: a * b,
        "Relu": lambda a: a.clamp_min(0),
        "Minimum": torch.minimum,
        "Maximum": torch.maximum,
        "Mean": lambda a, axes: a.mean(tuple(int(axis) for axis in axes)),
    }[node["op"]](*inputs)
