"""Decoding: right pixels for good files, one clear error for every bad one."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from fer_lib.errors import DataError
from fer_lib.faces.decode import decode


def smooth(height=60, width=90):
    ys, xs = np.mgrid[:height, :width]
    return np.stack([xs * 2, ys * 4, (xs + ys)], axis=-1).clip(0, 255).astype(np.uint8)


def encoded(image, fmt, **options):
    buffer = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(buffer, fmt, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("fmt", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_give_the_same_pixels(tmp_path, fmt):
    data = encoded(smooth(), fmt)
    path = tmp_path / "picture.of.any.name"
    path.write_bytes(data)
    for source in (data, path, str(path)):
        got = decode(source)
        assert got.dtype == np.uint8 and got.flags.writeable
        np.testing.assert_array_equal(got, smooth())


@pytest.mark.parametrize("fmt", ["JPEG", "WEBP"])
def test_lossy_formats_come_close(fmt):
    assert np.abs(decode(encoded(smooth(), fmt, quality=95)).astype(int) - smooth()).mean() < 3


def test_gif_gives_its_first_frame():
    frames = [Image.new("RGB", (20, 10), c) for c in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert (decode(buffer.getvalue()) == (255, 0, 0)).all()


# What a stored image must be turned by, for each value of the EXIF tag, to stand upright.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "WEBP"])
def test_exif_orientation_is_applied(orientation, fmt):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if fmt == "WEBP" else {}
    data = encoded(smooth(), fmt, exif=exif, **options)
    with Image.open(io.BytesIO(data)) as picture:
        stored = np.asarray(picture.convert("RGB"))
        by_pillow = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    got = decode(data)
    np.testing.assert_array_equal(got, UPRIGHT[orientation](stored))
    np.testing.assert_array_equal(got, by_pillow)


def test_grey_palette_alpha_and_deep_pictures_become_rgb():
    grey = smooth()[..., 0]
    np.testing.assert_array_equal(decode(encoded(grey, "PNG")), np.repeat(grey[..., None], 3, 2))
    np.testing.assert_array_equal(decode(encoded(grey, "JPEG"))[..., 0], decode(encoded(grey, "JPEG"))[..., 2])
    palette = Image.fromarray(smooth()).quantize(16)
    np.testing.assert_array_equal(decode(encoded(palette, "PNG")), np.asarray(palette.convert("RGB")))
    alpha = Image.fromarray(smooth()).convert("RGBA")
    alpha.putalpha(7)
    np.testing.assert_array_equal(decode(encoded(alpha, "PNG")), smooth())
    deep = grey.astype(np.uint16) * 256 + 99
    np.testing.assert_array_equal(decode(encoded(deep, "PNG"))[..., 1], grey)
    with pytest.raises(DataError, match="32 bits"):
        decode(encoded(Image.fromarray(grey.astype(np.float32)), "TIFF"))


@pytest.mark.parametrize("keep", [0.05, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF"])
def test_truncated_files_are_refused_by_name(tmp_path, fmt, keep):
    data = encoded(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), fmt)
    path = tmp_path / "Training_17.jpg"
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(DataError, match="Training_17.jpg"):
        decode(path)


def png_header(width, height):
    """A PNG that announces a size and holds one row's worth of nothing."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(20_000, 20_000), (10_000, 10_000), (7_100, 7_100), (2**31 - 1, 2**31 - 1)])
def test_huge_pictures_are_refused_from_the_header(tmp_path, size):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(*size))  # decoding it would fail differently: there are no pixels in it
    with pytest.raises(DataError, match=r"bomb\.png.*cap of 50,000,000 pixels"):
        decode(path)


def test_the_cap_is_exact():
    data = encoded(smooth(60, 90), "PNG")
    assert decode(data, max_pixels=5400).shape == (60, 90, 3)
    with pytest.raises(DataError, match="90 x 60 pixels"):
        decode(data, max_pixels=5399)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"<!doctype html><title>404</title>", "begins with"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "LFS pointer"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image that is read here"),
        (b"\xff\xd8\xff", "image"),
    ],
)
def test_other_content_is_refused(tmp_path, data, says):
    path = tmp_path / "face.jpg"
    path.write_bytes(data)
    with pytest.raises(DataError, match=says) as error:
        decode(path)
    assert "face.jpg" in str(error.value)


def test_formats_off_the_list_are_refused():
    for fmt in ("ICO", "TGA", "PCX", "SGI"):
        with pytest.raises(DataError, match="not an image that is read here"):
            decode(encoded(smooth(32, 32), fmt))


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(DataError, match="nowhere.jpg.*check the path"):
        decode(tmp_path / "nowhere.jpg")
    with pytest.raises(DataError, match="check the path"):
        decode(tmp_path)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_damaged_files_give_pixels_or_the_one_error(fmt):
    rng = np.random.default_rng(5)
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif} if fmt in ("JPEG", "PNG", "WEBP", "TIFF") else {}
    data = encoded(smooth(24, 24), fmt, **options)
    outcomes = {"pixels": 0, "error": 0}
    for _ in range(150):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 4):
            damaged[place] = rng.integers(0, 256)
        try:
            assert decode(bytes(damaged), max_pixels=10_000).ndim == 3
            outcomes["pixels"] += 1
        except DataError:
            outcomes["error"] += 1
    assert sum(outcomes.values()) == 150 and outcomes["error"] > 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders there")
def test_a_pipe_or_a_device_is_refused_and_not_read(tmp_path):
    """Reading a pipe that nobody writes never ends."""
    with pytest.raises(DataError, match=f"{os.devnull}: cannot be read .it is a pipe or a device, not a file"):
        decode(os.devnull)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="pipe.png: cannot be read .it is a pipe or a device, not a file"):
        decode(tmp_path / "pipe.png")
