"""Decoding takes at most 512 MiB for an image at its format's cap: a share of that for a smaller one."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_lib.errors import DataError
from fer_lib.faces.decode import MAX_PIXELS, MAX_PIXELS_OF, decode

LIMIT = 512 << 20  # bytes at the cap
SPARE = 12 << 20  # bytes of the decoders themselves
SIZE = (3000, 2000)
KINDS = {  # name -> (mode, options of Pillow's save)
    "jpeg": ("RGB", {"format": "JPEG"}),
    "progressive jpeg": ("RGB", {"format": "JPEG", "progressive": True}),
    "turned jpeg": ("RGB", {"format": "JPEG", "exif": 6}),
    "cmyk jpeg": ("CMYK", {"format": "JPEG"}),
    "png": ("RGB", {"format": "PNG", "compress_level": 1}),
    "png with alpha": ("RGBA", {"format": "PNG", "compress_level": 1}),
    "png of 16 bits": ("I;16", {"format": "PNG", "compress_level": 1}),
    "bmp": ("RGB", {"format": "BMP"}),
    "gif": ("P", {"format": "GIF"}),
    "ppm": ("RGB", {"format": "PPM"}),
    "tiff": ("RGB", {"format": "TIFF"}),
    "packed tiff": ("RGBA", {"format": "TIFF", "compression": "tiff_lzw"}),
    "webp": ("RGB", {"format": "WEBP", "quality": 50, "method": 0}),
}
CODE = """
import json, os, re, sys
from PIL import Image
from fer_lib.faces.decode import decode
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) << 10
Image.init()
for file in sys.argv[1:]:
    if os.fork() == 0:
        before = peak()
        decode(file)
        print(json.dumps([file, peak() - before]), flush=True)
        os._exit(0)
    os.wait()
"""


def write(file: Path, mode: str, size: tuple[int, int], format: str, exif: int | None = None, **options) -> None:
    pixels = np.tile(np.random.default_rng(1).integers(0, 256, (50, 50, 3), dtype=np.uint8), (40, 60, 1))
    image = Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image)[..., 0].astype(np.uint16) << 8)
    else:
        image = image.convert(mode)
    if exif is not None:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = exif  # orientation
    image.save(file, format, **options)


@pytest.fixture(scope="module")
def growth(tmp_path_factory):
    """Kind -> peak memory of decoding, in bytes, measured in a separate process."""
    if not Path("/proc/self/status").exists():
        pytest.skip("reads a process's peak from /proc")
    folder = tmp_path_factory.mktemp("large")
    for kind, (mode, options) in KINDS.items():
        write(folder / kind, mode, SIZE, **options)
    files = [str(folder / kind) for kind in KINDS]
    done = subprocess.run([sys.executable, "-c", CODE, *files], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return {Path(file).name: size for file, size in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_bounded_at_the_cap(growth, kind):
    cap = MAX_PIXELS_OF.get(KINDS[kind][1]["format"], MAX_PIXELS)
    assert growth[kind] - SPARE < LIMIT * SIZE[0] * SIZE[1] / cap


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_of_one_conversion(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("fer_lib.faces.decode.STRIP_PIXELS", 700)
    mode, options = KINDS[kind]
    write(tmp_path / kind, mode, (60, 47), **options)
    with Image.open(tmp_path / kind) as image:
        image = image.transpose(Image.Transpose.ROTATE_270) if kind == "turned jpeg" else image
        if mode == "I;16":
            expected = np.repeat((np.asarray(image, np.uint16) >> 8).astype(np.uint8)[..., None], 3, axis=2)
        else:
            expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(decode(tmp_path / kind), expected)


def test_a_format_has_a_cap_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setitem(MAX_PIXELS_OF, "WEBP", 60 * 46)
    write(tmp_path / "a", "RGB", (60, 47), "WEBP")
    with pytest.raises(DataError, match="above the cap of 2,760 pixels"):
        decode((tmp_path / "a").read_bytes())
