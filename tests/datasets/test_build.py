"""From imports to a verified manifest, with planted damage and drawn faces with known labels."""

import json
import os
import zlib

import cv2
import numpy as np
import pandas as pd
import pytest
from watched_steps import counts, watched_steps

from fer_lib.datasets.build import build_manifest, cap_rows, check_images, duplicates, leaked_ids, summary
from fer_lib.datasets.manifest import Manifest
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.importers import import_all
from fer_lib.params import ManifestParams, SourceSpec
from fer_lib.synthetic.dataset import write_raw

CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


def write_tree(root, splits=("train", "test"), n=4, offset=0):
    for s, split in enumerate(splits):
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(n):
                noise = np.random.default_rng([s, label, i, offset]).integers(0, 256, (20, 20, 3), dtype=np.uint8)
                (root / split / name / f"{i}.jpg").write_bytes(cv2.imencode(".jpg", noise)[1].tobytes())
    return root


@pytest.fixture
def raw(tmp_path):
    return write_tree(tmp_path / "raw")


def imported(tmp_path, *specs, out="imports"):
    import_all(list(specs), tmp_path / out)
    return tmp_path / out


def tree(raw, name="tree"):
    return SourceSpec(source="tree", name=name, root=str(raw))


def test_the_manifest_and_its_validation_agree(raw, tmp_path):
    imports = imported(tmp_path, tree(raw), tree(write_tree(tmp_path / "own", ("train", "val"), 2, 1), "own"))
    with watched_steps() as records:
        manifest = build_manifest(ManifestParams(), imports, tmp_path / "out")
    assert counts(records)[-1] == (84, 84) and records[-1]["text"] == "checking images 84/84"
    report = json.loads((tmp_path / "out" / "manifest_validation.json").read_text())
    keys = {"manifest", "root", "rows_total", "rows_valid", "bad_labels", "missing_paths", "decode", "boxes_outside"}
    assert keys | {"duplicates", "counts", "canonical"} <= set(report)
    assert report["rows_total"] == report["rows_valid"] == len(manifest) == 84
    assert report["decode"] == {"attempted": 84, "ok": 84, "fail": 0} and report["missing_paths"] == 0
    assert {"exact", "near", "across_splits"} <= set(report["duplicates"]) and report["duplicates"]["exact"] == 0
    assert report["counts"]["by_source"] == {"own": 28, "tree": 56} and report["canonical"] == list(EMOTIONS)
    assert report["counts"]["by_source_split_label"]["tree"]["val"] == dict.fromkeys(EMOTIONS, 1)
    assert report["counts"]["by_source_split_label"]["own"]["val"] == dict.fromkeys(EMOTIONS, 2)
    assert sum(report["counts"]["by_val_role"].values()) == 21
    assert report["manifest_sha256"] == manifest.sha256 == Manifest.read(tmp_path / "out" / "manifest.parquet").sha256
    assert all(manifest.resolve(row).is_file() for row in manifest.frame["image_path"])
    table = summary(manifest)
    assert table["total"].sum() == 84 and table.loc[0, list(EMOTIONS)].tolist() == [2] * 7
    assert table[["source", "split"]].values.tolist()[0] == ["own", "train"]


def test_building_and_importing_again_gives_the_same_bytes(raw, tmp_path):
    imports = imported(tmp_path, tree(raw))
    build_manifest(ManifestParams(), imports, tmp_path / "out")
    before = [(tmp_path / "out" / n).read_bytes() for n in ("manifest.parquet", "manifest_validation.json")]
    imported(tmp_path, tree(raw))
    build_manifest(ManifestParams(), imports, tmp_path / "out")
    assert [(tmp_path / "out" / n).read_bytes() for n in ("manifest.parquet", "manifest_validation.json")] == before
    other = build_manifest(ManifestParams(seed=2), imports, tmp_path / "two")
    assert other.sha256 != Manifest.read(tmp_path / "out" / "manifest.parquet").sha256


