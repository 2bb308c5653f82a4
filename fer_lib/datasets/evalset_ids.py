"""The ids that tell whether two scores can be compared: of the evaluated rows, and of how they were evaluated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from fer_lib.errors import DataError


def evalset_id(sample_ids: Sequence[str], labels: Iterable[int], split: str, tolerance: int) -> str:
    """12 hex; two scores can be compared only when their ids are equal.  Row order does not matter.

    Raises DataError when there is not one label per sample id.
    """
    from fer_lib.calibration.metrics import METRIC_VERSION

    labels = [int(label) for label in labels]
    if len(labels) != len(sample_ids):
        raise DataError(f"evalset_id: {len(sample_ids)} sample ids but {len(labels)} labels; pass one label per row")
    rows = sorted(zip(sample_ids, labels, strict=True))
    text = json.dumps([rows, split, int(tolerance), str(METRIC_VERSION)])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def protocol_id(evalset: str, contract: Any, view: str) -> str:
    """12 hex over the evaluation set, the preprocessing (``contract.id``) and the test-time view."""
    return hashlib.sha256(json.dumps([evalset, contract.id, view]).encode()).hexdigest()[:12]
