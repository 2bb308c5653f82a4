"""ExpW, the faces of confidence >= ``min_confidence``: crops, or photos with boxes.

``crop`` writes each face as a JPEG; its row has no box, but the content id of photo and box, as in ``expw_full``.
"""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from fer_lib.datasets.manifest import content_id
from fer_lib.errors import DataError
from fer_lib.faces.contract import FaceContract
from fer_lib.faces.decode import decode
from fer_lib.importers.builder import BadRecord, ImportBuilder, Source
from fer_lib.importers.expw import Face, add_faces, add_photo_face
from fer_lib.importers.splits import OPTIONS
from fer_lib.params import SourceSpec


def read(builder: ImportBuilder) -> None:
    spec = builder.spec
    # the folder names how its crops were made, so other crops make another manifest
    folder = f"crops-q{spec.jpeg_quality}-s{spec.jpeg_subsampling}-pad{spec.bbox_pad_ratio:g}"
    contract = FaceContract(margin=spec.bbox_pad_ratio)
    decode_photo = lru_cache(maxsize=1)(decode)  # the faces of a photo are neighbours

    def add_face(face: Face, path: Path, split: str) -> None:
        if face.confidence < spec.min_confidence:
            builder.exclude(split, f"confidence below {spec.min_confidence:g}")
        elif not spec.crop:
            add_photo_face(face, path, split, builder)
        else:
            data = builder.image_bytes(path)
            try:
                photo = decode_photo(data)
            except DataError as error:
                raise BadRecord("unreadable image", f"{path}: {error}") from error
            builder.check_box(face.box, photo.shape[:2])
            file = f"{folder}/{face.photo}-{face.number}.jpg"
            # the contract's square: a face from the crop and one from photo and box differ by the JPEG alone
            jpeg = encode_jpeg(contract.steps(photo, face.box)["square"], spec)
            builder.add_bytes(jpeg, file, content_id(data, face.box), split=split, **face.columns())

    add_faces(builder, add_face, min_confidence=spec.min_confidence, write_crops=spec.crop)


def encode_jpeg(image: np.ndarray, spec: SourceSpec) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=spec.jpeg_quality, subsampling=spec.jpeg_subsampling)
    return stream.getvalue()


SOURCE = Source(read, (*OPTIONS, "min_confidence", "crop", "jpeg_quality", "jpeg_subsampling", "bbox_pad_ratio"))