def test_sources_are_selected_and_unknown_ones_refused(raw, tmp_path):
    imports = imported(tmp_path, tree(raw), tree(write_tree(tmp_path / "b", n=2, offset=1), "b"))
    only = build_manifest(ManifestParams(include_sources=["b"]), imports, tmp_path / "out")
    assert set(only.frame["source"]) == {"b"} and len(only) == 28
    with pytest.raises(DataError, match="unknown source 'c'.*b, tree"):
        build_manifest(ManifestParams(exclude_sources=["c"]), imports, tmp_path / "none")
    with pytest.raises(DataError, match="no imported dataset"):
        build_manifest(ManifestParams(), tmp_path / "absent", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def spoil_truncated(path):
    path.write_bytes(path.read_bytes()[:-200])


def spoil_missing(path):
    path.unlink()


def spoil_text(path):
    path.write_bytes(b"<html>not here</html>")


def spoil_huge(path):
    header = cv2.imencode(".png", np.zeros((1, 1), np.uint8))[1].tobytes()
    side = (20_000).to_bytes(4, "big")
    ihdr = b"IHDR" + side + side + header[24:29]
    path.write_bytes(header[:12] + ihdr + zlib.crc32(ihdr).to_bytes(4, "big") + header[33:])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_truncated, "truncated"),
        (spoil_missing, "missing"),
        (spoil_text, "not an image"),
        (spoil_huge, "above the cap of 50,000,000 pixels"),
    ],
)
def test_a_bad_image_stops_the_build_and_a_tolerance_counts_it(raw, tmp_path, spoil, message):
    imports = imported(tmp_path, tree(raw).model_copy(update={"mode": "copy"}))
    victim = imports / "tree" / "images" / "train" / "fear" / "2.jpg"
    spoil(victim)
    with pytest.raises(DataError) as error:
        build_manifest(ManifestParams(), imports, tmp_path / "out")
    assert str(victim) in str(error.value) and message in str(error.value) and "row 38" in str(error.value)
    assert list((tmp_path / "out").iterdir()) == []
    manifest = build_manifest(ManifestParams(tolerance=1), imports, tmp_path / "out")
    report = json.loads((tmp_path / "out" / "manifest_validation.json").read_text())
    assert len(manifest) == 55 and (report["rows_total"], report["rows_valid"]) == (56, 55)
    missing = int(spoil is spoil_missing)
    assert report["missing_paths"] == missing
    assert report["decode"] == {"attempted": 56 - missing, "ok": 55, "fail": 1 - missing}
    assert len(report["left_out"]) == 1 and str(victim) in report["left_out"][0]
    assert manifest.meta["created"]["tolerance"] == 1


def test_ten_of_many_bad_images_are_listed(raw, tmp_path):
    imports = imported(tmp_path, tree(raw))
    for path in list((imports / "tree" / "images" / "train").rglob("*.jpg"))[:12]:
        path.unlink()
    with pytest.raises(DataError) as error:
        build_manifest(ManifestParams(tolerance=3), imports, tmp_path / "out")
    text = str(error.value)
    assert text.startswith("12 rows") and text.count("missing: ") == 10 and "and 2 more" in text


