"""Curated manifests: order does not matter, every removed row is counted, named selections are exact."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from watched_steps import counts, watched_steps

from fer_lib.datasets import curate as curating
from fer_lib.datasets.curate import choose, curate, merge
from fer_lib.datasets.manifest import BOX, Manifest
from fer_lib.datasets.quality import BLUR_SIDE, blur, measure
from fer_lib.errors import DataError
from fer_lib.params.data import SELECTIONS, CurateParams


def row(i, source="s", label=0, split="train", content=None, **more):
    return {"sample_id": f"{source}{i:04d}", "content_id": content or f"{source}-c{i}", "source": source,
            "record": f"{i:04d}", "image_path": f"{source}/{i}.png", "label": label, "split": split,
            "val_role": "select" if split == "val" else ""} | more  # fmt: skip


def manifest(rows, root="/data"):
    return Manifest(pd.DataFrame(rows), {"root": root, "tolerance": 0})


def by_id(m):
    return m.frame.sort_values("sample_id").reset_index(drop=True)


def report_of(folder):
    return json.loads((folder / "curation_report.json").read_text())


def removed(folder):
    return {s["step"]: s["removed"] for s in report_of(folder)["steps"] if s["removed"]}


ROLE, PATH = (
    st.sampled_from(["select", "temperature", "conformal", ""]),
    st.sampled_from(["here/{}.png", "there/{}.png"]),
)


@st.composite
def rows(draw, source):
    ids = draw(st.lists(st.integers(0, 30), unique=True, min_size=1, max_size=12))
    made = []
    for i in ids:  # rows that stand in two manifests may differ in their role, their path and in what is known of them
        split = ("train", "train", "val", "test")[i % 4]
        more = {"val_role": draw(ROLE) if split == "val" else "", "image_path": draw(PATH).format(i)}
        more["confidence"] = draw(st.sampled_from([float(i), None]))
        more["soft_label"] = draw(st.sampled_from([[i / 30, 1 - i / 30, 0.0, 0.0, 0.0, 0.0, 0.0], None]))
        made.append(row(i, source, i % 7, split, f"c{i % 9}", **more))
    return made


PARAMS = st.sampled_from(
    [
        CurateParams(),
        CurateParams(deduplicate=True),
        CurateParams(max_per_class=1, cap_splits=["train", "val", "test"]),
        CurateParams(max_per_source=2, max_per_class_and_source=1, seed=5),
        CurateParams(min_confidence=1, splits=["train"], max_per_class=2),
    ]
)


@settings(max_examples=15, deadline=None)
@given(data=st.data(), params=PARAMS)
def test_neither_the_order_of_manifests_nor_of_rows_matters(data, params):
    frames = [data.draw(rows(source)) for source in ("a", "b", "b")]
    try:
        result, report, removed = choose([manifest(f) for f in frames], params)
    except DataError as error:
        assert "nothing is left" in str(error) and (params.splits or params.min_confidence)
        return
    order = data.draw(st.permutations(range(3)))
    other = choose([manifest(data.draw(st.permutations(frames[i]))) for i in order], params)
    assert other[0].frame.equals(result.frame) and other[1] == report
    assert (
        other[2].sort_values("sample_id", ignore_index=True).equals(removed.sort_values("sample_id", ignore_index=True))
    )
    total = {r["sample_id"] for f in frames for r in f}
    assert set(removed["sample_id"]) | set(result.sample_ids) == total
    assert len(removed) + len(result) == len(total) == report["rows_total"]
    assert sum(step["removed"] for step in report["steps"]) == len(removed)
    assert report["rows_in_several"] == sum(map(len, frames)) - len(total)
    assert result.frame[result.frame["split"] == "val"].groupby("content_id")["val_role"].nunique().le(1).all()


@settings(max_examples=10, deadline=None)
@given(ids=st.lists(st.integers(0, 500), unique=True, min_size=5, max_size=60), most=st.integers(1, 5), more=rows("z"))
def test_a_cap_keeps_the_same_rows_whatever_other_rows_there_are(ids, most, more):
    own = [row(i, "s", i % 7, "test" if i % 5 == 0 else "train") for i in ids]
    params = CurateParams(max_per_class_and_source=most)
    alone = choose([manifest(own)], params)[0].frame
    train = alone[alone["split"] == "train"]
    full = pd.DataFrame(own).query("split == 'train'").groupby("label").size()
    assert train.groupby("label").size().to_dict() == full.clip(upper=most).to_dict()
    assert (alone["split"] == "test").sum() == sum(i % 5 == 0 for i in ids), "test rows are never capped unasked"
    mixed = choose([manifest(more), manifest(own)], params)[0].frame
    assert set(mixed.loc[mixed["source"] == "s", "sample_id"]) == set(alone["sample_id"])
    wider = choose([manifest(own)], CurateParams(max_per_class_and_source=most + 1))[0]
    assert set(alone["sample_id"]) <= set(wider.sample_ids), "a wider cap adds rows and takes none away"


def test_curating_again_gives_the_same_files(tmp_path):
    own = [row(i, "ab"[i % 2], i % 7, ("train", "test")[i % 2]) for i in range(30)]
    curate([manifest(own)], CurateParams(max_per_class=1), tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    curate([manifest(own[::-1])], CurateParams(max_per_class=1), tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert set(before) == {"manifest.parquet", "curation_report.json", "removed.csv"}


def test_caps_by_class_source_and_seed(tmp_path):
    rows = [row(i, "ab"[i % 2], i % 7) for i in range(140)]
    result = curate([manifest(rows)], CurateParams(max_per_class=3), tmp_path / "c").frame
    assert result.groupby("label").size().to_dict() == dict.fromkeys(range(7), 3)
    result = curate([manifest(rows)], CurateParams(max_per_source=9), tmp_path / "s").frame
    assert result.groupby("source").size().to_dict() == {"a": 9, "b": 9}
    other = curate([manifest(rows)], CurateParams(max_per_source=9, seed=2), tmp_path / "t").frame
    assert set(other["sample_id"]) != set(result["sample_id"])
    assert removed(tmp_path / "s") == {"at most 9 of each source in train": 122}


def test_roots_are_reconciled(tmp_path):
    for folder in ("a/deep", "b"):
        path = tmp_path / folder / "s" / "0.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(folder.encode())
    one = manifest([row(0, "s")], str(tmp_path / "a" / "deep"))
    two = manifest([row(0, "s") | {"sample_id": "x", "source": "t"}], str(tmp_path / "b"))
    joined = curate([one, two], CurateParams(), tmp_path / "out")
    read = Manifest.read(tmp_path / "out" / "manifest.parquet")
    assert read.sha256 == joined.sha256 and read.root == tmp_path
    assert [read.resolve(p).read_text() for p in read.frame["image_path"]] == ["a/deep", "b"]
    alone, about = merge([one])
    assert alone.frame["image_path"].tolist() == ["s/0.png"] and about["root"].endswith("a/deep")


def test_columns_of_only_one_manifest_are_kept(tmp_path):
    votes = [row(0, "a", soft_label=[1.0, 0, 0, 0, 0, 0, 0]), row(1, "a", soft_label=None)]
    boxed = [row(2, "b", **dict.fromkeys(BOX, 1.0) | {"bbox_bottom": 9.0, "bbox_right": 9.0}, face_id="7")]
    joined = curate([manifest(votes), manifest(boxed)], CurateParams(), tmp_path)
    assert joined.soft_labels[0].tolist() == [1.0, 0, 0, 0, 0, 0, 0] and np.isnan(joined.soft_labels[1:]).all()
    back = Manifest.read(tmp_path / "manifest.parquet")
    assert back.frame["face_id"].isna().tolist() == [True, True, False]
    assert back.frame["bbox_top"].isna().tolist() == [True, True, False] and back.sha256 == joined.sha256


@pytest.mark.parametrize(
    ("column", "values"),
    [("label", (1, 2)), ("split", ("train", "test")), ("confidence", (1.0, 2.0)), ("weight", (1.0, 2.0)),
     ("neg_label", (1.0, 2.0)), ("subject", ("x", "y")), ("soft_label", (np.eye(7)[0].tolist(), np.eye(7)[1]))],
)  # fmt: skip
def test_manifests_that_contradict_each_other_are_refused(column, values):
    one, two = (manifest([row(0) | {column: value}]) for value in values)
    with pytest.raises(DataError, match=f"disagree on the {column} of 1 rows, for instance record '0000' of 's'"):
        merge([one, two])
    with pytest.raises(DataError, match="no manifest"):
        merge([])


def test_two_builds_of_one_import_with_other_seeds(tmp_path):
    """The same rows with other roles, in other places, and of which each build knows something else."""
    shares = [0.5, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0]
    one = [row(0, split="val", val_role="conformal", soft_label=shares), row(1, split="val", val_role="select")]
    two = [row(0, split="val", val_role="temperature", confidence=4.0, image_path="z.png"), one[1], row(2)]
    builds = [manifest(one), manifest(two)]
    (joined, about), (other, again) = merge(builds), merge(builds[::-1])
    assert joined.frame.equals(other.frame) and about == again
    first = joined.frame.iloc[0]
    assert first["val_role"] == "temperature" and first["confidence"] == 4.0 and list(first["soft_label"]) == shares
    assert first["image_path"] == "s/0.png" and len(joined) == 3
    counted = {"rows_in_several": 2, "rows_completed": 1, "paths_in_several": 1, "val_roles_unified": 1}
    assert counted.items() <= about.items()


def test_one_content_has_one_val_role():
    first = row(0, "a", split="val", content="c", val_role="conformal")
    second = row(0, "b", split="val", content="c", val_role="temperature")
    joined, about = merge([manifest([first]), manifest([second, row(1, "b", split="test", content="c")])])
    assert joined.frame["val_role"].tolist() == ["temperature", "temperature", ""] and about["val_roles_unified"] == 1


HQ = ("ferplus", "rafdb_basic", "affectnet_full_balanced", "expw_hq")
EVAL = ("expw_full", "expw_hq", "rafml_argmax", "rafdb_compound_mapped")


@pytest.fixture
def everything():
    sources = sorted({*HQ, *EVAL, "fer2013"})
    return manifest([row(i, s, i % 7, split) for s in sources for i, split in enumerate(("train", "val", "test"))])


@pytest.mark.parametrize(
    ("name", "sources", "splits"),
    [
        ("classification_manifest", {*HQ, *EVAL, "fer2013"}, {"train", "val", "test"}),
        ("classification_manifest_hq_train", set(HQ), {"train", "val", "test"}),
        ("classification_manifest_eval_only", set(EVAL), {"test"}),
        ("test_all_sources", {*HQ, *EVAL, "fer2013"}, {"test"}),
        ("uncleaned_classification_manifest_eval_only", set(EVAL), {"test"}),
    ],
)
def test_the_named_selections(tmp_path, everything, name, sources, splits):
    result = curate([everything], CurateParams(selection=name), tmp_path)
    assert set(result.frame["source"]) == sources and set(result.frame["split"]) == splits
    assert len(result) == len(sources) * len(splits) and report_of(tmp_path)["rows_total"] == len(everything)


def test_every_selection_is_tested_above():
    assert set(SELECTIONS) == {"classification_manifest", "classification_manifest_hq_train",
                               "classification_manifest_eval_only", "test_all_sources"}  # fmt: skip


def test_eval_only_is_free_of_duplicates_and_uncleaned_keeps_them(tmp_path):
    rows = [row(i, s, 3, "test", f"c{i}") for s in EVAL[:2] for i in range(4)] + [row(9, "expw_hq", 1, "train", "c0")]
    name = "classification_manifest_eval_only"
    clean = curate([manifest(rows)], CurateParams(selection=name, allow_missing=True), tmp_path / "a")
    assert set(clean.frame["source"]) == {"expw_full"}, "the selection's first source survives"
    assert removed(tmp_path / "a")["de-duplicated by content"] == 4
    assert report_of(tmp_path / "a")["sources_absent"] == ["rafml_argmax", "rafdb_compound_mapped"]
    raw = curate([manifest(rows)], CurateParams(selection=f"uncleaned_{name}", allow_missing=True), tmp_path / "b")
    assert len(raw) == 8 and "de-duplicated by content" not in removed(tmp_path / "b")


def test_the_survivor_is_the_test_row(tmp_path):
    rows = [row(i, "s", 0, split, "same") for i, split in enumerate(("train", "val", "test", "test"))] + [row(9)]
    result = curate([manifest(rows)], CurateParams(deduplicate=True), tmp_path)
    assert result.sample_ids == ["s0002", "s0009"]
    assert report_of(tmp_path)["duplicates"]["exact"] == 0


def test_absent_sources_and_empty_selections_are_refused(tmp_path, everything):
    few = manifest([row(0, "ferplus")])
    with pytest.raises(DataError, match="lack rafdb_basic, affectnet_full_balanced, expw_hq"):
        curate([few], CurateParams(selection="classification_manifest_hq_train"), tmp_path)
    with pytest.raises(DataError, match="nothing is left.*sources of classification_manifest_eval_only: 1"):
        curate([few], CurateParams(selection="classification_manifest_eval_only", allow_missing=True), tmp_path)
    with pytest.raises(DataError, match="unknown source 'nope'"):
        curate([everything], CurateParams(exclude_sources=["nope"]), tmp_path)
    with pytest.raises(DataError, match=r"nothing is left.*splits \(none\): "):
        curate([everything], CurateParams(selection="test_all_sources", splits=["train"]), tmp_path)
    with pytest.raises(DataError, match="nothing is left.*splits val: 1"):
        curate([few], CurateParams(splits=["val"]), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"selection": "clasification"}, "classification_manifest_hq_train"),
        ({"selection": "uncleaned_test_all_sources", "min_box": 20, "deduplicate": True}, "min_box, deduplicate"),
        ({"splits": ["dev"]}, "'train', 'val' or 'test'"),
        ({"min_blur": -1}, "greater than or equal to 0"),
        ({"max_per_clas": 2}, "Extra inputs"),
    ],
)
def test_wrong_parameters_are_named(values, message):
    with pytest.raises(ValidationError, match=message):
        CurateParams(**values)


@pytest.fixture
def photo(tmp_path):
    """A photo with a sharp face at the left, the same face blurred at the right, and a small crop of its own."""
    rng = np.random.default_rng(0)
    face = cv2.resize(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8), (96, 96), interpolation=cv2.INTER_CUBIC)
    canvas = np.full((96, 200, 3), 128, np.uint8)
    canvas[:, :96], canvas[:, 104:] = face, cv2.GaussianBlur(face, (0, 0), 6)
    (tmp_path / "p.png").write_bytes(cv2.imencode(".png", canvas)[1].tobytes())
    (tmp_path / "small.png").write_bytes(cv2.imencode(".png", face[:20, :30])[1].tobytes())
    sides = [(0, 0, 96, 96), (0, 104, 96, 200), (10.0, -20.0, 40.0, 40.0)]
    rows = [row(i, image_path="p.png", confidence=90.0 - 30 * i) | dict(zip(BOX, map(float, box), strict=True))
            for i, box in enumerate(sides)]  # fmt: skip
    return manifest([*rows, row(3, image_path="small.png")], str(tmp_path))


def test_size_and_sharpness_are_measured_on_the_face(photo):
    with watched_steps() as records:
        measured = measure(photo)
    assert measured["sample_id"].tolist() == photo.sample_ids and counts(records)[-1] == (2, 2)
    assert measured["box_px"].tolist() == [96, 96, 30, 20]
    sharp, blurred = measured["blur"][:2]
    assert sharp > 20 * blurred > 0
    assert blur(np.full((50, 50, 3), 77, np.uint8)) == 0
    big = np.random.default_rng(1).integers(0, 255, (BLUR_SIDE, BLUR_SIDE, 3), dtype=np.uint8)
    enlarged = cv2.resize(big, None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST)
    assert blur(enlarged) == pytest.approx(blur(big)), "measured at one size, whatever the image's"
    (photo.root / "small.png").unlink()
    with pytest.raises(DataError, match="small.png"):
        measure(photo)


def test_quality_filters_count_removed_rows(tmp_path, photo):
    threshold = float(measure(photo)["blur"][1]) + 1
    params = CurateParams(min_confidence=40, min_box=25, min_blur=threshold)
    result = curate([photo], params, tmp_path / "out")
    assert result.sample_ids == ["s0000"]
    assert removed(tmp_path / "out") == {"confidence >= 40": 1, "box >= 25 px": 1, f"blur >= {threshold:g}": 1}
    [step] = [s for s in report_of(tmp_path / "out")["steps"] if s["step"].startswith("confidence")]
    assert step["unmeasured"] == 1, "the crop has no confidence: it stays, and that is said"
    removed_rows = pd.read_csv(tmp_path / "out" / "removed.csv")
    assert dict(zip(removed_rows["sample_id"], removed_rows["step"], strict=True)) == {
        "s0002": "confidence >= 40", "s0003": "box >= 25 px", "s0001": f"blur >= {threshold:g}"}  # fmt: skip


def test_a_box_filter_opens_no_image(tmp_path, monkeypatch, photo):
    monkeypatch.setattr(curating, "measure", None)  # would fail when called
    boxed = Manifest(photo.frame[:3], photo.meta)
    assert curate([boxed], CurateParams(min_box=31), tmp_path / "out").sample_ids == ["s0000", "s0001"]


def test_formulas_are_escaped_for_spreadsheets(tmp_path):
    rows = [row(0, "=cmd", split="val", image_path="@x.png"), row(1)]
    curate([manifest(rows)], CurateParams(splits=["train"]), tmp_path)
    assert pd.read_csv(tmp_path / "removed.csv").loc[0, ["source", "image_path"]].tolist() == ["'=cmd", "'@x.png"]
