"""Every package in the lock has a permissive licence."""

import importlib
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))
licences = importlib.import_module("licences")

# MPL-2.0: its files are installed as source, and the licence does not extend to other files.
PERMITTED = {
    "0BSD", "Apache License 2.0", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD", "BSD-2-Clause",
    "BSD-3-Clause", "BSL-1.0", "BSD License", "CC0-1.0", "ISC", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0",
    "Public Domain", "Unlicense", "ZPL-2.1", "Zlib",
}  # fmt: skip


def terms(licence: str) -> set[str]:
    return {term.strip(" ()") for term in re.split(r" AND | OR |; ", licence)}


def test_the_page_lists_every_locked_package():
    assert list(licences.page_rows()) == licences.locked()


def test_every_locked_package_has_a_permissive_licence():
    refused = {name: words for name, words in licences.page_rows().items() if not terms(words) <= PERMITTED}
    assert not refused


@pytest.mark.parametrize("name", licences.locked())
def test_the_page_says_what_the_package_says(name):
    stated = licences.licence(name)
    if stated is None:
        pytest.skip(f"{name} is not installed here")
    assert licences.page_rows()[name] == stated


def test_a_package_under_lgpl_is_behind_an_extra_only():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    for group in (project["dependencies"], extras["test"], extras["weights"]):
        for word in group:
            name = Requirement(word).name
            try:
                licence = importlib.metadata.metadata(name).get("License-Expression") or ""
            except importlib.metadata.PackageNotFoundError:
                continue
            assert "GPL" not in licence, name
    assert any(word.startswith("py7zr") for word in extras["archives"])
