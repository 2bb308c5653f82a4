"""The audit on a handful of faces: groups, rows that stay, files.  (Recall and precision: tests/proofs.)"""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from altered import ALTERED, hash_faces
from watched_steps import counts, watched_steps

from fer_lib.audit import figures, groups, hashes, near_duplicate_search
from fer_lib.audit.manifest_audit import audit_manifest
from fer_lib.datasets.build import build_manifest, duplicates, leaked_ids
from fer_lib.datasets.manifest import Manifest
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.importers import import_all
from fer_lib.params import AuditParams, ManifestParams, SourceSpec
from fer_lib.synthetic.dataset import draw_faces, write_raw

EXACT = AuditParams(near=False)
SPLITS = {"train": 3, "val": 2, "test": 2}


@pytest.fixture(scope="module")
def leaky(tmp_path_factory):
    """Two sources of drawn faces with planted copies; in the first some are also altered copies of its train faces."""
    folder = tmp_path_factory.mktemp("audit")
    raw = write_raw(folder / "raw", "tree", faces=140, seed=3, duplicates=6, leaks=8, label_noise=0.1, size=64)
    records = json.loads((raw / "truth.json").read_text())["records"]
    changed = [
        (r["record"], kind) for r, kind in zip([r for r in records if r["split"] == "train"], ALTERED, strict=False)
    ]
    for number, (record, kind) in enumerate(changed):
        face = cv2.imread(str(raw / record))[..., ::-1]
        copy = np.ascontiguousarray(ALTERED[kind](face, np.random.default_rng(number)))
        assert cv2.imwrite(
            str((raw / record.replace("train", "test")).with_name(f"altered{number}.png")), copy[..., ::-1]
        )
    specs = [SourceSpec(source="tree", root=str(raw)), SourceSpec(source="tree", root=str(raw), name="again")]
    import_all(specs, folder / "imports")
    manifest = build_manifest(ManifestParams(), folder / "imports", folder / "manifest")
    return manifest.rows(include_sources=["tree"]), manifest, dict(changed)


