"""Imports of some splits only, of a source in several parts, and of a source that is all test."""

import native_layouts  # noqa: F401  (adds layouts)
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from native_layouts import SOURCES
from test_importers import random_image, tree, write_image  # noqa: F401  (a fixture)

from fer_lib.audit.label_errors import audit_labels
from fer_lib.audit.manifest_audit import audit_manifest
from fer_lib.datasets.build import build_manifest, row_report
from fer_lib.datasets.manifest import content_id
from fer_lib.datasets.validate import validate
from fer_lib.errors import DataError
from fer_lib.faces.decode import decode
from fer_lib.importers import import_all, import_source, read_imports
from fer_lib.importers.image_files import IMAGE_SUFFIXES
from fer_lib.importers.subject_splits import assign_splits
from fer_lib.importers.summary import left_out, split_table
from fer_lib.params import AuditParams, ManifestParams, SourceSpec, StudentParams
from fer_lib.synthetic.dataset import write_raw
from fer_lib.synthetic.layouts import LAYOUTS
from fer_lib.training.fit_inputs import open_data

CASES = [*SOURCES.items(), ("expw", "expw_hq")]


@pytest.mark.parametrize(("layout", "source"), CASES)
def test_only_rows_of_the_chosen_splits_are_imported_and_the_others_are_counted(tmp_path, layout, source):
    size = None if LAYOUTS[layout].fixed_size else 48
    spec = SourceSpec(source=source, root=str(write_raw(tmp_path / "raw", layout, faces=140, size=size)), name="drawn")
    every = import_source(spec, tmp_path / "every")
    some = import_source(spec.model_copy(update={"splits": ["val", "test"]}), tmp_path / "some")
    wanted = every.rows[every.rows["split"] != "train"].reset_index(drop=True)
    assert some.rows.equals(wanted[some.rows.columns]) and 0 < len(wanted) < len(every.rows)
    train = every.report["splits"]["train"], every.report["excluded"].get("train", {})
    assert some.report["excluded"]["train"] == {"not asked for": sum(sum(counts.values()) for counts in train)}
    for split in ("val", "test"):
        assert some.report["excluded"].get(split) == every.report["excluded"].get(split)
    images = [path for path in (tmp_path / "some" / "drawn" / "images").rglob("*") if path.suffix in IMAGE_SUFFIXES]
    assert {path.relative_to(tmp_path / "some").as_posix() for path in images} == set(some.rows["image_path"])


def test_splits_that_a_source_does_not_have_are_refused_with_their_counts(tree, tmp_path):  # noqa: F811
    spec = SourceSpec(source="rafdb_basic", root=str(write_raw(tmp_path / "raf", "rafdb_basic", faces=84, size=48)))
    with pytest.raises(DataError, match=r"84 not asked for.*\n.*and splits"):
        import_source(spec.model_copy(update={"splits": ["val"]}), tmp_path / "out")
    with pytest.raises(ValueError, match="splits"):
        SourceSpec(source="tree", splits=["valid"])


def part_of(root, *splits, **options):
    return SourceSpec(source="tree", name="faces", root=str(root), splits=list(splits), **options)


def test_two_parts_become_one_source_with_the_ids_that_each_part_has_alone(tree, tmp_path):  # noqa: F811
    for label, name in enumerate(("happy", "sad")):  # the train part of a larger set, with a record of the other's
        for i in range(5):
            write_image(tmp_path / "more" / "train" / name / f"{i}.png", 500 + 10 * label + i)
    write_image(tmp_path / "more" / "train" / "contempt" / "0.png", 600)
    first, second = part_of(tmp_path / "more"), part_of(tree, "val", "test")
    report = import_all([first, second], tmp_path / "out")
    rows = read_imports(tmp_path / "out")
    alone = [import_source(spec, tmp_path / f"alone{i}").rows for i, spec in enumerate((first, second))]
    assert set(rows["source"]) == {"faces"} and len(rows) == 10 + 28
    assert set(rows["sample_id"]) == {row_id for part in alone for row_id in part["sample_id"]}
    places = rows["image_path"].str.partition("/")[0]
    assert {split: set(places[rows["split"] == split]) for split in ("train", "val", "test")} == {
        "train": {"faces"}, "val": {"faces-2"}, "test": {"faces-2"}
    }  # fmt: skip
    for row in rows.itertuples():
        assert content_id((tmp_path / "out" / row.image_path).read_bytes()) == row.content_id
    assert [entry["dataset"] for entry in report["reports"]] == ["faces", "faces"]
    assert {name: counts["excluded"] for name, counts in left_out(report).items()} == {
        "faces": {"train": {"contempt": 1}}, "faces-2": {"train": {"not asked for": 14}}
    }  # fmt: skip
    table = split_table(report).set_index(["source", "split"])
    assert table.loc[("faces", "train")].to_dict() | {"Happy": 5, "Sad": 5} == table.loc[("faces", "train")].to_dict()
    manifest = build_manifest(ManifestParams(), tmp_path / "out", tmp_path / "manifest")
    assert manifest.meta["drawn"] == {"faces": False} and manifest.meta["bad_labels"] == 0
    assert row_report(manifest.frame)["counts"]["by_source"] == {"faces": 38}
    assert manifest.frame["split"].value_counts().to_dict() == {"train": 10, "val": 14, "test": 14}, "no val is drawn"


