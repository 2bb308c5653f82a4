"""Bytes to pixels: the one way in which images enter, safe for files that nobody has checked."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from fer_lib.errors import DataError

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
MAX_PIXELS = 50_000_000


def decode(source: Path | str | bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The image as uint8 RGB [H, W, 3], EXIF orientation applied, first frame of a sequence, transparency ignored.

    ``source`` is a path or the encoded bytes.  Grey images come as three equal channels, of 16 bits the high byte.
    Raises DataError, naming the file, when it is missing, not one of FORMATS, truncated or otherwise undecodable, of 32
    bits a channel, or when its header announces more than ``max_pixels`` (found before any pixel is decoded).
    """
    name = f"image of {len(source)} bytes" if isinstance(source, bytes) else str(source)
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror or error}): check the path") from error
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > max_pixels:
                raise Image.DecompressionBombError(f"{width} x {height} pixels")
            return _rgb(picture, name)
    except DataError:
        raise
    except Image.UnidentifiedImageError as error:
        raise DataError(f"{name}: not an image that is read here ({', '.join(FORMATS)}): {_what(data)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{name}: {error}, above the cap of {max_pixels:,} pixels: save it smaller") from error
    except Exception as error:  # a broken file can raise almost anything out of Pillow's decoders
        raise DataError(f"{name}: broken or truncated image ({error}): fetch it again or leave it out") from error


def _rgb(picture: Image.Image, name: str) -> np.ndarray:
    if picture.mode in ("I", "F"):
        raise DataError(f"{name}: has 32 bits a channel, whose range is unknown: save it with 8 bits a channel")
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16"):
        high = (np.asarray(picture, dtype=np.uint16) >> 8).astype(np.uint8)
        return np.repeat(high[..., None], 3, axis=2)
    return np.array(picture.convert("RGB"))


def _what(data: bytes) -> str:
    if not data:
        return "the file is empty"
    if data.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, run git lfs pull"
    return f"it begins with {data[:12]!r}"
