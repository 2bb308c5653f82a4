"""Small raw datasets of every layout: rows and counts exactly right, bad input named by file and row."""

import csv
import os
import shutil
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_lib.datasets.manifest import content_id, read_frame, sample_id
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.importers import import_all, import_source
from fer_lib.importers.votes import VOTE_COLUMNS, label_votes
from fer_lib.params import SourceSpec
from fer_lib.storage.atomic import fresh_folder, previous, settle

CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
NUMBERS = ("Training", "PublicTest", "PrivateTest")


def random_image(seed: int, side: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)


def write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, random_image(seed))[1].tobytes())


def csv_rows(n: int = 21) -> list[list[str]]:
    return [[str(i % 7), " ".join(map(str, random_image(i).ravel())), NUMBERS[i // 7 % 3]] for i in range(n)]


def write_csv(path: Path, rows: list, header=("emotion", "pixels", "Usage")) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as handle:
        csv.writer(handle).writerows([header, *rows])
    return path


@pytest.fixture
def tree(tmp_path):
    """train, valid and test, two images a class."""
    root = tmp_path / "raw"
    for split in ("train", "valid", "test"):
        for label, name in enumerate(CLASSES):
            for i in range(2):
                write_image(root / split / name / f"{i}.png", image_seed(split, label, i))
    return root


def image_seed(split: str, label: int, i: int) -> int:
    return {"train": 0, "valid": 100, "test": 200}[split] + 10 * label + i


def assert_refused(spec: SourceSpec, out: Path, *fragments: str) -> None:
    """The import fails with all fragments in its message, and an output folder that is as it was (but for the lock)."""
    with pytest.raises(DataError) as error:
        import_source(spec, out)
    for fragment in fragments:
        assert fragment in str(error.value)
    assert [path for path in out.glob("*") if path.suffix != ".lock"] == []


# ---------------------------------------------------------------- trees


def test_tree_gives_one_row_per_image_with_label_and_split_of_its_folder(tree, tmp_path):
    result = import_source(SourceSpec(source="tree", name="mine", root=str(tree)), tmp_path / "out")
    rows = result.rows
    assert len(rows) == 42 and set(rows["source"]) == {"mine"}
    assert rows["split"].value_counts().to_dict() == {"train": 14, "val": 14, "test": 14}
    for _, row in rows.iterrows():
        raw = tree / row["record"]
        assert EMOTIONS[row["label"]].lower() == raw.parent.name
        assert row["image_path"] == f"mine/images/{row['record']}"
        assert os.path.samefile(tmp_path / "out" / row["image_path"], raw)  # a link, not a copy
        assert row["content_id"] == content_id(raw.read_bytes())
        assert row["sample_id"] == sample_id("mine", row["record"], row["content_id"])
    stored, _ = read_frame(tmp_path / "out" / "mine" / "rows.parquet")
    assert stored.equals(rows)


def test_copy_mode_copies_and_leaves_raw_data_unchanged(tree, tmp_path):
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tree.rglob("*.png")}
    spec = SourceSpec(source="tree", root=str(tree), mode="copy")
    row = import_source(spec, tmp_path / "out").rows.iloc[0]
    copied = tmp_path / "out" / row["image_path"]
    assert not os.path.samefile(copied, tree / row["record"]) and copied.read_bytes() == before[tree / row["record"]][0]
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tree.rglob("*.png")} == before


def test_importing_twice_gives_the_same_bytes(tree, tmp_path):
    spec = SourceSpec(source="tree", root=str(tree))
    first = import_all([spec], tmp_path / "out")
    rows = tmp_path / "out" / "tree" / "rows.parquet"
    report = tmp_path / "out" / "clean_report.json"
    before = rows.read_bytes(), report.read_bytes()
    assert import_all([spec], tmp_path / "out") == first
    assert (rows.read_bytes(), report.read_bytes()) == before
    import_all([spec], tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "tree" / "rows.parquet").read_bytes() == before[0]
    left = [".clean_report.lock", ".tree.lock", "clean_report.json", "tree"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == left


def test_folders_of_other_classes_are_excluded_and_counted_under_their_own_names(tree, tmp_path):
    write_image(tree / "train" / "contempt" / "a.png", 900)
    write_image(tree / "train" / "contempt" / "b.png", 901)
    write_image(tree / "valid" / "hapy" / "c.png", 902)
    (tree / "train" / "happy" / "Thumbs.db").write_bytes(b"x")
    (tree / "train" / "happy" / ".DS_Store").write_bytes(b"x")
    report = import_all([SourceSpec(source="tree", root=str(tree))], tmp_path / "out")
    assert report["reports"][0]["excluded"] == {"train": {"contempt": 2}, "val": {"hapy": 1}}
    assert report["reports"][0]["ignored_files"] == 1
    assert len(report["warnings"]) == 1 and "hapy" in report["warnings"][0] and "'happy'" in report["warnings"][0]
    assert report["manifest"]["rows"] == 42 and report["manifest"]["counts"]["train|Happy"] == 2


def test_clean_report_has_its_documented_keys(tree, tmp_path):
    report = import_all([SourceSpec(source="tree", root=str(tree))], tmp_path / "out")
    assert {"canonical", "mode", "source_root", "out_root", "warnings", "reports", "manifest"} <= set(report)
    assert report["canonical"] == list(EMOTIONS) and report["mode"] == "link" and report["source_root"] == str(tree)
    one = report["reports"][0]
    assert {"type", "dataset", "source", "output", "splits", "excluded", "missing_images", "notes"} <= set(one)
    assert one["splits"]["val"] == dict.fromkeys(EMOTIONS, 2) and one["missing_images"] == 0
    assert set(report["manifest"]) == {"rows", "counts"}


def test_empty_class_unknown_split_missing_and_empty_folders_are_refused(tree, tmp_path):
    spec = SourceSpec(source="tree", root=str(tree))
    assert_refused(SourceSpec(source="tree", root=str(tmp_path / "absent")), tmp_path / "a", "absent", "does not exist")
    assert_refused(
        SourceSpec(source="nonesuch", root=str(tree)), tmp_path / "b", "unknown source 'nonesuch'", "fer2013"
    )
    assert_refused(SourceSpec(source="tree", name="../x", root=str(tree)), tmp_path / "c", "'../x'")
    (tmp_path / "void").mkdir()
    assert_refused(SourceSpec(source="tree", root=str(tmp_path / "void")), tmp_path / "d", "no image", "void")
    (tree / "dev" / "happy").mkdir(parents=True)
    assert_refused(spec, tmp_path / "e", "unknown split 'dev'", str(tree))
    shutil.rmtree(tree / "dev")
    for path in (tree / "valid" / "fear").iterdir():
        path.unlink()
    assert_refused(spec, tmp_path / "f", str(tree / "valid" / "fear"), "holds no image")


def test_images_outside_class_folders_are_reported(tree, tmp_path):
    write_image(tree / "train" / "loose.png", 900)
    write_image(tree / "train" / "happy" / "deep" / "a.png", 901)
    warnings = import_source(SourceSpec(source="tree", root=str(tree)), tmp_path / "out").warnings
    assert any("1 images" in w and "train" in w for w in warnings) and any("deep" in w for w in warnings)


def test_fer2013_tree_takes_the_split_from_the_file_name(tmp_path):
    root = tmp_path / "raw"
    for label, name in enumerate(CLASSES):
        write_image(root / "train" / name / f"Training_{label}.png", label)
        write_image(root / "test" / name / f"PublicTest_{label}.png", 10 + label)
        write_image(root / "test" / name / f"PrivateTest_{label}.png", 20 + label)
    spec = SourceSpec(source="fer2013", root=str(root))
    rows = import_source(spec, tmp_path / "out").rows
    assert rows["split"].value_counts().to_dict() == {"train": 7, "val": 7, "test": 7}
    assert all(("PublicTest" in r) == (s == "val") for r, s in zip(rows["record"], rows["split"], strict=True))
    write_image(root / "test" / "sad" / "odd.png", 99)
    assert_refused(spec, tmp_path / "again", str(root / "test" / "sad" / "odd.png"), "PublicTest")
    tolerant = import_source(spec.model_copy(update={"tolerance": 1}), tmp_path / "tolerant")
    assert tolerant.rows.equals(rows)
    assert list(tolerant.report["bad_records"].values()) == [1]


# ---------------------------------------------------------------- CSV


def test_fer2013_csv_keeps_ids_splits_and_pixels(tmp_path):
    write_csv(tmp_path / "raw" / "fer2013.csv", csv_rows())
    rows = import_source(SourceSpec(source="fer2013", root=str(tmp_path / "raw")), tmp_path / "out").rows
    assert rows["split"].tolist() == ["train"] * 7 + ["val"] * 7 + ["test"] * 7
    assert rows["label"].tolist() == [i % 7 for i in range(21)]
    for i, row in rows.iterrows():
        stored = cv2.imread(str(tmp_path / "out" / row["image_path"]), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(stored, random_image(i)) and row["content_id"] == content_id(random_image(i).tobytes())


def test_fer2013_csv_with_spaced_reordered_header_and_byte_order_mark(tmp_path):
    rows = [[e, u, p] for e, p, u in csv_rows()]
    path = write_csv(tmp_path / "icml.csv", rows, ("emotion", " Usage", " pixels"))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(import_source(SourceSpec(source="fer2013", root=str(path)), tmp_path / "out").rows) == 21


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: [r[0], " ".join(r[1].split()[: 47 * 48]), r[2]], "2256 words, not 2304 whole numbers"),
        (lambda r: [r[0], r[1].rsplit(" ", 1)[0] + " 256", r[2]], "2304 words, not 2304 whole numbers 0..255"),
        (lambda r: [r[0], r[1].rsplit(" ", 1)[0] + " -1", r[2]], "wrong pixels"),
        (lambda r: [r[0], r[1].rsplit(" ", 1)[0] + " 3.5", r[2]], "wrong pixels"),
        (lambda r: [r[0], r[1].replace(" ", "\x1f", 1), r[2]], "wrong pixels"),
        (lambda r: [r[0], r[1].rsplit(" ", 1)[0] + " \u0663", r[2]], "wrong pixels"),
        (lambda r: [r[0], r[1], "Testing"], "'Testing'"),
        (lambda r: ["7", r[1], r[2]], "'7' is not a whole number 0..6"),
        (lambda r: ["", r[1], r[2]], "'' is not a whole number 0..6"),
        (lambda r: [r[0], r[1]], "2 fields instead of 3"),
    ],
)
def test_a_bad_csv_row_is_reported_with_file_line_and_row(tmp_path, change, message):
    rows = csv_rows()
    rows[9] = change(rows[9])
    path = write_csv(tmp_path / "raw" / "fer2013.csv", rows)
    spec = SourceSpec(source="fer2013", root=str(path))
    assert_refused(spec, tmp_path / "out", f"{path}, line 11 (row 9)", message)
    tolerant = import_source(spec.model_copy(update={"tolerance": 1}), tmp_path / "tolerant")
    assert len(tolerant.rows) == 20 and "row0000009" not in set(tolerant.rows["record"])
    assert sum(tolerant.report["bad_records"].values()) == 1


