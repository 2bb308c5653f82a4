"""The log of test-set openings: every time models are measured on test rows.

A score on test rows is unbiased only while no choice depends on such scores.  The log counts how often the rows of an
evalset id were opened.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from fer_lib.datasets.evalset_ids import evalset_id
from fer_lib.datasets.manifest import Manifest
from fer_lib.storage.atomic import append_synced
from fer_lib.storage.json_files import try_read_json

OPENINGS = "test_openings.jsonl"


def log_test_opening(
    rows: Manifest,
    weights: Mapping[str, Sequence[str]],
    purpose: str,
    cache_dir: Path,
    folder: Path,
    label: str = "test",
    **facts: Any,
) -> None:
    """Log that models are about to be measured on the test rows among ``rows``; does nothing without test rows.

    ``weights``: model -> SHA-256 of its weights (an ensemble has several).  ``folder``: the phase's folder, whose
    ``phase.json`` names phase and run.  ``label``: the split name in the rows' evalset id.  ``facts`` are added to the
    line.  The line goes to the store's log beside ``cache_dir`` and to ``folder``, whose copy becomes an artifact of
    the run.  Raises DataError when a log can't be written.
    """
    test = rows.frame[rows.frame["split"] == "test"]
    if test.empty:
        return
    known = try_read_json(folder / "phase.json") or {}
    evalset = evalset_id(test["sample_id"].tolist(), test["label"], label, int(rows.meta.get("tolerance", 0)))
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "run_id": known.get("run_id"),
        "phase": known.get("phase"), "purpose": purpose, "split": "test", "evalset_id": evalset, "n": len(test),
        "weights": {name: list(hashes) for name, hashes in weights.items()}, **facts,
    }  # fmt: skip
    for needed in (cache_dir, folder):
        needed.mkdir(parents=True, exist_ok=True)
    with FileLock(cache_dir / f".{OPENINGS}.lock"):
        for file in dict.fromkeys((store_log(cache_dir), folder.absolute() / OPENINGS)):
            whole = not file.is_file() or file.read_bytes().endswith(b"\n")  # else a kill cut off its last line
            append_synced(file, b"" if whole else b"\n", json.dumps(line).encode() + b"\n")


def store_log(cache_dir: Path) -> Path:
    """The log of the store whose cache is ``cache_dir``."""
    return cache_dir.absolute().parent / OPENINGS


def opening_count(folder: Path, cache_dir: Path) -> int:
    """How often this store opened the test rows that the phase in ``folder`` opened last; 0 when it opened none."""
    opened = _evalsets(folder / OPENINGS)
    return _evalsets(store_log(cache_dir)).count(opened[-1]) if opened else 0


def _evalsets(log: Path) -> list[str]:
    """The evalset id of each line, without truncated lines."""
    evalsets = []
    for line in log.read_bytes().splitlines() if log.is_file() else []:
        try:
            evalsets.append(json.loads(line)["evalset_id"])
        except (ValueError, KeyError, TypeError, RecursionError):  # KeyError: a line of an earlier version
            continue
    return evalsets
