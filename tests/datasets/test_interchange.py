"""Interchange CSVs: reading, escaping, re-basing, and an exact round trip."""

import csv
import json

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from watched_steps import counts, watched_steps

from fer_lib.datasets.interchange import FULL, SHORT, escape_formula, unescape_formula, unwritten_columns, write_csv
from fer_lib.datasets.manifest import BOX, REQUIRED, Manifest, content_id
from fer_lib.errors import DataError
from fer_lib.importers.csv_import import import_csv, read_rows
from fer_lib.params import CsvParams, ManifestParams

HEAD = ",".join(SHORT)
KEEP = CsvParams(val_fraction=0)


def picture(path, value=90, size=(40, 60)):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", np.full((*size, 3), value, np.uint8))[1].tobytes())
    return path


def csv_file(folder, *lines, head=HEAD):
    path = folder / "old.csv"
    path.write_text("\n".join((head, *lines)) + "\n", encoding="utf-8")
    return path


text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
dangerous = st.sampled_from(["=1+2", "+x", "-x", "@a", "'=1", "''@", "'", "\tx", "\rx", 'a"b', "a,b", "a\nb", " a "])
words = (text | dangerous).filter(str.strip)
paths = words.map(lambda t: t.replace("\\", "").replace("/", "").replace(":", "")).filter(
    lambda t: t.strip() and t not in (".", "..")
)
numbers = st.floats(-1e6, 1e6)


@st.composite
def manifests(draw):
    rows = []
    boxed = draw(st.booleans())
    for i, path in enumerate(draw(st.lists(paths, min_size=1, max_size=5))):
        row = {"image_path": f"{path}/{i}.png", "label": draw(st.integers(0, 6)), "source": draw(words),
               "split": draw(st.sampled_from(["train", "val", "test"])), "val_role": "", "content_id": "c",
               "sample_id": str(i), "record": str(i)}  # fmt: skip
        if boxed:
            top, left = draw(numbers), draw(numbers)
            sides = (top, left, top + draw(st.floats(1, 99)), left + draw(st.floats(1, 99)))
            row |= dict(zip(BOX, sides, strict=True)) | {"confidence": draw(st.none() | numbers)}
            row |= {"orig_image": draw(st.none() | words), "face_id": draw(st.none() | words)}
        rows.append(row)
    return Manifest(pd.DataFrame(rows), {"root": "."})


@settings(max_examples=40, deadline=None)
@given(manifest=manifests())
def test_a_written_manifest_is_read_back_exactly(tmp_path_factory, manifest):
    folder = tmp_path_factory.mktemp("trip")
    forms = ["full"] if BOX[0] in manifest.frame else ["full", "short"]
    for form in forms:
        path = write_csv(manifest, folder / f"{form}.csv", form)
        table = read_rows(path, folder)
        assert table.bad == [] and table.form == form and table.total == len(manifest)
        for row, (_, before) in zip(table.rows, manifest.frame.iterrows(), strict=True):
            for name in FULL if form == "full" else SHORT:
                was = before.get(name)
                assert row[name] == (None if pd.isna(was) else was), name
        with open(path, newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        text_columns = ("image_path", "source", "orig_image", "face_id")
        cells = [row[name] for row in rows for name in text_columns if name in row]
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in cells)


@given(st.text(max_size=8) | dangerous)
def test_escaped_cells_are_restored(value):
    assert unescape_formula(escape_formula(value)) == value
    assert not escape_formula(value).startswith(("=", "+", "-", "@"))


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_formula_cells_are_escaped(text):
    assert escape_formula(text) == "'" + text and escape_formula("a" + text) == "a" + text


