"""Fixtures: a home that runs a phase of kind ``import``, and MLflow pointed at it."""

import json

import pytest

from fer_lib.tracking import phase_run, store


@pytest.fixture(scope="module")
def lab(tmp_path_factory, add_store):
    """A home with one notebook, so that a phase of kind ``import`` can run without a pipeline."""
    home = tmp_path_factory.mktemp("lab")
    add_store(home)
    (home / "notebooks").mkdir()
    (home / "params").mkdir()
    cells = [{"cell_type": "code", "metadata": {}, "source": "x = 1"}]
    (home / "notebooks" / "01_import_datasets.ipynb").write_text(json.dumps({"cells": cells}))
    return home


@pytest.fixture
def at_home(lab, monkeypatch):
    monkeypatch.setenv("FER_HOME", str(lab))
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    store.configure()
    yield
    if phase_run._current is not None:
        phase_run._current.close("FAILED")
