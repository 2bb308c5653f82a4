"""A very thin image or box takes bounded memory, gives the pixels of its definition, and ends no folder."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fer_lib.faces import align
from fer_lib.faces.align import crop_square, eyes_level, transform_points
from fer_lib.faces.contract import FaceContract

MEGABYTES = 400
STATUS = Path("/proc/self/status")
# The peak of this process alone: ru_maxrss of a child begins with its parent's.
GROWTH = """
import io, json, os, re, sys
import numpy as np
import cv2
from PIL import Image
from fer_lib.faces.contract import FaceContract
from fer_lib.faces.decode import decode
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
def png(height, width):
    stream = io.BytesIO()
    Image.new("L", (width, height)).save(stream, "PNG")
    return stream.getvalue()
"""
POINTS = np.array([[30.5, 27.0], [51.0, 36.5], [38.0, 42.0], [29.5, 47.0], [45.5, 53.5]])  # tilted by 25 degrees
CASES = {
    "1 x 30,000": "FaceContract().face(decode(png(1, 30_000)))",
    "30,000 x 1": "FaceContract().face(decode(png(30_000, 1)))",
    "1 x 3,000,000": "FaceContract().face(decode(png(1, 3_000_000)))",
    "a native square": "FaceContract().square(decode(png(1, 30_000)))",
    "the steps of a page": "FaceContract(clahe=True).steps(decode(png(30_000, 1)))",
    "eyes level": f"FaceContract(align='eyes').face(decode(png(1, 30_000)), None, np.array({POINTS.tolist()}))",
    "a thin box in a photo": "FaceContract(margin=1.0).face(decode(png(2000, 3000)), (500, -1400, 501, 4500))",
    "a thin box, eyes level": "FaceContract(margin=1.0, align='eyes').face(decode(png(2000, 3000)), "
    f"(500, -1400, 501, 4500), np.array({POINTS.tolist()}))",
}


@pytest.fixture(scope="module")
def growth():
    """Case -> megabytes by which its peak exceeds the memory before it; each case runs in a fork of one process."""
    if not STATUS.exists():
        pytest.skip("reads a process's peak from /proc")
    code = f"{GROWTH}for name, case in {CASES!r}.items():\n"
    code += (
        "    if os.fork() == 0:\n        before = peak()\n        exec(case)\n"
        "        print(json.dumps([name, peak() - before]), flush=True)\n        os._exit(0)\n    os.wait()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return dict(map(json.loads, done.stdout.splitlines()))


@pytest.mark.parametrize("name", CASES)
def test_memory_is_bounded(growth, name):
    assert growth[name] < MEGABYTES


def smooth(height, width):
    ys, xs = np.mgrid[:height, :width]
    waves = np.stack([np.sin(xs / 90), np.cos(ys / 80), np.sin((xs + ys) / 150)], axis=-1)
    return (127 + 120 * waves).astype(np.uint8)


SHAPES = {
    "wide": ((20, 900), None),
    "tall": ((900, 20), None),
    "a box that leaves the image": ((400, 500), (-200, 10, 650, 12)),
    "a square inside": ((700, 800), (20, 30, 620, 640)),
}


@pytest.mark.parametrize("turned", [False, True], ids=["upright", "eyes level"])
@pytest.mark.parametrize(("shape", "box"), SHAPES.values(), ids=SHAPES.keys())
def test_a_sampled_square_is_the_whole_one(monkeypatch, shape, box, turned):
    image, points = smooth(*shape), POINTS if turned else None
    contract = FaceContract(image_size=24, align="eyes" if turned else "none")
    whole = contract.face(image, box, points).astype(int)
    monkeypatch.setattr(align, "MAX_SIDE", 300)
    assert max(contract.square(image, box, points).shape) <= 300
    off = np.abs(contract.face(image, box, points) - whole)
    assert off.mean() < 1.5 and off.max() < 25


def test_every_sampled_pixel_is_the_middle_of_its_share(monkeypatch):
    monkeypatch.setattr(align, "MAX_SIDE", 4)
    image = np.repeat(np.arange(12, dtype=np.uint8)[None, :, None], 3, axis=2).repeat(12, axis=0)
    assert crop_square(image, 0, 0, 12)[0, :, 0].tolist() == [1, 4, 7, 10]
    assert crop_square(image, 0, -6, 12)[0, :, 0].tolist() == [0, 0, 1, 4]
    assert crop_square(image, 3, 4, 4)[0, :, 0].tolist() == [4, 5, 6, 7], "no larger than the limit: each pixel"


@pytest.mark.parametrize("square", [(5, 8, 60), (-20, -15, 70), (50, 60, 90)], ids=str)
def test_a_long_image_is_turned_like_a_short_one(monkeypatch, square):
    image = smooth(120, 140)
    expected, transform = eyes_level(image, POINTS, square)
    monkeypatch.setattr(align, "_MAX_TURNED", 138)
    monkeypatch.setattr(align, "MAX_SIDE", 138)
    got, again = eyes_level(image, POINTS, square)
    np.testing.assert_allclose(again, transform, atol=1e-6)
    assert np.abs(got.astype(int) - expected).max() <= 2
    monkeypatch.setattr(align, "MAX_SIDE", 50)
    sampled, again = eyes_level(image, POINTS, square)
    scale = len(sampled) / square[2]
    assert len(sampled) < 50
    there, here = transform_points(POINTS, transform), transform_points(POINTS, again)
    np.testing.assert_allclose((here + 0.5) / scale, there + 0.5, atol=1.5 / scale)


def test_eyes_are_levelled_far_along_a_panorama():
    """OpenCV itself refuses an image with a side over 32,766 pixels."""
    image = np.zeros((200, 40_000, 3), np.uint8)
    image[:, 36_000:36_200] = smooth(200, 200)
    expected = eyes_level(image[:, 35_000:37_000].copy(), POINTS, (40, 1060, 100))[0]
    assert np.abs(eyes_level(image, POINTS, (40, 36_060, 100))[0].astype(int) - expected).max() <= 2
