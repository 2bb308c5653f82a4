"""Files as people have them: names, places, suffixes and disks that no layout describes; nothing drops out unseen."""

import errno
import json
import os

import numpy as np
import pytest
import yaml

from fer_lib.errors import DataError
from fer_lib.importers import import_all, import_source
from fer_lib.importers.archives import _ordered
from fer_lib.importers.builder import ImportBuilder
from fer_lib.params import SourceSpec
from fer_lib.synthetic.layouts.writing import encode

CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


def put(path, seed=0, kind=".png"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8), kind))
    return path


@pytest.fixture
def tree(tmp_path):
    for j, name in enumerate(CLASSES):
        put(tmp_path / "raw" / "train" / name / "0.png", j)
    return tmp_path / "raw"


def imported(source, root, out, **more):
    return import_source(SourceSpec(source=source, root=str(root), **more), out)


def left_out(result):
    return sum(sum(names.values()) for names in result.report["excluded"].values())


# ---------------------------------------------------------------- nothing drops out unseen


def strew(folder, top):
    """Pictures and other files where none is read, ``folder`` being a class folder under ``top``; how many pictures."""
    put(folder / "deep" / "a.png", 50)
    put(folder / "deep" / "deeper" / "b.jpg", 51, ".jpg")
    put(folder / "p.heic", 52)
    put(folder / "nameless", 53)  # a picture by its content
    put(top / "loose.png", 54)
    for name in ("Thumbs.db", "deep/list.txt", ".hidden.png"):
        (folder / name).write_bytes(b"no picture at all")
    return 5


def test_every_picture_of_a_tree_is_a_row_or_excluded_with_its_reason(tree, tmp_path):
    put(tree / "train" / "happy" / "p.jfif", 40, ".jpg")  # a JPEG under another name is one
    pictures = strew(tree / "train" / "happy", tree / "train")
    put(tree / "loose.png", 60)
    result = imported("tree", tree, tmp_path / "out")
    assert len(result.rows) == 8 and "train/happy/p.jfif" in set(result.rows["record"])
    assert result.report["excluded"] == {
        "all": {"loose in raw": 1},
        "train": {
            "happy/deep: a folder in a class folder": 2, "happy: suffix .heic is not read": 1,
            "happy: suffix (none) is not read": 1, "in no class folder": 1,
        },
    }  # fmt: skip
    assert left_out(result) == pictures + 1 and result.report["ignored_files"] == 2
    told = "\n".join(result.warnings)
    assert all(word in told for word in ("deep", "nameless", "loose.png")), told


@pytest.mark.parametrize("source", ["ckplus", "jaffe"])
def test_every_picture_of_class_folders_is_a_row_or_excluded(source, tmp_path):
    root = tmp_path / "raw"
    for j, code in enumerate(("AN", "HA", "SU")):
        name = f"S00{j}_001_00000017.png" if source == "ckplus" else f"K{'ABC'[j]}.{code}1.3.tiff"
        put(root / ("anger", "happy", "surprise")[j] / name, j, name[name.rindex(".") :])
    pictures = strew(root / "happy", root)
    result = imported(source, root, tmp_path / "out")
    assert len(result.rows) == 3 and left_out(result) == pictures and result.report["ignored_files"] == 2


def test_jaffe_in_one_folder_and_fer2013_s_tree_count_them_too(tmp_path):
    for j, code in enumerate(("AN", "HA", "SU")):
        put(tmp_path / "flat" / f"K{'ABC'[j]}.{code}1.3.tiff", j, ".tiff")
    put(tmp_path / "flat" / "more" / "KD.AN1.3.tiff", 9, ".tiff")
    result = imported("jaffe", tmp_path / "flat", tmp_path / "out")
    assert (len(result.rows), left_out(result)) == (3, 1) and "more" in result.warnings[0]
    put(tmp_path / "fer" / "train" / "happy" / "Training_1.png")
    pictures = strew(tmp_path / "fer" / "train" / "happy", tmp_path / "fer" / "train")
    result = imported("fer2013", tmp_path / "fer", tmp_path / "out")
    assert (len(result.rows), left_out(result)) == (1, pictures)


