"""Recorded near-duplicates are kept by removal, another audit and curation, and stay in one fold."""

import cv2
import numpy as np
import pandas as pd
import pytest

from fer_lib.audit.manifest_audit import audit_manifest
from fer_lib.datasets.curate import curate, merge
from fer_lib.datasets.duplicate_records import earlier_duplicates, join_groups, unite_twins
from fer_lib.datasets.manifest import Manifest, content_id
from fer_lib.params import AuditParams, CurateParams
from fer_lib.synthetic.dataset import draw_face
from fer_lib.training.cross_validation import assign_folds


def manifest_of(root, rows):
    """Rows (sample id, split, number of the drawn face, brightness added: another file of the same image)."""
    lines = []
    for name, split, number, light in rows:
        drawn = draw_face(7, number)
        picture = np.clip(drawn.image.astype(int) + light, 0, 255).astype(np.uint8)
        root.mkdir(exist_ok=True)
        assert cv2.imwrite(str(root / f"{name}.png"), picture)
        content = content_id((root / f"{name}.png").read_bytes())
        lines.append({
            "sample_id": name, "content_id": content, "source": "drawn", "record": name, "image_path": f"{name}.png",
            "label": drawn.true, "split": split, "val_role": "select" if split == "val" else "",
        })  # fmt: skip
    return Manifest(pd.DataFrame(lines), {"root": root.as_posix(), "tolerance": 0})


def contents(manifest, *names):
    return sorted(manifest.frame.set_index("sample_id").loc[list(names), "content_id"])


@pytest.fixture(scope="module")
def near(tmp_path_factory):
    """Face 0 in all splits, in two lights in train; 1 in val and test; 2 identically in train and test; others once."""
    rows = [
        ("train0", "train", 0, 0), ("train0b", "train", 0, 9), ("val0", "val", 0, 5), ("test0", "test", 0, -6),
        ("val1", "val", 1, 0), ("test1", "test", 1, 4), ("train2", "train", 2, 0), ("test2", "test", 2, 0),
        ("train3", "train", 3, 0), ("val4", "val", 4, 0), ("test5", "test", 5, 0), ("train6", "train", 6, 0),
    ]  # fmt: skip
    return manifest_of(tmp_path_factory.mktemp("near") / "pictures", rows)


def expected(near):
    return {
        "val0": contents(near, "train0", "train0b"),
        "test0": contents(near, "train0", "train0b", "val0"),
        "test1": contents(near, "val1"),
    }


def test_the_contents_of_earlier_splits_are_the_twins():
    frame = pd.DataFrame({
        "sample_id": list("abcdefg"), "content_id": ["1", "2", "1", "3", "4", "5", "6"],
        "split": ["train", "val", "test", "test", "train", "train", "test"],
    })  # fmt: skip
    assert earlier_duplicates(frame, np.array([0, 0, 0, 0, 1, 1, 2])) == {"b": ["1"], "c": ["2"], "d": ["1", "2"]}


@pytest.mark.parametrize("remove", ["none", "within", "across", "all"])
def test_twins_are_kept_when_rows_are_removed(near, tmp_path, remove):
    audit = audit_manifest(AuditParams(remove=remove), near, tmp_path)
    clean = Manifest.read(tmp_path / "manifest.parquet")
    wanted = {name: ids for name, ids in expected(near).items() if name in clean.sample_ids}
    assert clean.meta["twins"] == wanted and "test0" in wanted
    assert "leaks" not in clean.meta["audit"]
    left = {split: n for split, n in audit.summary["clean"]["leaks"].items() if n}
    assert left == {"none": {"test": 2, "val": 1}, "within": {"test": 2, "val": 1}}.get(remove, {})


