"""Files as people have them: names, places, suffixes and disks that no layout describes; nothing drops out unseen."""

import errno
import json
import os

import numpy as np
import pytest
import yaml

from fer_lib.errors import DataError
from fer_lib.importers import import_all, import_source
from fer_lib.importers.archives import sorted_parts
from fer_lib.importers.builder import ImportBuilder
from fer_lib.importers.image_files import NOT_READ
from fer_lib.params import SourceSpec
from fer_lib.synthetic.layouts import encode

CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


def write_image(path, seed=0, kind=".png"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8), kind))
    return path


@pytest.fixture
def tree(tmp_path):
    for j, name in enumerate(CLASSES):
        write_image(tmp_path / "raw" / "train" / name / "0.png", j)
    return tmp_path / "raw"


def import_root(source, root, out, **more):
    return import_source(SourceSpec(source=source, root=str(root), **more), out)


def excluded_count(result):
    return sum(sum(names.values()) for names in result.report["excluded"].values())


# ---------------------------------------------------------------- nothing drops out unseen


def scatter_files(folder, top):
    """Images and other files where none is read, ``folder`` being a class folder under ``top``; how many images."""
    write_image(folder / "deep" / "a.png", 50)
    write_image(folder / "deep" / "deeper" / "b.jpg", 51, ".jpg")
    write_image(folder / "p.heic", 52)
    write_image(top / "loose.png", 54)
    for name in ("Thumbs.db", "deep/list.txt", ".hidden.png"):
        (folder / name).write_bytes(b"no picture at all")
    return 4


def test_every_image_of_a_tree_is_a_row_or_excluded_with_its_reason(tree, tmp_path):
    write_image(tree / "train" / "happy" / "p.jfif", 40, ".jpg")  # a JPEG under another name is one
    image_count = scatter_files(tree / "train" / "happy", tree / "train")
    write_image(tree / "loose.png", 60)
    result = import_root("tree", tree, tmp_path / "out")
    assert len(result.rows) == 8 and "train/happy/p.jfif" in set(result.rows["record"])
    assert result.report["excluded"] == {
        "all": {NOT_READ: 1},
        "train": {NOT_READ: 4},
    }
    assert excluded_count(result) == image_count + 1 and result.report["ignored_files"] == 2
    warnings = "\n".join(result.warnings)
    assert all(word in warnings for word in ("p.heic", "loose.png", "as one of .bmp")), warnings


@pytest.mark.parametrize("source", ["ckplus", "jaffe"])
def test_every_image_of_class_folders_is_a_row_or_excluded(source, tmp_path):
    root = tmp_path / "raw"
    for j, code in enumerate(("AN", "HA", "SU")):
        name = f"S00{j}_001_00000017.png" if source == "ckplus" else f"K{'ABC'[j]}.{code}1.3.tiff"
        write_image(root / ("anger", "happy", "surprise")[j] / name, j, name[name.rindex(".") :])
    image_count = scatter_files(root / "happy", root)
    result = import_root(source, root, tmp_path / "out")
    assert len(result.rows) == 3 and excluded_count(result) == image_count and result.report["ignored_files"] == 2


def test_jaffe_in_one_folder_and_fer2013_trees_count_excluded_images(tmp_path):
    for j, code in enumerate(("AN", "HA", "SU")):
        write_image(tmp_path / "flat" / f"K{'ABC'[j]}.{code}1.3.tiff", j, ".tiff")
    write_image(tmp_path / "flat" / "more" / "KD.AN1.3.tiff", 9, ".tiff")
    result = import_root("jaffe", tmp_path / "flat", tmp_path / "out")
    assert (len(result.rows), excluded_count(result)) == (3, 1) and "more" in result.warnings[0]
    write_image(tmp_path / "fer" / "train" / "happy" / "Training_1.png")
    image_count = scatter_files(tmp_path / "fer" / "train" / "happy", tmp_path / "fer" / "train")
    result = import_root("fer2013", tmp_path / "fer", tmp_path / "out")
    assert (len(result.rows), excluded_count(result)) == (1, image_count)


