"""Executed by MLflow when a registered model is loaded (models from code: nothing is pickled)."""

from mlflow.models import set_model

from fer_lib.deploy.pyfunc import FerModel

set_model(FerModel())
