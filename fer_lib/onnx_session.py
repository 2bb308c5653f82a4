"""Opening ONNX files with ONNX Runtime, in one way for classifiers and detectors."""

from __future__ import annotations

import os
from pathlib import Path


def open_session(model: Path | str | bytes, threads: int = 0, spin: bool = True):
    """onnxruntime session on the CPU for a file's path or its bytes.

    ``threads`` 0: the runtime's own choice.  ``spin``: they wait for the next call at work, which is fastest where
    nothing else wants the cores.  Int8 weights are turned into float32 once, on loading, instead of at each call.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    source = model if isinstance(model, bytes) else os.fspath(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