def test_a_root_one_level_too_high_or_low_is_refused_with_the_counts(tree, tmp_path):
    with pytest.raises(DataError) as error:
        import_root("tree", tree / "train", tmp_path / "out")
    message = str(error.value)
    assert "no image of the seven classes" in message and f"7 excluded, 0 other files; 7 {NOT_READ}" in message
    assert "0.png" in message and "check that root is the folder that source tree reads" in message
    with pytest.raises(DataError) as error:
        import_root("ckplus", tree, tmp_path / "out")
    assert f"7 {NOT_READ}" in str(error.value)
    write_image(tmp_path / "empty" / "train" / "happy" / "deep" / "a.png")
    with pytest.raises(DataError, match=r"happy holds no image that is read.*\n.*1 images in .*happy/deep/a.png"):
        import_root("tree", tmp_path / "empty", tmp_path / "out")


def write_yolo(root, labels, split="train"):
    """``labels``: stem -> text of its label file, each with an image."""
    for i, (stem, text) in enumerate(labels.items()):
        write_image(root / split / "images" / f"{stem}.png", i)
        (root / split / "labels").mkdir(parents=True, exist_ok=True)
        (root / split / "labels" / f"{stem}.txt").write_text(text)
    (root / "data.yaml").write_text(yaml.safe_dump({"names": ["Anger", "Contempt", "Happy"]}))
    return root


def test_yolo_kept_and_dropped_lines_sum_to_all_lines(tmp_path):
    root = write_yolo(tmp_path / "raw", {
        "a": "0 .5 .5 1 1\n\n2 .5 .5 .5 .5\n", "b": "1 .5 .5 1 1\n0 .5 .5 1\n9 .5 .5 1 1\n", "c": "0 .5 .5 .0_3 1\n",
        "d": "", "e": "2 .5 .5 1 1",
    })  # fmt: skip
    labels, images = root / "train" / "labels", root / "train" / "images"
    (labels / "gone.txt").write_text("0 .5 .5 1 1\n2 .5 .5 1 1\nthree words here\n")  # no image
    write_image(images / "deep" / "f.png", 70)
    (labels / "deep").mkdir()
    (labels / "deep" / "f.txt").write_text("0 .5 .5 1 1\n")
    write_image(images / "g.avif", 71)
    (labels / "classes.txt").write_text("Anger\nContempt\nHappy\n")
    write_yolo(root, {"h": "0 .5 .5 1 1\n2 .5 .5 1 1"}, split="dev")  # no split of that name
    result = import_root("affectnet_yolo_format", root, tmp_path / "out", tolerance=9)
    report = result.report
    assert len(result.rows) == report["label_lines_kept"] == 3
    assert report["label_lines_kept"] + report["label_lines_dropped"] == 2 + 3 + 1 + 0 + 1 + 3 + 1 + 2
    assert report["excluded"] == {
        "all": {NOT_READ: 1},
        "train": {"Contempt": 1, "no label line": 1, NOT_READ: 2},
    }
    assert report["bad_records"] == {
        "class id out of range": 1, "missing image": 1, "wrong box": 1, "wrong field count": 1,
    }  # fmt: skip


# ---------------------------------------------------------------- names


@pytest.fixture
def latin_tree(tree):
    """A tree with a file name, and a folder name, that are no UTF-8."""
    try:
        write_image(tree / "train" / "happy" / os.fsdecode(b"caf\xe9.png"), 20)
        write_image(tree / "train" / os.fsdecode(b"m\xe9pris") / "a.png", 21)
    except OSError:
        pytest.skip("this disk takes no such name")
    return tree


def test_file_names_that_are_not_utf_8_are_bad_records(latin_tree, tmp_path):
    with pytest.raises(DataError) as error:
        import_root("tree", latin_tree, tmp_path / "out")
    message = str(error.value)
    assert "file name is no UTF-8 text" in message and r"caf\udce9.png" in message and message.encode("utf-8")
    report = import_all([SourceSpec(source="tree", root=str(latin_tree), tolerance=1)], tmp_path / "out")
    assert report["manifest"]["rows"] == 7 and report["reports"][0]["excluded"] == {"train": {r"m\udce9pris": 1}}
    assert report["reports"][0]["bad_records"] == {"file name is no UTF-8 text": 1}
    assert json.loads((tmp_path / "out" / "clean_report.json").read_text()) == report


