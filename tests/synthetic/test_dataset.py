"""Drawn faces: pure, quick, telling; and their raw layouts, with exactly what was planted in them."""

import csv
import hashlib
import json
import os
import re
import resource
import time
from collections import Counter

import cv2
import numpy as np
import pytest

from fer_lib.emotions import EMOTIONS, class_id
from fer_lib.errors import DataError, FerError
from fer_lib.params import SourceSpec
from fer_lib.synthetic import dataset, drawing, features, noise_injection
from fer_lib.synthetic.layouts import LAYOUTS
from fer_lib.synthetic.noise_injection import apportion


def truth_of(root):
    return json.loads((root / "truth.json").read_text())["records"]


def grey_rows(root):
    with (root / "fer2013.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_face_depends_on_seed_and_index_alone():
    images, labels = dataset.draw_faces(12, seed=5)
    for i in (11, 0, 7):  # out of order, after others were drawn
        face = dataset.draw_face(5, i)
        assert np.array_equal(face.image, images[i]) and face.true == labels[i]
    assert images.shape == (12, 48, 48, 3) and images.dtype == np.uint8
    assert not np.array_equal(dataset.draw_face(6, 0).image, images[0])
    assert len({image.tobytes() for image in images}) == 12


def test_classes_follow_the_shares():
    labels = np.array([dataset.draw_face(1, i, size=16).true for i in range(600)])
    shares = np.bincount(labels, minlength=7) / 600
    assert np.abs(shares - dataset.CLASS_SHARES).max() < 4 * np.sqrt(0.25 / 600)
    assert np.argmin(shares) == EMOTIONS.index("Disgust")
    assert dataset.CLASS_SHARES.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("unit", features.ACTION_UNITS)
def test_every_action_unit_shows(unit):
    """Each unit at full strength changes a frontal face by itself (AU7 and AU24 touch only a few pixels)."""
    who = features.Person(np.random.default_rng(3))
    who.hair_style, who.beard, who.glasses = "short", "none", "none"
    neutral = drawing.draw(who, {}, drawing.Scene(), 96).astype(int)
    moved = drawing.draw(who, {unit: 1.0}, drawing.Scene(), 96).astype(int)
    assert (np.abs(moved - neutral).max(axis=2) > 12).sum() > 60


def test_a_smile_lifts_and_a_frown_drops_the_mouth_corners():
    def corner(units):
        sketch = drawing.Sketch(features.Person(np.random.default_rng(3)), drawing.Scene(), 96)
        features.draw_mouth(sketch, {name: units.get(name, 0.0) for name in features.ACTION_UNITS})
        y = max(sketch._curves, key=lambda curve: np.ptp(curve[0]))[1]
        return y[0] - y[5]  # the end of the upper lip, below its middle

    assert corner({"AU12": 1.0}) < corner({}) < corner({"AU15": 1.0})


def test_two_thousand_faces_take_at_most_ten_seconds_of_one_core():
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        dataset.draw_faces(20, seed=1)
        start = time.process_time()
        dataset.draw_faces(200, seed=2)
        spent = time.process_time() - start
    finally:
        cv2.setNumThreads(threads)
    assert spent * 10 < 10.0, f"{200 / spent:.0f} faces/s"


def test_drawn_faces_can_be_learnt_but_not_perfectly():
    """A linear model on small images beats chance clearly and is far from perfect: signal there, overlap too."""
    from sklearn.linear_model import RidgeClassifier

    def pixels(seed, n):
        images, labels = dataset.draw_faces(n, seed)
        small = [cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (24, 24)).ravel() / 255 for image in images]
        small = np.stack(small)
        return small - small.mean(axis=1, keepdims=True), labels

    x, y = pixels(1, 800)
    test_x, test_y = pixels(2, 300)
    accuracy = RidgeClassifier(alpha=30.0).fit(x, y).score(test_x, test_y)
    chance = np.bincount(test_y).max() / 300
    assert chance + 0.1 < accuracy < 0.9


def test_contact_sheet_has_a_row_a_class():
    sheet = dataset.contact_sheet(3, 32, seed=4)
    assert sheet.shape == (7 * 36 + 4, 3 * 36 + 4, 3) and sheet.dtype == np.uint8
    face = dataset.draw_face(4, 3 * 3 + 1, EMOTIONS.index("Happy"), 32).image
    assert np.array_equal(sheet[4 + 3 * 36 : 36 + 3 * 36, 4 + 36 : 36 + 36], face)


