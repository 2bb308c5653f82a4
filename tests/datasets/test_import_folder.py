"""Import folders: where imports may write, recovery from a kill, the common report, and source parameters."""

import json
import os
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest

from fer_lib.errors import DataError
from fer_lib.importers import import_all, import_source, read_imports
from fer_lib.importers.engine import load_source
from fer_lib.importers.source_table import SOURCES
from fer_lib.params import SourceSpec
from fer_lib.storage.atomic import previous

CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
NUMBERS = ("Training", "PublicTest", "PrivateTest")


def write_tree(root, shift=0, contempt=0):
    """A tree of one image a class and split, and some of contempt."""
    for i, split in enumerate(("train", "val", "test")):
        for j, name in enumerate((*CLASSES, *["contempt"] * contempt)):
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            picture = np.random.default_rng(shift + 100 * i + j).integers(0, 256, (8, 8), dtype=np.uint8)
            (folder / f"{j}.png").write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    return root


def write_fer2013_csv(path, n=6):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{i % 7},{' '.join([str(i + 1)] * 2304)},{NUMBERS[i % 3]}" for i in range(n)]
    path.write_text("\n".join(["emotion,pixels,Usage", *rows]))
    return path


def file_bytes(folder):
    """Each file below ``folder`` with its bytes; a lock may come and go."""
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock"}


def assert_refused_unchanged(folder, spec, out, *fragments):
    before = file_bytes(folder)
    with pytest.raises(DataError) as error:
        import_source(spec, out)
    for fragment in fragments:
        assert str(fragment) in str(error.value)
    assert file_bytes(folder) == before, "something was touched"


# ---------------------------------------------------------------- what may be replaced


def test_an_import_onto_its_own_raw_data_is_refused(tmp_path):
    data = tmp_path / "data"
    write_fer2013_csv(data / "fer2013" / "fer2013.csv")
    write_tree(data / "faces" / "tree")
    fer = SourceSpec(source="fer2013", root=str(data / "fer2013"))
    assert_refused_unchanged(data, fer, data, data / "fer2013", "root", "-o")
    assert_refused_unchanged(
        data, fer.model_copy(update={"root": str(data / "fer2013" / "fer2013.csv")}), data, "fer2013.csv"
    )
    # the target lies in the raw data, the raw data in the target
    assert_refused_unchanged(
        data, SourceSpec(source="tree", root=str(data)), data / "faces", data / "faces" / "tree", "lies in it"
    )
    inner = SourceSpec(source="tree", name="faces", root=str(data / "faces" / "tree"))
    assert_refused_unchanged(data, inner, data, data / "faces", "holds it")
    assert not list(data.rglob("*.lock")), "refused before anything is written"


@pytest.mark.parametrize("field", ["votes", "images", "image_map"])
def test_an_import_onto_its_votes_or_images_is_refused(tmp_path, field):
    raw = write_fer2013_csv(tmp_path / "raw" / "fer2013.csv").parent
    target_folder = tmp_path / "out" / "mine"
    target_folder.mkdir(parents=True)
    (target_folder / "file.csv").write_text("votes")
    source = "ferplus" if field == "images" else "fer2013"
    spec = SourceSpec(source=source, name="mine", root=str(raw), **{field: str(target_folder / "file.csv")})
    assert_refused_unchanged(tmp_path, spec, tmp_path / "out", target_folder, field)


def test_links_and_other_spellings_of_the_raw_folder_are_resolved(tmp_path):
    data = tmp_path / "data"
    raw = write_fer2013_csv(data / "fer2013" / "fer2013.csv").parent
    (tmp_path / "link").symlink_to(raw)
    (tmp_path / "whole").symlink_to(data)
    for root, out in ((tmp_path / "link", data), (raw, tmp_path / "whole"), (data / "x" / ".." / "fer2013", data)):
        (data / "x").mkdir(exist_ok=True)
        assert_refused_unchanged(data, SourceSpec(source="fer2013", root=str(root)), out, "fer2013")
    # a link in the place of the folder that the import would write
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tree").symlink_to(raw)
    faces = write_tree(tmp_path / "faces")
    assert_refused_unchanged(
        tmp_path, SourceSpec(source="tree", root=str(faces)), tmp_path / "out", tmp_path / "out" / "tree"
    )
    assert (tmp_path / "out" / "tree").is_symlink()


