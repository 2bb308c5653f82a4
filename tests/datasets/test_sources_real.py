"""The complete FER2013 and FERPlus: counts that are known to the row."""

import tarfile

import numpy as np
import pytest

from fer_lib.datasets.build import build_manifest, duplicates, twins
from fer_lib.datasets.sources import import_source
from fer_lib.datasets.sources.base import Draft
from fer_lib.datasets.sources.votes import judge, read_votes
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
        f"35709 of 35887 rows stand in the image_map, {voted.sum()} got a soft label",
    ]
    agree = soft[voted].argmax(1) == manifest.labels[voted]
    assert 0.6 < agree.mean() < 0.75  # the two sets of annotators agree on about two thirds


def test_fer2013_contents_twins_and_val_roles(real):
    manifest = real[3]
    assert duplicates(manifest.frame) == {
        "exact": 1516, "near": None, "across_splits": 557, "across_sources": 0, "conflicting_labels": 57,
        "contents": 34_034,
    }  # fmt: skip
    assert len(twins(manifest, "test")) == 288 and len(twins(manifest, "val")) == 280
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
    draft = Draft(SourceSpec(source="ferplus"), "ferplus", tmp_path)
    votes = read_votes(shared_data / "ferplus" / "fer2013new.csv", draft)
    assert len(votes.usage) == 35_887 and draft.bad == []
    label, usage = judge(votes.counts, rule).label, np.array(votes.usage)
    assert tuple(int((label[usage == u] >= 0).sum()) for u in ("Training", "PublicTest", "PrivateTest")) == kept


def test_ferplus_over_the_jpeg_tree_loses_only_the_rows_that_the_map_lacks(real, shared_data, tmp_path):
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
