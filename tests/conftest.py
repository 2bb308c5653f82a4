"""Fixtures shared by every room."""

import importlib.util
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import native_layouts  # noqa: F401  (write_raw knows the layouts that only tests draw)
import pytest
from distribution import pytest_collection_modifyitems, pytest_xdist_make_scheduler  # noqa: F401 (hooks)
from tiny_bundles import faces, onnx_bundle, pieces, ruled_bundle, torch_bundle  # noqa: F401 (fixtures)

import fer_lib  # noqa: F401  (sets what torch and ONNX Runtime read as they are imported)

REPO = Path(__file__).resolve().parents[1]
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell starts a background command; its children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture(scope="session")
def measurement():
    """``measurement(name)``: the module of ``benchmarks/<name>.py``."""

    def load(name: str):
        spec = importlib.util.spec_from_file_location(name, REPO / "benchmarks" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(REPO / "benchmarks")  # they share _common.py
        yield load


@pytest.fixture
def disk_calls(monkeypatch):
    """``disk_calls(folder)``: the fsyncs and renames below ``folder`` since the last call, in order, by name.

    ``fsync a.json``, ``fsync .`` for ``folder`` itself, ``rename a.json`` by where it leads.  A file that was synced
    before all of it was written shows how much was.
    """
    if os.name != "posix":
        pytest.skip("folders are synced on POSIX only")
    calls, fsync, replace = [], os.fsync, os.replace

    def recorded_fsync(handle):
        fsync(handle)
        calls.append(("fsync", os.fstat(handle)))

    def recorded_replace(source, target):
        replace(source, target)
        calls.append(("rename", Path(target)))

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)

    def names(folder):
        paths = {path.stat().st_ino: path for path in (folder, *folder.rglob("*"))}
        found = []
        for call, what in calls:
            path = what if call == "rename" else paths[what.st_ino]
            partly = call == "fsync" and path.is_file() and what.st_size < path.stat().st_size
            found.append(f"{call} {path.relative_to(folder)}" + (f" at {what.st_size} bytes" if partly else ""))
        calls.clear()
        return found

    return names


@pytest.fixture(scope="session")
def drawn_manifest(tmp_path_factory):
    """168 drawn faces of 32 pixels in train, val (with its roles) and test; Disgust is rare (four train rows)."""
    from fer_lib.datasets.build import build_manifest
    from fer_lib.importers import import_all
    from fer_lib.params import ManifestParams, SourceSpec
    from fer_lib.synthetic.dataset import write_raw

    folder = tmp_path_factory.mktemp("drawn")
    raw = write_raw(folder / "raw", "tree", faces=168, seed=5, size=32)
    import_all([SourceSpec(source="tree", root=str(raw))], folder / "imports")
    params = ManifestParams(val_roles=(0.5, 0.3, 0.2))
    return build_manifest(params, folder / "imports", folder / "manifest")


@pytest.fixture(scope="session")
def pack_cache(tmp_path_factory):
    """The cache folder of face packs and logits that the tests share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def drawn_teachers(drawn_manifest, pack_cache, tmp_path_factory):
    """Folders of two teachers' bundles, trained for a moment on the drawn faces, of unlike size and seed."""
    from fer_lib.params import TeacherParams
    from fer_lib.training.teacher import train_teacher

    folders = []
    for seed, size in ((1, 32), (2, 40)):
        folders.append(tmp_path_factory.mktemp(f"teacher{seed}"))
        p = TeacherParams(
            backbone="test_resnet", image_size=size, embed_dim=16, epochs=2, batch_size=28, lr=3e-3, warmup_epochs=0.0,
            plain_epochs=2, ramp_end=2, arcface_s=8.0, max_train_batches=4, threads=1, device="cpu", seed=seed,
            name=f"teacher{seed}",
        )  # fmt: skip
        list(train_teacher(p, drawn_manifest, folders[-1], pack_cache))
    return [folder / "best" for folder in folders]


@pytest.fixture(scope="session")
def add_store(tmp_path_factory):
    """``add_store(home)`` gives a home a copy of an empty MLflow store; the migration of a new one takes seconds."""
    import mlflow

    from fer_lib.tracking import store

    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "")  # put back afterwards
        ready = store.configure(tmp_path_factory.mktemp("store")) / "mlruns"
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])
    return lambda home: shutil.copytree(ready, home / "mlruns")


@pytest.fixture(scope="module")
def home(tmp_path_factory, add_store):
    """A home with an empty store, to which MLflow and the library point for the tests of one module."""
    import mlflow

    from fer_lib.tracking import store

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


@pytest.fixture(scope="session")
def kernel_server():
    """The kernel server of all runs in this process from now on; one for each run would import for seconds."""
    from fer_lib.pipeline import workers
    from fer_lib.pipeline.kernel_server import KernelServer

    server = KernelServer({})
    server.start()
    shared = SimpleNamespace(address=server.address, start=lambda: None, close=lambda: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "KernelServer", lambda environment: shared)
        yield shared
    server.close()


@pytest.fixture(scope="session")
def road(tmp_path_factory, kernel_server):
    """A home in which the tiny run file was run once through every phase, by the real command."""
    from road import walk

    return walk(tmp_path_factory.mktemp("road"))


@pytest.fixture
def walked(road, monkeypatch):
    """That home, and MLflow of this process pointed at its store."""
    from fer_lib.tracking import store

    monkeypatch.setenv("FER_HOME", str(road.home))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.tracking_uri(road.home))  # put back afterwards
    store.configure()
    return road


@pytest.fixture
def flat_manifest(tmp_path):
    """Twelve flat val/select images with labels 0, 0, 1, 1, 2, ...; their grey value is 20 times their position."""
    import cv2
    import numpy as np
    import pandas as pd

    from fer_lib.datasets.manifest import Manifest

    for i in range(12):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((48, 48, 3), 20 * i, np.uint8))
    rows = [
        {"sample_id": f"{i:03d}", "content_id": f"c{i}", "source": "s", "record": str(i), "label": i // 2,
         "image_path": f"{i}.png", "split": "val", "val_role": "select"}
        for i in range(12)
    ]  # fmt: skip
    return Manifest(pd.DataFrame(rows), {"root": str(tmp_path)})