@pytest.fixture(scope="module")
def audit(leaky, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    with watched_steps() as records:
        return audit_manifest(AuditParams(), leaky[0], out), out, records


def test_exact_groups_are_those_of_equal_pixels(leaky, tmp_path):
    for manifest in leaky[:2]:
        audit = audit_manifest(EXACT, manifest, tmp_path)
        known = duplicates(manifest.frame)
        for name in ("across_splits", "across_sources", "conflicting_labels"):
            assert audit.summary["exact"][name] == known[name] == audit.summary["with_near"][name], name
        assert audit.summary["exact"]["groups"] == known["exact"] > 0
        assert audit.summary["leaks"]["test"]["rows"] == len(leaked_ids(manifest, "test")) > 0
        assert set(audit.rows["kind"]) == {"exact"} and audit.pairs.empty


def test_every_altered_copy_is_found_with_its_face(leaky, audit):
    manifest, _, changed = leaky
    found = audit[0]
    group = found.rows.groupby("group")["record"].agg(set)
    hits = {record for record in changed if any(record in g and any("altered" in r for r in g) for g in group)}
    assert hits == set(changed) and len(changed) == len(ALTERED)
    assert found.summary["with_near"]["groups"] >= found.summary["exact"]["groups"]
    assert found.summary["leaks"]["test"]["rows"] >= found.summary["leaks"]["test"]["exact"] + len(ALTERED)


def ids(n):
    """A frame of n rows of different contents."""
    return pd.DataFrame({"content_id": [f"c{i}" for i in range(n)], "sample_id": [f"s{i}" for i in range(n)]})


def test_alignment_reports_rotation_scale_and_mirroring():
    face = draw_faces(40, seed=9, size=96)[0]
    turned = cv2.warpAffine(face[0], cv2.getRotationMatrix2D((47.5, 47.5), 8, 1), (96, 96))
    smaller = cv2.resize(face[1][6:92, 5:91], (96, 96), interpolation=cv2.INTER_CUBIC)
    pictures = [*face, turned, smaller, face[2][:, ::-1], face[3]]
    found = groups.find_duplicates(ids(len(pictures)), hash_faces(pictures), True, 0.9)
    pairs = found.pairs.set_index(found.pairs[["first", "second"]].apply(lambda ends: tuple(sorted(ends)), axis=1))
    assert set(pairs.index) == {(0, 40), (1, 41), (2, 42)}
    assert abs(pairs["turned_degrees"][(0, 40)]) == pytest.approx(8, abs=1)
    scale = pairs["scaled"][(1, 41)]
    assert min(scale, 1 / scale) == pytest.approx(86 / 96, abs=0.02)
    assert pairs["mirrored"].tolist() == [index == (2, 42) for index in pairs.index]
    assert found.exact[43] == found.exact[3] and len(set(found.exact)) == 43, "equal pixels, whatever the content id"


def test_search_in_cells_finds_the_same_copies(monkeypatch):
    faces, rng = list(draw_faces(700, seed=4)[0]), np.random.default_rng(1)
    copies = [np.ascontiguousarray(change(faces[i], rng)) for i, change in enumerate(ALTERED.values())]
    thumbs = hash_faces([*faces, *copies]).thumbs
    every = near_duplicate_search.candidates(thumbs)
    monkeypatch.setattr(near_duplicate_search, "EXACT_UNTIL", 500)
    few = near_duplicate_search.candidates(thumbs)
    wanted = {(i, 700 + i) for i in range(len(copies))}
    for found in (every, few):
        assert wanted <= set(zip(found.first.tolist(), found.second.tolist(), strict=True))
        assert (found.first < found.second).all() and (found.cosine >= near_duplicate_search.LEAST).all()
        assert len(set(zip(found.first, found.second, strict=True))) == len(found)


@pytest.mark.parametrize("exact_until", [500, 10_000])
def test_groups_do_not_depend_on_the_order_of_the_rows(monkeypatch, exact_until):
    monkeypatch.setattr(near_duplicate_search, "EXACT_UNTIL", exact_until)
    faces, rng = list(draw_faces(600, seed=4)[0]), np.random.default_rng(1)
    faces += [np.ascontiguousarray(change(faces[i], rng)) for i, change in enumerate(ALTERED.values())] + faces[50:60]
    frame, made = ids(len(faces)), hash_faces(faces)
    found = groups.find_duplicates(frame, made, True, 0.92)
    assert len(found.pairs) >= len(ALTERED) - 1 and len(set(found.exact)) <= len(faces) - 10
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(faces))
        mixed = hashes.Hashes(made.thumbs[order], made.pixels[order], made.area[order])
        again = groups.find_duplicates(frame.iloc[order].reset_index(drop=True), mixed, True, 0.92)
        assert (again.group == found.group[order]).all() and (again.exact == found.exact[order]).all()
        back = again.pairs.assign(first=order[again.pairs["first"]], second=order[again.pairs["second"]])
        pd.testing.assert_frame_equal(back, found.pairs)


def test_hashes_of_grey_and_colour_and_of_boxes():
    face = draw_faces(1, size=64)[0][0]
    grey = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)
    made = hash_faces([face, grey, np.repeat(grey[..., None], 3, axis=2), face.copy()])
    np.testing.assert_array_equal(made.thumbs[1], made.thumbs[2])
    np.testing.assert_array_equal(made.pixels[[0, 1]], made.pixels[[3, 2]])
    assert (made.pixels[0] != made.pixels[1]).any() and made.area.tolist() == [64 * 64] * 4
    np.testing.assert_array_equal(hashes.thumbnails(face[:, ::-1])[0], made.thumbs[0, 0][:, ::-1])
    light = np.clip(face * 0.6 + 30, 0, 255).astype(np.uint8)
    one, other = hashes.codes(np.stack([made.thumbs[0, 0], hashes.thumbnails(light)[0]]))
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.97


def frame_of(rows):
    """split, label, group, area of each row."""
    split, label, group, area = zip(*rows, strict=True)
    frame = pd.DataFrame({"split": split, "label": label, "sample_id": [f"s{i}" for i in range(len(rows))]})
    return frame, np.array(group), np.array(area)


