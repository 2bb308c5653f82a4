"""Whole real datasets: counts that are known to the row.  Small ones: ``tests/importers/test_real_layouts.py``."""

import tarfile
from collections import Counter

import cv2
import numpy as np
import pytest

from fer_lib.datasets.build import build_manifest, duplicates, leaked_ids
from fer_lib.emotions import EMOTIONS, class_id
from fer_lib.evaluation.annotators import annotator_report
from fer_lib.importers import import_source
from fer_lib.importers.builder import ImportBuilder
from fer_lib.importers.votes import label_votes, read_votes
from fer_lib.params import ManifestParams, SourceSpec

SIZES = {"train": 28_709, "val": 3_589, "test": 3_589}


@pytest.fixture(scope="session")
def real(shared_data, tmp_path_factory):
    """(raw tree, import folder, import result with votes, manifest) of the whole of FER2013."""
    folder = tmp_path_factory.mktemp("fer2013")
    with tarfile.open(shared_data / "fer2013.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    plus = shared_data / "ferplus"
    spec = SourceSpec(
        source="fer2013",
        root=str(folder / "fer2013"),
        votes=str(plus / "fer2013new.csv"),
        image_map=str(plus / "fer2013_ferplus_map.csv"),
    )
    result = import_source(spec, folder / "imports")
    return folder / "fer2013", folder, result, build_manifest(ManifestParams(), folder / "imports", folder / "out")


def test_fer2013_official_split_labels_and_votes(real):
    _, _, result, manifest = real
    assert manifest.frame["split"].value_counts().to_dict() == SIZES
    train = manifest.rows(split="train").labels
    assert np.bincount(train).tolist() == [3995, 436, 4097, 7215, 4830, 3171, 4965]
    assert np.bincount(manifest.rows(split="test").labels).tolist() == [491, 55, 528, 879, 594, 416, 626]
    assert result.report["excluded"] == {} and result.report["ignored_files"] == 0 and result.warnings == ()
    soft = manifest.soft_labels
    voted = ~np.isnan(soft[:, 0])
    assert np.allclose(soft[voted].sum(1), 1, atol=1e-12)
    assert result.report["notes"] == [
        f"35709 of 35887 rows are in the image_map, {voted.sum()} got a soft label",
    ]
    agree = soft[voted].argmax(1) == manifest.labels[voted]
    assert 0.6 < agree.mean() < 0.75  # the two sets of annotators agree on about two thirds


def test_fer2013_duplicates_and_val_roles(real):
    manifest = real[3]
    assert duplicates(manifest.frame) == {
        "exact": 1516, "near": None, "across_splits": 557, "across_sources": 0, "conflicting_labels": 57,
        "contents": 34_034,
    }  # fmt: skip
    assert len(leaked_ids(manifest, "test")) == 288 and len(leaked_ids(manifest, "val")) == 280
    assert len(set(manifest.sample_ids)) == 35_887
    val = manifest.rows(split="val").frame
    assert val["val_role"].value_counts().to_dict() == {"select": 2153, "temperature": 718, "conformal": 718}
    assert (val.groupby("content_id")["val_role"].nunique() == 1).all()
    for _, rows in val.groupby("label"):
        assert abs((rows["val_role"] == "select").mean() - 0.6) < 0.03


@pytest.mark.parametrize(
    ("rule", "kept"), [("majority", (24_941, 3_186, 3_137)), ("plurality", (26_778, 3_372, 3_350))]
)
def test_ferplus_rules_keep_the_known_numbers_of_rows(shared_data, tmp_path, rule, kept):
    builder = ImportBuilder(SourceSpec(source="ferplus"), "ferplus", tmp_path, tmp_path)
    votes = read_votes(shared_data / "ferplus" / "fer2013new.csv", builder)
    assert len(votes.rows) == 35_887 and builder.bad == []
    labelled = Counter(row.usage for row in votes.rows if class_id(label_votes(row.counts, rule)[0]) is not None)
    assert tuple(labelled[usage] for usage in ("Training", "PublicTest", "PrivateTest")) == kept


def test_accuracy_of_ferplus_annotators_on_their_own_test_labels(real, shared_data, tmp_path):
    """Of the votes as cast; what the majority rule leaves of them would say 0.886."""
    plus = shared_data / "ferplus"
    paths = dict(images=str(real[0]), image_map=str(plus / "fer2013_ferplus_map.csv"))
    import_source(SourceSpec(source="ferplus", root=str(plus), **paths), tmp_path / "imports")
    manifest = build_manifest(ManifestParams(check="paths"), tmp_path / "imports", tmp_path / "out")
    test = manifest.rows(split="test")
    rows, anything = np.arange(len(test)), np.zeros((len(test), 7))
    assert test.soft_labels[rows, test.labels].mean() == pytest.approx(0.886, abs=0.002)
    report = annotator_report(anything, anything, test.labels, *test.votes)
    assert report["votes"] == {"counts": len(test), "shares": 0}
    assert report["annotators"]["label"] == pytest.approx(0.828, abs=0.002)
    assert report["annotators"]["label_of_all"] == pytest.approx(0.787, abs=0.002)


def test_ferplus_over_the_jpeg_tree_excludes_the_rows_without_a_map_line(real, shared_data, tmp_path):
    plus = shared_data / "ferplus"
    spec = SourceSpec(
        source="ferplus", root=str(plus), images=str(real[0]), image_map=str(plus / "fer2013_ferplus_map.csv")
    )
    result = import_source(spec, real[1] / "plus")
    assert result.rows["split"].value_counts().to_dict() == {"train": 24_941 - 3, "val": 3_186, "test": 3_137 - 1}
    excluded = result.report["excluded"]
    assert {s: n["not in image_map"] for s, n in excluded.items() if "not in image_map" in n} == {"train": 3, "test": 1}
    total = {s: sum(result.report["splits"][s].values()) + sum(excluded[s].values()) for s in SIZES}
    assert total == SIZES  # kept and excluded together are every vote row


def test_the_rafdb_list_over_drawn_bytes(shared_data, tmp_path):
    """All 15,339 rows of the real list; its images are not distributed, so each name gets different bytes."""
    lines = (shared_data / "rafdb_annotations" / "basic" / "EmoLabel" / "list_patition_label.txt").read_text()
    (tmp_path / "raw" / "EmoLabel").mkdir(parents=True)
    (tmp_path / "raw" / "EmoLabel" / "list_patition_label.txt").write_text(lines)
    aligned = tmp_path / "raw" / "Image" / "aligned"
    aligned.mkdir(parents=True)
    for line in lines.splitlines():
        (aligned / line.replace(".jpg", "_aligned.jpg").split()[0]).write_text(line)
    rows = import_source(SourceSpec(source="rafdb_basic", root=str(tmp_path / "raw")), tmp_path / "out").rows
    order = [EMOTIONS.index(n) for n in ("Surprise", "Fear", "Disgust", "Happy", "Sad", "Angry", "Neutral")]
    known = {"train": [1290, 281, 717, 4772, 1982, 705, 2524], "test": [329, 74, 160, 1185, 478, 162, 680]}
    for split, counts in known.items():
        assert np.bincount(rows.loc[rows["split"] == split, "label"])[order].tolist() == counts
    assert len(rows) == 15_339 and rows["sample_id"].nunique() == 15_339


# by a count of the ten columns of each file, outside this package; EMOTIONS' order
NATIVE = {
    "majority": {"train": [2098, 116, 536, 7284, 3022, 3136, 8733], "val": [289, 25, 60, 862, 348, 411, 1180],
                 "test": [269, 16, 86, 892, 382, 394, 1083]},
    "plurality": {"train": [2395, 175, 651, 7408, 3418, 3368, 9360], "val": [314, 31, 70, 877, 396, 441, 1241],
                  "test": [312, 20, 96, 908, 424, 424, 1160]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "kept"), [("majority", (24_925, 3_175, 3_122)), ("plurality", (26_775, 3_370, 3_344))]
)
def test_the_native_ferplus_lists_over_drawn_bytes(shared_data, tmp_path, rule, kept):
    """All 35,710 rows of the three label.csv, whose boxes and file names are FERPlus' own."""
    raw = shared_data / "ferplus" / "data"
    grey = cv2.imencode(".png", np.full((48, 48), 128, np.uint8))[1].tobytes()
    sizes = {"train": 28_558, "val": 3_579, "test": 3_573}
    for name, split in (("FER2013Train", "train"), ("FER2013Valid", "val"), ("FER2013Test", "test")):
        (tmp_path / "raw" / name).mkdir(parents=True)
        lines = (raw / name / "label.csv").read_text()
        (tmp_path / "raw" / name / "label.csv").write_text(lines)
        names = [line.split(",")[0] for line in lines.splitlines()]
        assert len(names) == len(set(names)) == sizes[split]
        for file in names:
            (tmp_path / "raw" / name / file).write_bytes(grey)
    result = import_source(SourceSpec(source="ferplus", root=str(tmp_path / "raw"), rule=rule), tmp_path / "out")
    assert result.report["type"] == "ferplus_native" and result.report["bad_records"] == {}
    counts = {split: np.bincount(rows["label"], minlength=7).tolist() for split, rows in result.rows.groupby("split")}
    assert counts == NATIVE[rule] and tuple(sum(counts[split]) for split in sizes) == kept
    left_out = {split: sum(names.values()) for split, names in result.report["excluded"].items()}
    assert {split: sum(counts[split]) + left_out[split] for split in sizes} == sizes
    soft, votes = np.array(result.rows["soft_label"].tolist()), np.array(result.rows["votes"].tolist())
    assert np.allclose(soft.sum(1), 1, atol=1e-12) and (votes.sum(1) <= result.rows["votes_all"]).all()