def test_a_folder_that_no_import_wrote_is_never_replaced(tmp_path):
    spec = SourceSpec(source="tree", root=str(write_tree(tmp_path / "faces")))
    mine = tmp_path / "out" / "tree"
    mine.mkdir(parents=True)
    (mine / "thesis.txt").write_text("three years")
    assert_refused_unchanged(tmp_path, spec, tmp_path / "out", mine, "no import wrote it")
    (mine / "rows.parquet").write_text("a file of that name is not enough")
    assert_refused_unchanged(tmp_path, spec, tmp_path / "out", mine, "no import wrote it")
    (mine / "thesis.txt").unlink()
    (mine / "rows.parquet").unlink()
    assert len(import_source(spec, tmp_path / "out").rows) == 21  # an empty one loses nothing
    (mine / "notes.txt").write_text("mine")
    assert_refused_unchanged(tmp_path, spec, tmp_path / "out", mine)
    (mine / "notes.txt").unlink()
    (mine / ".DS_Store").write_text("left by a file browser")
    (mine / "rows.parquet").write_bytes(b"damaged")  # an import repairs what an import wrote
    assert len(import_source(spec, tmp_path / "out").rows) == 21


# ---------------------------------------------------------------- killed imports


def test_leftovers_of_killed_imports_are_ignored_and_a_moved_folder_is_restored(tmp_path):
    out = tmp_path / "out"
    for name, shift in (("a", 0), ("b", 500)):
        root = write_tree(tmp_path / name, shift)
        import_source(SourceSpec(source="tree", name=name, root=str(root)), out)
    rows = read_imports(out)
    assert len(rows) == 42
    # killed while it wrote, and killed after the second rename: the new folder and the one moved aside
    for left in (out / ".a.999999999.partial", previous(out / "a")):
        left.mkdir()
        (left / "rows.parquet").write_bytes((out / "a" / "rows.parquet").read_bytes())
    assert read_imports(out).equals(rows)
    # killed between the two renames: only the one moved aside is whole
    (previous(out / "a") / "rows.parquet").unlink()
    previous(out / "a").rmdir()
    os.replace(out / "a", previous(out / "a"))
    assert read_imports(out).equals(rows)
    assert all((out / path).is_file() for path in rows["image_path"]), "images where the rows say"


