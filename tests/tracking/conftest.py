"""Fixtures: homes with an empty store, one of which runs a phase of kind ``import``, and MLflow pointed at them."""

import json

import mlflow
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


@pytest.fixture(scope="module")
def home(tmp_path_factory, add_store):
    """A store of its own for this module; MLflow's globals are put back afterwards."""
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    folder = tmp_path_factory.mktemp("home")
    add_store(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FER_HOME", str(folder))
        patch.setenv("MLFLOW_TRACKING_URI", "")
        store.configure()
        yield folder
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])