def test_apportion_sums_and_gives_every_class_at_least_one():
    counts = apportion(9, np.array([0.01, 0.01, 0.9, 0.08]))
    assert counts.sum() == 9 and counts.min() == 1
    assert apportion(1000, np.array([0.8, 0.1, 0.1])).tolist() == [800, 100, 100]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_truth_names_every_record_of_a_layout_once(layout, tmp_path):
    splits = len(LAYOUTS[layout].splits)
    leaks = 5 if splits > 1 else 0
    root = dataset.write_raw(tmp_path / layout, layout, faces=84, duplicates=6, leaks=leaks, label_noise=0.1)
    records = truth_of(root)
    names = [r["record"] for r in records]
    assert len(names) == len(set(names)) == 90 + leaks and all(names)
    assert sum(r["duplicate_of"] is not None for r in records) == 6
    assert sum(r["leak_of"] is not None for r in records) == leaks
    assert sum(r["noisy"] for r in records) == round(0.1 * len(records))
    by_name = {r["record"]: r for r in records}
    for r in records:
        assert r["noisy"] == (r["true"] != r["written"])
        original = by_name.get(r["duplicate_of"] or r["leak_of"])
        if original:
            assert (original["identity"], original["units"]) == (r["identity"], r["units"])
            assert (original["split"] == r["split"]) == (r["duplicate_of"] is not None)
    seven = {r["written"] for r in records} & set(EMOTIONS)
    assert seven == {EMOTIONS[i] for i in LAYOUTS[layout].classes}
    people = [{r["identity"] for r in records if r["split"] == s and not r["leak_of"]} for s in LAYOUTS[layout].splits]
    assert sum(map(len, people)) == len(set.union(*people)), "the same person in two splits"
    again = dataset.write_raw(tmp_path / "again", layout, faces=84, duplicates=6, leaks=leaks, label_noise=0.1)

    def content(folder):
        return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    assert content(root) == content(again)


def test_fer2013_csv_rows_and_planted_copies(tmp_path):
    root = dataset.write_raw(tmp_path / "csv", "fer2013_csv", faces=100, duplicates=4, leaks=6)
    rows, records = grey_rows(root), truth_of(root)
    assert list(rows[0]) == ["emotion", "pixels", "Usage"]
    usage = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}
    for i, (row, r) in enumerate(zip(rows, records, strict=True)):
        pixels = np.array(row["pixels"].split(), int)
        assert pixels.size == 2304 and 0 <= pixels.min() <= pixels.max() <= 255 and np.ptp(pixels) > 20
        assert (r["record"], r["written"]) == (f"row{i:07d}", EMOTIONS[int(row["emotion"])])
        assert row["Usage"] == usage[r["split"]]
    copies = Counter(row["pixels"] for row in rows)
    assert len(copies) == 100, "copies other than the planted ones, or not exact"
    for r in records:
        if origin := r["duplicate_of"] or r["leak_of"]:
            assert rows[int(origin[3:])]["pixels"] == rows[int(r["record"][3:])]["pixels"]
    leaked = Counter(r["split"] for r in records if r["leak_of"])
    assert leaked == {"test": 3, "val": 3}


def test_fer2013_tree_keeps_the_split_in_the_file_name(tmp_path):
    root = dataset.write_raw(tmp_path / "tree", "fer2013_tree", faces=100, leaks=4)
    files = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.jpg"))
    records = {r["record"]: r for r in truth_of(root)}
    assert files == sorted(records)
    shape = re.compile(r"(train/(\w+)/Training|test/(\w+)/(PublicTest|PrivateTest))_\d+\.jpg")
    for name in files:
        match = shape.fullmatch(name)
        assert match, name
        assert EMOTIONS[class_id(match[2] or match[3])] == records[name]["written"]
        split = {None: "train", "PublicTest": "val", "PrivateTest": "test"}[match[4]]
        assert split == records[name]["split"]
    assert cv2.imread(str(root / files[0]), cv2.IMREAD_UNCHANGED).shape == (48, 48)
    digests = Counter(hashlib.sha256((root / name).read_bytes()).hexdigest() for name in files)
    assert sorted(digests.values()) == [1] * 96 + [2] * 4