def test_a_folder_one_level_too_high_or_low_is_told_with_what_was_found(tree, tmp_path):
    with pytest.raises(DataError) as error:
        imported("tree", tree / "train", tmp_path / "out")
    said = str(error.value)
    assert "no image of the seven classes" in said and "7 excluded, 0 other files; 7 in no class folder" in said
    assert "0.png" in said and "check that root is the folder that source tree reads" in said
    with pytest.raises(DataError) as error:
        imported("ckplus", tree, tmp_path / "out")
    assert "train/happy: a folder in a class folder" in str(error.value)
    put(tmp_path / "empty" / "train" / "happy" / "deep" / "a.png")
    with pytest.raises(DataError, match=r"happy holds no image that is read.*\n.*deep is not read"):
        imported("tree", tmp_path / "empty", tmp_path / "out")


def yolo(root, labels, split="train"):
    """``labels``: stem -> text of its label file, each with a picture."""
    for i, (stem, text) in enumerate(labels.items()):
        put(root / split / "images" / f"{stem}.png", i)
        (root / split / "labels").mkdir(parents=True, exist_ok=True)
        (root / split / "labels" / f"{stem}.txt").write_text(text)
    (root / "data.yaml").write_text(yaml.safe_dump({"names": ["Anger", "Contempt", "Happy"]}))
    return root


def test_yolo_s_kept_and_dropped_lines_are_all_lines(tmp_path):
    root = yolo(tmp_path / "raw", {
        "a": "0 .5 .5 1 1\n\n2 .5 .5 .5 .5\n", "b": "1 .5 .5 1 1\n0 .5 .5 1\n9 .5 .5 1 1\n", "c": "0 .5 .5 .0_3 1\n",
        "d": "", "e": "2 .5 .5 1 1",
    })  # fmt: skip
    labels, images = root / "train" / "labels", root / "train" / "images"
    (labels / "gone.txt").write_text("0 .5 .5 1 1\n2 .5 .5 1 1\nthree words here\n")  # no picture
    put(images / "deep" / "f.png", 70)
    (labels / "deep").mkdir()
    (labels / "deep" / "f.txt").write_text("0 .5 .5 1 1\n")
    put(images / "g.avif", 71)
    (labels / "classes.txt").write_text("Anger\nContempt\nHappy\n")
    yolo(root, {"h": "0 .5 .5 1 1\n2 .5 .5 1 1"}, split="dev")  # no split of that name
    result = imported("affectnet_yolo_format", root, tmp_path / "out", tolerance=9)
    report = result.report
    assert len(result.rows) == report["label_lines_kept"] == 3
    assert report["label_lines_kept"] + report["label_lines_dropped"] == 2 + 3 + 1 + 0 + 1 + 3 + 1 + 2
    assert report["excluded"] == {
        "all": {"raw/dev: no split with an images folder": 1},
        "train": {"Contempt": 1, "no label line": 1, "images/deep: a folder in a class folder": 1,
                  "images: suffix .avif is not read": 1},
    }  # fmt: skip
    assert report["bad_records"] == {
        "class id out of range": 1, "missing image": 1, "wrong box": 1, "wrong field count": 1,
    }  # fmt: skip


# ---------------------------------------------------------------- names


@pytest.fixture
def latin(tree):
    """A tree with a file name, and a folder name, that are no UTF-8."""
    try:
        put(tree / "train" / "happy" / os.fsdecode(b"caf\xe9.png"), 20)
        put(tree / "train" / os.fsdecode(b"m\xe9pris") / "a.png", 21)
    except OSError:
        pytest.skip("this disk takes no such name")
    return tree


def test_file_names_that_are_no_utf_8_are_counted_and_reported(latin, tmp_path):
    with pytest.raises(DataError) as error:
        imported("tree", latin, tmp_path / "out")
    said = str(error.value)
    assert "file name is no UTF-8 text" in said and r"caf\udce9.png" in said and said.encode("utf-8")
    report = import_all([SourceSpec(source="tree", root=str(latin), tolerance=1)], tmp_path / "out")
    assert report["manifest"]["rows"] == 7 and report["reports"][0]["excluded"] == {"train": {r"m\udce9pris": 1}}
    assert report["reports"][0]["bad_records"] == {"file name is no UTF-8 text": 1}
    assert json.loads((tmp_path / "out" / "clean_report.json").read_text()) == report


