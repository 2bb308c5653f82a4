"""Facial expression recognition that can be trusted: seven clean classes, calibrated models, comparable runs."""

from fer_lib import _torchvision
from fer_lib.emotions import EMOTIONS

_torchvision.install()

__version__ = "0.1.0"
__all__ = ["EMOTIONS", "load"]


def load(uri: str = "models:/fer-student@champion", **options):
    """A ready predictor: ``load(uri).predict(image)``; see :func:`fer_lib.deploy.predict.load`."""
    from fer_lib.deploy.predict import load as _load

    return _load(uri, **options)
