"""ExpW, the faces that its detector was sure of: crops, or photos with boxes."""

from __future__ import annotations

from pathlib import Path

from fer_lib.datasets.manifest import content_id
from fer_lib.errors import DataError
from fer_lib.faces.decode import decode
from fer_lib.importers import register
from fer_lib.importers.base import ImportBuilder
from fer_lib.importers.expw import Face, finish, read_expw
from fer_lib.importers.expw_full import add_boxed
from fer_lib.importers.photos import crop, usable
from fer_lib.params import SourceSpec

_CROPS = ("jpeg_quality", "jpeg_subsampling", "bbox_pad_ratio")


@register("expw_hq", reads=("split_seed", "split_fracs", "min_confidence", "crop", *_CROPS))
def read(spec: SourceSpec, root: Path, draft: ImportBuilder) -> None:
    """The faces of confidence >= ``spec.min_confidence``, each in the split that ``expw_full`` gives its photo.

    ``spec.crop``: each face is written as a JPEG (``jpeg_quality``, ``jpeg_subsampling``, ``bbox_pad_ratio``) and its
    row has no box; its content id is that of photo and box, so that it is known as the face that ``expw_full`` has.
    """
    draft.layout = "expw_hq"
    expw = read_expw(spec, root, draft)
    draft.details |= {"min_confidence": spec.min_confidence, "write_crops": spec.crop}
    cropper = _Cropper(spec, expw.photos, draft)
    for face in expw.faces:
        split = expw.split_of[face.photo]
        if face.confidence < spec.min_confidence:
            draft.exclude(split, f"confidence below {spec.min_confidence:g}")
        elif spec.crop:
            cropper.add(face, split)
        else:
            add_boxed(face, expw.photos, split, draft)
    finish(draft)


class _Cropper:
    """Writes crops; the faces of a photo come one after the other, so each photo is decoded once."""

    def __init__(self, spec: SourceSpec, photos: Path, draft: ImportBuilder):
        self.spec, self.photos, self.draft = spec, photos, draft
        # the folder tells how its crops were made, so that other crops make another manifest
        self.folder = f"crops-q{spec.jpeg_quality}-s{spec.jpeg_subsampling}-pad{spec.bbox_pad_ratio:g}"
        self.data, self.picture = b"", None

    def add(self, face: Face, split: str) -> None:
        data = self.draft.read(self.photos / face.photo, face.where)
        if data is None:
            return
        if data is not self.data:
            self.data, self.picture = data, None
        try:
            self.picture = decode(data) if self.picture is None else self.picture
        except DataError as error:
            self.draft.problem("unreadable image", f"{face.where}: {error}")
            return
        if not usable(face.box, self.picture.shape[:2], face.where, self.draft):
            return
        relative = f"{self.folder}/{face.photo}-{face.face}.jpg"
        columns = {"record": face.record, "split": split, "label": face.label, "confidence": face.confidence}
        columns |= {"orig_image": face.photo, "face_id": str(face.face)}
        jpeg = crop(self.picture, face.box, self.spec)
        self.draft.add_bytes(jpeg, relative, content_id(data, face.box), **columns)