def test_the_columns_of_both_forms(tmp_path):
    frame = pd.DataFrame([{"sample_id": "a", "content_id": "b", "source": "s", "record": "r", "image_path": "p.png",
                           "label": 3, "split": "test", "val_role": ""}])  # fmt: skip
    manifest = Manifest(frame, {"root": "."})
    assert write_csv(manifest, tmp_path / "s.csv", "short").read_text() == f"{HEAD}\np.png,3,test,s\n"
    lines = write_csv(manifest, tmp_path / "f.csv").read_text().splitlines()
    assert lines == [
        "image_path,label,split,source,confidence,orig_image,face_id,bbox_top,bbox_left,bbox_right,bbox_bottom",
        "p.png,3,test,s,,,,,,,",
    ]
    boxed = Manifest(frame.assign(bbox_top=-1.5, bbox_left=0.0, bbox_right=9.0, bbox_bottom=8.0), {"root": "."})
    assert write_csv(boxed, tmp_path / "b.csv").read_text().endswith(",,,,-1.5,0.0,9.0,8.0\n")
    with pytest.raises(DataError, match="full form"):
        write_csv(boxed, tmp_path / "c.csv", "short")
    assert not (tmp_path / "c.csv").exists()


@pytest.mark.parametrize(
    ("written", "rule", "expected"),
    [
        (r"D:\Data\FER\train\happy\a.png", r"D:\Data=.", "FER/train/happy/a.png"),
        (r"d:\data\FER\train\happy\a.png", r"D:\Data=.", "FER/train/happy/a.png"),
        ("D:/Data/FER/train/happy/a.png", "D:\\Data\\=", "FER/train/happy/a.png"),
        (r"\\server\share\x\a.png", r"\\SERVER\share=sub", "sub/x/a.png"),
        ("/data/old/a.png", "/data/old=new", "new/a.png"),
        ("/data/old/x/../a.png", "/data/old=.", "a.png"),
        ("old/a.png", "old=new/deep", "new/deep/a.png"),
        (r"train\happy\a.png", "unused=.", "train/happy/a.png"),
        ("./train/a.png", "unused=.", "train/a.png"),
        ("train//a.png", "unused=.", "train//a.png"),
    ],
)
def test_old_paths_are_rebased(tmp_path, written, rule, expected):
    path = csv_file(tmp_path, f"{written},Happy,train,old")
    table = read_rows(path, tmp_path, [rule])
    assert table.bad == [] and table.rows[0]["image_path"] == expected
    assert table.rebased[rule] == (0 if rule.startswith("unused") else 1)


def test_the_longest_rule_applies_and_only_whole_folders_match(tmp_path):
    path = csv_file(tmp_path, "/d/a/x.png,0,train,s", "/d/y.png,0,train,s", "/d/ab/z.png,0,train,s")
    table = read_rows(path, tmp_path, ["/d=top", "/d/a=deep"])
    assert [row["image_path"] for row in table.rows] == ["deep/x.png", "top/y.png", "top/ab/z.png"]
    assert table.rebased == {"/d/a=deep": 1, "/d=top": 2}


def test_an_absolute_new_must_be_below_the_root(tmp_path):
    inside = csv_file(tmp_path, "/d/x.png,0,train,s")
    assert read_rows(inside, tmp_path, [f"/d={tmp_path}/in"]).rows[0]["image_path"] == "in/x.png"
    elsewhere = read_rows(inside, tmp_path / "root", [f"/d={tmp_path}/in"])
    assert elsewhere.rows == [] and "not below" in elsewhere.bad[0][1]


