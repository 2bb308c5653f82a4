"""Notebooks alone with their defaults: in a home that holds nothing, the quickstart makes first what they need."""

import json

import pytest
from road import TINY, command, make_home, red_boxes

from fer_lib.params import KINDS
from fer_lib.pipeline import folders
from fer_lib.pipeline.runfile import input_fields
from fer_lib.storage.json_files import read_outputs

MOST_SECONDS = 180  # of a training alone; about a minute where nothing else runs


@pytest.mark.parametrize("kind", KINDS)
def test_alone_from_an_empty_home(kind, tmp_path):
    home = make_home(tmp_path / "home")
    stem = KINDS[kind][1]
    words = ["papermill", f"{stem}.ipynb", str(tmp_path / "out.ipynb"), "--no-progress-bar"]
    ended = command(*words, home=None, cwd=home / "notebooks")
    assert ended.code == 0, ended.err[-3000:]
    records = [json.loads(path.read_text()) for path in home.glob("mlruns/phases/*/done.json")]
    made = [r for r in records if r["kind"] == kind]
    record = max(made, key=lambda r: r["finished"])  # the quickstart may have made others of its kind before
    needed = any(spec.required for spec in input_fields(kind).values())
    assert (len(records) > 1) == needed, "the quickstart runs when something is missing, and only then"
    for name, value in record["inputs"].items():
        for folder in value if isinstance(value, list) else [value] if value else []:
            assert (home / folder / "done.json").is_file(), f"{name}: {folder}"
    cells = json.loads((tmp_path / "out.ipynb").read_text())["cells"]
    assert all(cell["execution_count"] for cell in cells if cell["cell_type"] == "code")
    if kind in ("teacher", "student"):
        assert record["params"]["image_size"] == 48 and record["seconds"] < MOST_SECONDS
        assert "the settings are those of" in json.dumps(cells)


def test_with_its_defaults_from_the_notebooks_folder(walked):
    """JupyterLab starts a kernel in the notebook's folder, without FER_HOME; blank inputs are found all the same."""
    before = {r["folder"] for r in folders.finished_phases(("softlabels",))}
    ended = command("papermill", "06_export_softlabels.ipynb", "../defaults.ipynb", "--no-progress-bar", home=None,
                    cwd=walked.home / "notebooks")  # fmt: skip
    assert ended.code == 0, ended.err[-3000:]
    [record] = [r for r in folders.finished_phases(("softlabels",)) if r["folder"] not in before]
    trained = folders.finished_phases(("teacher",))
    manifests = [r["folder"] for r in folders.finished_phases(("manifest", "audit"))]
    newest = next(m for m in manifests if any(r["inputs"]["manifest"] == m for r in trained))
    teachers = {r["phase"]: r["folder"] for r in reversed(trained) if r["inputs"]["manifest"] == newest}
    assert record["inputs"]["manifest"] == newest and set(record["inputs"]["teachers"]) == set(teachers.values())
    assert record["params"]["seed"] == 1337 and "seed: 7" in TINY
    labels = json.loads((walked.home / "defaults.ipynb").read_text())
    digest = read_outputs(record["folder"])["ids"]["softlabels_sha256"]
    assert f"softlabels_sha256: {digest}" in json.dumps(labels["cells"][-1]["outputs"])
    assert red_boxes(labels["cells"]) == []