def test_twins_are_kept_by_another_audit_and_united_with_its_own(near, tmp_path):
    audit_manifest(AuditParams(), near, tmp_path / "first")
    first = Manifest.read(tmp_path / "first" / "manifest.parquet")
    assert "train0" not in first.sample_ids
    audit_manifest(AuditParams(near=False), first, tmp_path / "second")
    second = Manifest.read(tmp_path / "second" / "manifest.parquet")
    assert second.meta["twins"] == first.meta["twins"] == {n: c for n, c in expected(near).items() if n != "val0"}
    other = {**near.meta, "twins": {"test0": ["other"], "gone": ["x"]}}
    third = audit_manifest(AuditParams(), Manifest(near.frame, other), tmp_path / "third").clean
    assert third.meta["twins"]["test0"] == sorted([*expected(near)["test0"], "other"])
    assert "gone" not in third.meta["twins"]


def test_twins_are_kept_by_curation(near, tmp_path):
    frame = near.frame
    part = {
        "one": Manifest(frame[frame["sample_id"] != "test1"], near.meta | {"twins": {"test0": ["a"], "val0": ["b"]}}),
        "two": Manifest(frame[frame["split"] == "test"], near.meta | {"twins": {"test0": ["c", "a"], "test1": ["d"]}}),
        "three": Manifest(frame[frame["split"] == "train"], near.meta),
    }
    everything = {"test0": ["a", "c"], "test1": ["d"], "val0": ["b"]}
    assert unite_twins(*part.values()) == merge(list(part.values()))[0].meta["twins"] == everything
    assert merge(list(part.values())[::-1])[0].meta["twins"] == everything
    curate(list(part.values()), CurateParams(splits=["train", "test"]), tmp_path)
    assert Manifest.read(tmp_path / "manifest.parquet").meta["twins"] == {"test0": ["a", "c"], "test1": ["d"]}


def test_near_duplicates_share_a_group_and_a_fold(tmp_path):
    once = [(f"once{i:02d}", "train", 20 + i, 0) for i in range(24)]
    twice = [(f"twice{i}{light:+d}", "train", i, light) for i in range(8) for light in (-7, 0, 6)]
    rows = manifest_of(tmp_path / "pictures", [*once, *twice])
    audit_manifest(AuditParams(), rows, tmp_path / "audit")
    clean = Manifest.read(tmp_path / "audit" / "manifest.parquet").frame
    face = clean["sample_id"].str[:-2]
    several = clean["sample_id"].str.startswith("twice")
    assert clean.loc[~several, "group"].isna().all()
    assert clean[several].groupby(face)["group"].nunique().eq(1).all() and clean["group"].nunique() == 8
    assert set(clean["group"].dropna()) == set(clean[several].groupby(face)["content_id"].min())
    fold = assign_folds(clean, 4, 1)
    assert clean.assign(fold=fold)[several].groupby(face)["fold"].nunique().eq(1).all()
    assert set(fold[~several]) == {0, 1, 2, 3}
    apart = assign_folds(clean.drop(columns="group"), 4, 1)
    assert clean.assign(fold=apart)[several].groupby(face)["fold"].nunique().gt(1).any(), "it is the group that does it"


def test_groups_of_an_earlier_audit_and_of_other_manifests_are_joined(near, tmp_path):
    first = audit_manifest(AuditParams(remove="none"), near, tmp_path / "first").clean
    again = audit_manifest(AuditParams(near=False, remove="none"), first, tmp_path / "second").clean
    assert again.frame["group"].equals(first.frame["group"]) and first.frame["group"].nunique() == 3
    exact = audit_manifest(AuditParams(near=False, remove="none"), near, tmp_path / "third").clean
    assert exact.frame["group"].nunique() == 1
    for manifests in ([first, exact, near], [near, exact, first]):
        merged = merge(manifests)[0].frame.set_index("sample_id")
        assert merged["group"].equals(first.frame.set_index("sample_id")["group"].loc[merged.index])
    row, group = pd.Series([0, 0, 1, 2, 3, 3, 4]), pd.Series(["b", "c", None, "b", "c", None, "d"])
    assert join_groups(row, group).fillna("").tolist() == ["b", "b", "", "b", "b", "b", "d"]
