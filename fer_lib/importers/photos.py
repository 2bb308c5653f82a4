"""Photos with face boxes: their size, what a box may be, and crops of it."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image

from fer_lib.faces.contract import MAX_BOX_OVER_PICTURE, FaceContract
from fer_lib.faces.decode import FORMATS
from fer_lib.importers.base import ImportBuilder
from fer_lib.params import SourceSpec

Box = tuple[float, float, float, float]  # top, left, bottom, right in pixels, as everywhere
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # EXIF: the picture is stored lying on its side


def photo_size(data: bytes, where: str, draft: ImportBuilder) -> tuple[int, int] | None:
    """(height, width) as decoded, out of the header alone; None, the problem counted, when that can't be read."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            width, height = picture.size
            turned = picture.getexif().get(_ORIENTATION) in _TURNED
    except Exception as error:  # a broken file can raise almost anything out of Pillow's readers
        draft.problem("unreadable image", f"{where}: its picture has no readable header ({error})")
        return None
    return (width, height) if turned else (height, width)


def usable(box: Box, size: tuple[int, int], where: str, draft: ImportBuilder) -> bool:
    """Whether ``box`` holds a part of the photo of ``size`` (height, width); if not, the draft knows why.

    A box that leaves its photo on a side is kept as it is and counted in ``boxes_outside``: the face contract repeats
    the photo's edge there.  A box without a pixel of the photo, or far larger than it, is a bad record.
    """
    (top, left, bottom, right), (height, width) = box, size
    told = f"{where}: top {top:g}, left {left:g}, bottom {bottom:g}, right {right:g} in a {width} x {height} photo"
    if bottom <= top or right <= left:
        draft.problem("empty box", told)
    elif bottom <= 0 or right <= 0 or top >= height or left >= width:
        draft.problem("box outside the photo", told)
    elif max(bottom - top, right - left) > MAX_BOX_OVER_PICTURE * max(size):
        draft.problem("box far larger than the photo", told)
    else:
        draft.boxes_outside += top < 0 or left < 0 or bottom > height or right > width
        return True
    return False


def sides(box: Box) -> dict[str, float]:
    """The manifest's four columns of a box."""
    return dict(zip(("bbox_top", "bbox_left", "bbox_bottom", "bbox_right"), map(float, box), strict=True))


def crop(picture: np.ndarray, box: Box, spec: SourceSpec) -> bytes:
    """The face contract's square round ``box`` of uint8 RGB [H, W, 3] as a JPEG.

    So a face out of a crop and one out of photo and box differ by the JPEG alone.
    """
    square = _contract(spec.bbox_pad_ratio).steps(picture, box)["square"]
    stream = io.BytesIO()
    Image.fromarray(square).save(stream, "JPEG", quality=spec.jpeg_quality, subsampling=spec.jpeg_subsampling)
    return stream.getvalue()


@lru_cache(maxsize=4)
def _contract(margin: float) -> FaceContract:
    return FaceContract(margin=margin)
