"""The audit finds what was planted: recall by kind of copy, precision, and on FER2013 the groups that are known.

Drawn faces: every face has its own image, noise and pose, so whatever else the audit calls a copy is a mistake.
"""

import itertools
import json
import tarfile

import cv2
import numpy as np
import pytest
from altered import ALTERED, LEAST

from fer_lib.audit import near_duplicate_search
from fer_lib.audit.manifest_audit import audit_manifest
from fer_lib.datasets.build import build_manifest
from fer_lib.emotions import EMOTIONS
from fer_lib.importers import import_all
from fer_lib.params import AuditParams, ManifestParams, SourceSpec
from fer_lib.synthetic.dataset import draw_face

FACES, COPIES = 2400, 400
IDENTICAL = ("same bytes", "other file format")


def plant(root, size: int) -> dict[str, tuple[str, int]]:
    """A tree of faces (train) and altered copies (test); record -> (kind of copy, number of its face).

    Faces are ``size`` pixels wide, but those whose copy is resized to 48 are 96: at 48 nothing would change.
    """
    rng = np.random.default_rng(size)
    truth = {}

    def write(split, name, image, label):
        folder = root / split / EMOTIONS[label].lower()
        folder.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(folder / name), image[..., ::-1])
        return f"{split}/{EMOTIONS[label].lower()}/{name}"

    chosen = {kind: rng.choice(FACES, COPIES, replace=False).tolist() for kind in (*IDENTICAL, *ALTERED)}
    large = set(chosen["resized to 48"])
    faces = [draw_face(1337, i, size=96 if i in large else size) for i in range(FACES)]
    for i, face in enumerate(faces):
        truth[write("train", f"{i:05d}.png", face.image, face.true)] = ("", i)
    for number, (kind, of) in enumerate(chosen.items()):
        for i in of:
            image = faces[i].image if kind in IDENTICAL else np.ascontiguousarray(ALTERED[kind](faces[i].image, rng))
            name = f"{i:05d}_{number}.{'bmp' if kind == 'other file format' else 'png'}"
            truth[write("test", name, image, faces[i].true)] = (kind, i)
    return truth


@pytest.fixture(scope="module", params=[48, 96], ids="{} px".format)
def planted(request, tmp_path_factory):
    """The truth, its manifest, and a place to keep hashes."""
    folder = tmp_path_factory.mktemp("planted")
    truth = plant(folder / "raw", request.param)
    import_all([SourceSpec(source="tree", root=str(folder / "raw"))], folder / "imports")
    manifest = build_manifest(ManifestParams(val_fraction=0.0), folder / "imports", folder / "manifest")
    assert len(manifest) == len(truth) == FACES + COPIES * (len(ALTERED) + len(IDENTICAL))
    return truth, manifest, folder / "cache", request.param


@pytest.mark.parametrize("path", ["every row", "cells"])
def test_planted_copies_are_found_and_nothing_else(planted, path, tmp_path, monkeypatch, record_property):
    truth, manifest, cache, size = planted
    if path == "cells":
        # 466,284 rows lie in 1,365 cells, of which a query sees 16 (1.2 %); these some 5,600 images lie in 140, of
        # which it sees 2 (1.4 %).  The share is alike, but two chances are fewer than sixteen to meet a neighbour on
        # the other side of a border, so this is the harder case: recall there is no worse for want of probes.
        monkeypatch.setattr(near_duplicate_search, "EXACT_UNTIL", 1000)
        monkeypatch.setattr(near_duplicate_search, "PROBES", 2)
    audit = audit_manifest(AuditParams(), manifest, tmp_path / "audit", cache_dir=cache)
    kind_of, face_of = (dict(zip(truth, values, strict=True)) for values in zip(*truth.values(), strict=True))
    rows = audit.rows
    picture = dict(zip(rows["record"], rows["exact_group"], strict=True))
    name = rows.set_index("sample_id")["exact_group"]
    alike = set(map(frozenset, zip(*(audit.pairs[end].map(name) for end in ("first", "second")), strict=True)))
    original = {face: record for record, (kind, face) in truth.items() if kind == ""}
    recall = {}
    for kind in (*IDENTICAL, *ALTERED):  # a pair of copy and face, not by way of another copy of the face
        copies = [record for record, found in kind_of.items() if found == kind]
        ends = [frozenset((picture.get(c), picture.get(original[face_of[c]]))) for c in copies]
        hits = [None not in e and (len(e) == 1 or (kind in ALTERED and e in alike)) for e in ends]
        recall[kind] = float(np.mean(hits))
    records = manifest.frame.set_index("sample_id")["record"]
    ends = zip(audit.pairs["first"].map(records), audit.pairs["second"].map(records), strict=True)
    pairs = [face_of[a] == face_of[b] for a, b in ends]
    within = [
        face_of[a] == face_of[b]
        for _, group in rows.groupby("group")
        for a, b in itertools.combinations(group["record"], 2)
    ]
    figures = {"recall": recall, "precision_pairs": np.mean(pairs), "precision_groups": np.mean(within)}
    print(size, path, json.dumps(figures, indent=1), len(pairs), len(within))
    record_property(f"{size} px, {path}", figures)
    assert {kind: share for kind, share in recall.items() if share < LEAST.get(kind, 1.0)} == {}
    assert np.mean(pairs) >= 0.99 and np.mean(within) >= 0.99
    left = audit.clean.frame
    tested = {face_of[r] for r in left.loc[left["split"] == "test", "record"]}
    still = {face_of[r] for r in left.loc[left["split"] == "train", "record"]} & tested
    assert len(tested) > 1500 and len(still) <= 0.01 * len(tested), "train is rid of what is tested"
    assert (left["split"] == "test").sum() == COPIES * len(recall), "and the test rows are whole"


def test_fer2013_has_the_groups_that_are_known(shared_data, tmp_path, record_property):
    with tarfile.open(shared_data / "fer2013.tar.gz") as archive:
        archive.extractall(tmp_path / "raw", filter="data")
    [root] = [path for path in (tmp_path / "raw").rglob("train") if path.is_dir()]
    import_all([SourceSpec(source="fer2013", root=str(root.parent))], tmp_path / "imports")
    manifest = build_manifest(ManifestParams(), tmp_path / "imports", tmp_path / "manifest")
    audit = audit_manifest(AuditParams(), manifest, tmp_path / "audit")
    exact, near = audit.summary["exact"], audit.summary["with_near"]
    assert (exact["groups"], exact["across_splits"], exact["conflicting_labels"]) == (1516, 557, 57)
    leaks = audit.summary["leaks"]
    assert (leaks["test"]["exact"], leaks["val"]["exact"]) == (288, 280)
    print(json.dumps({"with_near": near, "leaks": leaks}))
    record_property("fer2013", {"with_near": near, "leaks": leaks})
    # the figures that docs/audit.md states; looked through by eye, nearly all are one photo cut, lit or printed anew.
    # Other processors round otherwise, which moves a pair or two over the threshold
    found = [near[name] for name in ("groups", "across_splits", "conflicting_labels")]
    assert found == pytest.approx([3640, 1550, 440], rel=0.02) and near["largest"] == pytest.approx(35, rel=0.1)
    assert [leaks[split]["rows"] for split in ("test", "val")] == pytest.approx([919, 902], rel=0.02)
    assert audit.summary["clean"]["leaks"] == {"test": 0, "val": 0}
    large = audit.summary["large_groups"]
    assert len(large) >= 20 and len(audit.summary["warnings"]) <= 3, "large groups are one photo each, hardly chains"