def test_rows_that_each_rule_keeps():
    frame, group, area = frame_of(
        [
            ("train", 1, 0, 9), ("test", 1, 0, 9), ("val", 1, 0, 9),  # across all three
            ("train", 2, 1, 9), ("train", 3, 1, 99), ("train", 2, 1, 10),  # the majority's label, then the largest
            ("val", 4, 2, 9), ("train", 4, 2, 9), ("val", 4, 2, 9),
            ("train", 5, 3, 9),
        ]
    )  # fmt: skip

    def staying(rule):
        return np.flatnonzero(groups.rows_to_keep(frame, group, area, rule)).tolist()

    assert staying("none") == list(range(10))
    assert staying("across") == [1, 3, 4, 5, 6, 8, 9]
    assert staying("within") == [0, 1, 2, 5, 6, 7, 9]
    assert staying("all") == [1, 5, 6, 9]
    assert groups.leaking_rows(frame, group, "test").tolist() == [i == 1 for i in range(10)]
    assert np.flatnonzero(groups.leaking_rows(frame, group, "val")).tolist() == [2, 6, 8]
    assert set(groups.RULES) == {"none", "within", "across", "all"}


def test_clean_manifest_has_no_leak_and_all_evaluated_rows(leaky, audit):
    manifest, out = leaky[0], audit[1]
    clean = Manifest.read(out / "manifest.parquet")
    assert clean.sha256 == audit[0].clean.sha256 and clean.root == manifest.root
    assert leaked_ids(clean, "test") == leaked_ids(clean, "val") == set() != leaked_ids(manifest, "test")
    before, after = (m.frame.groupby("split").size() for m in (manifest, clean))
    assert after["test"] == before["test"] and after["train"] < before["train"]
    assert clean.resolve(clean.frame.iloc[0]).is_file()
    summary = json.loads((out / "audit.json").read_text())
    assert summary == audit[0].summary and summary["clean"]["rows"] == len(clean)
    assert sum(summary["removed"]["by_split"].values()) == summary["removed"]["rows"] == len(manifest) - len(clean)


def test_manifest_records_leaks_that_a_rule_keeps(leaky, audit, tmp_path):
    kept = audit_manifest(AuditParams(remove="none"), leaky[0], tmp_path)
    again = Manifest.read(tmp_path / "manifest.parquet")
    assert len(again) == len(leaky[0]) and kept.summary["removed"]["rows"] == 0
    in_train = set(again.frame.loc[again.frame["split"] == "train", "content_id"])
    near = {name for name, contents in again.meta["twins"].items() if in_train & set(contents)}
    tested = set(again.frame.loc[again.frame["split"] == "test", "sample_id"])
    leaking = (near & tested) | leaked_ids(again, "test")
    assert len(leaking) == audit[0].summary["leaks"]["test"]["rows"] > len(leaked_ids(again, "test"))


def test_csv_files(leaky, audit):
    found, out, records = audit
    rows = pd.read_csv(out / "duplicate_groups.csv")
    assert len(rows) == found.summary["with_near"]["rows"] and rows["sample_id"].is_unique
    assert (rows.groupby("group").size() > 1).all() and set(rows["label"]) <= set(EMOTIONS)
    stays = set(Manifest.read(out / "manifest.parquet").sample_ids)
    assert (rows["kept"] == rows["sample_id"].isin(stays)).all()
    conflicts = pd.read_csv(out / "conflicts.csv")
    assert (conflicts.groupby("group")["label"].nunique() > 1).all()
    assert (
        conflicts["group"].nunique()
        == found.summary["with_near"]["conflicting_labels"]
        == len(found.summary["conflicts"])
    )
    pairs = pd.read_csv(out / "near_pairs.csv")
    assert (pairs["similarity"] >= 0.92).all() and set(pairs["first"]) | set(pairs["second"]) <= set(rows["sample_id"])
    n = len(leaky[0])
    for what in ("hashing images", "searching near-duplicates", "comparing pairs"):
        calls = counts([record for record in records if record["text"].startswith(what)])
        assert calls == sorted(calls) and calls[-1][0] == calls[-1][1] > 0, what
    assert counts(records)[0] == (0, n)


