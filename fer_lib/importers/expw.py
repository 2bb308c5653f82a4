"""ExpW (Zhang et al. 2018): ``label.lst`` and photos, in ``origin/`` or in their 7z archive.

``expw_full`` has every face as photo and box; ``expw_hq`` the faces of confidence >= ``min_confidence``, by default as
JPEG crops with the content id of photo and box.  Both have the same split, made per photo.
"""

from __future__ import annotations

import io
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from PIL import Image

from fer_lib.datasets.manifest import BOX, content_id
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
_PHOTOS = (
    "origin/origin",
    "origin",
    "Images",
    "image/origin",
    "data/image/origin",
    "origin/image",
    "image",
    "data/image",
)


@dataclass(frozen=True)
class Face:
    """One line of ``label.lst`` at ``where``; ``confidence`` is the face detector's."""

    where: str
    photo: str
    number: int
    box: Box
    confidence: float
    label: int

    def columns(self) -> dict:
        """Record, label and further columns of the face's row, without box and split."""
        return {
            "record": f"{self.photo}#{self.number}",
            "label": self.label,
            "confidence": self.confidence,
            "orig_image": self.photo,
            "face_id": str(self.number),
        }


def read_full(builder: ImportBuilder) -> None:
    read_faces(builder, partial(add_photo_face, builder=builder))


def read_hq(builder: ImportBuilder) -> None:
    spec = builder.spec
    # the folder names how its crops were made, so other crops make another manifest
    folder = f"crops-q{spec.jpeg_quality}-s{spec.jpeg_subsampling}-pad{spec.bbox_pad_ratio:g}"
    contract = FaceContract(margin=spec.bbox_pad_ratio)
    decode_photo = lru_cache(maxsize=1)(decode)  # the faces of a photo are neighbours

    def add_face(face: Face, path: Path, split: str) -> None:
        if face.confidence < spec.min_confidence:
            builder.exclude(split, f"confidence below {spec.min_confidence:g}")
            return
        if builder.skip(split, face.label):
            return
        if not spec.crop:
            add_photo_face(face, path, split, builder)
            return
        data = builder.image_bytes(path)
        try:
            photo = decode_photo(data)
        except DataError as error:
            raise BadRecord("unreadable image", f"{path}: {error}") from error
        builder.check_box(face.box, photo.shape[:2])
        crop, jpeg = Image.fromarray(contract.steps(photo, face.box)["square"]), io.BytesIO()
        crop.save(jpeg, "JPEG", quality=spec.jpeg_quality, subsampling=spec.jpeg_subsampling)
        file, content = f"{folder}/{face.photo}-{face.number}.jpg", content_id(data, face.box)
        builder.add_bytes(jpeg.getvalue(), file, content, split=split, **face.columns())

    read_faces(builder, add_face, min_confidence=spec.min_confidence, write_crops=spec.crop)


def read_faces(builder: ImportBuilder, add_face: Callable[[Face, Path, str], None], **details: object) -> None:
    """Call ``add_face`` with each face of the list, its photo and its split; ``details`` go to the report."""
    root, spec = builder.root, builder.spec
    path = next((root / name for name in _LISTS if (root / name).is_file()), None)
    if path is None:
        raise DataError(f"{builder.name}: {root} has no label.lst: root must be the folder of label.lst and origin/")
    # a stable sort: of two lines of one face the first comes first
    faces = sorted(listed_faces(path, builder), key=lambda face: (face.photo, face.number))
    photos = photo_folder(builder)
    builder.details = {
        "images_dir": str(photos),
        "label_file": str(path),
        "min_confidence": None,
        "write_crops": False,
        "rows_total": len(faces) + len(builder.bad),
        "bad_label": sum(kind == "label out of range" for kind, _ in builder.bad),
        "split_fracs": list(spec.split_fracs),
        "seed": spec.split_seed,
        **details,
    }
    split_of = split_photos(faces, spec)
    for face in faces:
        with builder.record(face.where):
            add_face(face, photos / face.photo, split_of[face.photo])
    counts = Counter(f"{row['split']}|{EMOTIONS[row['label']]}" for row in builder.rows)
    builder.details |= {"rows_kept": len(builder.rows), "counts": dict(sorted(counts.items()))}


def add_photo_face(face: Face, path: Path, split: str, builder: ImportBuilder) -> None:
    """Add a row of photo and box."""
    if builder.skip(split, face.label):
        return
    builder.check_box(face.box, builder.photo_size(path))
    box = dict(zip(BOX, face.box, strict=True))
    builder.add_file(path, face.photo, split=split, **face.columns(), **box)


def split_photos(faces: list[Face], spec: SourceSpec) -> dict[str, str]:
    """Photo -> split, stratified by the label among a photo's faces that is rarest in the list."""
    total = Counter(face.label for face in faces)
    labels = defaultdict(set)
    for face in faces:
        labels[face.photo].add(face.label)
    strata = defaultdict(list)
    for photo, present in labels.items():
        strata[min(present, key=lambda label: (total[label], label))].append(photo)
    split_of = {}
    for photos in strata.values():
        split_of |= assign_splits(photos, spec.split_fracs, spec.split_seed)
    return split_of


def listed_faces(path: Path, builder: ImportBuilder) -> Iterator[Face]:
    """Faces of the lines ``photo face top left right bottom confidence label``."""
    for where, (photo, face, *texts, text) in word_lines(path, 8, builder):
        with builder.record(where):
            file_name(photo)
            number, values, label = whole_number(face, range(10**9)), numbers(texts), whole_number(text, range(7))
            if number is None:
                raise BadRecord("wrong face id", repr(face))
            if values is None:
                raise BadRecord("wrong box", f"{' '.join(texts)!r} are not a box and a confidence")
            if label is None:
                raise BadRecord("label out of range", f"{text!r} is not 0..{NUM_CLASSES - 1}")
            top, left, right, bottom, confidence = values
            yield Face(where, photo, number, (top, left, bottom, right), confidence, label)


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
    if not folder.is_dir():
        return False
    with os.scandir(folder) as files:
        return any(os.path.splitext(file.name)[1].lower() in IMAGE_SUFFIXES for file in files)


_CROP_OPTIONS = ("min_confidence", "crop", "jpeg_quality", "jpeg_subsampling", "bbox_pad_ratio")
DECLARATIONS = {"expw_full": Source(read_full, OPTIONS), "expw_hq": Source(read_hq, (*OPTIONS, *_CROP_OPTIONS))}
