"""Imports, splits and ids of fixed raw files are those on record.

``raw_trees.tar.xz`` holds small raw datasets, one folder per layout.  Content ids hash the files' bytes, so no image
encoder has a say in what is compared here.  After a change that is meant to change ids or splits, write ``rows.json``
again: ``python tests/golden/test_golden_rows.py rows``.  ``raw_trees`` instead of ``rows`` draws the raw files anew,
which changes every content id and is needed only for a new layout.
"""

import hashlib
import json
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from archives import anonymous

from fer_lib.datasets.build import build_manifest
from fer_lib.datasets.evalset_ids import evalset_id, protocol_id
from fer_lib.faces.contract import FaceContract
from fer_lib.importers import import_all
from fer_lib.params import ManifestParams, SourceSpec

HERE = Path(__file__).resolve().parent
RAW, ROWS = HERE / "raw_trees.tar.xz", HERE / "rows.json"
AGAIN = "if that is meant: python tests/golden/test_golden_rows.py rows, and say so in CHANGELOG.md"
IMPORTS = {  # name: source, its folder among the raw trees, and options
    "fer2013_csv": ("fer2013", "fer2013_csv", {}),
    "fer2013_tree": ("fer2013", "fer2013_tree", {}),
    "fer2013_votes": ("fer2013", "ferplus", {"votes": "ferplus/fer2013new.csv"}),
    "ferplus": ("ferplus", "ferplus", {}),
    "ferplus_plurality": ("ferplus", "ferplus", {"rule": "plurality"}),
    "ferplus_native": ("ferplus", "ferplus_native", {}),
    "tree": ("tree", "tree", {}),
    "affectnet_yolo": ("affectnet_yolo_format", "affectnet_yolo", {}),
    "rafdb_basic": ("rafdb_basic", "rafdb_basic", {}),
    "rafdb_compound": ("rafdb_compound_mapped", "rafdb_compound", {}),
    "rafml": ("rafml_argmax", "rafml", {}),
    "expw": ("expw_full", "expw", {}),
    "expw_crops": ("expw_hq", "expw", {}),
    "expw_boxes": ("expw_hq", "expw", {"crop": False, "min_confidence": 30.0, "split_seed": 7}),
    "ckplus": ("ckplus", "ckplus", {}),
    "jaffe": ("jaffe", "jaffe", {}),
    "jaffe_folders": ("jaffe", "jaffe_folders", {"split_fracs": (0.6, 0.2, 0.2)}),
}
CONTRACTS = {
    "default": {},
    "eyes": {"image_size": 112, "align": "eyes", "margin": 0.1},
    "clahe": {"image_size": 48, "clahe": True, "grey": True},
}


def frozen(folder: Path) -> dict:
    """Import the raw trees into ``folder``, build two manifests and return what ``rows.json`` holds."""
    raw, imports = folder / "raw", folder / "imports"
    with tarfile.open(RAW) as archive:
        archive.extractall(raw, filter="data")
    specs = []
    for name, (source, root, options) in IMPORTS.items():
        options = options | ({"votes": str(raw / options["votes"])} if "votes" in options else {})
        specs.append(SourceSpec(name=name, source=source, root=str(raw / root), **options))
    reports = {report["dataset"]: report for report in import_all(specs, imports)["reports"]}
    found = {"imports": {}, "manifests": {}, "evalsets": {}, "protocols": {}}
    for name in IMPORTS:
        counts = {key: reports[name][key] for key in ("splits", "excluded", "boxes_outside")}
        found["imports"][name] = described(pd.read_parquet(imports / name / "rows.parquet")) | counts
    choices = {
        "all": {"val_fraction": 0.2, "val_roles": (0.5, 0.3, 0.2)},
        "two": {"val_fraction": 0.7, "include_sources": ["rafdb_basic", "expw"], "seed": 3, "max_per_class": 3},
    }
    for name, options in choices.items():
        manifest = build_manifest(ManifestParams(**options), imports, folder / name)
        rows = described(pd.read_parquet(folder / name / "manifest.parquet"))
        found["manifests"][name] = {"sha256": manifest.sha256, **rows}
        for split, role in (("test", None), ("val", None), ("val", "select"), ("val", "temperature")):
            chosen = manifest.rows(split=split, val_role=role)
            for tolerance in (0, 2):
                key = f"{name}, {role or split}, tolerance {tolerance}"
                found["evalsets"][key] = evalset_id(chosen.sample_ids, chosen.labels, split, tolerance)
    evalset = found["evalsets"]["all, test, tolerance 0"]
    for name, options in CONTRACTS.items():
        for view in ("none", "flip"):
            found["protocols"][f"{name}, {view}"] = protocol_id(evalset, FaceContract(**options), view)
    return found