KILLED = """
import os, signal, sys
from pathlib import Path
from fer_lib.importers import import_source
from fer_lib.params import SourceSpec
real, target, left = os.replace, Path(sys.argv[2], "tree"), int(sys.argv[3])
def replace(a, b):
    global left
    if target in (Path(a), Path(b)):
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
    real(a, b)
os.replace = replace
import_source(SourceSpec(source="tree", root=sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_a_kill_between_the_two_renames_loses_no_row(tmp_path):
    raw, out = write_tree(tmp_path / "raw"), tmp_path / "out"
    before = import_all([SourceSpec(source="tree", root=str(raw))], out)
    rows = read_imports(out)
    done = subprocess.run([sys.executable, "-c", KILLED, str(raw), str(out), "1"], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (out / "tree").exists() and list(out.glob(".tree.*.partial"))
    assert read_imports(out).equals(rows)
    assert import_all([SourceSpec(source="tree", root=str(raw))], out) == before
    assert not list(out.glob(".tree.*.partial")) and not previous(out / "tree").exists()


# ---------------------------------------------------------------- one report over all


def test_the_report_covers_every_import_in_the_folder(tmp_path):
    first = SourceSpec(source="tree", name="a", root=str(write_tree(tmp_path / "a", contempt=1)))
    second = SourceSpec(source="tree", name="b", root=str(write_tree(tmp_path / "b", 500)), mode="copy")
    together = import_all([second, first], tmp_path / "together")
    import_all([first], tmp_path / "out")
    report = import_all([second], tmp_path / "out")
    assert json.loads((tmp_path / "out" / "clean_report.json").read_text()) == report
    assert [entry["dataset"] for entry in report["reports"]] == ["a", "b"]
    assert report["reports"][0]["excluded"] == {split: {"contempt": 1} for split in ("train", "val", "test")}
    assert report["mode"] == "copy+link" and report["manifest"]["rows"] == len(read_imports(tmp_path / "out")) == 42
    assert report["manifest"]["counts"]["val|Happy"] == 2
    assert report["source_root"] == os.pathsep.join((str(tmp_path / "a"), str(tmp_path / "b")))
    moved = json.loads(json.dumps(report).replace(str(tmp_path / "out"), str(tmp_path / "together")))
    assert moved == together, "the same whichever commands made it"


def test_when_the_second_source_fails_the_first_is_kept_and_reported(tmp_path):
    first = SourceSpec(source="tree", name="a", root=str(write_tree(tmp_path / "a", contempt=1)))
    empty = tmp_path / "b" / "train" / "happy"
    empty.mkdir(parents=True)
    with pytest.raises(DataError, match="holds no image"):
        import_all([first, SourceSpec(source="tree", name="b", root=str(tmp_path / "b"))], tmp_path / "out")
    report = json.loads((tmp_path / "out" / "clean_report.json").read_text())
    assert [entry["dataset"] for entry in report["reports"]] == ["a"] and report["manifest"]["rows"] == 21


def test_a_damaged_report_is_refused_by_name(tmp_path):
    spec = SourceSpec(source="tree", root=str(write_tree(tmp_path / "raw")))
    import_all([spec], tmp_path / "out")
    for text in ("{", "[]", '{"dataset": "tree"}'):
        (tmp_path / "out" / "tree" / "report.json").write_text(text)
        with pytest.raises(DataError, match="report.json is missing or damaged.*import tree again"):
            import_all([spec.model_copy(update={"name": "other"})], tmp_path / "out")
    assert import_all([spec], tmp_path / "out")["manifest"]["rows"] == 42  # and importing it again repairs it


# ---------------------------------------------------------------- parameters


def test_parameters_that_a_source_does_not_read_are_refused(tmp_path):
    root = str(write_tree(tmp_path / "raw"))
    for source, options, message in (
        ("expw_full", {"min_confidence": 90}, "expw_hq does"),
        ("tree", {"rule": "plurality"}, "ferplus does"),
        ("tree", {"image_map": root}, "fer2013, ferplus does"),
        ("rafdb_basic", {"split_seed": 3}, "ckplus, expw_full, expw_hq, jaffe does"),
        ("ferplus", {"votes": root}, "fer2013 does"),
        ("jaffe", {"crop": False}, "expw_hq does"),
        ("tree", {"faces": 100}, "only drawn faces"),
    ):
        (field,) = options
        with pytest.raises(DataError, match=f"{field} is set to") as error:
            import_source(SourceSpec(source=source, root=root, **options), tmp_path / "out")
        assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_every_spec_is_checked_before_the_first_is_imported(tmp_path):
    good = SourceSpec(source="tree", root=str(write_tree(tmp_path / "raw")))
    for bad, message in (
        (SourceSpec(source="rafdb_basci", root=str(tmp_path / "raw")), r"closest: 'rafdb_basic'"),
        (SourceSpec(source="affectnet_full_balanced", root=str(tmp_path / "raw")), "source tree with name affectnet_f"),
        (SourceSpec(source="tree", name="b", root=str(tmp_path / "gone")), "gone does not exist"),
        (SourceSpec(source="ferplus", images=str(tmp_path / "none"), root=str(tmp_path)), "none does not exist"),
        (SourceSpec(source="tree", name="a/b", root=str(tmp_path / "raw")), "'a/b'"),
        (SourceSpec(source="tree", name="Tree", root=str(tmp_path / "raw")), "two sources are called 'tree'"),
        (SourceSpec(source="tree", name="b", root=str(tmp_path / "raw"), rule="plurality"), "rule is set"),
    ):
        with pytest.raises(DataError, match=message):
            import_all([good, bad], tmp_path / "out")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_declares_existing_parameters_only(name):
    assert set(load_source(name).options) <= set(SourceSpec.model_fields)
