"""Facial expression recognition: seven classes, calibrated models, comparable runs."""

import os
import warnings

from fer_lib import _torchvision
from fer_lib.default_model import URI as _DEFAULT
from fer_lib.emotions import EMOTIONS

_torchvision.install()
# Spinning OpenMP threads compete for cores with other processes: a small model then trains at a third of its speed.
# OpenMP reads this once, when torch loads it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Switch off the telemetry of ONNX Runtime, MLflow and huggingface_hub, which timm imports.  They must be set before the
# imports; kernels inherit them.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# In a notebook, the import of tqdm warns that ipywidgets is missing.  Its text bars need no widgets.
warnings.filterwarnings("ignore", "IProgress not found")

__version__ = "0.1.0"
_LAZY = {  # public name -> its module, imported on first use; a name may be a module
    "Bundle": "fer_lib.models.bundle",
    "FaceContract": "fer_lib.faces.contract",
    "FerError": "fer_lib.errors",
    "Manifest": "fer_lib.datasets.manifest",
    "Predictor": "fer_lib.deploy.predict",
    "metrics": "fer_lib.calibration.metrics",
    "plots": "fer_lib.calibration.plots",
    "read_bundle": "fer_lib.models.bundle",
    "temperature": "fer_lib.calibration.temperature",
}
__all__ = ["EMOTIONS", "load", *_LAZY]


def load(uri: str = _DEFAULT, **options):
    """A predictor for ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, ``runs:/ID/PATH``, a folder, or ``packaged``.

    ``options`` are those of :class:`fer_lib.deploy.predict.Predictor`.  Raises FerError when the model does not exist.
    """
    from fer_lib.deploy.predict import Predictor
    from fer_lib.models.bundle import read_bundle
    from fer_lib.tracking.registry import model_name, resolve

    predictor = Predictor(read_bundle(resolve(uri)), **options)
    predictor.name = model_name(uri, predictor.bundle)
    return predictor


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module 'fer_lib' has no attribute {name!r}")
    import importlib

    module = importlib.import_module(_LAZY[name])
    value = module if _LAZY[name].endswith(f".{name}") else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