def test_a_root_of_such_a_name_works_and_an_output_folder_is_refused(tree, tmp_path):
    root, out = tmp_path / os.fsdecode(b"\xe9"), tmp_path / os.fsdecode(b"out\xff")
    try:
        os.rename(tree, root)
    except OSError:
        pytest.skip("this disk takes no such name")
    spec = SourceSpec(source="tree", root=str(root))
    report = import_all([spec], tmp_path / "out")
    assert report["manifest"]["rows"] == 7 and report["reports"][0]["source"].endswith(r"\udce9")
    with pytest.raises(DataError, match="no UTF-8 text: choose another"):
        import_all([spec], out)
    assert not out.exists()


def raf(root, lines):
    (root / "EmoLabel").mkdir(parents=True)
    (root / "EmoLabel" / "list_patition_label.txt").write_text("\n".join(lines))
    for i, line in enumerate(lines):
        if len(line) < 100:
            put(root / "Image" / "aligned" / line.replace(".jpg", "_aligned.jpg").split()[0], i, ".jpg")
    return root


@pytest.mark.parametrize("length", [237, 244, 300])  # _aligned is one too long, the name itself nearly, and by far
def test_a_name_too_long_for_a_disk_is_one_bad_record(tmp_path, length):
    root = raf(tmp_path / "raw", ["train_1.jpg 1", f"train_{'a' * (length - 10)}.jpg 3", "test_1.jpg 4"])
    with pytest.raises(DataError, match="1 bad records"):
        imported("rafdb_basic", root, tmp_path / "out")
    result = imported("rafdb_basic", root, tmp_path / "out", tolerance=1)
    assert len(result.rows) == 2 and sum(result.report["bad_records"].values()) == 1


def test_names_in_data_yaml_that_are_no_values_are_a_clear_error(tmp_path):
    root = yolo(tmp_path / "raw", {"a": "0 .5 .5 1 1"})
    for value in ("!!int ''", "!!bool maybe", "!!timestamp x", "!!float ''", '["\\ud800"]', "2024-13-45"):
        (root / "data.yaml").write_text(f"names: {value}\n")
        with pytest.raises(DataError, match=r"data\.yaml is no readable YAML"):
            imported("affectnet_yolo_format", root, tmp_path / "out")


# ---------------------------------------------------------------- disks


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
@pytest.mark.parametrize("source", ["tree", "fer2013", "ferplus", "expw_full", "affectnet_yolo_format", "rafdb_basic"])
def test_a_folder_one_may_not_enter_is_named(source, tmp_path):
    shut = tmp_path / "shut"
    put(shut / "raw" / "train" / "happy" / "a.png")
    shut.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)  # root may enter everywhere, nobody not even pytest's own folder
        for root in (shut / "raw", shut):
            with pytest.raises(PermissionError) as error:
                imported(source, root, tmp_path / "out")
            assert str(shut) in str(error.value.filename)
    finally:
        os.seteuid(user)
        shut.chmod(0o700)


@pytest.mark.parametrize("code", ["EXDEV", "EPERM", "EMLINK", "ENOTSUP", "EINVAL", "EACCES", "ENOSYS", "EIO"])
def test_where_no_link_can_be_made_files_are_copied(tree, tmp_path, monkeypatch, code):
    plain = imported("tree", tree, tmp_path / "linked")
    number = getattr(errno, code)

    def link(*paths, **more):
        raise OSError(number, os.strerror(number), str(paths[0]))

    monkeypatch.setattr(os, "link", link)
    result = imported("tree", tree, tmp_path / "out")
    assert result.rows.equals(plain.rows)
    for row in result.rows.itertuples():
        copy = tmp_path / "out" / row.image_path
        assert copy.read_bytes() == (tree / row.record).read_bytes() and not copy.samefile(tree / row.record)
    (note,) = result.report["notes"]
    assert os.strerror(number) in note and "copied" in note