def test_a_root_that_is_not_utf_8_is_imported_and_such_an_output_folder_refused(tree, tmp_path):
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


def write_raf(root, lines):
    (root / "EmoLabel").mkdir(parents=True)
    (root / "EmoLabel" / "list_patition_label.txt").write_text("\n".join(lines))
    for i, line in enumerate(lines):
        if len(line) < 100:
            write_image(root / "Image" / "aligned" / line.replace(".jpg", "_aligned.jpg").split()[0], i, ".jpg")
    return root


@pytest.mark.parametrize("length", [237, 244, 300])  # _aligned is one too long, the name itself nearly, and by far
def test_a_file_name_too_long_for_a_disk_is_one_bad_record(tmp_path, length):
    root = write_raf(tmp_path / "raw", ["train_1.jpg 1", f"train_{'a' * (length - 10)}.jpg 3", "test_1.jpg 4"])
    with pytest.raises(DataError, match="1 bad records"):
        import_root("rafdb_basic", root, tmp_path / "out")
    result = import_root("rafdb_basic", root, tmp_path / "out", tolerance=1)
    assert len(result.rows) == 2 and sum(result.report["bad_records"].values()) == 1


def test_unreadable_names_in_data_yaml_are_refused(tmp_path):
    root = write_yolo(tmp_path / "raw", {"a": "0 .5 .5 1 1"})
    for value in ("!!int ''", "!!bool maybe", "!!timestamp x", "!!float ''", '["\\ud800"]', "2024-13-45"):
        (root / "data.yaml").write_text(f"names: {value}\n")
        with pytest.raises(DataError, match=r"data\.yaml is no readable YAML"):
            import_root("affectnet_yolo_format", root, tmp_path / "out")


# ---------------------------------------------------------------- disks


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
@pytest.mark.parametrize("source", ["tree", "fer2013", "ferplus", "expw_full", "affectnet_yolo_format", "rafdb_basic"])
def test_a_folder_without_permission_is_named_by_the_os_error(source, tmp_path):
    locked = tmp_path / "shut"
    write_image(locked / "raw" / "train" / "happy" / "a.png")
    locked.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)  # root may enter everywhere, nobody not even pytest's own folder
        for root in (locked / "raw", locked):
            with pytest.raises(PermissionError) as error:
                import_root(source, root, tmp_path / "out")
            assert str(locked) in str(error.value.filename)
    finally:
        os.seteuid(user)
        locked.chmod(0o700)


@pytest.mark.parametrize("code", ["EXDEV", "EPERM", "EMLINK", "ENOTSUP", "EINVAL", "EACCES", "ENOSYS", "EIO"])
def test_files_are_copied_where_they_cannot_be_linked(tree, tmp_path, monkeypatch, code):
    plain = import_root("tree", tree, tmp_path / "linked")
    number = getattr(errno, code)

    def link(*paths, **more):
        raise OSError(number, os.strerror(number), str(paths[0]))

    monkeypatch.setattr(os, "link", link)
    result = import_root("tree", tree, tmp_path / "out")
    assert result.rows.equals(plain.rows)
    for row in result.rows.itertuples():
        copy = tmp_path / "out" / row.image_path
        assert copy.read_bytes() == (tree / row.record).read_bytes() and not copy.samefile(tree / row.record)
    (note,) = result.report["notes"]
    assert os.strerror(number) in note and "copied" in note


