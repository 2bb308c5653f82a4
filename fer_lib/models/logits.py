"""A bundle as a function from faces to logits, run by ONNX Runtime or torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from fer_lib.emotions import NUM_CLASSES
from fer_lib.errors import BundleError
from fer_lib.models.bundle import INPUT, OUTPUT, Bundle


def logits_function(
    bundle: Bundle, runtime: Literal["onnx", "torch"], threads: int = 0, spin: bool = True
) -> Callable[[np.ndarray], np.ndarray]:
    """The function of faces float32 [N, 3, S, S]: logits float32 [N, 7], before the temperature, on the CPU.

    ``threads`` and ``spin``: see :func:`fer_lib.onnx_session.open_session`; torch has no ``spin``.
    Raises BundleError when the model does not load; the function raises it when the model fails or gives another shape.
    """
    if runtime == "onnx":
        session = bundle.session(threads, spin)

        def run(faces: np.ndarray) -> np.ndarray:
            return session.run([OUTPUT], {INPUT: faces})[0]

    else:
        import torch

        model = bundle.model()
        if threads:
            torch.set_num_threads(threads)

        def run(faces: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return model(torch.from_numpy(faces)).numpy()

    def logits(faces: np.ndarray) -> np.ndarray:
        try:
            values = run(faces)
            if values.shape != (len(faces), NUM_CLASSES):
                raise ValueError(f"it gives logits {list(values.shape)}, not [N, {NUM_CLASSES}]")
        except Exception as error:  # the runtimes' errors have no class in common
            reason = " ".join(str(error).split())[:500] or type(error).__name__
            raise BundleError(
                f"the model in {bundle.path} fails on faces {list(faces.shape)}: {reason} (run by {runtime}): export "
                "or train it again, or use another model"
            ) from error
        return values

    return logits