def test_an_output_folder_that_cannot_be_written_is_named(raw, tmp_path):
    imports = imported(tmp_path, tree(raw))
    (tmp_path / "out").write_text("a file")
    with pytest.raises(FileExistsError) as error:
        build_manifest(ManifestParams(), imports, tmp_path / "out")
    assert error.value.filename == str(tmp_path / "out")
    (tmp_path / "out").unlink()
    (tmp_path / "out" / "manifest.parquet").mkdir(parents=True)
    with pytest.raises(DataError, match="manifest.parquet"):
        build_manifest(ManifestParams(), imports, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["manifest.parquet"]


@pytest.mark.skipif(os.name != "posix", reason="file size limits are POSIX")
@pytest.mark.parametrize("limit", [200, 3_000])  # the report does not fit; the manifest does not
def test_a_full_disk_leaves_the_earlier_manifest_whole(raw, tmp_path, limit):
    import resource
    import signal

    imports = imported(tmp_path, tree(raw))
    build_manifest(ManifestParams(), imports, tmp_path / "out")
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    assert len(before["manifest_validation.json"]) < 3_000 < len(before["manifest.parquet"])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(DataError, match="full"):
            build_manifest(ManifestParams(seed=9), imports, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before


def test_boxes_that_extend_beyond_their_photo_are_found(tmp_path):
    (tmp_path / "p.png").write_bytes(cv2.imencode(".png", np.zeros((40, 60, 3), np.uint8))[1].tobytes())
    boxes = [(0, 0, 40, 60), (-1, 0, 40, 60), (0, 0, 41, 60), (0, 0, 40, 61), (5, -2, 40, 60), (np.nan,) * 4]
    frame = pd.DataFrame(boxes, columns=["bbox_top", "bbox_left", "bbox_bottom", "bbox_right"]).assign(
        image_path="p.png"
    )
    checked = check_images(frame, tmp_path)
    assert checked["outside"].tolist() == [False, True, True, True, True, False]
    assert (checked["problem"] == "").all()


@pytest.mark.parametrize(
    ("layout", "source"), [("fer2013_csv", "fer2013"), ("fer2013_tree", "fer2013"), ("tree", "tree")]
)
def test_planted_duplicates_and_leaks_are_found_exactly(tmp_path, layout, source):
    root = write_raw(tmp_path / "raw", layout, faces=150, seed=3, duplicates=9, leaks=8)
    truth = json.loads((root / "truth.json").read_text())["records"]
    imports = imported(tmp_path, SourceSpec(source=source, root=str(root)))
    manifest = build_manifest(ManifestParams(), imports, tmp_path / "out")
    assert len(manifest) == len(truth) == 167
    written = pd.DataFrame(truth).set_index("record")
    frame = manifest.frame
    for _, row in frame.iterrows():
        assert written.loc[row["record"], ["written", "split"]].tolist() == [EMOTIONS[row["label"]], row["split"]]
    written["content"] = written["duplicate_of"].fillna(written["leak_of"]).fillna(written.index.to_series())
    trained = set(written.loc[written["split"] == "train", "content"])
    for split in ("test", "val"):
        leaked = written.index[(written["split"] == split) & written["content"].isin(trained)]
        leaked_records = frame.loc[frame["sample_id"].isin(leaked_ids(manifest, split)), "record"]
        assert set(leaked_records) == set(leaked) and len(leaked) >= 4
    assert leaked_ids(manifest.rows(split="test")) == set()
    originals = set(written["duplicate_of"].dropna()) | set(written["leak_of"].dropna())
    assert duplicates(manifest.frame)["exact"] == len(originals)
    assert manifest.frame.query("split == 'val'").groupby("content_id")["val_role"].nunique().eq(1).all()


def test_duplicates_count_groups(raw):
    rows = pd.DataFrame(
        {
            "content_id": ["a", "a", "b", "b", "b", "c", "d", "d"],
            "label": [0, 0, 1, 2, 1, 0, 3, 3],
            "split": ["train", "train", "train", "test", "val", "test", "train", "test"],
            "source": ["x"] * 7 + ["y"],
        }
    )
    assert duplicates(rows) == {
        "exact": 3, "near": None, "across_splits": 2, "across_sources": 1, "conflicting_labels": 1, "contents": 4,
    }  # fmt: skip


def test_a_cap_keeps_the_same_rows_of_each_class_and_counts_the_rest():
    rows = [
        {"sample_id": f"{i * 7919 % 1000:03d}", "source": s, "split": split, "label": i % 7}
        for s in ("a", "b")
        for split in ("train", "test")
        for i in range(50)
    ]
    frame = pd.DataFrame(rows)
    capped = cap_rows(frame, 3)
    assert (capped.groupby(["source", "split", "label"]).size() == 3).all() and len(capped) == 2 * 2 * 7 * 3
    smallest = sorted(frame[(frame.source == "b") & (frame.split == "test") & (frame.label == 4)].sample_id)[:3]
    assert sorted(capped[(capped.source == "b") & (capped.split == "test") & (capped.label == 4)].sample_id) == smallest
    shuffled = cap_rows(frame.sample(frac=1, random_state=1), 3)
    assert set(map(tuple, shuffled.to_numpy())) == set(map(tuple, capped.to_numpy()))
    assert cap_rows(frame, 0) is frame


def test_bad_labels_and_contents_excluded_from_val_are_counted(tmp_path):
    root = write_raw(tmp_path / "raw", "fer2013_csv", faces=84, seed=5, size=48)
    lines = (root / "fer2013.csv").read_text().splitlines()
    lines[3] = "9" + lines[3][lines[3].index(",") :]
    (root / "fer2013.csv").write_text("\n".join(lines) + "\n")
    own = write_tree(tmp_path / "own", ("train", "val"))
    noval = write_tree(tmp_path / "noval", ("train",))
    specs = [SourceSpec(source="fer2013", root=str(root), tolerance=1), tree(own, "own"), tree(noval, "noval")]
    manifest = build_manifest(ManifestParams(val_fraction=0.5), imported(tmp_path, *specs), tmp_path / "out")
    report = json.loads((tmp_path / "out" / "manifest_validation.json").read_text())
    assert report["bad_labels"] == manifest.meta["bad_labels"] == 1
    assert report["kept_out_of_val"] == 28, "all that noval has, own trains on"
    assert (manifest.rows(include_sources=["noval"]).frame["split"] == "train").all()
    assert report["duplicates"]["across_splits"] == 0
