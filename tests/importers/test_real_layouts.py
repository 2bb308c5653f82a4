"""Real datasets in small: counts that are known to the row.  The whole sets: ``tests/proofs/test_real_datasets.py``."""

import tarfile

import numpy as np
import pytest

from fer_lib.emotions import EMOTIONS
from fer_lib.importers import import_all, import_source
from fer_lib.params import SourceSpec


@pytest.fixture(scope="module")
def unpack(shared_data, tmp_path_factory):
    """Unpacks one of the archives; returns the folder that it holds."""

    def unpack_archive(name):
        folder = tmp_path_factory.mktemp(name)
        with tarfile.open(shared_data / f"{name}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
        return folder / name

    return unpack_archive


def file_stamps(root):
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}


def test_affectnet_in_yolo_layout(unpack, tmp_path):
    raw = unpack("affectnet_yolo_small")
    before = file_stamps(raw)
    result = import_source(SourceSpec(source="affectnet_yolo_format", root=str(raw)), tmp_path / "out")
    a_class = {"train": 400, "val": 100, "test": 100}
    assert result.report["splits"] == {split: dict.fromkeys(EMOTIONS, n) for split, n in a_class.items()}
    assert result.report["excluded"] == {split: {"Contempt": n} for split, n in a_class.items()}
    assert (result.report["label_lines_kept"], result.report["label_lines_dropped"]) == (4_200, 600)
    assert result.report["ambiguous_stems"] == 59  # among the seven classes; 81 with Contempt
    assert result.report["boxes_outside"] == 0 and "bbox_top" not in result.rows
    assert result.rows["content_id"].nunique() == 4_200 and file_stamps(raw) == before


def test_expw_full_and_hq(unpack, tmp_path):
    raw = unpack("expw")
    before = file_stamps(raw)
    full = import_source(SourceSpec(source="expw_full", root=str(raw)), tmp_path / "out")
    assert len(full.rows) == 497 and full.rows["orig_image"].nunique() == 420
    assert np.bincount(full.rows["label"]).tolist() == [65, 58, 67, 85, 68, 72, 82]
    assert full.report["boxes_outside"] == 5 and full.report["bad_records"] == {}
    shares = full.rows["split"].value_counts(normalize=True)
    assert abs(shares["train"] - 0.8) < 0.03 and abs(shares["val"] - 0.1) < 0.03
    for _, rows in full.rows.groupby("label"):
        assert abs((rows["split"] == "train").mean() - 0.8) < 0.06
    hq = import_source(SourceSpec(source="expw_hq", root=str(raw)), tmp_path / "out")
    sure = full.rows[full.rows["confidence"] >= 60]
    assert len(hq.rows) == len(sure) == 197
    assert hq.rows[["record", "split", "label", "content_id"]].equals(
        sure[["record", "split", "label", "content_id"]].reset_index(drop=True)
    )
    assert len({path.name for path in (tmp_path / "out" / "expw_hq" / "images").rglob("*.jpg")}) == 197
    assert file_stamps(raw) == before


def test_the_mini_sets_of_every_layout(unpack, tmp_path):
    mini = unpack("mini")
    specs = [
        SourceSpec(source="fer2013", root=str(mini / "ferplus" / "fer2013.csv")),
        SourceSpec(source="fer2013", name="jpegs", root=str(mini / "fer2013")),
        SourceSpec(source="affectnet_yolo_format", root=str(mini / "affectnet_yolo")),
        SourceSpec(source="expw_full", root=str(mini / "expw")),
        SourceSpec(source="expw_hq", root=str(mini / "expw")),
    ]
    reports = {entry["dataset"]: entry for entry in import_all(specs, tmp_path / "out")["reports"]}
    counts = {name: {s: [n[e] for e in EMOTIONS] for s, n in r["splits"].items()} for name, r in reports.items()}
    assert counts == {
        "fer2013": {
            "train": [15, 1, 14, 22, 15, 14, 19], "val": [5, 0, 5, 9, 3, 3, 5], "test": [5, 0, 5, 8, 3, 2, 7],
        },
        "jpegs": {"train": [20] * 7, "val": [5] * 7, "test": [5] * 7},
        "affectnet_yolo_format": {"train": [15] * 7, "val": [5] * 7, "test": [5] * 7},
        "expw_full": {"train": [5, 5, 4, 5, 4, 4, 9], "val": [1, 1, 1, 1, 1, 1, 2], "test": [1] * 7},
        "expw_hq": {"train": [1, 2, 0, 3, 4, 2, 1], "val": [0, 0, 0, 0, 1, 1, 0], "test": [1, 0, 0, 1, 1, 1, 0]},
    }  # fmt: skip
    assert reports["affectnet_yolo_format"]["label_lines_dropped"] == 25
    left_out = {s: n["confidence below 60"] for s, n in reports["expw_hq"]["excluded"].items()}
    assert left_out == {"train": 23, "val": 6, "test": 3} and reports["expw_full"]["images_dir"].endswith("Images")
    assert all(entry["bad_records"] == {} and entry["missing_images"] == 0 for entry in reports.values())