def test_a_full_disk_is_reported_when_link_and_copy_fail(tree, tmp_path, monkeypatch):
    def link(*paths, **more):
        raise OSError(errno.EXDEV, "no links")

    def write(data, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(ImportBuilder, "_write", staticmethod(write))
    with pytest.raises(DataError, match=r"cannot write .*full"):
        import_root("tree", tree, tmp_path / "out")
    assert not (tmp_path / "out" / "tree").exists()


def test_two_images_never_share_a_file(tree, tmp_path):
    spec = SourceSpec(source="tree", root=str(tree))
    builder = ImportBuilder(spec, "tree", tree, tmp_path / "work")
    path = tree / "train" / "happy" / "0.png"
    builder.add_image(path, "a.png", record="a", split="train", label=3)
    builder._stored.clear()  # as a disk does that takes a.png and A.png for one
    with pytest.raises(DataError, match=r"cannot write .*a\.png: File exists"):
        builder.add_image(tree / "train" / "sad" / "0.png", "a.png", record="A", split="train", label=4)
    assert (tmp_path / "work" / "images" / "a.png").samefile(path)


# ---------------------------------------------------------------- lists and archives


def test_the_first_of_two_expw_lines_for_one_face_is_imported(tmp_path):
    root = tmp_path / "raw"
    write_image(root / "origin" / "p.jpg", kind=".jpg")
    lines = [f"p.jpg {i} 0 0 8 8 90 1" for i in range(2, 10)] + ["p.jpg 0 0 0 8 8 90 3", "p.jpg 0 0 0 8 8 90 4"]
    for order in (lines, [lines[-2], *lines[:-2], lines[-1]]):  # lines 9 and 10, and 1 and 10
        (root / "label.lst").write_text("\n".join(order))
        result = import_root("expw_full", root, tmp_path / "out", tolerance=1)
        assert result.rows.set_index("record").loc["p.jpg#0", "label"] == 3
        assert result.report["bad_records"] == {"record stands there twice": 1}


def test_numbers_in_python_spelling_are_bad_records(tmp_path):
    root = tmp_path / "raw"
    write_image(root / "origin" / "p.jpg", kind=".jpg")
    lines = ["p.jpg 0 0 0 8 8 90 3", "p.jpg 1 0 0 8 8 9_0 3", "p.jpg 2 0 0 8 \u0668 90 3", "p.jpg 3 0 0 8 8 90 0_3"]
    (root / "label.lst").write_text("\n".join(lines))
    result = import_root("expw_full", root, tmp_path / "out", tolerance=3)
    assert result.rows["record"].tolist() == ["p.jpg#0"]
    assert result.report["bad_records"] == {"label out of range": 1, "wrong box": 2}


def test_the_parent_folder_of_both_raf_sets_works_for_each_source(tmp_path):
    write_raf(tmp_path / "raf" / "basic", [f"train_{i}.jpg {i}" for i in range(1, 8)])
    write_raf(tmp_path / "raf" / "compound", [f"train_{i}.jpg {i}" for i in range(1, 12)])
    assert len(import_root("rafdb_basic", tmp_path / "raf", tmp_path / "out").rows) == 7
    assert len(import_root("rafdb_compound_mapped", tmp_path / "raf", tmp_path / "out").rows) == 11


def test_the_parts_of_an_archive_are_sorted_and_whole(tmp_path):
    paths = [tmp_path / name for name in ("origin.7z.001.001", "origin.7z.002", "origin.7z.003")]
    assert sorted_parts(paths[::-1], "expw") == paths
    with pytest.raises(DataError, match="part 002"):
        sorted_parts([paths[0], paths[2]], "expw")
    assert sorted_parts([tmp_path / "origin.7z"], "expw") == [tmp_path / "origin.7z"]


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_a_link_to_itself_is_one_bad_record(tree, tmp_path):
    (tree / "train" / "angry" / "loop.png").symlink_to("loop.png")
    (tree / "train" / "loop").symlink_to("loop")
    (tree / "loop").symlink_to("loop")
    report = import_all([SourceSpec(source="tree", root=str(tree), tolerance=1)], tmp_path / "out")
    assert report["manifest"]["rows"] == len(CLASSES)
    assert sum(report["reports"][0]["bad_records"].values()) == 1


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_a_pipe_or_a_device_is_a_bad_record_and_not_read(tree, tmp_path):
    (tree / "train" / "angry" / "null.png").symlink_to(os.devnull)
    with pytest.raises(DataError, match=r"null.png: it is a pipe or a device, not a file"):
        import_all([SourceSpec(source="tree", root=str(tree))], tmp_path / "out")
    os.mkfifo(tree / "train" / "angry" / "pipe.png")
    report = import_all([SourceSpec(source="tree", root=str(tree), tolerance=2)], tmp_path / "out")
    assert sum(report["reports"][0]["bad_records"].values()) == 2