def test_equal_records_of_two_parts_are_two_faces_unless_they_are_one_image(tree, tmp_path):  # noqa: F811
    other = tmp_path / "other" / "train" / "happy"
    write_image(other / "0.png", 700)  # the record of another image in the first part
    assert not (tree / "train" / "happy" / "0.png").read_bytes() == (other / "0.png").read_bytes()
    import_all([part_of(tree), part_of(tmp_path / "other")], tmp_path / "out")
    twice = read_imports(tmp_path / "out").query("record == 'train/happy/0.png'")
    assert len(twice) == 2 and twice["sample_id"].is_unique
    seeds = [30, 700]
    for path, seed in zip(twice["image_path"], seeds, strict=True):
        assert np.array_equal(decode(tmp_path / "out" / path)[..., 0], random_image(seed))
    (other / "1.png").write_bytes((tree / "train" / "happy" / "1.png").read_bytes())
    with pytest.raises(DataError, match=r"row is in an earlier part of the source: train/happy/1.png"):
        import_all([part_of(tree), part_of(tmp_path / "other")], tmp_path / "no")
    report = import_all([part_of(tree), part_of(tmp_path / "other", tolerance=1)], tmp_path / "yes")
    assert report["manifest"]["rows"] == 43 and read_imports(tmp_path / "yes")["sample_id"].is_unique
    table = split_table(report).set_index(["source", "split"])
    assert len(table) == 3 and table.loc[("faces", "train"), "Happy"] == 3, "one line for both parts"
    assert report["reports"][1]["bad_records"] == {"row is in an earlier part of the source": 1}


def test_parts_of_an_earlier_import_are_never_mixed_with_new_ones(tree, tmp_path):  # noqa: F811
    whole, parts = [part_of(tree)], [part_of(tree, "train"), part_of(tree, "val", "test")]
    import_all(parts, tmp_path / "out")
    before = read_imports(tmp_path / "out")
    with pytest.raises(DataError, match=r"out/faces-2 holds a part of faces from an earlier import"):
        import_all(whole, tmp_path / "out")
    assert read_imports(tmp_path / "out").equals(before)
    assert import_all(parts, tmp_path / "out")["manifest"]["rows"] == 42
    assert read_imports(tmp_path / "out").equals(before)
    named = SourceSpec(source="tree", name="faces-2", root=str(tree))
    with pytest.raises(DataError, match="two sources are called 'faces-2'"):
        import_all([*parts, named], tmp_path / "no")


@pytest.mark.parametrize(("layout", "source"), [("ckplus", "ckplus"), ("jaffe", "jaffe"), ("expw", "expw_full")])
def test_every_face_of_a_source_can_be_a_test_row(tmp_path, layout, source):
    root = write_raw(tmp_path / "raw", layout, faces=105, size=48)
    every = import_source(SourceSpec(source=source, root=str(root)), tmp_path / "divided").rows
    report = import_all([SourceSpec(source=source, root=str(root), split_fracs=(0, 0, 1))], tmp_path / "out")
    rows = read_imports(tmp_path / "out")
    assert set(every["split"]) == {"train", "val", "test"} and set(rows["split"]) == {"test"}
    assert set(rows["sample_id"]) == set(every["sample_id"]) and report["manifest"]["rows"] == len(every)
    manifest = build_manifest(ManifestParams(), tmp_path / "out", tmp_path / "manifest")
    assert set(manifest.frame["split"]) == {"test"} and set(manifest.frame["val_role"]) == {""}


def test_a_manifest_of_test_rows_is_audited_and_phases_that_need_others_say_so(tmp_path):
    root = write_raw(tmp_path / "raw", "jaffe", faces=70, size=48)
    import_all([SourceSpec(source="jaffe", root=str(root), split_fracs=(0, 0, 1))], tmp_path / "imports")
    manifest = build_manifest(ManifestParams(), tmp_path / "imports", tmp_path / "manifest")
    audit = audit_manifest(AuditParams(), manifest, tmp_path / "audit", tmp_path / "cache")
    assert len(audit.clean) == len(manifest) and audit.summary["removed"]["rows"] == 0
    assert validate(manifest)[0]["rows_valid"] == len(manifest)
    with pytest.raises(DataError, match="no rows with split 'train'.*needs them: name a manifest or sources that have"):
        open_data(audit.clean, StudentParams(), tmp_path / "cache")
    with pytest.raises(DataError, match="no rows in train, val: name other noise splits"):
        audit_labels(audit.clean, AuditParams().noise_nets, tmp_path / "audit", tmp_path / "cache")


@given(st.integers(1, 40), st.integers(0, 20), st.integers(0, 99))
@example(5, 10, 0)  # both halves of five are rounded down
def test_a_split_of_fraction_zero_gets_no_unit(units, val_share, seed):
    names = [f"subject {i}" for i in range(units)]
    splits = assign_splits(names, (0.0, val_share / 20, 1 - val_share / 20), seed)
    counts = {split: list(splits.values()).count(split) for split in ("train", "val", "test")}
    assert counts["train"] == 0 and counts["val"] + counts["test"] == units
    assert (counts["val"] == 0) == (val_share == 0) or units < 3
    assert (counts["test"] == 0) == (val_share == 20) or units < 3
    assert abs(counts["val"] - units * val_share / 20) <= 1
