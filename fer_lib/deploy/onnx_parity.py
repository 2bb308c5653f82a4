"""Compare an exported ONNX file with the torch model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fer_lib.faces.contract import Box
from fer_lib.models.bundle import Bundle
from fer_lib.models.bundle_format import INPUT, OUTPUT
from fer_lib.onnx_session import open_session


def parity(
    bundle: Bundle,
    onnx_path: Path | str,
    n: int = 64,
    images: Sequence[np.ndarray] | None = None,
    boxes: Sequence[Box | None] | None = None,
) -> dict[str, Any]:
    """Compare the ONNX file with the torch model on `n` random inputs and on faces in `images` (uint8 RGB), if any.

    Returns the keys of ``onnxparity.json``: max_abs_diff (of logits), providers, opset, n (all inputs), n_real
    (`images`), max_abs_logit, label_agreement (share).  Batches of 1 and of more than 1 are run.
    """
    import onnx
    import torch

    size = bundle.contract.image_size
    faces = np.random.default_rng(0).standard_normal((n, 3, size, size), dtype=np.float32)
    if images:
        items = [(image, box, None) for image, box in zip(images, boxes or [None] * len(images), strict=True)]
        faces = np.concatenate([faces, bundle.contract.batch(items)])
    session, model = open_session(onnx_path), bundle.model()
    onnx_logits, torch_logits = [], []
    for chunk in np.split(faces, [1, *range(33, len(faces), 32)]):
        if len(chunk):
            onnx_logits.append(session.run([OUTPUT], {INPUT: chunk})[0])
            with torch.no_grad():
                torch_logits.append(model(torch.from_numpy(chunk)).numpy())
    actual, expected = (np.concatenate(logits).astype(np.float64) for logits in (onnx_logits, torch_logits))
    return {
        "max_abs_diff": float(np.abs(actual - expected).max()),
        "providers": session.get_providers(),
        "opset": next(o.version for o in onnx.load(onnx_path).opset_import if o.domain in ("", "ai.onnx")),
        "n": len(faces),
        "n_real": len(images or ()),
        "max_abs_logit": float(np.abs(expected).max()),
        "label_agreement": float((actual.argmax(1) == expected.argmax(1)).mean()),
    }
