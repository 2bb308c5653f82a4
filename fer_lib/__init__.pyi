from typing import Any

from fer_lib.calibration import metrics as metrics
from fer_lib.calibration import plots as plots
from fer_lib.calibration import temperature as temperature
from fer_lib.datasets.manifest import Manifest as Manifest
from fer_lib.deploy.predict import Predictor as Predictor
from fer_lib.emotions import EMOTIONS as EMOTIONS
from fer_lib.errors import FerError as FerError
from fer_lib.faces.contract import FaceContract as FaceContract
from fer_lib.models.bundle import Bundle as Bundle
from fer_lib.models.bundle import read_bundle as read_bundle

__version__: str

def load(uri: str = ..., **options: Any) -> Predictor: ...
