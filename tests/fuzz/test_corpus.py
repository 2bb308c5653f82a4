"""What ever ended a reader in another exception than a message is read again, and a few new damaged files."""

import json
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import fuzz  # noqa: E402
from readers import READERS  # noqa: E402

from fer_lib.errors import FerError  # noqa: E402

INPUTS = [(name, file) for name in READERS for file in sorted(fuzz.folder_of(name).glob("*"))]


@pytest.mark.parametrize(("name", "file"), INPUTS, ids=lambda value: value if isinstance(value, str) else value.name)
def test_an_input_that_failed_once_is_read_or_refused(name, file, tmp_path):
    reader = READERS[name]
    reader.prepare(tmp_path / "f" if (tmp_path / "f").mkdir() is None else tmp_path)
    try:
        reader.read(tmp_path / "f", file.read_bytes())
    except FerError as error:
        assert str(error)


@pytest.mark.parametrize("name", READERS)
def test_a_few_damaged_files_of_every_reader(name):
    row = fuzz.run(name, 8)
    assert row["failure"] == "" and row["cases"] >= 8
    assert row["read"] + row["refused"] == row["cases"]


def test_the_page_is_that_of_the_committed_run(repo):
    """Every reader of today, a million cases of the cheap ones, ten thousand of each heavy one, and no failure."""
    folder = repo / "docs" / "results"
    result = json.loads((folder / "fuzz.json").read_text())
    assert fuzz.page(result) == (folder / "fuzz.md").read_text()
    rows = {row["reader"]: row for row in result["rows"]}
    assert set(rows) >= {name for name in READERS if name != "origin.7z"}, "fuzz new readers: --only NAME --write"
    assert sum(row["cases"] for name, row in rows.items() if not READERS[name].heavy) >= 10**6
    assert all(row["cases"] >= 10**4 and not row["failure"] for row in rows.values())
    assert all(row["seconds"] < fuzz.SECONDS and row["megabytes"] < fuzz.MEGABYTES for row in rows.values())
    assert result["minutes"] <= 60
