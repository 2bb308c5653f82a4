"""Contact sheets and step pages show the right faces and mark unreadable pictures."""

import cv2
import numpy as np
import pandas as pd
import pytest

from fer_lib.datasets import charts, sheets
from fer_lib.datasets.manifest import BOX, Manifest, box_of
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.faces.contract import FaceContract
from fer_lib.faces.decode import decode
from fer_lib.faces.detector_interface import find_points
from fer_lib.faces.detectors import Face, Haar


def row(i, label, split="train", source="s", **more):
    return {"sample_id": f"{i:03d}", "content_id": f"c{i}", "source": source, "record": str(i), "label": label,
            "image_path": f"{i}.png", "split": split, "val_role": ""} | more  # fmt: skip


@pytest.fixture
def manifest(tmp_path):
    """35 flat images, five a class, whose grey value is 30 times their label."""
    rows = [row(i, i % 7, ("train", "val", "test")[i % 3]) for i in range(35)]
    for i in range(35):
        data = cv2.imencode(".png", np.full((20, 30, 3), 30 * (i % 7), np.uint8))[1]
        (tmp_path / f"{i}.png").write_bytes(data.tobytes())
    return Manifest(pd.DataFrame(rows), {"root": str(tmp_path)})


def canvas(figure):
    return np.asarray(figure.axes[0].images[0].get_array())


def written(figure):
    axes = figure.axes[0]
    return [t.get_text() for t in [*axes.texts, *axes.get_yticklabels(), *axes.get_xticklabels(), *figure.texts]]


def test_a_contact_sheet_has_one_labelled_line_per_class(manifest):
    figure = sheets.contact_sheet(manifest, "s", per_class=8, size=32)
    picture = canvas(figure)
    high, wide = 32 + sheets.GAP + sheets.LINE, 32 + sheets.GAP
    assert picture.shape == (7 * high, 5 * wide, 3), "as wide as the fullest line"
    for label in range(7):
        assert (picture[label * high : label * high + 32, :32] == 30 * label).all()
    texts = written(figure)
    assert [t for t in texts if "(n = 5)" in t] == [f"{name}\n(n = 5)" for name in EMOTIONS]
    assert "s (n = 35)" in texts and sum(t in ("train", "val", "test") for t in texts) == 35


def test_a_sheet_depends_on_seed_and_ids_alone(manifest):
    one = canvas(sheets.contact_sheet(manifest, "s", per_class=2, size=16))
    other_rows = pd.DataFrame([row(900 + i, i, source="other") for i in range(7)])
    mixed = pd.concat([manifest.frame.sample(frac=1, random_state=0), other_rows])
    shuffled = Manifest(mixed, manifest.meta)
    assert np.array_equal(canvas(sheets.contact_sheet(shuffled, "s", per_class=2, size=16)), one)
    with pytest.raises(DataError, match="unknown source 'x'"):
        sheets.contact_sheet(manifest, "x")


def test_an_unreadable_image_is_shown_as_a_cross(manifest):
    (manifest.root / "7.png").write_text("broken")
    tile = sheets.face_tile(manifest, manifest.frame.iloc[7], 40)
    assert (tile[20, 20] == (200, 40, 40)).all() and (tile[0, 20] == 225).all()
    assert sheets.face_tile(manifest, manifest.frame.iloc[8], 40)[20, 20].tolist() == [30, 30, 30]


def test_the_box_of_a_photo_is_shown(tmp_path):
    photo = np.zeros((40, 80, 3), np.uint8)
    photo[10:30, 50:70] = 200
    (tmp_path / "0.png").write_bytes(cv2.imencode(".png", photo)[1].tobytes())
    box = dict(zip(BOX, (10.0, 50.0, 30.0, 70.0), strict=True))
    manifest = Manifest(pd.DataFrame([row(0, 3, **box)]), {"root": str(tmp_path)})
    assert (sheets.face_tile(manifest, manifest.frame.iloc[0], 24) == 200).all()
    assert box_of(manifest.frame.iloc[0]) == (10.0, 50.0, 30.0, 70.0)


def test_a_grid_without_rows_is_refused(manifest):
    with pytest.raises(DataError, match="pairs: no faces"):
        sheets.face_grid(manifest, [("none", manifest.frame.head(0))], "pairs")


def test_a_page_has_room_for_the_captions_of_each_line():
    faces = [np.full((16, 16, 3), value, np.uint8) for value in (0, 80, 160)]
    lines = [("plain", [(face, "") for face in faces]), ("two", [(faces[1], "label\nprediction")])]
    figure = sheets.tile_page(lines, "faces", size=16)
    picture, step = canvas(figure), 16 + sheets.GAP
    assert picture.shape == (2 * step + 2 * sheets.LINE, 3 * step, 3)
    assert [picture[0, i * step, 0] for i in range(3)] == [0, 80, 160] and picture[step, 0, 0] == 80
    assert figure.axes[0].texts[-1].get_position() == (8, step + 17)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["plain", "two"]


