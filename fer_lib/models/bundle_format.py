"""The bundle's file format: names, checksum, and the verification of a folder.

``bundle.json`` holds the format version, class order, model configuration, face contract, temperature, training prior
and data, ids and metrics, the SHA-256 of each other file, and a checksum of itself.  The other files are
``model.safetensors`` (the weights) and, after an export, ``model.onnx``; a packaged bundle may have only the latter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fer_lib.emotions import EMOTIONS
from fer_lib.errors import BundleError
from fer_lib.storage.json_files import file_sha256

FORMAT_VERSION = 1
META = "bundle.json"
WEIGHTS = "model.safetensors"
ONNX = "model.onnx"
ADVICE = "copy the bundle again from its source, or run the phase that wrote it with --fresh"


def read_meta(path: Path) -> dict[str, Any]:
    """The content of ``bundle.json`` in the folder ``path``, after its checks.

    Checked are the format version, the class order, its own checksum and the hash of every file.
    Raises BundleError, with the file and the next step, when a check fails.
    """
    file = path / META
    try:
        meta = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise BundleError(
            f"{path} is no bundle: {META} is missing; give a folder that a fit or export phase wrote"
        ) from error
    except (ValueError, NotADirectoryError) as error:
        raise BundleError(f"{file} is not readable JSON ({error}); {ADVICE}") from error
    version = meta.get("format_version") if isinstance(meta, dict) else None
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{file} has format_version {version!r}, this fer-lab reads {FORMAT_VERSION}: use the version that wrote "
            "it, or export the model again"
        )
    if meta.get("classes") != list(EMOTIONS):
        raise BundleError(
            f"{file}: class order {meta.get('classes')} is not {list(EMOTIONS)}; the model must be trained again"
        )
    if meta.get("checksum") != checksum(meta):
        raise BundleError(f"{file} was changed after it was written (checksum differs); {ADVICE}")
    files = meta["files"]
    if not (WEIGHTS in files or ONNX in files):
        raise BundleError(f"{file} lists neither {WEIGHTS} nor {ONNX}; {ADVICE}")
    for name, expected in files.items():
        if not is_plain_name(name):
            raise BundleError(f"{file} lists {name!r}, which is no plain file name; {ADVICE}")
        if not (path / name).is_file():
            raise BundleError(f"{path / name} is missing; {ADVICE}")
        if (digest := file_sha256(path / name)) != expected:
            raise BundleError(
                f"{path / name} is damaged or was changed: SHA-256 {digest[:12]}..., {META} says {expected[:12]}...; "
                f"{ADVICE}"
            )
    return meta


def checksum(meta: Mapping[str, Any]) -> str:
    """SHA-256 of the content of ``bundle.json`` without its ``checksum``."""
    body = {k: v for k, v in meta.items() if k != "checksum"}
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def is_plain_name(name: str) -> bool:
    """Whether ``name`` is a file name that stays in its folder: no separator, drive or leading dot."""
    return bool(name) and not name.startswith(".") and not any(c in name for c in "/\\:\0")