def test_ferplus_votes_follow_the_rows(tmp_path):
    root = dataset.write_raw(tmp_path / "plus", "ferplus", faces=400)
    with (root / "fer2013new.csv").open(newline="") as file:
        votes = list(csv.reader(file))
    order = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF"]
    assert votes[0] == ["Usage", "Image name", *order]
    agree, other = 0, 0
    for row, counts, r in zip(grey_rows(root), votes[1:], truth_of(root), strict=True):
        numbers = [int(c) for c in counts[2:]]
        assert counts[0] == row["Usage"] and sum(numbers) == 10 and numbers == r["votes"]
        assert (counts[1] == "") == (numbers[9] == 10)
        winner = order[int(np.argmax(numbers))]
        agree += winner in order[:7] and EMOTIONS[class_id(winner)] == r["true"]
        other += winner in order[7:]
    assert 0.7 < agree / 400 < 0.98
    assert 2 <= other <= 40, "no unknown, contempt or NF majorities to exclude"


def test_ferplus_native_labels_stand_beside_their_pictures(tmp_path):
    root = dataset.write_raw(tmp_path / "native", "ferplus_native", faces=80)
    for folder in ("FER2013Train", "FER2013Valid", "FER2013Test"):
        first = (root / folder / "label.csv").read_text().splitlines()[0]
        assert re.fullmatch(r'fer\d{7}\.png,"\(0, 0, 48, 48\)"(,\d+){10}', first)
        with (root / folder / "label.csv").open(newline="") as file:
            names = [row[0] for row in csv.reader(file)]
        assert sorted(names) == sorted(p.name for p in (root / folder).glob("*.png")) and names


def test_tree_folders_are_spelt_as_aliases(tmp_path):
    root = dataset.write_raw(tmp_path / "any", "tree", faces=80, size=64)
    for r in truth_of(root):
        split, folder, _ = r["record"].split("/")
        assert split == r["split"] and EMOTIONS[class_id(folder)] == r["written"]
    picture = cv2.imread(str(root / r["record"]))
    assert picture.shape == (64, 64, 3) and picture.std(axis=2).mean() > 1, "not in colour"


def test_yolo_has_contempt_to_drop_and_stems_that_recur(tmp_path):
    root = dataset.write_raw(tmp_path / "yolo", "affectnet_yolo", faces=100)
    names = re.findall(r'^ {4}"(\w+)",$', (root / "data.yaml").read_text(), re.M)
    assert len(names) == 8 and "nc: 8" in (root / "data.yaml").read_text()
    stems = Counter()
    for r in truth_of(root):
        label = root / r["record"].replace("images", "labels").replace(".jpg", ".txt")
        number, *box = label.read_text().split()
        expected = "Contempt" if r["written"] == "Contempt" else EMOTIONS[class_id(names[int(number)])]
        assert expected == r["written"] and len(box) == 4
        assert (names[int(number)] == "Contempt") == (r["written"] == "Contempt")
        stems[label.stem] += 1
    assert max(stems.values()) == 3
    assert any(r["written"] == "Contempt" for r in truth_of(root))


def test_rafdb_numbers_classes_its_own_way(tmp_path):
    root = dataset.write_raw(tmp_path / "raf", "rafdb_basic", faces=80)
    text = (root / "EmoLabel" / "list_patition_label.txt").read_text()
    assert not text.endswith("\n")
    raf = dict(enumerate(("Surprise", "Fear", "Disgust", "Happy", "Sad", "Angry", "Neutral"), 1))
    written = {r["record"]: (r["written"], r["split"]) for r in truth_of(root)}
    for line in text.splitlines():
        name, number = line.split()
        assert re.fullmatch(r"train_\d{5}\.jpg|test_\d{4}\.jpg", name)
        pictures = (root / f"Image/aligned/{name[:-4]}_aligned.jpg", root / f"Image/original/{name}")
        assert sum(path.is_file() for path in pictures) == 1
        assert written.pop(name) == (raf[int(number)], name.split("_")[0])
    assert not written


def test_expw_boxes_hold_faces_and_a_few_leave_their_photo_by_a_pixel(tmp_path):
    root = dataset.write_raw(tmp_path / "expw", "expw", faces=70)
    faces, leaving = Counter(), 0
    written = {r["record"]: r["written"] for r in truth_of(root)}
    for line in (root / "label.lst").read_text().splitlines():
        name, face, *numbers = line.split()
        top, left, right, bottom = map(int, numbers[:4])
        photo = cv2.imread(str(root / "origin" / name))
        assert 0 <= top < bottom <= photo.shape[0] and 0 <= left < right <= photo.shape[1] + 1
        leaving += right > photo.shape[1]
        assert bottom - top == right - left == 80 and 0 <= float(numbers[4]) <= 100
        assert written.pop(f"{name}#{face}") == EMOTIONS[int(numbers[5])]
        faces[name] += 1
    assert not written and max(faces.values()) > 1 and leaving == 1


