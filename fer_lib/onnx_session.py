"""ONNX Runtime sessions for classifiers and detectors."""

from __future__ import annotations

import os
from pathlib import Path


def open_session(model: Path | str | bytes, threads: int = 0, spin: bool = True):
    """An ONNX Runtime session on the CPU for a file's path or its bytes.

    ``threads`` 0: the runtime's default.  ``spin``: idle threads spin until the next call, which is fastest when no
    other process needs the cores.  Int8 weights are converted to float32 once, at load time.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # an error is an exception; the runtime would print it as well
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    source = model if isinstance(model, bytes) else os.fspath(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
