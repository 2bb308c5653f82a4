"""The contract's pixels, as they were when its version was last raised.

``golden_pixels.npz`` holds a photo, its JPEG file and what each case below made of them.  Whoever means to change
pixels raises CONTRACT_VERSION and writes the file again: ``python tests/faces/test_golden_pixels.py``.
"""

from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_lib.faces import align, contract
from fer_lib.faces.contract import CONTRACT_VERSION, FaceContract
from fer_lib.faces.decode import decode

GOLDEN = Path(__file__).with_name("golden_pixels.npz")
BOX = (10.4, 18.7, 60.2, 66.9)
SMALL = (30.0, 32.0, 45.0, 49.0)  # grows
BEYOND = (-9.0, 50.5, 31.0, 95.0)  # leaves the image at the top and on the right
POINTS = np.array([[30.5, 27.0], [51.0, 36.5], [38.0, 42.0], [29.5, 47.0], [45.5, 53.5]])  # tilted by 25 degrees
CASES = {  # name: contract, box, points
    "whole": (dict(), None, None),
    "box, shrunk": (dict(image_size=16), BOX, None),
    "box, grown": (dict(), SMALL, None),
    "beyond the edge": (dict(), BEYOND, None),
    "margin": (dict(margin=0.2), BOX, None),
    "eyes level": (dict(align="eyes"), BOX, POINTS),
    "eyes level, margin": (dict(align="eyes", margin=0.15), SMALL, POINTS),
    "eyes level, whole": (dict(align="eyes"), None, POINTS),
    "eyes level, beyond the edge": (dict(align="eyes"), BEYOND, POINTS),
    "clahe": (dict(clahe=True), BOX, None),
    "clahe, other settings": (dict(image_size=40, clahe=True, clahe_clip=4.0, clahe_tile=2), None, None),
    "grey": (dict(grey=True), BOX, None),
    "grey, clahe": (dict(grey=True, clahe=True), BOX, None),
}
# Other processors take other roads through OpenCV and Pillow and round otherwise (without Intel IPP by a level here and
# there, for instance), which CLAHE may spread.
MEAN, MOST = 0.25, 6  # of 255: the mean and the largest difference allowed


def pictures(stored):
    """Every case's face uint8 [R, R, 3], of the photo; the JPEG file's pixels; and one input of a model, float32."""
    found = {
        name: FaceContract(**{"image_size": 24} | fields).face(stored["photo"], box, points)
        for name, (fields, box, points) in CASES.items()
    }
    found["JPEG file"] = decode(stored["jpeg"].tobytes())
    model = FaceContract(image_size=24).batch([(stored["photo"], BOX, None)])
    return found | {"input of a model": model}


def differences(stored):
    """{case: (mean, largest) absolute difference} in levels of 255."""
    out = {}
    for name, got in pictures(stored).items():
        want = stored[name]
        assert got.shape == want.shape and got.dtype == want.dtype, name
        off = np.abs(got.astype(np.float64) - want) * (255 * 0.225 if got.dtype == np.float32 else 1)
        out[name] = float(off.mean()), float(off.max())
    return out


def changed(stored):
    return [name for name, (mean, most) in differences(stored).items() if mean > MEAN or most > MOST]


@pytest.fixture(scope="module")
def stored():
    with np.load(GOLDEN) as file:
        return dict(file)


def test_pixels_change_only_with_the_version(stored):
    assert int(stored["version"]) == CONTRACT_VERSION, "the version was raised: write the golden pixels again (see top)"
    assert set(stored) == {"version", "photo", "jpeg", *pictures(stored)}
    assert changed(stored) == [], "the contract gives other pixels: raise CONTRACT_VERSION, or mend it"


def turned(factor):
    real = align.eye_angle
    return lambda monkeypatch: monkeypatch.setattr(align, "eye_angle", lambda points: factor * real(points))


def instead(name, other):
    return lambda monkeypatch: monkeypatch.setattr(cv2, name, getattr(cv2, other))


def square(change):
    real = contract._square

    def patched(monkeypatch):
        monkeypatch.setattr(contract, "_square", lambda shape, box, margin: change(*real(shape, box, margin)))

    return patched


def clip(factor):
    real = cv2.createCLAHE
    return lambda monkeypatch: monkeypatch.setattr(cv2, "createCLAHE", lambda limit, tile: real(factor * limit, tile))


def centre(monkeypatch):
    monkeypatch.setattr(FaceContract, "centre", lambda self, faces: faces[..., 1:25, 1:25, :])


MUTATIONS = {
    "grown linearly": instead("INTER_CUBIC", "INTER_LINEAR"),
    "shrunk linearly": instead("INTER_AREA", "INTER_LINEAR"),
    "edge mirrored": instead("BORDER_REPLICATE", "BORDER_REFLECT"),
    "turned a degree further": turned(1.04),
    "turned the other way": turned(-1),
    "not turned": turned(0),
    "a pixel to the right": square(lambda top, left, side: (top, left + 1, side)),
    "a pixel larger": square(lambda top, left, side: (top, left, side + 1)),
    "clip a tenth higher": clip(1.1),
    "red taken for blue": instead("COLOR_RGB2GRAY", "COLOR_BGR2GRAY"),
    "lightness of another space": instead("COLOR_RGB2LAB", "COLOR_LRGB2LAB"),
    "centre moved by a pixel": centre,
}


@pytest.mark.parametrize("mutation", MUTATIONS.values(), ids=MUTATIONS.keys())
def test_a_changed_step_is_noticed(stored, monkeypatch, mutation):
    contract._grey_in_lab.cache_clear()
    mutation(monkeypatch)
    try:
        assert changed(stored), "the tolerance is too wide to see this"
    finally:
        contract._grey_in_lab.cache_clear()  # made with a changed step


def write():
    from fer_lib.synthetic.dataset import draw_faces

    photo = np.indices((72, 88)).sum(axis=0)[..., None] * np.array([1.2, 0.7, 0.3]) + (20, 60, 110)
    photo = photo.clip(0, 255).astype(np.uint8)
    photo[4:68, 12:76] = draw_faces(8, seed=5, size=64)[0][3]
    jpeg = cv2.imencode(".jpg", photo[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
    stored = {"version": np.int64(CONTRACT_VERSION), "photo": photo, "jpeg": jpeg.ravel()}
    np.savez_compressed(GOLDEN, **stored | pictures(stored))


if __name__ == "__main__":
    write()
