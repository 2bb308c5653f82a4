"""JSON files that phases write: reading, conversion to JSON types, flattening, hashing and time stamps."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fer_lib.errors import FerError


def read_json(path: Path) -> Any:
    """The JSON value in a file.  Raises FerError naming the file when it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FerError(f"cannot read {path}: {error}. Run the phase that writes it again with --fresh") from error


def try_read_json(path: Path) -> Any:
    """The JSON value in a file; None when the file is missing, is being replaced or is broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def json_text(value: Any) -> str:
    """``value`` as indented JSON with a final newline.

    Paths, NumPy scalars and arrays and pydantic models are converted.  Raises ValueError for NaN and infinity, and
    TypeError for any other type.
    """
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=_json_type) + "\n"


def read_outputs(folder: Path | str) -> dict[str, Any]:
    """The ``outputs.json`` of a finished phase; paths inside the phase's folder are relative to it."""
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
    """``value`` with JSON types only, converted as in :func:`json_text`; a non-finite number becomes null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int)) else plain(_json_type(value))


def _json_type(value: Any) -> Any:
    if isinstance(value, Path):
        return value.as_posix()
    if hasattr(value, "tolist"):  # NumPy
        return value.tolist()
    if hasattr(value, "model_dump"):  # pydantic
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def file_sha256(file: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