def test_no_text_of_a_csv_is_a_formula(leaky, tmp_path):
    frame = leaky[0].frame.copy()
    twin = frame.index[frame["content_id"].duplicated(keep=False) & (frame["split"] == "test")][0]
    odd = next(record for record in leaky[2] if "train" in record)
    where = [twin, frame.index[frame["record"] == odd][0]]
    frame.loc[where, "record"], frame.loc[where, "source"] = ['=HYPERLINK("x")', "@SUM(A1)"], ["+tree", "-tree"]
    for row, name in zip(where, ("=a.png", "@b.png"), strict=True):
        picture = leaky[0].resolve(frame.loc[row])
        (leaky[0].root / name).write_bytes(picture.read_bytes())
        frame.loc[row, "image_path"] = name
    found = audit_manifest(AuditParams(), Manifest(frame, {"root": leaky[0].root.as_posix()}), tmp_path)
    table = pd.read_csv(tmp_path / "duplicate_groups.csv").set_index("sample_id")
    for row, texts in zip(where, (('\'=HYPERLINK("x")', "'+tree"), ("'@SUM(A1)", "'-tree")), strict=True):
        assert tuple(table.loc[frame["sample_id"][row], ["record", "source"]]) == texts
    assert {"'=a.png", "'@b.png"} <= set(table["image_path"])
    for name in ("duplicate_groups", "near_pairs", "conflicts"):
        texts = pd.read_csv(tmp_path / f"{name}.csv").select_dtypes("str")
        assert len(texts) and not texts.apply(lambda column: column.str.match(r"[=+\-@\t\r]")).any(axis=None), name
    raw = found.rows.set_index("sample_id").loc[frame["sample_id"][twin]]  # only the file is changed
    assert raw["record"] == '=HYPERLINK("x")' and raw["image_path"] == "=a.png"


def test_source_and_split_matrices(leaky, tmp_path):
    both = leaky[1]
    audit = audit_manifest(EXACT, both, tmp_path)
    sources = audit.summary["sources"]
    assert sources["names"] == ["again", "tree"]
    frame = both.frame
    contents = frame.groupby("content_id")["source"].agg(set)
    assert sources["groups"][0][1] == sources["groups"][1][0] == sum(s == {"again", "tree"} for s in contents)
    twice = frame.duplicated(["source", "content_id"], keep=False).groupby(frame["source"]).sum()
    assert sources["rows"] == [[twice["again"], len(leaky[0])], [len(leaky[0]), twice["tree"]]] and twice["tree"] > 0
    splits = audit.summary["splits"]
    table = frame.groupby("content_id")["split"].agg(set)
    at = splits["names"].index
    assert splits["groups"][at("train")][at("test")] == sum({"train", "test"} <= s for s in table)
    assert figures.sheet_names(audit) == ["conflicts", "across_splits", "across_sources"]
    figure = figures.shared_groups(audit)
    texts = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert f"{sources['groups'][0][1]:,}" in texts


def test_row_order_does_not_matter_and_hashes_are_cached(leaky, audit, tmp_path, monkeypatch):
    manifest = leaky[0]
    shuffled = Manifest(
        manifest.frame.sample(frac=1, random_state=1).reset_index(drop=True), manifest.meta, manifest.path
    )
    again = audit_manifest(AuditParams(), shuffled, tmp_path / "out", cache_dir=tmp_path / "cache")
    assert again.clean.sha256 == audit[0].clean.sha256
    assert again.summary | {"seconds": 0} == audit[0].summary | {"seconds": 0}
    for name in ("duplicate_groups", "near_pairs", "conflicts"):
        assert (tmp_path / "out" / f"{name}.csv").read_bytes() == (audit[1] / f"{name}.csv").read_bytes()
    monkeypatch.setattr(hashes, "hash_manifest", None)  # not called again
    third = audit_manifest(AuditParams(), shuffled, tmp_path / "third", cache_dir=tmp_path / "cache")
    assert third.clean.sha256 == again.clean.sha256
    [file] = (tmp_path / "cache").glob("hashes-*.npz")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError, match="damaged.*delete it"):
        audit_manifest(AuditParams(), shuffled, tmp_path / "fourth", cache_dir=tmp_path / "cache")


