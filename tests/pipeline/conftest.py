"""A home per test module, and access to the runs in its store."""

import os

import in_process
import pytest
from toy import make_home

from fer_lib.pipeline import papermill


@pytest.fixture(scope="module")
def toy_home(tmp_path_factory, add_store):
    """One home for all tests of a module, which run in order."""
    home = make_home(tmp_path_factory.mktemp("home"))
    add_store(home)
    before = {name: os.environ.get(name) for name in ("FER_HOME", "MLFLOW_TRACKING_URI")}
    os.environ["FER_HOME"] = str(home)
    yield home
    for name, value in before.items():
        os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


@pytest.fixture(scope="module")
def in_process_kernel(kernel_server):
    """Notebooks run in this process.  Real kernels: ``test_parallel``, ``test_one_at_a_time`` and the road."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(papermill, "execute", in_process.execute)
        yield in_process.execute


class Store:
    """The runs of the home that $FER_HOME names."""

    @property
    def client(self):
        import mlflow

        from fer_lib.tracking import store

        store.configure()
        return mlflow.MlflowClient()

    def runs(self) -> list:
        """All runs, newest first."""
        from fer_lib.tracking import store

        return list(self.client.search_runs([store.experiment_id()], order_by=["attributes.start_time DESC"]))

    def newest(self, kind: str):
        return next(run for run in self.runs() if run.data.tags["fer.kind"] == kind)

    def below(self, parent) -> dict:
        """Name -> child run of ``parent``."""
        nested = [run for run in self.runs() if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
        return {run.info.run_name: run for run in nested}

    def json(self, run, name: str):
        import mlflow

        return mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/{name}")


@pytest.fixture(scope="session")
def stored():
    return Store()