def test_when_the_copy_fails_too_the_disk_s_reason_is_told(tree, tmp_path, monkeypatch):
    def link(*paths, **more):
        raise OSError(errno.EXDEV, "no links")

    def write(data, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(ImportBuilder, "_write", staticmethod(write))
    with pytest.raises(DataError, match=r"cannot write .*full"):
        imported("tree", tree, tmp_path / "out")
    assert not (tmp_path / "out" / "tree").exists()


def test_two_pictures_never_share_a_file(tree, tmp_path):
    spec = SourceSpec(source="tree", root=str(tree))
    builder = ImportBuilder(spec, "tree", tree, tmp_path / "work")
    path = tree / "train" / "happy" / "0.png"
    builder.add_file(path, "a.png", record="a", split="train", label=3)
    builder._stored.clear()  # as a disk does that takes a.png and A.png for one
    with pytest.raises(DataError, match="another image would both be a.png"):
        builder.add_file(tree / "train" / "sad" / "0.png", "a.png", record="A", split="train", label=4)
    assert (tmp_path / "work" / "images" / "a.png").samefile(path)


# ---------------------------------------------------------------- lists and archives


def test_of_doubled_expw_lines_the_first_in_the_file_stands(tmp_path):
    root = tmp_path / "raw"
    put(root / "origin" / "p.jpg", kind=".jpg")
    lines = [f"p.jpg {i} 0 0 8 8 90 1" for i in range(2, 10)] + ["p.jpg 0 0 0 8 8 90 3", "p.jpg 0 0 0 8 8 90 4"]
    for order in (lines, [lines[-2], *lines[:-2], lines[-1]]):  # lines 9 and 10, and 1 and 10
        (root / "label.lst").write_text("\n".join(order))
        result = imported("expw_full", root, tmp_path / "out", tolerance=1)
        assert result.rows.set_index("record").loc["p.jpg#0", "label"] == 3
        assert result.report["bad_records"] == {"record stands there twice": 1}


def test_numbers_that_only_python_reads_are_none(tmp_path):
    root = tmp_path / "raw"
    put(root / "origin" / "p.jpg", kind=".jpg")
    lines = ["p.jpg 0 0 0 8 8 90 3", "p.jpg 1 0 0 8 8 9_0 3", "p.jpg 2 0 0 8 \u0668 90 3", "p.jpg 3 0 0 8 8 90 0_3"]
    (root / "label.lst").write_text("\n".join(lines))
    result = imported("expw_full", root, tmp_path / "out", tolerance=3)
    assert result.rows["record"].tolist() == ["p.jpg#0"]
    assert result.report["bad_records"] == {"label out of range": 1, "wrong box": 2}


def test_the_parent_of_both_raf_sets_gives_each_source_its_own(tmp_path):
    raf(tmp_path / "raf" / "basic", [f"train_{i}.jpg {i}" for i in range(1, 8)])
    raf(tmp_path / "raf" / "compound", [f"train_{i}.jpg {i}" for i in range(1, 12)])
    assert len(imported("rafdb_basic", tmp_path / "raf", tmp_path / "out").rows) == 7
    assert len(imported("rafdb_compound_mapped", tmp_path / "raf", tmp_path / "out").rows) == 11


def test_another_archive_beside_the_photos_is_not_one_of_its_parts(tmp_path):
    names = ("label.7z", "origin.7z.001.001", "origin.7z.002", "origin.7z.003")
    paths = [tmp_path / name for name in names]
    assert _ordered(paths, "origin.7z", "expw") == paths[1:]
    with pytest.raises(DataError, match="part 002"):
        _ordered([paths[0], paths[1], paths[3]], "origin.7z", "expw")
    with pytest.raises(DataError, match="several archives, label.7z, photos.7z"):
        _ordered([paths[0], tmp_path / "photos.7z"], "origin.7z", "expw")
    assert _ordered([tmp_path / "photos.7z"], "origin.7z", "expw") == [tmp_path / "photos.7z"]
