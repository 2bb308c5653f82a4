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
    run = _onnx(bundle, threads, spin) if runtime == "onnx" else _torch(bundle, threads)

    def logits(faces: np.ndarray) -> np.ndarray:
        try:
            values = run(faces)
        except Exception as error:  # the runtimes' errors have no class in common
            reason = " ".join(str(error).split())[:500] or type(error).__name__
            raise BundleError(_message(bundle, runtime, f"fails on faces {list(faces.shape)}: {reason}")) from error
        if values.shape != (len(faces), NUM_CLASSES):
            what = f"gives logits {list(values.shape)} for faces {list(faces.shape)}, not [N, {NUM_CLASSES}]"
            raise BundleError(_message(bundle, runtime, what))
        return values

    return logits


def _message(bundle: Bundle, runtime: str, what: str) -> str:
    return f"the model in {bundle.path} {what} (run by {runtime}): export or train it again, or use another model"


def _onnx(bundle: Bundle, threads: int, spin: bool) -> Callable[[np.ndarray], np.ndarray]:
    session = bundle.session(threads, spin)
    return lambda faces: session.run([OUTPUT], {INPUT: faces})[0]


def _torch(bundle: Bundle, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    import torch

    model = bundle.model()
    if threads:
        torch.set_num_threads(threads)

    def run(faces: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(faces)).numpy()

    return run
