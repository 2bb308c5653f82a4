"""Executed by MLflow when a registered model is loaded (models from code: nothing is pickled)."""

from mlflow.models import set_model

import fer_lib  # noqa: F401  (first: it makes torchvision importable beside a CPU build of torch)
from fer_lib.deploy.pyfunc import FerModel

set_model(FerModel())