def test_wrong_labels_follow_typical_confusions_where_asked(tmp_path):
    records = [noise_injection.Record(None, "train", 0, c, c, 1.0, {}) for c in np.repeat(np.arange(7), 800)]
    planted = noise_injection.inject_noise(records, np.random.default_rng(0), 0, 0, 0.5, noise_shape="confusions")
    moved = np.zeros((7, 7))
    for r in planted:
        moved[r.true, r.written] += r.true != r.written
    assert moved.sum() == 2800
    np.testing.assert_allclose(moved / moved.sum(1, keepdims=True), noise_injection.CONFUSIONS, atol=0.07)
    np.testing.assert_allclose(noise_injection.CONFUSIONS.sum(1), 1.0)
    root = dataset.write_raw(tmp_path / "raw", "tree", faces=140, label_noise=0.4, noise_shape="confusions")
    disgust = [r["written"] for r in truth_of(root) if r["true"] == "Disgust" and r["noisy"]]
    assert set(disgust) <= {"Angry", "Fear", "Sad", "Surprise"}  # never Happy or Neutral
    assert sum(r["noisy"] for r in truth_of(root)) == 56


def test_wrong_labels_never_empty_a_class(tmp_path):
    root = dataset.write_raw(tmp_path / "noisy", "tree", faces=70, label_noise=0.9)
    kept = Counter((r["split"], r["written"]) for r in truth_of(root))
    assert len(kept) == 3 * 7


@pytest.mark.parametrize(
    "options, words",
    [
        ({"layout": "tree", "faces": 30}, "ask for >= 70"),
        ({"layout": "affectnet_yolo", "faces": 70}, "ask for >= 80"),
        ({"layout": "expw", "leaks": 2}, "leaks=0"),
        ({"layout": "fer2013_csv", "size": 64}, "48-pixel"),
        ({"layout": "tree", "faces": 100, "duplicates": 101}, "plant fewer"),
    ],
)
def test_impossible_requests_are_refused(options, words, tmp_path):
    with pytest.raises(DataError, match=re.escape(words)):
        dataset.write_raw(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_other_peoples_files_are_never_replaced(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="not an empty folder"):
        dataset.write_raw(tmp_path, "tree", faces=70)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert truth_of(dataset.write_raw(tmp_path / "empty", "tree", faces=70))


def test_a_full_disk_names_the_folder_and_leaves_nothing(tmp_path):
    """The kernel's own refusal: no file of this process may grow beyond 4 KB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(FerError, match="raw.*full"):
            dataset.write_raw(tmp_path / "raw", "fer2013_csv", faces=70)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(FerError, match="raw"):
        dataset.write_raw(tmp_path / "file" / "raw", "tree", faces=70)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(FerError, match="raw.*read-only"):
            dataset.write_raw(tmp_path / "raw", "tree", faces=70)
    finally:
        tmp_path.chmod(0o755)


def test_embedded_is_drawn_once_and_cached_by_what_was_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("FER_HOME", str(tmp_path))
    spec = SourceSpec(source="fer2013", faces=70)
    root = dataset.embedded_root(spec)
    assert root.parent == tmp_path / "mlruns" / "cache" and root.name.startswith("drawn-")
    stamp = (root / "truth.json").stat().st_mtime_ns
    assert dataset.embedded_root(spec) == root and (root / "truth.json").stat().st_mtime_ns == stamp
    assert dataset.embedded_root(SourceSpec(source="fer2013", faces=70, duplicates=2)) != root
    tree = dataset.embedded_root(SourceSpec(source="tree", name="affectnet_full_balanced", faces=70))
    units = [truth_of(folder)[0]["units"] for folder in (tree, root)]
    assert units[0] != units[1], "two sources hold the same faces"
    full, sure = (dataset.embedded_root(SourceSpec(source=source, faces=70)) for source in ("expw_full", "expw_hq"))
    assert full == sure, "the two sources of ExpW read one dataset"
