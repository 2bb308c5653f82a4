"""Faces cut from photos and stored as JPEGs."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from fer_lib.datasets.manifest import content_id
from fer_lib.errors import DataError
from fer_lib.faces.contract import FaceContract
from fer_lib.faces.decode import decode
from fer_lib.importers.builder import BadRecord, Box, ImportBuilder, leaves_photo

OPTIONS = ("crop", "jpeg_quality", "jpeg_subsampling", "bbox_pad_ratio")
_decode_photo = lru_cache(maxsize=1)(decode)  # the faces of a photo are neighbours


def add_crop(
    path: Path, file: str, builder: ImportBuilder, *, split: str, label: int, box: Box, **columns: Any
) -> None:
    """Add a row, if it is wanted, of a JPEG crop called ``file``, with the content id of photo and box."""
    if builder.wanted(split, label) is None:
        return
    spec, data = builder.spec, builder.image_bytes(path)
    try:
        photo = _decode_photo(data)
    except DataError as error:
        raise BadRecord("unreadable image", f"{path}: {error}") from error
    builder.boxes_outside += leaves_photo(box, photo.shape[:2])
    square = FaceContract(margin=spec.bbox_pad_ratio).steps(photo, box)["square"]
    jpeg = io.BytesIO()
    Image.fromarray(square).save(jpeg, "JPEG", quality=spec.jpeg_quality, subsampling=spec.jpeg_subsampling)
    # the folder names how its crops were made, so other crops make another manifest
    relative = f"crops-q{spec.jpeg_quality}-s{spec.jpeg_subsampling}-pad{spec.bbox_pad_ratio:g}/{file}"
    content = content_id(data, box)
    builder.add_image(jpeg.getvalue(), relative, split=split, label=label, content=content, **columns)
