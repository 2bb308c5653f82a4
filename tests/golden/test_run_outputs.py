"""A run leaves what the golden files list: parameters, metrics, tags, artifacts, files, and the keys in those files.

After an intended change: ``python tests/golden/record_outputs.py run_outputs`` (minutes: it runs every phase).
"""

import json
from typing import Any

import pytest
from record_outputs import HERE, keys, outputs, steady
from road import PHASES

GOLDEN = HERE / "run_outputs"


def changes(golden: Any, found: Any) -> dict[str, Any]:
    """What differs, by section: names that are gone and names that are new; empty when nothing does."""
    if isinstance(golden, dict) and isinstance(found, dict):
        every = sorted(golden.keys() | found.keys())
        return {name: by for name in every if (by := changes(golden.get(name, []), found.get(name, [])))}
    if isinstance(golden, list) and isinstance(found, list):
        lost, new = sorted(set(golden) - set(found)), sorted(set(found) - set(golden))
        return {key: names for key, names in (("lost", lost), ("new", new)) if names}
    return {} if golden == found else {"was": golden, "is": found}


def test_every_phase_has_its_golden_file():
    assert {path.stem for path in GOLDEN.glob("*.json")} == {"run", *PHASES}


@pytest.mark.parametrize("phase", ["run", *PHASES])
def test_a_phase_leaves_the_same_names(walked, phase):
    parent, nested = walked.walk
    found = outputs(walked, parent if phase == "run" else nested[phase])
    assert changes(json.loads((GOLDEN / f"{phase}.json").read_text(encoding="utf-8")), found) == {}


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("mlruns/phases/teacher_a-0123456789ab/done.json", "mlruns/phases/<model>-<id>/done.json"),
        ("teacher_a/none/per_class_f1/Sad", "<model>/none/per_class_f1/<class>"),
        ("predictions/student_kd-flip.npz", "predictions/<model>-flip.npz"),
        ("images/test/Happy/row0000394.png", "images/test/<class>/row<n>.png"),
        (f"seen.{'0a' * 32}", "seen.<id>"),
        ("checkpoint_epoch001/state.json", "checkpoint_epoch001/state.json"),
    ],
)
def test_names_that_differ_from_run_to_run_are_made_steady(name, written):
    assert steady(name) == written


def test_keys_are_paths_and_open_mappings_are_not_followed():
    value = {"a": [{"b": 1}, {"c": [[2]]}], "packages": {"torch": "2"}, "n": {}, "left_out": {}}
    assert sorted(set(keys(value))) == ["a[].b", "a[].c[][]", "left_out.*", "n", "packages.*"]


def test_a_lost_or_new_name_is_named():
    golden = {"metrics": ["a", "b"], "inside": {"x.json": ["k"], "y.csv": ["c"]}}
    found = {"metrics": ["b", "d"], "inside": {"x.json": ["k"], "z.csv": ["c"]}}
    inside = {"y.csv": {"lost": ["c"]}, "z.csv": {"new": ["c"]}}
    assert changes(golden, found) == {"metrics": {"lost": ["a"], "new": ["d"]}, "inside": inside}
    assert changes(golden, golden) == {}
