"""Every notebook alone with its defaults, in a home that holds nothing: what it needs, the quickstart makes first."""

import json

import pytest
from road import command, make_home

from fer_lib.params import KINDS
from fer_lib.pipeline.runfile import input_fields

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
