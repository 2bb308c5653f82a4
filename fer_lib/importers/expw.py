"""ExpW (Zhang et al. 2018): ``label.lst`` and photos, in ``origin/`` or in their 7z archive.

``expw_full`` has every face as photo and box; ``expw_hq`` the faces of confidence >= ``min_confidence``, by default as
JPEG crops with the content id of photo and box.  Both have the same split, made per photo.
"""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from fer_lib.datasets.manifest import content_id
from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.errors import DataError
from fer_lib.faces.contract import FaceContract
from fer_lib.faces.decode import decode
from fer_lib.importers.archives import unpacked
from fer_lib.importers.builder import BadRecord, Box, ImportBuilder, Source
from fer_lib.importers.image_files import IMAGE_SUFFIXES
from fer_lib.importers.subject_splits import OPTIONS, assign_splits
from fer_lib.importers.text_files import file_name, numbers, whole_number, word_lines
from fer_lib.params import SourceSpec

# as unpacked, and as in the folders of the original archive
_LISTS = ("label.lst", "label/label.lst", "data/label/label.lst")
_PHOTOS = "origin/origin origin Images image/origin data/image/origin origin/image image data/image".split()
_decode_photo = lru_cache(maxsize=1)(decode)  # the faces of a photo are neighbours


class Face(NamedTuple):
    """One line of ``label.lst`` at ``where``; ``columns``: those of its row besides box and split."""

    photo: str
    number: int
    where: str
    box: Box
    columns: dict[str, Any]


def read(builder: ImportBuilder) -> None:
    root, spec = builder.root, builder.spec
    path = next((root / name for name in _LISTS if (root / name).is_file()), None)
    if path is None:
        raise DataError(f"{builder.name}: {root} has no label.lst: root must be the folder of label.lst and origin/")
    # a stable sort: of two lines of one face the first comes first
    faces = sorted(listed_faces(path, builder), key=lambda face: (face.photo, face.number))
    photos, is_hq = photo_folder(builder), spec.source == "expw_hq"
    builder.details = {
        "images_dir": str(photos),
        "label_file": str(path),
        "min_confidence": spec.min_confidence if is_hq else None,
        "write_crops": is_hq and spec.crop,
        "rows_total": len(faces) + len(builder.bad),
        "bad_label": sum(kind == "label out of range" for kind, _ in builder.bad),
        "split_fracs": list(spec.split_fracs),
        "seed": spec.split_seed,
    }
    split_of = split_photos(faces, spec)
    for face in faces:
        split, photo = split_of[face.photo], photos / face.photo
        with builder.record(face.where):
            if is_hq and face.columns["confidence"] < spec.min_confidence:
                builder.exclude(split, f"confidence below {spec.min_confidence:g}")
            elif builder.skip(split, face.columns["label"]):
                continue
            elif is_hq and spec.crop:
                add_crop(face, photo, split, builder)
            else:
                builder.add_file(photo, face.photo, box=face.box, split=split, **face.columns)
    counts = Counter(f"{row['split']}|{EMOTIONS[row['label']]}" for row in builder.rows)
    builder.details |= {"rows_kept": len(builder.rows), "counts": dict(sorted(counts.items()))}


def listed_faces(path: Path, builder: ImportBuilder) -> Iterator[Face]:
    """Faces of the lines ``photo face top left right bottom confidence label``."""
    for where, (photo, face, *texts, text) in word_lines(path, 8, builder):
        with builder.record(where):
            file_name(photo)
            number = whole_number(face, range(10**9), "wrong face id")
            top, left, right, bottom, confidence = numbers(texts, "wrong box")
            columns = {"record": f"{photo}#{number}", "label": whole_number(text, range(NUM_CLASSES))}
            columns |= {"confidence": confidence, "orig_image": photo, "face_id": str(number)}
            yield Face(photo, number, where, (top, left, bottom, right), columns)


def split_photos(faces: list[Face], spec: SourceSpec) -> dict[str, str]:
    """Photo -> split, stratified by the label among a photo's faces that is rarest in the list."""
    total = Counter(face.columns["label"] for face in faces)
    labels, strata, split_of = defaultdict(set), defaultdict(list), {}
    for face in faces:
        labels[face.photo].add(face.columns["label"])
    for photo, present in labels.items():
        strata[min(present, key=lambda label: (total[label], label))].append(photo)
    for photos in strata.values():
        split_of |= assign_splits(photos, spec.split_fracs, spec.split_seed)
    return split_of


def add_crop(face: Face, path: Path, split: str, builder: ImportBuilder) -> None:
    """Add a row of a JPEG crop, with the content id of photo and box."""
    spec, data = builder.spec, builder.image_bytes(path)
    try:
        photo = _decode_photo(data)
    except DataError as error:
        raise BadRecord("unreadable image", f"{path}: {error}") from error
    builder.check_box(face.box, photo.shape[:2])
    square = FaceContract(margin=spec.bbox_pad_ratio).steps(photo, face.box)["square"]
    jpeg = io.BytesIO()
    Image.fromarray(square).save(jpeg, "JPEG", quality=spec.jpeg_quality, subsampling=spec.jpeg_subsampling)
    # the folder names how its crops were made, so other crops make another manifest
    folder = f"crops-q{spec.jpeg_quality}-s{spec.jpeg_subsampling}-pad{spec.bbox_pad_ratio:g}"
    file, content = f"{folder}/{face.photo}-{face.number}.jpg", content_id(data, face.box)
    builder.add_bytes(jpeg.getvalue(), file, content, split=split, **face.columns)


def photo_folder(builder: ImportBuilder) -> Path:
    """The folder of the photos below the root, or in the unpacked archive."""
    root, name = builder.root, builder.name
    if folder := next((root / place for place in _PHOTOS if holds_images(root / place)), None):
        return folder
    parts = sorted({path for place in ("", *_PHOTOS) for path in (root / place).glob("*.7z*")})
    if not parts:
        raise DataError(f"{name}: {root} has no origin/ with photos, nor its archive origin.7z.001, .002, ...")
    content = unpacked(parts, "origin.7z", name)
    if folder := next((content / place for place in (*_PHOTOS, "") if holds_images(content / place)), None):
        return folder
    raise DataError(
        f"{name}: the archive {parts[0]} holds no photos in origin/, where ExpW has them: download it again"
    )


def holds_images(folder: Path) -> bool:
    return folder.is_dir() and any(file.suffix.lower() in IMAGE_SUFFIXES for file in folder.iterdir())


_CROP_OPTIONS = ("min_confidence", "crop", "jpeg_quality", "jpeg_subsampling", "bbox_pad_ratio")
DECLARATIONS = {"expw_full": Source(read, OPTIONS), "expw_hq": Source(read, (*OPTIONS, *_CROP_OPTIONS))}