def described(frame: pd.DataFrame) -> dict:
    """How many rows, a hash per column that holds anything (rows ordered by sample id), and five rows' ids."""
    frame = frame.sort_values("sample_id")
    columns = {}
    for column in frame:
        values = [plain(value) for value in frame[column]]
        if any(value is not None for value in values):
            columns[column] = hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]
    ids = ["record", "sample_id", "content_id", "label", "split", "val_role"]
    few = frame.iloc[np.linspace(0, len(frame) - 1, 5).astype(int)]
    return {"rows": len(frame), "columns": columns, "some": json.loads(few[ids].to_json(orient="records"))}


def plain(value):
    """A cell as JSON has it: floats in their shortest exact form, null for what is missing."""
    if isinstance(value, np.ndarray):
        return [float(x) for x in value]
    if value is None or value != value:
        return None
    return value if isinstance(value, str) else float(value)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return json.loads(json.dumps(frozen(tmp_path_factory.mktemp("golden"))))


@pytest.fixture(scope="module")
def recorded():
    return json.loads(ROWS.read_text())


@pytest.mark.parametrize("name", IMPORTS)
def test_an_import_has_the_rows_on_record(found, recorded, name):
    assert set(recorded["imports"]) == set(IMPORTS)
    assert found["imports"][name] == recorded["imports"][name], f"{name}: other rows than on record; {AGAIN}"


@pytest.mark.parametrize("name", ["all", "two"])
def test_a_manifest_has_the_splits_and_val_roles_on_record(found, recorded, name):
    assert found["manifests"][name] == recorded["manifests"][name], f"other rows, splits or roles; {AGAIN}"


@pytest.mark.parametrize("kind", ["evalsets", "protocols"])
def test_evaluation_ids_are_those_on_record(found, recorded, kind):
    assert len(set(found[kind].values())) == len(found[kind]), "two unlike sets have one id"
    assert found[kind] == recorded[kind], f"results on record would no longer be compared with new ones; {AGAIN}"


# ---- making the files


def draw_raw_trees(folder: Path) -> None:
    """Every layout with more faces of some classes than of others, and copies within and across splits."""
    sys.path.insert(0, str(HERE.parent))
    from native_layouts import LAYOUTS  # with those that only tests draw

    from fer_lib.synthetic.dataset import draw_face
    from fer_lib.synthetic.noise_injection import CONTEMPT, Record

    for name, layout in LAYOUTS.items():
        size = 48 if layout.fixed_size or name == "ferplus_native" else 16
        classes = [*layout.classes, *([CONTEMPT] if layout.contempt else [])]
        splits = {split: 2 if split == "train" else 1 for split in layout.splits} if len(layout.splits) > 1 else {"": 4}
        records = []
        for split, n in splits.items():
            for label in [*classes * n, *classes[2:5]]:
                person = 10 * len(splits) + len(records) % 9 * len(splits) + list(splits).index(split)
                face = draw_face(3, len(records), label, size, person)
                image = face.image // 32 * 32  # few levels pack well
                records.append(Record(image, split, person, label, label, face.strength, face.units))
            last = records[-1]
            records.append(Record(records[0].image, split, last.identity, classes[0], classes[0], 1.0, {}))
        (folder / name).mkdir(parents=True)
        layout.write(folder / name, records, np.random.default_rng(3))


def main(what: str) -> None:
    with tempfile.TemporaryDirectory(prefix="fer-golden-") as folder:
        if what == "raw_trees":
            draw_raw_trees(Path(folder) / "raw")
            with tarfile.open(RAW, "w:xz", preset=9) as archive:
                for path in sorted((Path(folder) / "raw").rglob("*")):
                    if path.is_file():
                        archive.add(path, path.relative_to(Path(folder) / "raw").as_posix(), filter=anonymous)
        elif what == "rows":
            ROWS.write_text(json.dumps(frozen(Path(folder)), indent=1) + "\n")
        else:
            sys.exit(f"no golden file {what!r}: say rows or raw_trees")


if __name__ == "__main__":
    main(*sys.argv[1:])
