"""ExpW (Zhang et al. 2018), what its two sources share: ``label.lst``, the photos, and who is train, val and test."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.errors import DataError
from fer_lib.importers.archives import unpacked
from fer_lib.importers.base import ImportBuilder
from fer_lib.importers.image_files import PICTURES
from fer_lib.importers.lists import assign_splits, listed, numbers, plain, whole
from fer_lib.importers.photos import Box
from fer_lib.params import SourceSpec
from fer_lib.storage.atomic import readable

# where a download has them: as it is unpacked, and in the folders of the original archive
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
    """One line of ``label.lst``; ``where`` names it, ``confidence`` is the face detector's."""

    where: str
    photo: str
    face: int
    box: Box
    confidence: float
    label: int

    @property
    def record(self) -> str:
        return f"{self.photo}#{self.face}"


@dataclass(frozen=True)
class ExpW:
    """The readable lines of the list by photo and face, the folder of the photos, and each photo's split."""

    faces: list[Face]
    photos: Path
    split_of: dict[str, str]


def read_expw(spec: SourceSpec, root: Path, draft: ImportBuilder) -> ExpW:
    """List, photos and splits; the report's ExpW keys but for those that :func:`finish` counts.

    The split is made once per photo over the full list, so that ``expw_hq`` inherits that of ``expw_full``.
    """
    path = next((root / name for name in _LISTS if (root / name).is_file()), None)
    if path is None:
        raise DataError(f"{draft.name}: {root} has no label.lst: root is the folder that holds label.lst and origin/")
    faces = sorted(
        _faces(path, draft), key=lambda face: (face.photo, face.face)
    )  # of doubled ones the first line first
    photos = _photo_folder(root, draft)
    draft.details = {
        "images_dir": str(photos),
        "label_file": str(path),
        "min_confidence": None,
        "write_crops": False,
        "rows_total": len(faces) + len(draft.bad),
        "rows_kept": 0,
        "bad_label": sum(kind == "label out of range" for kind, _ in draft.bad),
        "split_fracs": list(spec.split_fracs),
        "seed": spec.split_seed,
        "counts": {},
    }
    return ExpW(faces, photos, split_photos(faces, spec))


def finish(draft: ImportBuilder) -> None:
    """Count what was kept into the report."""
    counts = Counter(f"{row['split']}|{EMOTIONS[row['label']]}" for row in draft.rows)
    draft.details |= {"rows_kept": len(draft.rows), "counts": dict(sorted(counts.items()))}


def split_photos(faces: list[Face], spec: SourceSpec) -> dict[str, str]:
    """Photo -> split, stratified by label: a photo stands for the label among its faces that is rarest in the list."""
    total = Counter(face.label for face in faces)
    labels = defaultdict(set)
    for face in faces:
        labels[face.photo].add(face.label)
    strata = defaultdict(list)
    for photo, present in labels.items():
        strata[min(present, key=lambda label: (total[label], label))].append(photo)
    split_of: dict[str, str] = {}
    for photos in strata.values():
        split_of |= assign_splits(photos, spec.split_fracs, spec.split_seed)
    return split_of


def _faces(path: Path, draft: ImportBuilder) -> Iterator[Face]:
    """Lines ``photo face top left right bottom confidence label``; what can't be read is a problem of the draft."""
    for where, (photo, face, *texts, label) in listed(path, 8, draft):
        values, number = numbers(texts), whole(face, range(10**9))
        if not plain(photo, where, draft):
            continue
        if number is None:
            draft.problem("wrong face id", f"{where}: {face!r}")
        elif values is None:
            draft.problem("wrong box", f"{where}: {' '.join(texts)!r} are not a box and a confidence")
        elif (known := whole(label, range(NUM_CLASSES))) is None:
            draft.problem("label out of range", f"{where}: {label!r} is not 0..{NUM_CLASSES - 1}")
        else:
            top, left, right, bottom, confidence = values
            yield Face(where, photo, number, (top, left, bottom, right), confidence, known)


def _photo_folder(root: Path, draft: ImportBuilder) -> Path:
    for name in _PHOTOS:
        if _has_pictures(root / name):
            return root / name
    parts = [path for name in ("", *_PHOTOS) if (root / name).is_dir() for path in (root / name).glob("*.7z*")]
    if not parts:
        raise DataError(f"{draft.name}: {root} has no origin/ with photos, nor its archive origin.7z.001, .002, ...")
    folder = unpacked(sorted(set(parts)), "origin.7z", draft.name)
    found = next((folder / name for name in (*_PHOTOS, "") if _has_pictures(folder / name)), None)
    if found is None:
        raise DataError(f"{draft.name}: the archive {parts[0]} holds no photos where ExpW has them (origin/)")
    return found


def _has_pictures(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    with readable(folder), os.scandir(folder) as found:
        return any(os.path.splitext(entry.name)[1].lower() in PICTURES for entry in found)