def test_sheets_show_the_groups(audit):
    found = audit[0]
    names = figures.sheet_names(found)
    assert {"across_splits", "least_alike"} <= set(names) and "across_sources" not in names
    figure = figures.group_sheet(found, "least_alike", shown=3)
    labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert len(labels) == 3 and all(label.startswith("near") for label in labels)
    assert "3 of" in figure.texts[0].get_text()
    weakest = [float(label.split("\n")[1]) for label in labels]
    assert weakest == sorted(weakest) and weakest[0] >= 0.92
    with pytest.raises(DataError, match="no faces"):
        figures.group_sheet(found, "across_sources")


def all_leaking(manifest):
    """The test rows, and each of them in train again."""
    test = manifest.frame[manifest.frame["split"] == "test"]
    copied = test.assign(split="train", sample_id=test["sample_id"] + "t")
    return Manifest(pd.concat([test, copied], ignore_index=True), {"root": str(manifest.root)})


def test_unreadable_image_and_empty_train_split_are_errors(leaky, tmp_path):
    manifest = leaky[0]
    frame = manifest.frame.copy()
    frame.loc[3, "image_path"] = "tree/gone.png"
    with pytest.raises(DataError, match="gone.png"):
        audit_manifest(EXACT, Manifest(frame, {"root": str(manifest.root)}), tmp_path)
    with pytest.raises(DataError, match="no train row"):
        audit_manifest(EXACT, all_leaking(manifest), tmp_path)
    assert not (tmp_path / "manifest.parquet").exists()


def test_one_row_and_blank_images(leaky, tmp_path):
    one = Manifest(leaky[0].frame.head(1), {"root": str(leaky[0].root)})
    assert audit_manifest(AuditParams(), one, tmp_path).summary["with_near"]["groups"] == 0
    blank = [np.full((48, 48, 3), level, np.uint8) for level in (0, 0, 128, 255)]
    found = groups.find_duplicates(ids(4), hash_faces(blank), True, 0.91)
    assert found.group[0] == found.group[1] and len(set(found.group)) == 3
    assert found.pairs.empty and found.blank == 3


def everything(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_folder_with_a_manifest_has_one_whole_audit(leaky, tmp_path, monkeypatch):
    audit_manifest(EXACT, leaky[0], tmp_path)
    written = {"manifest.parquet", "audit.json", "duplicate_groups.csv", "near_pairs.csv", "conflicts.csv"}
    assert set(everything(tmp_path)) == written
    (tmp_path / "figures").mkdir()
    drawn = [f"{name}.png" for name in ("matrices", "noise_matrix", "label_noise", *figures.SHEETS)]
    for name in ("label_noise.csv", "label_noise.json", "outputs.json", *drawn, *(f"figures/{n}" for n in drawn)):
        (tmp_path / name).write_text("of the audit before")
    (tmp_path / "notes.txt").write_text("mine")
    audit_manifest(EXACT, leaky[0], tmp_path)
    assert {path.name for path in tmp_path.rglob("*.*")} == written | {"notes.txt"}
    replace, order = os.replace, []

    def watched(source, target):
        order.append(Path(target).name)
        if len(order) == stop:
            raise OSError("pulled out")
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    stop = 0
    audit_manifest(EXACT, leaky[0], tmp_path)
    assert order[-1] == "manifest.parquet" and set(order) >= written
    for stop in range(1, len(order) + 1):
        order.clear()
        with pytest.raises(DataError, match="pulled out"):
            audit_manifest(EXACT, leaky[0], tmp_path)
        assert "manifest.parquet" not in everything(tmp_path), stop
        assert not [name for name in everything(tmp_path) if "partial" in name]


def test_failed_audit_leaves_no_earlier_manifest(leaky, tmp_path):
    audit_manifest(EXACT, leaky[0], tmp_path)
    with pytest.raises(DataError, match="no train row"):
        audit_manifest(EXACT, all_leaking(leaky[0]), tmp_path)
    assert not everything(tmp_path)


def test_a_manifest_that_no_audit_wrote_is_not_replaced(leaky, tmp_path):
    manifest = leaky[0].write(tmp_path / "manifest.parquet")
    for rows, message in ((manifest, "to be audited"), (leaky[0], "no audit wrote")):
        before = everything(tmp_path)
        with pytest.raises(DataError, match=message):
            audit_manifest(EXACT, rows, tmp_path)
        assert everything(tmp_path) == before
