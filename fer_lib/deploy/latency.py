"""Inference latency: the rows of ``latencybenchmarks.csv``."""

from __future__ import annotations

import timeit
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fer_lib.models.bundle import WEIGHTS, Bundle
from fer_lib.models.bundle_format import INPUT, OUTPUT
from fer_lib.onnx_session import open_session
from fer_lib.storage.progress import step

COLUMNS = ("model", "precision", "runtime", "threads", "batch", "size", "p50_ms", "p95_ms", "p99_ms", "images_per_sec")
WARM_UP = 3  # calls


def benchmark(
    bundle: Bundle,
    onnx_files: dict[str, Path],
    batches: Sequence[int] = (1, 32),
    threads: int = 1,
    iterations: int = 20,
) -> list[dict[str, Any]]:
    """Time the torch model and each ONNX file (precision name -> path) on the CPU with `threads` threads.

    Returns one row (COLUMNS) per runtime and batch size: quantiles in milliseconds per call over `iterations` calls
    after WARM_UP others, and images per second from the median.  A bundle without torch weights has no torch rows.
    Inputs are cropped and normalised faces: detection and decoding are not included.
    """
    import torch

    size, rng = bundle.contract.image_size, np.random.default_rng(0)
    inputs = {b: rng.standard_normal((b, 3, size, size), dtype=np.float32) for b in batches}
    rows = []

    def add(precision: str, runtime: str, call: Callable[[np.ndarray], Any]) -> None:
        for batch, faces in inputs.items():
            with step(f"timing {runtime} {precision}, batch {batch}"):
                seconds = timeit.repeat(partial(call, faces), number=1, repeat=WARM_UP + iterations)[WARM_UP:]
            p50, p95, p99 = (float(q) for q in 1e3 * np.quantile(seconds, (0.5, 0.95, 0.99)))
            values = (bundle.name, precision, runtime, threads, batch, size, p50, p95, p99, batch / p50 * 1e3)
            rows.append(dict(zip(COLUMNS, values, strict=True)))

    for precision, path in onnx_files.items():
        session = open_session(path, threads)
        add(precision, "onnxruntime", lambda faces, session=session: session.run([OUTPUT], {INPUT: faces}))
    if bundle.has(WEIGHTS):
        model, before = bundle.model(), torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with torch.inference_mode():
                add("fp32", "torch", lambda faces: model(torch.from_numpy(faces)))
        finally:
            torch.set_num_threads(before)
    return rows
