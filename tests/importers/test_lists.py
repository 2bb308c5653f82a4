"""The sources whose labels stand in lists or in file names: what each keeps, refuses, and writes into its report."""

import builtins
import json
import os

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml
from watched_steps import watched_steps

from fer_lib.datasets.build import build_manifest
from fer_lib.datasets.manifest import content_id
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.faces.contract import FaceContract
from fer_lib.faces.decode import decode
from fer_lib.importers import import_all, import_source
from fer_lib.importers.source_table import SOURCES
from fer_lib.importers.subject_splits import assign_splits
from fer_lib.params import ManifestParams, SourceSpec
from fer_lib.synthetic.dataset import write_raw
from fer_lib.synthetic.layouts import encode

AFFECTNET = ["Anger", "Contempt", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise"]


def write_image(path, seed=0, shape=(20, 20)):
    """An image of smooth colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    corners = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    path.write_bytes(encode(cv2.resize(corners, shape[::-1], interpolation=cv2.INTER_LINEAR), path.suffix))
    return path


def assert_refused(spec, out, *fragments):
    with pytest.raises(DataError) as error:
        import_source(spec, out)
    for fragment in fragments:
        assert fragment in str(error.value), f"{fragment!r} not in {error.value}"
    assert [path for path in out.glob("*") if path.suffix != ".lock"] == []


def with_tolerance(spec, n=99):
    return spec.model_copy(update={"tolerance": n})


def test_the_table_names_every_source():
    assert set(SOURCES) >= {
        "fer2013", "tree", "ferplus", "affectnet_yolo_format", "rafdb_basic", "rafdb_compound_mapped", "rafml_argmax",
        "raf_au", "expw_full", "expw_hq", "ckplus", "jaffe",
    }  # fmt: skip


# ---------------------------------------------------------------- AffectNet, YOLO


@pytest.fixture
def yolo(tmp_path):
    """Two images a class in train, one in valid; the stems of valid recur in train for other images."""
    root = tmp_path / "raw" / "YOLO_format"
    for split, n in (("train", 2), ("valid", 1)):
        for cls in range(8):
            for i in range(n):
                write_image(root / split / "images" / f"p{cls}{i}.png", seed=100 * n + 10 * cls + i)
                label = root / split / "labels" / f"p{cls}{i}.txt"
                label.parent.mkdir(exist_ok=True)
                label.write_text(f"{cls} 0.499 0.499 0.999 0.999")
    (root / "data.yaml").write_text(yaml.safe_dump({"train": "../nowhere", "nc": 8, "names": AFFECTNET}))
    return root


@pytest.mark.parametrize("names", [AFFECTNET, dict(enumerate(AFFECTNET))], ids=["list", "mapping"])
def test_yolo_maps_names_drops_contempt_and_reports_both(yolo, tmp_path, names):
    (yolo / "data.yaml").write_text(yaml.safe_dump({"names": names}))
    spec = SourceSpec(source="affectnet_yolo_format", root=str(yolo.parent))
    result = import_source(spec, tmp_path / "out")
    assert result.rows["split"].value_counts().to_dict() == {"train": 14, "val": 7}
    for row in result.rows.itertuples():
        cls = int(row.record.split("/p")[1][0])
        assert EMOTIONS[row.label].startswith(AFFECTNET[cls][:3]) or (cls == 0 and row.label == 0)
        assert row.content_id == content_id((yolo / row.record).read_bytes())
    assert "bbox_top" not in result.rows, "a box that is the whole image is a face cropped already"
    report = result.report
    assert report["excluded"] == {"train": {"Contempt": 2}, "val": {"Contempt": 1}}
    assert (report["label_lines_kept"], report["label_lines_dropped"]) == (21, 3)
    assert report["old_names"] == AFFECTNET and report["new_names"] == list(EMOTIONS)
    assert report["mapping"]["Anger"] == "Angry" and report["mapping"]["Contempt"] is None
    assert report["ambiguous_stems"] == 7 and "7 file stems" in report["notes"][0]


def test_the_imported_images_are_a_yolo_dataset_of_seven_classes(yolo, tmp_path):
    import_source(SourceSpec(source="affectnet_yolo_format", root=str(yolo)), tmp_path / "out")
    view = tmp_path / "out" / "affectnet_yolo_format" / "images"
    content = yaml.safe_load((view / "data.yaml").read_text())
    assert content["nc"] == 7 and content["names"] == list(EMOTIONS)
    pictures = sorted(p.stem for p in (view / content["train"][0]).iterdir())
    labels = {p.stem: p.read_text() for p in (view / "train" / "labels").iterdir()}
    assert pictures == sorted(labels) and len(pictures) == 14
    assert labels["p00"] == "0 0.499 0.499 0.999 0.999\n" and labels["p70"].startswith("5 ")
    assert "path" not in content and not (view / "nowhere").exists()
    # and it can be imported again: the same faces
    again = import_source(SourceSpec(source="affectnet_yolo_format", root=str(view)), tmp_path / "again")
    assert len(again.rows) == 21 and again.report["label_lines_dropped"] == 0


def test_yolo_counts_bad_records_by_kind(yolo, tmp_path):
    labels = yolo / "train" / "labels"
    (labels / "p00.txt").write_text("9 0.5 0.5 1 1\n")
    (labels / "p01.txt").write_text("0 0.5 0.5 1\n")
    (labels / "p20.txt").write_text("2 0.5 nan 1 1\n")
    (labels / "p21.txt").write_text("2 3.5 0.5 1 1\n")
    (labels / "p30.txt").unlink()
    (yolo / "train" / "images" / "p31.png").unlink()
    (yolo / "train" / "images" / "p40.png").write_bytes(b"no picture")
    write_image(yolo / "train" / "images" / "p41.jpg")
    (labels / "p50.txt").write_text("5 0.5 0.5 1 1\n5 0.5 0.5 1 1\n")
    (labels / "p51.txt").write_text("\n")
    spec = SourceSpec(source="affectnet_yolo_format", root=str(yolo))
    assert_refused(
        spec,
        tmp_path / "out",
        "9 bad records",
        "tolerance 0",
        f"{labels / 'p00.txt'}, line 1: '9' is not a whole number 0..7",
    )
    report = import_source(with_tolerance(spec), tmp_path / "out").report
    assert report["bad_records"] == {
        "box outside the photo": 1, "class id out of range": 1, "missing image": 1, "missing label file": 2,
        "record stands there twice": 1, "unreadable image": 1, "wrong box": 1, "wrong field count": 1,
    }  # fmt: skip
    assert report["missing_images"] == 1 and report["excluded"]["train"]["no label line"] == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [Anger, Happy]\nnc: 8\n", "it has names ['Anger', 'Happy'] and nc 8"),
        ("names: {0: Anger, 2: Happy}\n", "mapping from 0, 1"),
        ("names: Anger\n", "names must be a list"),
        ("- Anger\n", "names must be a list"),
        ("names: [\n", "no readable YAML"),
        ("names: [Anger, Anger]\n", "different names; it has names ['Anger', 'Anger']"),
        ("names: !!python/object/apply:os.getcwd []\n", "no readable YAML"),
    ],
)
def test_an_inconsistent_data_yaml_is_refused(yolo, tmp_path, text, message):
    (yolo / "data.yaml").write_text(text)
    spec = SourceSpec(source="affectnet_yolo_format", root=str(yolo))
    assert_refused(spec, tmp_path / "out", str(yolo / "data.yaml"), message)


# ---------------------------------------------------------------- RAF


def write_raf(root, lines, aligned=(), original=()):
    (root / "EmoLabel").mkdir(parents=True)
    (root / "EmoLabel" / "list_patition_label.txt").write_text("\n".join(lines))
    for i, stem in enumerate(aligned):
        write_image(root / "Image" / "aligned" / "aligned" / f"{stem}_aligned.jpg", seed=i)
    for i, stem in enumerate(original):
        write_image(root / "Image" / "original" / f"{stem}.jpg", seed=50 + i)
    return root


def test_rafdb_takes_the_aligned_image_else_the_original(tmp_path):
    stems = [f"train_{i:05d}" for i in range(1, 8)]
    lines = [f"{stem}.jpg {i}" for i, stem in enumerate(stems, 1)] + ["test_0001.jpg 4"]
    root = write_raf(tmp_path / "basic", lines, stems[:5], [*stems[4:], "test_0001"])
    result = import_source(SourceSpec(source="rafdb_basic", root=str(root)), tmp_path / "out")
    rows = result.rows.set_index("record")
    order = ("Surprise", "Fear", "Disgust", "Happy", "Sad", "Angry", "Neutral")
    assert [EMOTIONS[rows.loc[f"{stem}.jpg", "label"]] for stem in stems] == list(order)
    assert rows.loc["test_0001.jpg", "split"] == "test" and (rows["split"] == "train").sum() == 7
    assert "/aligned/" in rows.loc["train_00005.jpg", "image_path"]
    assert "/original/" in rows.loc["train_00006.jpg", "image_path"]
    assert result.report["notes"] == ["3 images exist as originals only, not aligned"]
    assert_refused(
        SourceSpec(source="rafdb_compound_mapped", root=str(root)), tmp_path / "no", "basic set", "rafdb_basic"
    )


def test_the_basic_source_refuses_rafdb_s_compound_list(tmp_path):
    stems = [f"train_{i:04d}" for i in range(1, 12)]
    lines = [f"{stem}.jpg {i}" for i, stem in enumerate(stems, 1)]
    root = write_raf(tmp_path / "compound", lines, stems)
    spec = SourceSpec(source="rafdb_basic", root=str(root), tolerance=99)
    assert_refused(spec, tmp_path / "no", "compound set", "rafdb_compound_mapped", "labels up to 11")
    rows = import_source(SourceSpec(source="rafdb_compound_mapped", root=str(root)), tmp_path / "out").rows
    mapped = [EMOTIONS[label] for label in rows["label"]]
    assert mapped == ["Happy"] * 2 + ["Sad"] * 4 + ["Fear"] * 2 + ["Angry"] * 2 + ["Disgust"]


def write_attributes(root, texts):
    (root / "Annotation" / "manual").mkdir(parents=True)
    for stem, text in texts.items():
        (root / "Annotation" / "manual" / f"{stem}_manu_attri.txt").write_text(text)


LANDMARKS = " 67.68\t91.92\n125.3\t94.1\n98.0\t120.5\n71.2\t150.4\n122.9\t149.0\n"


def test_rafdb_gender_race_and_age_become_group_columns(tmp_path):
    stems = ["train_00001", "train_00002", "train_00003", "test_0001"]
    lines = [f"{stem}.jpg {i}" for i, stem in enumerate(stems, 1)]
    root = write_raf(tmp_path / "basic", lines, stems)
    spec = SourceSpec(source="rafdb_basic", root=str(root))
    bare = import_source(spec, tmp_path / "bare")
    assert not [c for c in bare.rows if c.startswith("group")] and "attributes" not in bare.report
    write_attributes(root, {"train_00001": LANDMARKS + "1\n0\n2\n", "train_00002": LANDMARKS + "2\n2\n4", "test_0001":
                      LANDMARKS + "0\n1\n0\n"})  # fmt: skip
    result = import_source(spec, tmp_path / "out")
    groups = ["group_gender", "group_race", "group_age"]
    rows = result.rows.set_index("record")[groups]
    assert rows.loc["train_00001.jpg"].tolist() == ["female", "Caucasian", "20-39"]
    assert rows.loc["train_00002.jpg"].tolist() == ["unsure", "Asian", "70+"]
    assert rows.loc["test_0001.jpg"].tolist() == ["male", "African-American", "0-3"]
    assert rows.loc["train_00003.jpg"].isna().all()
    assert result.report["attributes"] == {"rows": 3, "rows_without": 1}
    assert result.report["notes"] == ["1 images have no gender, race and age in Annotation/manual"]
    pd.testing.assert_frame_equal(result.rows.drop(columns=groups), bare.rows)  # ids included
    read = build_manifest(ManifestParams(val_fraction=0.0), tmp_path / "out", tmp_path / "manifest").frame
    assert read.set_index("record")["group_race"].value_counts().to_dict() == {
        "Caucasian": 1, "Asian": 1, "African-American": 1,
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", LANDMARKS, LANDMARKS + "1\n0\n5\n", LANDMARKS + "1 0\n2\n", "1\n0\n2\n", "\0"])
def test_a_wrong_attribute_file_is_a_bad_record_and_its_image_is_imported(tmp_path, text):
    root = write_raf(tmp_path / "basic", ["train_00001.jpg 1"], ["train_00001"])
    write_attributes(root, {"train_00001": text})
    spec = SourceSpec(source="rafdb_basic", root=str(root))
    assert_refused(spec, tmp_path / "no", "train_00001_manu_attri.txt", "wrong attributes")
    result = import_source(spec.model_copy(update={"tolerance": 1}), tmp_path / "out")
    assert len(result.rows) == 1 and result.report["bad_records"] == {"wrong attributes": 1}
    assert result.report["attributes"] == {"rows": 0, "rows_without": 1}


def test_rafdb_counts_bad_records_by_kind(tmp_path):
    lines = ["train_00001.jpg 5", "train_00002.jpg 0", "valid_00003.jpg 1", "../train_4.jpg 1", "train_00005.jpg",
             "train_00006.jpg 1", "train_00001.jpg 4", "train_00007.jpg x"]  # fmt: skip
    root = write_raf(tmp_path / "basic", lines, ["train_00001"])
    spec = SourceSpec(source="rafdb_basic", root=str(root))
    assert_refused(spec, tmp_path / "no", "7 bad records", "line 4: '../train_4.jpg'")
    report = import_source(with_tolerance(spec), tmp_path / "out").report
    assert report["bad_records"] == {
        "label out of range": 2, "missing image": 1, "neither train_ nor test_ in the file name": 1,
        "record stands there twice": 1, "wrong field count": 1, "wrong file name": 1,
    }  # fmt: skip
    assert report["missing_images"] == 1
    (tmp_path / "void").mkdir()
    spec = SourceSpec(source="rafdb_basic", root=str(tmp_path / "void"))
    assert_refused(spec, tmp_path / "no", "has no EmoLabel/list_patition_label.txt")


def test_rafml_label_is_the_first_largest_share_and_soft_label_the_distribution(tmp_path):
    root = tmp_path / "raf-ml"
    (root / "EmoLabel").mkdir(parents=True)
    lines = ["0001.jpg 0.1 0.4 0.0 0.4 0.1 0", "0002.jpg 0 0 0 0 0 1", "0003.jpg 0.5 0.5 0.5 0 0 0",
             "0004.jpg 0.2 0.2 0.2 0.2 0.2 0", "0005.jpg 1 0 0 0 0 0"]  # fmt: skip
    (root / "EmoLabel" / "distribution.txt").write_text("\n".join(lines))
    flags = "0001.jpg 0\n0002.jpg 1\n0003.jpg 0\n0004.jpg 2\n0006.jpg 0\n0005.jpg 1\n"
    (root / "EmoLabel" / "partition_label.txt").write_text(flags)
    for i in range(1, 7):
        write_image(root / "Image" / "aligned" / f"{i:04d}_aligned.jpg", seed=i)
    spec = SourceSpec(source="rafml_argmax", root=str(root))
    assert_refused(
        spec, tmp_path / "no", "4 bad records", "six shares that sum to 1", "'2' is neither 0", "0006.jpg is in"
    )
    rows = import_source(with_tolerance(spec), tmp_path / "out").rows
    assert rows["record"].tolist() == ["0001.jpg", "0002.jpg", "0005.jpg"]
    assert [EMOTIONS[i] for i in rows["label"]] == ["Fear", "Angry", "Surprise"]
    assert rows["split"].tolist() == ["train", "test", "test"]
    assert rows["soft_label"][0] == pytest.approx([0, 0, 0.4, 0.4, 0.1, 0.1, 0], abs=1e-15)
    assert all(sum(soft) == pytest.approx(1, abs=1e-15) and soft[6] == 0 for soft in rows["soft_label"])


def test_raf_au_is_refused_with_the_reason(tmp_path):
    (tmp_path / "raf").mkdir()
    assert_refused(
        SourceSpec(source="raf_au", root=str(tmp_path / "raf")), tmp_path / "out", "action units", "rafdb_basic"
    )


# ---------------------------------------------------------------- ExpW


@pytest.fixture
def expw(tmp_path):
    """Twelve photos of 60 x 80 pixels with one sure and one unsure face each."""
    lines = []
    for i in range(12):
        write_image(tmp_path / "expw" / "origin" / "origin" / f"p{i}.jpg", seed=i, shape=(60, 80))
        lines += [f"p{i}.jpg 0 5 5 35 35 90.5 {i % 7}", f"p{i}.jpg 1 20 40 {40 + 45} 61 30 {(i + 1) % 7}"]
    (tmp_path / "expw" / "label.lst").write_text("\n".join(lines))
    return tmp_path / "expw"


def test_expw_reports_its_keys_and_keeps_boxes_that_leave_their_photo(expw, tmp_path):
    result = import_source(SourceSpec(source="expw_full", root=str(expw)), tmp_path / "out")
    rows, report = result.rows, result.report
    assert len(rows) == 24 and rows["image_path"].nunique() == 12
    leaving = rows[rows["face_id"] == "1"].iloc[0]
    assert (leaving.bbox_top, leaving.bbox_left, leaving.bbox_bottom, leaving.bbox_right) == (20, 40, 61, 85)
    assert report["boxes_outside"] == 12 and report["bad_records"] == {}
    assert os.path.samefile(tmp_path / "out" / leaving.image_path, expw / "origin" / "origin" / leaving.orig_image)
    assert {"images_dir", "label_file", "min_confidence", "write_crops", "rows_total", "rows_kept", "missing_images",
            "bad_label", "split_fracs", "seed", "counts"} <= set(report)  # fmt: skip
    assert (report["rows_total"], report["rows_kept"], report["seed"]) == (24, 24, 1337)
    assert sum(report["counts"].values()) == 24 and all("|" in key for key in report["counts"])
    assert (rows.groupby("orig_image")["split"].nunique() == 1).all()


def test_expw_hq_writes_crops_of_the_face_contract_with_the_split_of_expw_full(expw, tmp_path):
    full = import_source(SourceSpec(source="expw_full", root=str(expw)), tmp_path / "full").rows.set_index("record")
    result = import_source(SourceSpec(source="expw_hq", root=str(expw)), tmp_path / "out")
    rows = result.rows.set_index("record")
    assert len(rows) == 12 and (rows["confidence"] >= 60).all() and "bbox_top" not in rows
    assert rows["split"].equals(full.loc[rows.index, "split"])
    assert rows["content_id"].equals(full.loc[rows.index, "content_id"])
    assert sum(result.report["excluded"][s]["confidence below 60"] for s in result.report["excluded"]) == 12
    assert result.report["write_crops"] is True and result.report["min_confidence"] == 60
    contract = FaceContract(image_size=64)
    for record, row in rows.iterrows():
        photo = decode(expw / "origin" / "origin" / row["orig_image"])
        box = tuple(full.loc[record, f"bbox_{side}"] for side in ("top", "left", "bottom", "right"))
        crop = decode(tmp_path / "out" / row["image_path"])
        assert crop.shape == (30, 30, 3)
        difference = np.abs(contract.face(crop).astype(int) - contract.face(photo, box))
        assert difference.mean() < 2, "another face than photo and box give"


def test_crop_parameters_change_the_crops_and_their_folder(expw, tmp_path):
    spec = SourceSpec(source="expw_hq", root=str(expw), min_confidence=0)
    fine = import_source(spec, tmp_path / "fine").rows
    rough = import_source(spec.model_copy(update={"jpeg_quality": 10, "jpeg_subsampling": 2}), tmp_path / "rough").rows
    wide = import_source(spec.model_copy(update={"bbox_pad_ratio": 0.5}), tmp_path / "wide").rows
    sizes = [
        (tmp_path / name / rows["image_path"][0]).stat().st_size for name, rows in (("fine", fine), ("rough", rough))
    ]
    assert sizes[0] > sizes[1]
    assert decode(tmp_path / "wide" / wide["image_path"][0]).shape == (60, 60, 3)
    assert len({rows["image_path"][0] for rows in (fine, rough, wide)}) == 3
    boxes = import_source(spec.model_copy(update={"crop": False}), tmp_path / "boxes").rows
    assert boxes["bbox_right"].notna().all() and boxes["sample_id"].equals(fine["sample_id"])


def test_expw_counts_bad_lines_by_kind(expw, tmp_path):
    more = ["p0.jpg 2 5 5 5 35 90 0", "p0.jpg 3 5 5 35 35 90 7", "p0.jpg 4 5 5 35 x 90 1", "p0.jpg 5 5 5 35 35 90",
            "gone.jpg 0 5 5 35 35 90 1", "p1.jpg 2 500 5 35 535 90 1", "p1.jpg 3 -500 -500 500 500 90 1",
            "p1.jpg 0 5 5 35 35 90 1", "p1.jpg -1 5 5 35 35 90 1", "a/b.jpg 1 5 5 35 35 90 1"]  # fmt: skip
    with open(expw / "label.lst", "a") as handle:
        handle.write("\n" + "\n".join(more))
    spec = SourceSpec(source="expw_full", root=str(expw))
    assert_refused(
        spec, tmp_path / "no", "10 bad records", f"{expw / 'label.lst'}, line 26: '7' is not a whole number 0..6"
    )
    report = import_source(with_tolerance(spec), tmp_path / "out").report
    assert report["bad_records"] == {
        "box far larger than the photo": 1, "box outside the photo": 1, "empty box": 1, "label out of range": 1,
        "missing image": 1, "record stands there twice": 1, "wrong box": 1, "wrong face id": 1, "wrong field count": 1,
        "wrong file name": 1,
    }  # fmt: skip
    assert report["rows_total"] == 34 and report["rows_kept"] == 24
    assert report["bad_label"] == 1 and report["missing_images"] == 1


def test_splits_follow_a_hash_and_the_fractions(tmp_path):
    photos = [f"p{i}" for i in range(1000)]
    split = assign_splits(photos, (0.8, 0.1, 0.1), 1337)
    assert [list(split.values()).count(s) for s in ("train", "val", "test")] == [800, 100, 100]
    assert assign_splits(reversed(photos), (0.8, 0.1, 0.1), 1337) == split != assign_splits(photos, (0.8, 0.1, 0.1), 42)
    assert sorted(assign_splits("abc", (0.8, 0.1, 0.1), 1).values()) == ["test", "train", "val"]
    assert set(assign_splits("ab", (0.8, 0.1, 0.1), 1).values()) == {"train"}
    assert set(assign_splits(photos, (1.0, 0.0, 0.0), 1).values()) == {"train"}


@pytest.fixture
def packed_expw(expw, tmp_path):
    """ExpW as it is downloaded: label.lst and the archive in three parts, the first misnamed."""
    py7zr = pytest.importorskip("py7zr")
    with py7zr.SevenZipFile(tmp_path / "all.7z", "w") as archive:
        archive.writeall(expw / "origin" / "origin", "origin")
    data = (tmp_path / "all.7z").read_bytes()
    root, third = tmp_path / "packed", len(data) // 3 + 1
    root.mkdir()
    (root / "label.lst").write_bytes((expw / "label.lst").read_bytes())
    for i, name in enumerate(("origin.7z.001.001", "origin.7z.002", "origin.7z.003")):
        (root / name).write_bytes(data[i * third : (i + 1) * third])
    return root


def test_packed_photos_are_unpacked_once_into_the_cache(packed_expw, expw, tmp_path, monkeypatch):
    monkeypatch.setenv("FER_HOME", str(tmp_path / "home"))
    before = sorted(p.name for p in packed_expw.iterdir())
    spec = SourceSpec(source="expw_full", root=str(packed_expw))
    rows = import_source(spec, tmp_path / "out").rows
    assert rows.equals(import_source(SourceSpec(source="expw_full", root=str(expw)), tmp_path / "plain").rows)
    assert sorted(p.name for p in packed_expw.iterdir()) == before
    (cache,) = (p for p in (tmp_path / "home" / "mlruns" / "cache").iterdir() if p.is_dir())
    stamp = cache.stat().st_mtime_ns
    import_source(spec.model_copy(update={"source": "expw_hq"}), tmp_path / "out")
    assert cache.stat().st_mtime_ns == stamp
    (packed_expw / "origin.7z.002").rename(tmp_path / "origin.7z.002")
    assert_refused(spec, tmp_path / "no", "part 002", str(packed_expw))
    (packed_expw / "origin.7z.002").write_bytes(b"not the second part")
    assert_refused(spec, tmp_path / "no", "origin.7z.001.001 is no whole 7z archive")
    assert not [p for p in (tmp_path / "home" / "mlruns" / "cache").iterdir() if "partial" in p.name]


def test_an_archive_in_one_file_is_unpacked_and_a_stray_file_beside_parts_refused(packed_expw, tmp_path, monkeypatch):
    monkeypatch.setenv("FER_HOME", str(tmp_path / "home"))
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "label.lst").write_bytes((packed_expw / "label.lst").read_bytes())
    (whole / "origin.7z").write_bytes((tmp_path / "all.7z").read_bytes())
    rows = import_source(SourceSpec(source="expw_full", root=str(whole)), tmp_path / "out").rows
    assert len(rows) == 24 and rows["image_path"].nunique() == 12
    (packed_expw / "origin.7z.002.part").write_bytes(b"half a download")
    spec = SourceSpec(source="expw_full", root=str(packed_expw))
    assert_refused(spec, tmp_path / "no", "origin.7z.002.part is no part of the 7z archive", "move it")


def test_without_py7zr_the_message_says_how_to_unpack(packed_expw, tmp_path, monkeypatch):
    real = builtins.__import__

    def no_py7zr(name, *rest):
        if name == "py7zr":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", no_py7zr)
    spec = SourceSpec(source="expw_full", root=str(packed_expw))
    assert_refused(
        spec, tmp_path / "no", "origin.7z.001.001", "pip install 'fer-lab[archives]'", "7z x origin.7z.001, which"
    )


def test_expw_without_list_or_photos_is_refused(tmp_path):
    (tmp_path / "raw").mkdir()
    spec = SourceSpec(source="expw_full", root=str(tmp_path / "raw"))
    assert_refused(spec, tmp_path / "no", "no label.lst")
    (tmp_path / "raw" / "label.lst").write_text("a.jpg 0 1 1 2 2 90 1\n")
    assert_refused(spec, tmp_path / "no", "no origin/ with photos", "origin.7z.001")


# ---------------------------------------------------------------- people


def test_ckplus_and_jaffe_split_by_person(tmp_path):
    for person in range(10):
        for label, name in enumerate(("anger", "disgust", "fear", "happy", "sadness", "surprise", "contempt")):
            write_image(tmp_path / "ck" / name / f"S{person:03d}_{label:03d}_00000017.png", seed=10 * person + label)
        for i, code in enumerate(("AN", "DI", "FE", "HA", "NE", "SA", "SU")):
            write_image(
                tmp_path / "jaffe" / f"K{chr(65 + person)}.{code}{i % 3 + 1}.{person}.tiff", seed=10 * person + i
            )
    ck = import_source(SourceSpec(source="ckplus", root=str(tmp_path / "ck")), tmp_path / "out")
    assert ck.rows["split"].value_counts().to_dict() == {"train": 48, "val": 6, "test": 6}
    assert ck.report["excluded"] == {"all": {"contempt": 10}} and ck.report["subjects"] == 10
    jaffe = import_source(SourceSpec(source="jaffe", root=str(tmp_path / "jaffe")), tmp_path / "out")
    assert jaffe.rows["split"].value_counts().to_dict() == {"train": 56, "val": 7, "test": 7}
    for rows, letters in ((ck.rows, 4), (jaffe.rows, 2)):
        assert (rows.groupby("subject")["split"].nunique() == 1).all() and rows["subject"].nunique() == 10
        assert all(s == r.rsplit("/")[-1][:letters] for s, r in zip(rows["subject"], rows["record"], strict=True))
    other = SourceSpec(source="ckplus", root=str(tmp_path / "ck"), split_seed=42)
    assert not import_source(other, tmp_path / "other").rows["split"].equals(ck.rows["split"])
    (tmp_path / "ck" / "happy" / "smile.png").write_bytes(b"x")
    assert_refused(
        SourceSpec(source="ckplus", root=str(tmp_path / "ck")), tmp_path / "no", "no person in the file name", "smile"
    )


def test_jaffe_folder_and_file_name_must_agree(tmp_path):
    write_image(tmp_path / "raw" / "HAPPY" / "KA.HA1.29.tiff", seed=1)
    write_image(tmp_path / "raw" / "HAPPY" / "KA.AN1.39.tiff", seed=2)
    spec = SourceSpec(source="jaffe", root=str(tmp_path / "raw"))
    assert_refused(spec, tmp_path / "no", "folder and file name disagree", "KA.AN1.39.tiff")
    assert len(import_source(with_tolerance(spec), tmp_path / "out").rows) == 1


# ---------------------------------------------------------------- all of them


def test_drawn_sources_import_together_with_progress_and_one_report(tmp_path):
    specs = []
    for layout, source in (("affectnet_yolo", "affectnet_yolo_format"), ("expw", "expw_hq"), ("rafml", "rafml_argmax")):
        root = write_raw(tmp_path / layout, layout, faces=80, size=24)
        specs.append(SourceSpec(source=source, root=str(root)))
    with watched_steps() as records:
        report = import_all(specs, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "clean_report.json").read_text()) == report
    assert [entry["type"] for entry in report["reports"]] == [spec.source for spec in specs]
    sizes = [sum(sum(n.values()) for n in entry["splits"].values()) for entry in report["reports"]]
    assert sum(sizes) == report["manifest"]["rows"]
    texts = [record["text"].split("  ")[:2] for record in records]
    for number, (spec, size) in enumerate(zip(specs, sizes, strict=True), 1):
        rows = [text[1] for text in texts if text[0] == f"dataset {number}/3" and len(text) > 1]
        assert rows == [f"importing {spec.source}"] + [f"importing {spec.source} {n}" for n in range(1, size + 1)]


@pytest.mark.parametrize("fracs", [(0.8, 0.1, 0.2), (0.0, 0.5, 0.4), (1.2, -0.1, -0.1)])
def test_split_fractions_that_do_not_sum_to_one_are_refused(fracs):
    with pytest.raises(ValueError):
        SourceSpec(source="expw_full", split_fracs=fracs)
