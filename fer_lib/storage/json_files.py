"""The JSON files that phases leave: reading them, and values made plain, flattened, hashed and dated for them."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fer_lib.errors import FerError


def read_json(path: Path) -> Any:
    """JSON of a file; FerError that names it when it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FerError(f"cannot read {path}: {error}. Run the phase that writes it again with --fresh") from error


def read_outputs(folder: Path | str) -> dict[str, Any]:
    """What a finished phase handed on (its ``outputs.json``); paths inside the phase's folder are relative to it."""
    return read_json(Path(folder) / "outputs.json")


def flatten(values: dict[str, Any], separator: str = ".", prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level: ``{"augment": {"flip": 0.5}}`` -> ``{"augment.flip": 0.5}``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, separator, f"{prefix}{key}{separator}")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def now() -> str:
    """Local time with its offset, to the second."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def plain(value: Any) -> Any:
    """JSON types out of numpy scalars, arrays, tuples and paths; a non-finite number becomes null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def file_sha256(file: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
