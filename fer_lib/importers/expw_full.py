"""ExpW, every face: photos with boxes."""

from __future__ import annotations

from pathlib import Path

from fer_lib.importers import register
from fer_lib.importers.base import ImportBuilder
from fer_lib.importers.expw import Face, finish, read_expw
from fer_lib.importers.photos import photo_size, sides, usable
from fer_lib.params import SourceSpec


@register("expw_full", reads=("split_seed", "split_fracs"))
def read(spec: SourceSpec, root: Path, draft: ImportBuilder) -> None:
    """A row for each line of ``label.lst``: its photo, linked once, and its box."""
    draft.layout = "expw_full"
    expw = read_expw(spec, root, draft)
    for face in expw.faces:
        add_boxed(face, expw.photos, expw.split_of[face.photo], draft)
    finish(draft)


def add_boxed(face: Face, photos: Path, split: str, draft: ImportBuilder) -> None:
    """One row of photo and box."""
    path = photos / face.photo
    data = draft.read(path, face.where)
    size = photo_size(data, face.where, draft) if data is not None else None
    if size and usable(face.box, size, face.where, draft):
        columns = {"record": face.record, "split": split, "label": face.label, "confidence": face.confidence}
        columns |= {"orig_image": face.photo, "face_id": str(face.face)}
        draft.add_file(path, face.photo, **columns, **sides(face.box))