@pytest.mark.parametrize(
    ("label", "expected"),
    [("3", 3), ("3.0", 3), (" 0 ", 0), ("Happy", 3), ("happiness", 3), ("suprise", 5), ("ANGER", 0), ("'-0", 0)],
)
def test_labels_are_ids_or_names(tmp_path, label, expected):
    assert read_rows(csv_file(tmp_path, f"a.png,{label},train,s"), tmp_path).rows[0]["label"] == expected


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("a.png,7,train,s", "label out of range"),
        ("a.png,-1,train,s", "label out of range"),
        ("a.png,2.5,train,s", "label out of range"),
        ("a.png,,train,s", "label out of range"),
        ("a.png,1,dev,s", "unknown split"),
        ("a.png,1,,s", "unknown split"),
        ("a.png,1,train,", "no source"),
        ("a.png,1,train", "wrong field count"),
        ("a.png,1,train,s,more", "wrong field count"),
        ("/elsewhere/a.png,1,train,s", "path outside the root"),
        (r"E:\x\a.png,1,train,s", "path outside the root"),
        ("../a.png,1,train,s", "path outside the root"),
        (",1,train,s", "path outside the root"),
        ("first.png,2,test,s", "row stands twice"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, line, kind):
    picture(tmp_path / "first.png")
    path = csv_file(tmp_path, "first.png,1,train,s", "", line)
    with pytest.raises(DataError, match="old.csv") as error:
        import_csv(path, tmp_path, tmp_path / "out", KEEP)
    assert "1 bad records" in str(error.value) and "line 4" in str(error.value) and kind in str(error.value)
    assert not (tmp_path / "out").exists()
    manifest = import_csv(path, tmp_path, tmp_path / "out", KEEP.model_copy(update={"tolerance": 1}))
    report = json.loads((tmp_path / "out" / "import_report.json").read_text())
    assert len(manifest) == 1 and report["bad_rows"] == {kind: 1} and report["rows_total"] == 2


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ("x,,,0,0,10,10", "not a number"),
        (",,,0,0,inf,10", "not a number"),
        (",,,0,0,10,", "bad box"),
        (",,,5,0,10,5", "empty box"),
        (",,,50,0,10,60", "box outside the photo"),
        (",,,-500,-500,500,500", "box far larger than the photo"),
    ],
)
def test_a_bad_box_is_named(tmp_path, cells, kind):
    picture(tmp_path / "a.png")
    path = csv_file(tmp_path, f"a.png,1,train,s,{cells}", head=",".join(FULL))
    with pytest.raises(DataError, match=f"{kind}: line 2"):
        import_csv(path, tmp_path, tmp_path / "out", KEEP)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"line 1: the columns \(none\)"),
        (b"path,label\n", "line 1: the columns path, label"),
        (b"image_path,label,split,source\n\xff.png,1,train,s\n", "not UTF-8"),
        (b'image_path,label,split,source\n"a"b,1,train,s\n', "line 2: not valid CSV"),
        (b"image_path,label,split,source\n", "none of its 0 rows"),
        (b"image_path,label,split,source\na.png,contempt,train,s\n", r"none of its 1 rows can be used \(1 excluded"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        import_csv(tmp_path / "x.csv", tmp_path, tmp_path / "out", KEEP)


def test_a_missing_csv_is_named(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        import_csv(tmp_path / "y.csv", tmp_path, tmp_path / "out", KEEP)
    assert error.value.filename == str(tmp_path / "y.csv")


def test_import_gives_ids_of_the_content_and_assigns_val(tmp_path):
    for i in range(40):
        picture(tmp_path / "data" / f"{i}.png", i)
    picture(tmp_path / "data" / "photo.png", 200)
    lines = [rf"D:\old\{i}.png,{i % 2},train,s,,,,,,," for i in range(40)]
    lines += [rf"D:\old\photo.png,{i},test,s,88.5,photo.png,{i},0,{i},30,{38 + 4 * i}" for i in range(2)]
    lines.append(r"D:\old\photo.png,contempt,test,s,,,9,0,0,30,30")
    path = csv_file(tmp_path, *lines, head=",".join(FULL))
    params = CsvParams(rebase=[r"d:\OLD=."], val_fraction=0.2, val_roles=(0.5, 0.25, 0.25))
    with watched_steps() as records:
        manifest = import_csv(path, tmp_path / "data", tmp_path / "out", params)
    assert counts(records)[0] == (0, 41) and counts(records)[-1] == (41, 41)
    assert manifest.frame["split"].value_counts().to_dict() == {"train": 32, "val": 8, "test": 2}
    assert manifest.frame["val_role"].value_counts().to_dict() == {
        "": 34,
        "select": 4,
        "temperature": 2,
        "conformal": 2,
    }
    photo = manifest.frame[manifest.frame["image_path"] == "photo.png"]
    data = (tmp_path / "data" / "photo.png").read_bytes()
    assert photo["content_id"].tolist() == [content_id(data, (0.0, i, 38 + 4 * i, 30.0)) for i in range(2)]
    report = json.loads((tmp_path / "out" / "import_report.json").read_text())
    assert report["excluded"] == {"test": {"contempt": 1}} and report["boxes_outside"] == 1
    assert report["moved_to_val"] == 8 and report["rebased"] == {r"d:\OLD=.": 43} and report["bad_rows"] == {}
    again = Manifest.read(tmp_path / "out" / "manifest.parquet")
    assert again.sha256 == manifest.sha256 == report["manifest_sha256"]
    assert again.root == tmp_path / "data" and all(again.resolve(r).is_file() for r in again.frame["image_path"])
    out = write_csv(again, tmp_path / "new.csv")
    back = import_csv(out, tmp_path / "data", tmp_path / "two", params)
    assert back.frame["sample_id"].tolist() == again.frame["sample_id"].tolist()


def test_missing_or_broken_images_stop_the_import(tmp_path):
    picture(tmp_path / "good.png")
    (tmp_path / "text.png").write_text("not an image")
    path = csv_file(tmp_path, "good.png,1,train,s", "none.png,1,train,s", "text.png,1,train,s")
    with pytest.raises(DataError) as error:
        import_csv(path, tmp_path, tmp_path / "out", KEEP)
    assert "line 3" in str(error.value) and "missing picture" in str(error.value)
    assert "line 4" in str(error.value) and "undecodable picture" in str(error.value)


def test_only_ten_of_many_bad_rows_are_shown(tmp_path):
    path = csv_file(tmp_path, *[f"{i}.png,9,train,s" for i in range(13)])
    with pytest.raises(DataError, match=r"(?s)13 bad records.*and 3 more") as error:
        import_csv(path, tmp_path, tmp_path / "out", KEEP)
    assert str(error.value).count("out of range") == 10


@pytest.mark.parametrize("params", [CsvParams, ManifestParams])
@pytest.mark.parametrize(
    ("roles", "message"), [((0, 0.5, 0.5), "above 0"), ((1, 0, 0), "above 0"), ((0.5, 0.4, 0.2), "sum to 1")]
)
def test_val_roles_are_shares_with_select_and_temperature(params, roles, message):
    with pytest.raises(ValueError, match=f"(?s)val_roles.*{message}"):
        params(val_roles=roles)


@pytest.mark.parametrize("rule", ["/old", "=new", ""])
def test_a_rule_is_old_and_new(rule):
    with pytest.raises(ValueError, match="OLD=NEW"):
        CsvParams(rebase=[rule])


broken = st.sampled_from(
    ["7", "-1", "x", "", "1e9", "nan", '"', "a,b", "..", "/x", "C:\\x", "dev", "contempt", "=1", "\x00", "é"]
)


@settings(max_examples=150, deadline=None)
@given(
    grid=st.lists(st.lists(broken | st.sampled_from(["a.png", "3", "train", "s"]), min_size=3, max_size=6), max_size=8),
    tail=st.binary(max_size=6),
)
def test_no_row_of_any_csv_is_lost(tmp_path_factory, grid, tail):
    path = tmp_path_factory.mktemp("fuzz") / "f.csv"
    path.write_bytes("\n".join([HEAD, *(",".join(cells) for cells in grid)]).encode() + b"\n" + tail)
    try:
        table = read_rows(path, path.parent)
    except DataError as error:
        assert "f.csv" in str(error)
        return
    excluded = sum(sum(names.values()) for names in table.excluded.values())
    assert table.total == len(table.rows) + len(table.bad) + excluded
    assert all(where.startswith("line ") for _, where in table.bad)


def test_columns_that_a_csv_has_no_place_for_are_named(drawn_manifest):
    bare = drawn_manifest.frame.drop(columns=[c for c in drawn_manifest.frame if c not in REQUIRED])
    bare["val_role"] = ""
    assert unwritten_columns(Manifest(bare, drawn_manifest.meta)) == []
    extended = bare.assign(subject=["", "s1"] + [""] * (len(bare) - 2), confidence=0.5, group="")
    assert unwritten_columns(Manifest(extended, drawn_manifest.meta)) == ["subject"]
    assert unwritten_columns(Manifest(extended, drawn_manifest.meta), "short") == ["confidence", "subject"]
