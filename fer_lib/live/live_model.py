"""A bundle in a live session: face tensors to calibrated probabilities, and the "Unknown" decision."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from fer_lib.calibration.bias import read_logit_bias
from fer_lib.calibration.metrics import softmax
from fer_lib.calibration.temperature import Temperature
from fer_lib.emotions import NUM_CLASSES
from fer_lib.live.session_files import UNKNOWN
from fer_lib.live.smoothing import Smoothed
from fer_lib.models.bundle import ONNX, Bundle
from fer_lib.models.logits import logits_function
from fer_lib.params import LiveParams


class LiveModel:
    """The model of one session, for use in one thread; ``contract`` describes its input."""

    def __init__(self, bundle: Bundle, p: LiveParams):
        """Temperature, bias and abstention thresholds are the bundle's unless ``p`` overrides them.

        DataError for an invalid ``logit_bias`` file, BundleError for a bundle that does not load or fails.
        """
        self.bundle, self.contract = bundle, bundle.contract
        self.temperature = bundle.temperature
        if p.temperature is not None:
            self.temperature = Temperature(mode="fixed", global_temperature=p.temperature)
        bias = read_logit_bias(p.logit_bias) if p.logit_bias else bundle.logit_bias
        self.logit_bias = np.zeros(NUM_CLASSES) if bias is None else bias
        self.abstention = bundle.abstention if p.abstention is None else np.asarray(p.abstention)
        self.runtime: Literal["onnx", "torch"] = "onnx" if bundle.has(ONNX) else "torch"
        self._run = logits_function(bundle, self.runtime, p.threads, spin=False)
        side = self.contract.image_size
        self.probs(np.zeros((1, 3, side, side), np.float32))  # warm-up: the first call is slow

    def probs(self, faces: np.ndarray) -> np.ndarray:
        """Calibrated probabilities float64 [N, 7] of ``faces`` float32 [N, 3, S, S], before any smoothing."""
        logits = np.asarray(self._run(faces), dtype=np.float64)
        return softmax((logits if self.temperature is None else self.temperature.apply(logits)) + self.logit_bias)

    def label(self, smoothed: Smoothed) -> int:
        """The label to show: the smoothed one, or UNKNOWN when its probability is below its class's threshold."""
        if smoothed.stable and self.abstention is not None:
            if smoothed.probs[smoothed.label] < self.abstention[smoothed.label]:
                return UNKNOWN
        return smoothed.label

    def info(self) -> dict[str, Any]:
        """The entry ``model_facts`` of ``session.json``."""
        return {
            "name": self.bundle.name, "weights_sha256": self.bundle.weights_sha256, "contract": self.contract.id,
            "runtime": self.runtime,
            "temperature": None if self.temperature is None else self.temperature.model_dump(),
            "logit_bias": self.logit_bias.tolist(),
            "abstention": None if self.abstention is None else self.abstention.tolist(),
        }  # fmt: skip
