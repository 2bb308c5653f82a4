"""Fixtures shared by every room."""

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real datasets; tests that want it are skipped where it is absent."""
    root = Path(os.environ.get("FER_SHARED_DATA", REPO.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip("no real data here: set FER_SHARED_DATA to its folder")
    return root


@pytest.fixture(scope="session")
def repo() -> Path:
    return REPO
