"""The manifest phase: build, join, curate, and the files that it writes."""

import json

import pytest

from fer_lib.datasets.assemble import assemble
from fer_lib.datasets.build import build_manifest
from fer_lib.datasets.manifest import Manifest
from fer_lib.errors import DataError
from fer_lib.importers import import_all
from fer_lib.params import ManifestParams, SourceSpec
from fer_lib.synthetic.dataset import write_raw


@pytest.fixture(scope="module")
def imports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imports")
    for name, seed in (("one", 5), ("two", 6)):
        raw = write_raw(folder / "raw" / name, "tree", faces=84, seed=seed, size=24)
        import_all([SourceSpec(source="tree", name=name, root=str(raw))], folder / name)
    return folder


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_without_curation_the_manifest_is_the_built_one(imports, tmp_path):
    plain = build_manifest(ManifestParams(), imports / "one", tmp_path / "plain")
    same = assemble(ManifestParams(), imports / "one", [], tmp_path / "same")
    assert same.sha256 == plain.sha256 and names(tmp_path / "same") == names(tmp_path / "plain")


def test_other_manifests_are_joined_and_curated(imports, tmp_path):
    other = build_manifest(ManifestParams(), imports / "two", tmp_path / "other")
    params = ManifestParams(curate={"splits": ["train", "test"], "max_per_class_and_source": 2})
    made = assemble(params, imports / "one", [tmp_path / "other"], tmp_path / "out")
    assert set(made.frame["source"]) == {"one", "two"} and set(made.frame["split"]) == {"train", "test"}
    assert made.rows(split="train").frame.groupby(["source", "label"]).size().eq(2).all()
    assert all(made.resolve(path).is_file() for path in made.frame["image_path"])
    built = Manifest.read(tmp_path / "out" / "built.parquet")
    validation = json.loads((tmp_path / "out" / "manifest_validation.json").read_text())
    assert (validation["manifest"], validation["manifest_sha256"]) == ("built.parquet", built.sha256)
    report = json.loads((tmp_path / "out" / "curation_report.json").read_text())
    assert {entry["manifest_sha256"] for entry in report["inputs"]} == {built.sha256, other.sha256}
    assert report["manifest_sha256"] == made.sha256 == Manifest.read(tmp_path / "out" / "manifest.parquet").sha256
    before = (tmp_path / "out" / "manifest.parquet").read_bytes()
    with pytest.raises(DataError, match="lack rafdb_basic|lack ferplus"):
        wrong = ManifestParams(curate={"selection": "classification_manifest_hq_train"})
        assemble(wrong, imports / "one", [], tmp_path / "out")
    assert (tmp_path / "out" / "manifest.parquet").read_bytes() == before
    with pytest.raises(DataError, match="none/manifest.parquet is missing"):
        assemble(params, imports / "one", [tmp_path / "none"], tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assemble(ManifestParams(), imports / "one", [], tmp_path / "out")
    assert names(tmp_path / "out") == {"manifest.parquet", "manifest_validation.json"}, "nothing of the curated one"
