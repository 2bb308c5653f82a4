"""Bytes to pixels: the one way in which images enter, safe for files that nobody has checked."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from fer_lib.errors import DataError

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
MAX_PIXELS = 50_000_000
MAX_PIXELS_OF = {"WEBP": 16_000_000}  # its decoder holds an image five times
STRIP_PIXELS = 1_000_000


def decode(source: Path | str | bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The image as uint8 RGB [H, W, 3], EXIF orientation applied, first frame of a sequence, transparency ignored.

    ``source`` is a path or the encoded bytes.  Grey images come as three equal channels, of 16 bits the high byte.
    Raises DataError, naming the file, when it is missing, not one of FORMATS, truncated or otherwise undecodable, of 32
    bits a channel, or when its header announces more than ``max_pixels`` or its format's cap (found before any pixel is
    decoded).
    """
    name = f"image of {len(source)} bytes" if isinstance(source, bytes) else str(source)
    try:
        stream = io.BytesIO(source) if isinstance(source, bytes) else open_file(source)
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: cannot be read ({getattr(error, 'strerror', error)}): check the path") from error
    with stream:
        try:
            with Image.open(stream, formats=FORMATS) as image:
                width, height = image.size
                max_pixels = min(max_pixels, MAX_PIXELS_OF.get(image.format, max_pixels))
                if width * height > max_pixels:
                    raise Image.DecompressionBombError(f"{width} x {height} pixels")
                return _rgb(image, name)
        except DataError:
            raise
        except Image.UnidentifiedImageError as error:
            what = _what(stream)
            raise DataError(f"{name}: not an image that is read here ({', '.join(FORMATS)}): {what}") from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise DataError(f"{name}: {error}, above the cap of {max_pixels:,} pixels: save it smaller") from error
        except Exception as error:  # a broken file can raise almost anything out of Pillow's decoders
            raise DataError(f"{name}: broken or truncated image ({error}): fetch it again or leave it out") from error


def open_file(path: Path | str) -> BinaryIO:
    """The open file.  OSError when it cannot be opened, or is a pipe or a device, whose reading may never end."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a folder says what it is
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))
    return open(path, "rb")


def _rgb(image: Image.Image, name: str) -> np.ndarray:
    """uint8 [H, W, 3].  Converted a strip at a time, because Pillow copies what it converts several times."""
    if image.mode in ("I", "F"):
        raise DataError(f"{name}: has 32 bits a channel, whose range is unknown: save it with 8 bits a channel")
    ImageOps.exif_transpose(image, in_place=True)
    width, height = image.size
    out = np.empty((height, width, 3), np.uint8)
    rows = max(1, STRIP_PIXELS // width)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        if image.mode.startswith("I;16"):
            out[top : top + rows] = (np.asarray(strip, dtype=np.uint16) >> 8)[..., None]
        else:
            out[top : top + rows] = strip.convert("RGB")
    return out


def _what(stream: BinaryIO) -> str:
    stream.seek(0)
    head = stream.read(64)
    if not head:
        return "the file is empty"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, run git lfs pull"
    return f"it begins with {head[:12]!r}"