@pytest.mark.parametrize("rows", [(9,), (3, 9), (0, 20), (20,)])
def test_an_open_quote_costs_its_own_line_and_renumbers_no_other(tmp_path, rows):
    path = write_csv(tmp_path / "raw" / "fer2013.csv", csv_rows())
    lines = path.read_text().splitlines()
    for row in rows:
        lines[1 + row] = '"' + lines[1 + row]
    path.write_text("\n".join(lines))
    spec = SourceSpec(source="fer2013", root=str(path))
    assert_refused(spec, tmp_path / "out", f"line {2 + rows[0]} (row {rows[0]})", f"{len(rows)} bad records")
    result = import_source(spec.model_copy(update={"tolerance": len(rows)}), tmp_path / "out")
    assert result.report["bad_records"] == {"unreadable CSV line": len(rows)}
    kept = [i for i in range(21) if i not in rows]
    assert result.rows["record"].tolist() == [f"row{i:07d}" for i in kept]
    assert result.rows["content_id"].tolist() == [content_id(random_image(i).tobytes()) for i in kept]


def test_an_open_quote_or_a_bad_count_among_votes_costs_its_own_row(plus, tmp_path):
    votes_file = plus / "fer2013new.csv"
    lines = votes_file.read_text().splitlines()
    lines[6] = lines[6].replace(",", ',"', 1)  # row 5
    lines[12] = lines[12].replace(",8", ",0_8")  # row 11: Python would read 8
    votes_file.write_text("\n".join(lines))
    spec = SourceSpec(source="ferplus", root=str(plus))
    assert_refused(spec, tmp_path / "out", "line 7 (row 5)", "line 13 (row 11)", "2 bad records")
    result = import_source(spec.model_copy(update={"tolerance": 2}), tmp_path / "out")
    assert result.rows["record"].tolist() == [f"row{i:07d}" for i in range(21) if i not in (2, 5, 9, 11)]
    assert all(row.label == int(row.record[3:]) % 7 for row in result.rows.itertuples())
    assert result.report["bad_records"] == {"unreadable CSV line": 1, "votes are no counts": 1}
    assert sum(sum(n.values()) for n in result.report["excluded"].values()) == 2, "a bad row is not excluded as well"
    # the map's lines are as safe, and one that belongs to a bad vote row is no contradiction
    jpgs = {i: f"train/{CLASSES[i % 7]}/{NUMBERS[i // 7]}_{i}.png" for i in range(21)}
    for i, path in jpgs.items():
        write_image(tmp_path / "jpgs" / path, i)
    rows = [[i, NUMBERS[i // 7], jpgs[i]] for i in range(21)]
    lines = write_csv(tmp_path / "map.csv", rows, ("row", "Usage", "fer2013_jpg")).read_text().splitlines()
    lines[4] = '"' + lines[4]  # row 3
    (tmp_path / "map.csv").write_text("\n".join(lines))
    spec = SourceSpec(
        source="ferplus", root=str(votes_file), images=str(tmp_path / "jpgs"), image_map=str(tmp_path / "map.csv")
    )
    assert_refused(spec, tmp_path / "no", "3 bad records", f"{tmp_path / 'map.csv'}, line 5 (row 3)")
    result = import_source(spec.model_copy(update={"tolerance": 3}), tmp_path / "mapped")
    assert result.rows["record"].tolist() == [f"row{i:07d}" for i in range(21) if i not in (2, 3, 5, 9, 11)]
    assert result.report["excluded"]["train"]["not in image_map"] == 1


def test_wrong_headers_and_files_that_are_not_csv_are_refused(tmp_path):
    path = write_csv(tmp_path / "fer2013.csv", csv_rows(), ("label", "pixels", "Usage"))
    assert_refused(
        SourceSpec(source="fer2013", root=str(path)), tmp_path / "a", str(path), "line 1", "emotion,pixels,Usage"
    )
    path.write_bytes(b"")
    assert_refused(SourceSpec(source="fer2013", root=str(path)), tmp_path / "b", str(path), "header")
    path.write_bytes(b"emotion,pixels,Usage\n\xff\xfe\x00")
    assert_refused(SourceSpec(source="fer2013", root=str(path)), tmp_path / "c", str(path), "not UTF-8 text")


def test_an_error_lists_ten_bad_rows_and_counts_the_rest(tmp_path):
    path = write_csv(tmp_path / "fer2013.csv", [[r[0], r[1], "?"] for r in csv_rows(14)])
    with pytest.raises(DataError) as error:
        import_source(SourceSpec(source="fer2013", root=str(path)), tmp_path / "out")
    assert str(error.value).count("unknown Usage") == 10 and "and 4 more" in str(error.value)


# ---------------------------------------------------------------- votes


def votes(**counts: int) -> list[int]:
    return [counts.get(name, 0) for name in VOTE_COLUMNS]


def test_majority_rule_drops_single_votes_in_all_ten_columns():
    rows = [
        votes(happiness=6, neutral=3, sadness=1),
        votes(happiness=5, neutral=5),
        votes(happiness=4, neutral=3, sadness=1, fear=1, anger=1),  # 4 of the 7 that survive
        votes(contempt=8, anger=2),
        votes(unknown=4, happiness=4, NF=2),
        votes(neutral=1, happiness=1, surprise=1, sadness=1, anger=1, disgust=1, fear=1, contempt=1, unknown=1, NF=1),
        votes(anger=5, unknown=4, NF=1),  # 5 of the 9 that survive: the ten columns count, not the seven
        votes(anger=4, unknown=4, sadness=2),
        votes(NF=10),
    ]
    labels, columns = zip(*map(label_votes, rows), strict=True)
    assert labels == (
        "happiness", "no majority", "happiness", "contempt", "no majority", "no votes left", "anger", "no majority",
        "NF",
    )  # fmt: skip
    assert columns[0]["soft_label"] == pytest.approx([0, 0, 0, 6 / 9, 0, 0, 3 / 9], abs=1e-15)
    assert columns[6]["soft_label"] == [1, 0, 0, 0, 0, 0, 0] and columns[6]["excluded_share"] == pytest.approx(4 / 9)
    assert columns[2]["soft_label"] == pytest.approx([0, 0, 0, 4 / 7, 0, 0, 3 / 7], abs=1e-15)
    assert "soft_label" not in columns[5]
    assert columns[2]["votes"] == [1, 0, 1, 4, 1, 0, 3] and [row["votes_all"] for row in columns] == [10] * 9
    assert columns[8] == {"votes": [0.0] * 7, "votes_all": 10.0}, "votes that no label came of are votes too"
    assert label_votes([0] * 10) == ("no votes left", {})


def test_plurality_rule_needs_a_unique_largest_count():
    rows = [votes(happiness=4, neutral=3, sadness=3), votes(happiness=4, neutral=4, sad=2), votes(unknown=5, anger=4)]
    assert [label_votes(row, "plurality")[0] for row in rows] == ["happiness", "tie", "unknown"]


VOTE_HEADER = ("Usage", "Image name", *VOTE_COLUMNS)


def vote_rows(n: int = 21) -> list[list]:
    """Row i votes for class i % 7 clearly, but row 2 is a tie and row 9 contempt."""
    columns = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
    rows = [[NUMBERS[i // 7 % 3], f"fer{i:07d}.png", *votes(**{columns[i % 7]: 8, "unknown": 2})] for i in range(n)]
    rows[2][2:] = votes(happiness=5, sadness=5)
    rows[9][2:] = votes(contempt=10)
    return rows


@pytest.fixture
def plus(tmp_path):
    write_csv(tmp_path / "plus" / "fer2013.csv", csv_rows())
    write_csv(tmp_path / "plus" / "fer2013new.csv", vote_rows(), VOTE_HEADER)
    return tmp_path / "plus"


def test_ferplus_joins_votes_and_pixels_by_row(plus, tmp_path):
    result = import_source(SourceSpec(source="ferplus", root=str(plus)), tmp_path / "out")
    assert result.report["excluded"] == {"train": {"no majority": 1}, "val": {"contempt": 1}}
    rows = result.rows
    assert rows["record"].tolist() == [f"row{i:07d}" for i in range(21) if i not in (2, 9)]
    assert [(r, int(r[3:]) % 7) for r in rows["record"]] == list(zip(rows["record"], rows["label"], strict=True))
    assert rows["excluded_share"].to_numpy() == pytest.approx(0.2)
    assert rows["soft_label"][0] == [1.0, 0, 0, 0, 0, 0, 0]
    assert rows["votes"][0] == [8, 0, 0, 0, 0, 0, 0] and rows["votes_all"].tolist() == [10.0] * 19
    ninth = rows.set_index("record").loc["row0000010", "content_id"]
    assert ninth == content_id(random_image(10).tobytes())


def test_fer2013_with_votes_keeps_its_own_label_and_rows(plus, tmp_path):
    spec = SourceSpec(source="fer2013", root=str(plus), votes=str(plus / "fer2013new.csv"))
    rows = import_source(spec, tmp_path / "out").rows
    assert rows["label"].tolist() == [i % 7 for i in range(21)]
    soft = rows["soft_label"]
    assert soft[2] == [0, 0, 0, 0.5, 0.5, 0, 0] and soft.isna().tolist() == [i == 9 for i in range(21)]
    stored, _ = read_frame(tmp_path / "out" / "fer2013" / "rows.parquet")  # votes beside a row that has none
    assert stored["soft_label"][9] is None and stored["soft_label"][2].tolist() == soft[2]


def test_votes_of_another_set_are_refused(plus, tmp_path):
    rows = vote_rows()
    votes_file = plus / "fer2013new.csv"
    spec = SourceSpec(source="ferplus", root=str(plus))
    rows[8][0] = "Training"
    write_csv(votes_file, rows, VOTE_HEADER)
    assert_refused(spec, tmp_path / "a", f"{plus / 'fer2013.csv'}, line 10", f"{votes_file}, line 10 (row 8)")
    write_csv(votes_file, vote_rows(20), VOTE_HEADER)
    assert_refused(spec, tmp_path / "b", str(votes_file), "20 rows")
    write_csv(votes_file, [*vote_rows(), vote_rows()[0]], VOTE_HEADER)
    assert_refused(spec, tmp_path / "c", str(votes_file), "22 rows")
    rows = vote_rows()
    rows[4][5] = "many"
    write_csv(votes_file, rows, VOTE_HEADER)
    assert_refused(spec, tmp_path / "d", f"{votes_file}, line 6", "many")
    write_csv(votes_file, vote_rows(), ("usage", *VOTE_HEADER[1:]))
    assert_refused(spec, tmp_path / "e", f"{votes_file}, line 1", "header")
    (plus / "fer2013.csv").unlink()
    assert_refused(spec, tmp_path / "f", "no images", "image_map")


def image_map_options(tmp_path, plus, mapping: dict[int, str]) -> dict:
    rows = [[i, jpg] for i, jpg in mapping.items()]
    write_csv(tmp_path / "map.csv", rows, ("row", "fer2013_jpg"))
    return {"votes": str(plus / "fer2013new.csv"), "image_map": str(tmp_path / "map.csv")}


def test_an_image_map_joins_votes_and_an_image_tree(tmp_path, plus):
    tree, mapping = tmp_path / "jpgs", {}
    for i in range(21):
        top = "train" if i < 7 else "test"
        mapping[i] = f"{top}/{CLASSES[i % 7]}/{NUMBERS[i // 7]}_{i}.png"
        write_image(tree / mapping[i], i)
    del mapping[6]
    options = image_map_options(tmp_path, plus, mapping)
    rows = import_source(SourceSpec(source="fer2013", root=str(tree), **options), tmp_path / "a").rows
    assert len(rows) == 21 and rows.set_index("record")["soft_label"].isna().sum() == 2  # 6: not mapped, 9: contempt
    assert rows.set_index("record").loc[mapping[4], "soft_label"] == [0, 0, 0, 0, 1.0, 0, 0]
    new = plus / "fer2013new.csv"
    spec = SourceSpec(source="ferplus", root=str(new), images=str(tree), image_map=options["image_map"])
    result = import_source(spec, tmp_path / "b")
    assert result.report["excluded"]["train"] == {"no majority": 1, "not in image_map": 1}
    assert len(result.rows) == 18 and "1 labelled vote rows" in result.warnings[0]
    assert set(result.rows["content_id"]) < set(rows["content_id"])
    (tree / mapping[12]).unlink()
    assert_refused(spec, tmp_path / "c", "missing image", str(tree / mapping[12]), "row0000012")
    assert import_source(spec.model_copy(update={"tolerance": 1}), tmp_path / "d").report["missing_images"] == 1
    no_map = SourceSpec(source="fer2013", root=str(tree), votes=str(new))
    assert_refused(no_map, tmp_path / "e", "image_map")
    write_csv(tmp_path / "map.csv", [[0, "../../etc/passwd"]], ("row", "fer2013_jpg"))
    assert_refused(spec, tmp_path / "f", f"{tmp_path / 'map.csv'}, line 2", "../../etc/passwd")
    write_csv(tmp_path / "map.csv", [[500, "x.jpg"]], ("row", "fer2013_jpg"))
    assert_refused(spec, tmp_path / "g", f"{tmp_path / 'map.csv'}, line 2", "'500'")
    write_csv(tmp_path / "map.csv", [[0, "fer9.png", "x.jpg"]], ("row", "ferplus_image", "fer2013_jpg"))
    assert_refused(spec, tmp_path / "h", f"{tmp_path / 'map.csv'}, line 2", "fer9.png")


def test_native_ferplus_folders(tmp_path):
    root = tmp_path / "plus"
    for folder in ("FER2013Train", "FER2013Valid", "FER2013Test"):
        rows = [[f"fer{i}.png", "(0, 0, 48, 48)", *r[2:]] for i, r in enumerate(vote_rows(10))]
        write_csv(root / "data" / folder / "label.csv", rows[1:], rows[0])
        for i in range(10):
            write_image(root / "data" / folder / f"fer{i}.png", i)
    spec = SourceSpec(source="ferplus", root=str(root))
    result = import_source(spec, tmp_path / "out")
    assert result.rows["split"].value_counts().to_dict() == {"train": 8, "val": 8, "test": 8}
    assert result.report["excluded"]["val"] == {"contempt": 1, "no majority": 1}
    labels = dict(zip(result.rows["record"], result.rows["label"], strict=True))
    assert labels["FER2013Test/4/fer3.png"] == 3 and labels["FER2013Test/9/fer8.png"] == 1
    label_csv = root / "data" / "FER2013Valid" / "label.csv"
    label_csv.write_text(label_csv.read_text().replace('"(0, 0, 48, 48)"', '"(0, 0, 48)"', 1))
    assert_refused(spec, tmp_path / "bad", f"{label_csv}, line 1", "(0, 0, 48)")
    lines = label_csv.read_text().splitlines()
    lines[0] = lines[0].replace('"(0, 0, 48)"', '"(0, 0, 48, 48)"')
    lines[3], lines[5] = '"' + lines[3], lines[5].replace(",8", ",x")
    label_csv.write_text("\n".join(lines))
    assert_refused(spec, tmp_path / "bad", f"{label_csv}, line 4", "votes are no counts")
    again = import_source(spec.model_copy(update={"tolerance": 2}), tmp_path / "tolerant")
    lost = {"FER2013Valid/4/fer3.png", "FER2013Valid/6/fer5.png"}
    assert set(again.rows["record"]) == set(result.rows["record"]) - lost
    assert again.report["excluded"] == result.report["excluded"]


# ---------------------------------------------------------------- disk


def test_a_file_at_the_output_folder_is_refused_and_kept(tree, tmp_path):
    (tmp_path / "out").write_text("not a folder")
    with pytest.raises(FileExistsError) as error:
        import_source(SourceSpec(source="tree", root=str(tree)), tmp_path / "out")
    assert error.value.filename == str(tmp_path / "out") and (tmp_path / "out").read_text() == "not a folder"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "tree").write_text("mine")
    with pytest.raises(DataError, match=str(tmp_path / "full" / "tree")):
        import_source(SourceSpec(source="tree", root=str(tree)), tmp_path / "full")
    assert (tmp_path / "full" / "tree").read_text() == "mine" and not list((tmp_path / "full").glob(".*.partial"))


@pytest.mark.skipif(os.name != "posix", reason="file size limits are POSIX")
@pytest.mark.parametrize("limit", [100, 2_000])  # the first image does not fit; rows.parquet does not fit
def test_a_full_disk_is_reported_and_the_earlier_import_survives(tree, tmp_path, limit):
    import resource
    import signal

    small = tmp_path / "small"
    for label, name in enumerate(CLASSES):
        (small / "train" / name).mkdir(parents=True)
        tiny = np.full((4, 4), label, np.uint8)
        (small / "train" / name / "0.png").write_bytes(cv2.imencode(".png", tiny)[1].tobytes())
    root = tree if limit == 100 else small
    spec = SourceSpec(source="tree", root=str(root), mode="copy")
    import_source(spec, tmp_path / "out")
    kept = (tmp_path / "out" / "tree" / "rows.parquet").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(DataError, match="full"):
            import_source(spec, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "out" / "tree" / "rows.parquet").read_bytes() == kept
    assert not list((tmp_path / "out").glob(".*.partial"))


def test_leftovers_of_a_killed_import_are_cleared_or_restored(tree, tmp_path):
    target = tmp_path / "out" / "tree"
    spec = SourceSpec(source="tree", root=str(tree))
    import_source(spec, tmp_path / "out")
    os.replace(target, previous(target))  # killed between the two renames
    settle(target)
    assert (target / "rows.parquet").is_file() and not previous(target).exists()
    (tmp_path / "out" / ".tree.999999999.partial").mkdir()
    import_source(spec, tmp_path / "out")
    assert not list((tmp_path / "out").glob(".*.partial"))
    with pytest.raises(KeyboardInterrupt), fresh_folder(target) as folder:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt
    assert (target / "rows.parquet").is_file() and not list((tmp_path / "out").glob(".*.partial"))


def test_two_sources_with_the_same_name_are_refused(tree, tmp_path):
    spec = SourceSpec(source="tree", root=str(tree))
    with pytest.raises(DataError, match="two sources are called 'tree'"):
        import_all([spec, spec], tmp_path / "out")
    with pytest.raises(DataError, match="no source"):
        import_all([], tmp_path / "out")


def test_embedded_faces_import_like_any_raw_dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("FER_HOME", str(tmp_path / "home"))
    specs = [SourceSpec(source=source, faces=140) for source in ("fer2013", "expw_hq", "tree")]
    reports = {r["dataset"]: r for r in import_all(specs, tmp_path / "out")["reports"]}
    totals = {name: sum(sum(n.values()) for n in r["splits"].values()) for name, r in reports.items()}
    left_out = sum(sum(n.values()) for n in reports["expw_hq"]["excluded"].values())
    assert totals == {"fer2013": 140, "tree": 140, "expw_hq": 140 - left_out} and left_out > 0


def test_a_source_without_drawn_faces_is_refused_before_any_import(tree, tmp_path):
    specs = [SourceSpec(source="tree", root=str(tree)), SourceSpec(source="rafdb_basic")]
    with pytest.raises(DataError, match="'rafdb_basic' has no embedded faces: give its root"):
        import_all(specs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- real, small


@pytest.fixture(scope="module")
def mini(shared_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mini")
    with tarfile.open(shared_data / "mini.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "mini"


def test_the_mini_sets_import_with_their_known_counts(mini, tmp_path):
    plus = mini / "ferplus"
    specs = [
        SourceSpec(source="fer2013", root=str(mini / "fer2013")),
        SourceSpec(source="fer2013", name="pixels", root=str(plus), votes=str(plus / "fer2013new.csv")),
        SourceSpec(source="ferplus", root=str(plus)),
        SourceSpec(source="ferplus", name="native", root=str(plus / "data")),
    ]
    reports = {r["dataset"]: r for r in import_all(specs, tmp_path / "out")["reports"]}
    totals = {name: {s: sum(n.values()) for s, n in r["splits"].items()} for name, r in reports.items()}
    assert sum(totals["fer2013"].values()) == 210
    assert totals["pixels"] == {"train": 100, "val": 30, "test": 30}
    assert totals["ferplus"] == {"train": 84, "val": 26, "test": 26}
    assert totals["native"] == {"train": 83, "val": 26, "test": 26}  # FERPlus's two vote files differ in places
    assert reports["ferplus"]["excluded"]["val"] == {"contempt": 1, "no majority": 2, "unknown": 1}


def test_a_relative_root_is_below_the_home_folder_in_any_working_folder(tmp_path, monkeypatch):
    for cls in CLASSES:
        write_image(tmp_path / "home" / "data" / "faces" / "train" / cls / "a.png", seed=len(cls))
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.setenv("FER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WHERE", "data")
    for root in ("data/faces", "$WHERE/faces"):
        result = import_source(SourceSpec(source="tree", root=root), tmp_path / "out")
        assert len(result.rows) == len(CLASSES)