class Tilted:
    """A detector that sees one face with its eyes 45 degrees askew in images wider than 30 pixels."""

    name = "tilted"

    def detect(self, image, refine=True):
        if image.shape[1] <= 30:
            return []
        points = np.float32([[20, 10], [30, 20], [22, 22], [18, 26], [26, 30]])
        return [Face((5.0, 5.0, 35.0, 35.0), 1.0, points)]


def test_every_step_of_the_contract_is_on_its_page(manifest, tmp_path):
    photo = np.random.default_rng(0).integers(0, 255, (40, 80, 3), dtype=np.uint8)
    (tmp_path / "99.png").write_bytes(cv2.imencode(".png", photo)[1].tobytes())
    box = dict(zip(BOX, (5.0, 5.0, 35.0, 35.0), strict=True))
    mixed = Manifest(pd.concat([manifest.frame, pd.DataFrame([row(99, 2, source="photos", **box)])]), manifest.meta)
    rows = sheets.example_rows(mixed, 3)
    assert rows["source"].tolist() == ["photos", "s", "s"], "faces in photos first, then the sources in turn"
    shuffled = Manifest(mixed.frame.sample(frac=1, random_state=1), mixed.meta)
    assert sheets.example_rows(shuffled, 3)["sample_id"].tolist() == rows["sample_id"].tolist()
    contract = FaceContract(image_size=32, align="eyes", clahe=True)
    figure = sheets.steps_page(mixed, contract, rows, Tilted(), size=60)
    texts = written(figure)
    assert [t for t in texts if t in sheets.STEPS.values()] == ["raw", "box", "aligned", "CLAHE", "crop"]
    assert "30 x 30\neyes level" in texts and "30 x 30\nno eyes found: as it is" in texts
    assert texts.count("no box:\nthe image is the face") == 2 and "photos\nFear" in texts
    assert any(contract.id in t and "tilted" in t for t in texts)
    wide = 60 + sheets.GAP
    photo = decode(tmp_path / "99.png")
    eyes = find_points(photo, (5.0, 5.0, 35.0, 35.0), Tilted())
    expected = contract.steps(photo, (5.0, 5.0, 35.0, 35.0), eyes)["crop"]
    crop = cv2.resize(expected, (60, 60), interpolation=cv2.INTER_NEAREST)
    assert np.array_equal(canvas(figure)[:60, 4 * wide : 4 * wide + 60], crop)
    for blind in (None, Haar()):
        texts = written(sheets.steps_page(mixed, contract, rows, blind, size=60))
        assert texts.count("30 x 30\nnot aligned: YuNet is not here") == 3 and not any("no eyes" in t for t in texts)
    plain = written(sheets.steps_page(mixed, FaceContract(image_size=32), rows, None, size=60))
    assert plain.count("off in this contract") == 3 and "30 x 30\nalign is off" in plain


def test_counts_are_drawn_by_source_split_and_label(manifest):
    other = pd.DataFrame([row(900 + i, 3, "test", source="other") for i in range(12)])
    figure = charts.count_charts(pd.concat([manifest.frame, other]), "Rows")
    by_source, everything, of_other, of_s, _ = figure.axes
    drawn = {c.get_label(): [b.get_width() for b in c] for c in by_source.containers}
    assert drawn == {"train (12)": [0, 12], "val (12)": [0, 12], "test (23)": [12, 11]}
    assert [t.get_text() for t in by_source.get_yticklabels()] == ["other", "s"]
    assert [[b.get_height() for b in c] for c in of_other.containers] == [[0, 0, 0, 12, 0, 0, 0]]
    assert np.sum([[b.get_height() for b in c] for c in of_s.containers], axis=0).tolist() == [5] * 7
    assert np.sum([[b.get_height() for b in c] for c in everything.containers], axis=0).tolist() == [
        5,
        5,
        5,
        17,
        5,
        5,
        5,
    ]
    assert "n = 47" in figure.get_suptitle()
    alone = charts.count_charts(manifest.frame, "Rows")
    assert len(alone.axes) == 2, "one source needs no panel of all"


def test_a_broken_image_is_a_cross_among_the_steps(manifest, tmp_path):
    (tmp_path / "broken.png").write_text("no image")
    broken = Manifest(manifest.frame.assign(image_path="broken.png"), {**manifest.meta, "root": tmp_path.as_posix()})
    rows = sheets.example_rows(broken, 2)
    figure = sheets.steps_page(broken, FaceContract(image_size=32), rows, None, size=60)
    assert written(figure).count("can't be read") == 2
    assert (canvas(figure)[30, 30] == (200, 40, 40)).all()
