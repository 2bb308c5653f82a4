"""The log of every time that models are measured on test rows.

A score on test rows is an unbiased estimate only while no choice was made by looking at such scores, so every look is
written down: how often the rows of an evalset id were opened can be counted.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from fer_lib.datasets.manifest import Manifest, evalset_id
from fer_lib.storage.atomic import explained, readable

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
    """Log that models are about to be measured on the test rows among ``rows``; nothing where there are none.

    ``weights``: model -> SHA-256 of its weights (an ensemble has several).  ``folder``: the phase's folder; its
    ``phase.json`` names phase and run where there is one.  ``label``: what the rows' evalset id is made with.
    ``facts`` are added to the line.  It goes to the store's log beside ``cache_dir`` and to ``folder``, whose copy
    becomes an artifact of the phase's run.  Raises DataError when the disk refuses.
    """
    test = rows.frame[rows.frame["split"] == "test"]
    if test.empty:
        return
    phase = folder / "phase.json"
    known = json.loads(phase.read_text(encoding="utf-8")) if phase.is_file() else {}
    evalset = evalset_id(test["sample_id"].tolist(), test["label"], label, int(rows.meta.get("tolerance", 0)))
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "run_id": known.get("run_id"),
        "phase": known.get("phase"), "purpose": purpose, "split": "test", "evalset_id": evalset, "n": len(test),
        "weights": {name: list(own) for name, own in weights.items()}, **facts,
    }  # fmt: skip
    with explained(cache_dir):
        cache_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(cache_dir / f".{OPENINGS}.lock"):
        for file in dict.fromkeys((store_log(cache_dir), folder.absolute() / OPENINGS)):
            _append(file, json.dumps(line))


def store_log(cache_dir: Path) -> Path:
    """The log of the store whose cache is ``cache_dir``."""
    return cache_dir.absolute().parent / OPENINGS


def opening_count(folder: Path, cache_dir: Path) -> int:
    """How often the test rows that the phase in ``folder`` read last were read in this store; 0 where it read none."""
    own = _evalsets(folder / OPENINGS)
    return _evalsets(store_log(cache_dir)).count(own[-1]) if own else 0


def _evalsets(log: Path) -> list[str]:
    """The evalset id of each line; a line that a crash cut short is left out."""
    found = []
    with readable(log):
        lines = log.read_bytes().splitlines() if log.is_file() else []
    for line in lines:
        try:
            found.append(json.loads(line)["evalset_id"])
        except (ValueError, KeyError):  # KeyError: a line of an earlier version
            continue
    return found


def _append(file: Path, text: str) -> None:
    """One more line, synced; a line that a crash cut short stays a line of its own."""
    with explained(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "ab+") as stream:
            end = stream.seek(0, os.SEEK_END)
            stream.seek(max(end - 1, 0))
            cut = stream.read(1) not in (b"", b"\n")
            stream.write(b"\n" * cut + text.encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
