"""Ids, hashes, paths and row selection of the manifest."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_lib.datasets.evalset_ids import evalset_id, protocol_id
from fer_lib.datasets.manifest import _UNSAFE, SCHEMA_VERSION, Manifest, content_id, safe_path, sample_id, write_frame
from fer_lib.errors import DataError
from fer_lib.faces.contract import FaceContract


def frame(n: int = 12, **columns) -> pd.DataFrame:
    rows = pd.DataFrame(
        {
            "sample_id": [sample_id("a", str(i), content_id(bytes([i]))) for i in range(n)],
            "content_id": [content_id(bytes([i])) for i in range(n)],
            "source": ["a", "b"] * (n // 2),
            "record": [str(i) for i in range(n)],
            "image_path": [f"a/images/{i}.png" for i in range(n)],
            "label": [i % 7 for i in range(n)],
            "split": [("train", "val", "test")[i % 3] for i in range(n)],
            "val_role": ["select" if i % 3 == 1 else "" for i in range(n)],
        }
    )
    return rows.assign(**columns)


def some_votes(n: int = 12) -> list:
    return [None if i % 2 else [i / 66, 1 - i / 66, 0, 0, 0, 0, 0] for i in range(n)]


def test_write_and_read_give_the_same_rows_hash_and_root(tmp_path):
    manifest = Manifest(frame(soft_label=some_votes(), confidence=np.nan), {"root": (tmp_path / "raw").as_posix()})
    assert "confidence" not in manifest.frame  # a column in which nothing is known
    written = manifest.write(tmp_path / "deep" / "manifest.parquet")
    again = Manifest.read(tmp_path / "deep" / "manifest.parquet")
    assert again.sha256 == manifest.sha256 == written.sha256
    assert again.root == written.root == manifest.root == tmp_path / "raw"
    assert again.meta["root"] == "../raw" and again.meta["sha256"] == manifest.sha256
    assert again.labels.dtype == np.int64 and again.labels.tolist() == [i % 7 for i in range(12)]
    assert again.soft_labels.shape == (12, 7) and again.soft_labels.dtype == np.float64
    assert np.isnan(again.soft_labels[1::2]).all()
    assert again.soft_labels[::2].sum(1) == pytest.approx(1, abs=1e-15)
    assert again.resolve(again.frame.iloc[3]) == again.resolve("a/images/3.png") == tmp_path / "raw/a/images/3.png"
    assert again.resolve(next(again.frame.itertuples())) == tmp_path / "raw/a/images/0.png"
    assert again.resolve(again.frame.to_dict("records")[2]) == tmp_path / "raw/a/images/2.png"


@given(st.text(alphabet="a.\\/:C \n\0é", max_size=9))
@settings(max_examples=500, deadline=None)
def test_the_rule_for_a_column_is_the_rule_for_one_path(path):
    try:
        safe_path(path, "x")
        refused = False
    except DataError:
        refused = True
    assert pc.match_substring_regex(pa.array([path]), _UNSAFE)[0].as_py() == refused


def test_a_moved_checkout_still_finds_its_images(tmp_path):
    Manifest(frame(), {"root": (tmp_path / "one" / "raw").as_posix()}).write(
        tmp_path / "one" / "m" / "manifest.parquet"
    )
    (tmp_path / "one").rename(tmp_path / "two")
    moved = Manifest.read(tmp_path / "two" / "m" / "manifest.parquet")
    assert moved.resolve("a/images/1.png") == tmp_path / "two" / "raw" / "a" / "images" / "1.png"


@pytest.mark.parametrize("path", ["/etc/passwd", "../x.png", "a/../../x.png", "C:/x.png", "a\\x.png", ""])
def test_absolute_and_escaping_paths_are_refused_on_reading(tmp_path, path):
    good = Manifest(frame(), {"root": "."})
    with pytest.raises(DataError, match="absolute or leaves the root"):
        good.resolve(path)
    bad = good.frame.copy()
    bad.loc[5, "image_path"] = path
    target = tmp_path / "manifest.parquet"
    write_frame(target, bad, {"schema": SCHEMA_VERSION, "root": ".", "sha256": "x"})
    with pytest.raises(DataError) as error:
        Manifest.read(target)
    assert f"{target}, row 5" in str(error.value) and repr(path) in str(error.value)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("label", 7, "must be 0..6"),
        ("split", "dev", "unknown split"),
        ("val_role", "tune", "select, temperature, conformal"),
        ("val_role", "select", "only val rows"),
        ("source", "", "names its source"),
        ("sample_id", frame()["sample_id"][0], "unique"),
    ],
)
def test_a_bad_row_is_named(tmp_path, column, value, message):
    bad = frame()
    bad.loc[3, column] = value
    target = tmp_path / "manifest.parquet"
    write_frame(target, bad, {"schema": SCHEMA_VERSION, "root": "."})
    with pytest.raises(DataError) as error:
        Manifest.read(target)
    assert f"{target}, row 3: {column}" in str(error.value) and message in str(error.value)


def test_wrong_columns_votes_files_and_versions_are_refused(tmp_path):
    with pytest.raises(DataError, match="columns missing \\['label'\\]"):
        Manifest(frame().drop(columns="label"), {"root": "."})
    with pytest.raises(DataError, match="columns unknown \\['labels'\\]"):
        Manifest(frame(labels=1), {"root": "."})
    with pytest.raises(DataError, match="row 2: soft_label"):
        Manifest(frame(soft_label=[None, None, [0.5, 0.5], *[None] * 9]), {"root": "."})
    with pytest.raises(DataError, match="soft_label must hold lists of numbers"):
        Manifest(frame(soft_label=[None, None, "many", *[None] * 9]), {"root": "."})
    target = tmp_path / "manifest.parquet"
    with pytest.raises(DataError, match="manifest.parquet is missing"):
        Manifest.read(target)
    target.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match="not a readable Parquet"):
        Manifest.read(target)
    write_frame(target, frame(), {"schema": 99, "root": "."})
    with pytest.raises(DataError, match="schema 99"):
        Manifest.read(target)
    pq.write_table(pa.table({"x": [1]}), target)
    with pytest.raises(DataError, match="schema None"):
        Manifest.read(target)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"soft_label": [9.0, -3.0, 0, 0, 0, 0, 0]}, "7 shares that sum to 1"),
        ({"soft_label": [0.5, 0.25, 0, 0, 0, 0, 0]}, "7 shares that sum to 1"),
        ({"soft_label": [0.5, 0.5, float("nan"), 0, 0, 0, 0]}, "7 shares that sum to 1"),
        ({"votes": [5.0, 0, 0, 0, 0, 0, 6], "votes_all": 10.0}, "at least their sum"),
        ({"votes": [5.0, 0, 0, 0, 0, 0, -1], "votes_all": 10.0}, "7 counts"),
        ({"votes": [5.0, 0, 0, 0, 0, 0, 0]}, "or null"),
        ({"votes_all": 3.0}, "or null"),
        ({"bbox_top": 1.0}, "four sides or none"),
        ({"bbox_top": 1.0, "bbox_left": 1.0, "bbox_bottom": 9.0}, "four sides or none"),
        ({"bbox_top": 9.0, "bbox_left": 1.0, "bbox_bottom": 9.0, "bbox_right": 5.0}, "below its top"),
        ({"bbox_top": 1.0, "bbox_left": 6.0, "bbox_bottom": 9.0, "bbox_right": 5.0}, "after its left"),
    ],
)
def test_invalid_shares_votes_and_boxes_are_refused(columns, message):
    rows = frame(**{name: [None] * 12 for name in columns})
    for name, value in columns.items():
        rows.at[4, name] = value
    with pytest.raises(DataError, match=f"row 4: .*{message}"):
        Manifest(rows, {"root": "."})


def test_votes_as_cast_are_stored_beside_the_soft_label(tmp_path):
    """Row 0: counted votes, judged; 2: shares that a source published; 4: shares that a rule made, the votes lost."""
    rows = frame(soft_label=[None] * 12, votes=[None] * 12, votes_all=np.nan, excluded_share=np.nan)
    for i in (0, 2, 4):
        rows.at[i, "soft_label"] = [1.0, 0, 0, 0, 0, 0, 0]
    rows.at[0, "votes"] = [6.0, 1, 0, 0, 0, 0, 1]
    rows.loc[[0], "votes_all"], rows.loc[[0, 4], "excluded_share"] = 10, 0.0
    Manifest(rows, {"root": "."}).write(tmp_path / "manifest.parquet")
    manifest = Manifest.read(tmp_path / "manifest.parquet")
    votes, votes_all = manifest.votes
    assert votes[0].tolist() == [6, 1, 0, 0, 0, 0, 1] and votes_all[0] == 10
    assert votes[2].tolist() == [1, 0, 0, 0, 0, 0, 0] and np.isnan(votes[[1, 3, 4]]).all()
    assert np.isnan(votes_all[1:]).all() and manifest.soft_labels[0].tolist() == [1, 0, 0, 0, 0, 0, 0]
    other = rows.copy()
    other.at[0, "votes"] = [5.0, 2, 0, 0, 0, 0, 1]
    assert Manifest(other, {"root": "."}).sha256 != manifest.sha256
    plain = Manifest(frame(), {"root": "."}).votes
    assert np.isnan(plain[0]).all() and plain[0].shape == (12, 7) and np.isnan(plain[1]).all()


def test_a_manifest_without_vote_columns_keeps_its_hash():
    rows = frame(soft_label=some_votes(), confidence=[0.5, None] * 6)
    assert Manifest(rows, {"root": "."}).sha256.startswith("622e82bd2682b802")


@pytest.mark.parametrize(
    ("column", "value"),
    [("label", 5), ("image_path", "a/images/9.png"), ("split", "test"), ("confidence", 0.25), ("confidence", None),
     ("soft_label", [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]), ("soft_label", None), ("group", None), ("group", "h")],
)  # fmt: skip
def test_rows_that_do_not_match_the_hash_are_refused(tmp_path, column, value):
    target = tmp_path / "manifest.parquet"
    votes = [[1.0, *[0.0] * 6] if i % 2 == 0 else None for i in range(12)]
    rows = frame(soft_label=votes, confidence=[0.5, None] * 6, group=["g", None] * 6)
    assert len(Manifest(rows, {"root": "."}).write(target)) == len(Manifest.read(target)) == 12
    table = pq.read_table(target)
    values = table[column].to_pylist()
    assert values[4] != value
    changed = pa.array([*values[:4], value, *values[5:]], table[column].type)
    pq.write_table(table.set_column(table.column_names.index(column), column, changed), target)
    with pytest.raises(DataError, match="do not match the hash"):
        Manifest.read(target)


def test_the_rows_of_an_import_are_refused_as_a_manifest(tmp_path):
    write_frame(tmp_path / "rows.parquet", frame(), {"schema": SCHEMA_VERSION, "source": "a"})
    with pytest.raises(DataError, match="rows of an import, not a manifest"):
        Manifest.read(tmp_path / "rows.parquet")


def test_selecting_rows(tmp_path):
    manifest = Manifest(frame(), {"root": "."})
    assert len(manifest.rows()) == 12 and len(manifest.rows(split="train")) == 4
    assert set(manifest.rows(split="val", val_role="select", include_sources=["b"]).frame["source"]) == {"b"}
    assert set(manifest.rows(exclude_sources=("b",)).frame["source"]) == {"a"}
    test = manifest.rows(split="test")
    assert test.frame.index.tolist() == list(range(4)) and test.sample_ids == test.frame["sample_id"].tolist()
    for choice, message in (
        ({"split": "valid"}, "unknown split 'valid'"),
        ({"val_role": "tune"}, "unknown val_role 'tune'"),
        ({"val_role": "conformal"}, "no rows with val_role 'conformal'"),
        ({"include_sources": ["c"]}, "unknown source 'c'"),
        ({"exclude_sources": ["c"]}, "unknown source 'c'"),
        ({"include_sources": ["a"], "exclude_sources": ["a"]}, "no source"),
    ):
        with pytest.raises(DataError, match=message):
            manifest.rows(**choice)
    train = Manifest(frame().query("split == 'train'"), {"root": "."})
    with pytest.raises(DataError, match="no rows with split 'test'"):
        train.rows(split="test")


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(12)))
def test_row_order_enters_neither_the_hash_nor_the_evalset_id(order):
    rows = frame(soft_label=some_votes())
    shuffled = Manifest(rows.iloc[order], {"root": "."})
    straight = Manifest(rows, {"root": "elsewhere"})
    assert shuffled.sha256 == straight.sha256
    ids = [evalset_id(m.sample_ids, m.labels, "test", 0) for m in (shuffled, straight)]
    assert ids[0] == ids[1] and len(ids[0]) == 12


@settings(max_examples=25, deadline=None)
@given(row=st.integers(0, 11), column=st.sampled_from(["label", "split", "record", "soft_label", "val_role"]))
def test_any_changed_cell_changes_the_hash(row, column):
    rows = frame(soft_label=some_votes())
    changed = rows.copy()
    new = {"label": (rows["label"][row] + 1) % 7, "split": "val", "record": "other", "soft_label": [0.0] * 6 + [1.0]}
    if column == "val_role":
        changed.loc[row, "split"] = rows.loc[row, "split"] = "val"
        new["val_role"] = "conformal"
    if column == "split":
        changed.loc[row, "val_role"] = rows.loc[row, "val_role"] = ""
        rows.loc[row, "split"] = "test"
    changed.at[row, column] = new[column]
    assert Manifest(changed, {"root": "."}).sha256 != Manifest(rows, {"root": "."}).sha256


def test_ids_depend_on_all_their_inputs():
    assert content_id(b"x") == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    boxed = {content_id(b"x"), content_id(b"x", (0, 0, 4, 4)), content_id(b"x", (0, 0, 4, 5)), content_id(b"y")}
    assert len(boxed) == 4 and content_id(b"x", (0, 0, 4, 4)) == content_id(b"x", np.array([0.0, 0, 4, 4]))
    assert len({sample_id("a", "bc", "d"), sample_id("ab", "c", "d"), sample_id("a", "bc", "e")}) == 3
    base = evalset_id(["p", "q"], [1, 2], "test", 0)
    others = [
        evalset_id(["p", "r"], [1, 2], "test", 0),
        evalset_id(["p", "q"], [2, 1], "test", 0),
        evalset_id(["p", "q"], [1, 2], "val", 0),
        evalset_id(["p", "q"], [1, 2], "test", 1),
    ]
    assert base == evalset_id(("q", "p"), np.array([2, 1]), "test", 0) and len({base, *others}) == 5
    with pytest.raises(DataError, match="2 sample ids but 1 labels"):
        evalset_id(["p", "q"], [1], "test", 0)
    plain, small = FaceContract(), FaceContract(image_size=96)
    protocols = [protocol_id(base, plain, "none"), protocol_id(base, small, "none"), protocol_id(base, plain, "flip")]
    assert len(set(protocols)) == 3 and protocols[0] == protocol_id(base, FaceContract(), "none")


def test_the_metric_version_is_part_of_the_evalset_id(monkeypatch):
    from fer_lib.calibration import metrics

    before = evalset_id(["p"], [1], "test", 0)
    monkeypatch.setattr(metrics, "METRIC_VERSION", metrics.METRIC_VERSION + "x")
    assert evalset_id(["p"], [1], "test", 0) != before


def test_the_file_is_plain_parquet_with_metadata_in_the_schema(tmp_path):
    Manifest(frame(), {"root": ".", "created": {"seed": 3}}).write(tmp_path / "manifest.parquet")
    meta = json.loads(pq.read_schema(tmp_path / "manifest.parquet").metadata[b"fer"])
    assert meta["schema"] == SCHEMA_VERSION and meta["created"] == {"seed": 3} and len(meta["sha256"]) == 64
    assert pd.read_parquet(tmp_path / "manifest.parquet")["label"].tolist() == [i % 7 for i in range(12)]
    before = (tmp_path / "manifest.parquet").read_bytes()
    Manifest.read(tmp_path / "manifest.parquet").write(tmp_path / "manifest.parquet")
    assert (tmp_path / "manifest.parquet").read_bytes() == before
