"""Model folders that earlier code registered still load, and give the probabilities that they gave then.

``registered_model/NAME.tar.xz`` is a model folder as MLflow's registry keeps it, the paths in it cut to file names;
``NAME.npz`` holds faces and that day's probabilities.  A folder is never made again: a change of the format adds one
beside it, by ``python tests/golden/test_golden_model.py NAME``.
"""

import ast
import base64
import importlib
import io
import json
import os
import re
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
from archives import anonymous

REGISTERED = Path(__file__).with_name("registered_model")
REPO = Path(__file__).resolve().parents[2]
ENTRY = "pyfunc_entry.py"
SIDE = 37  # what the contract resizes a face to: faces of this side reach the model without a resize


@pytest.fixture(scope="module", params=sorted(path.name.removesuffix(".tar.xz") for path in REGISTERED.glob("*.xz")))
def stored(request, tmp_path_factory):
    """(unpacked model folder, faces uint8 [N, 37, 37, 3], probabilities float64 [N, 7])."""
    folder = tmp_path_factory.mktemp("registered")
    with tarfile.open(REGISTERED / f"{request.param}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    with np.load(REGISTERED / f"{request.param}.npz") as file:
        return folder / "model", file["faces"], file["probs"]


def png(face: np.ndarray) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(face).save(stream, "PNG")
    return stream.getvalue()


def test_mlflow_loads_it_and_predicts_what_it_predicted(stored, tmp_path, monkeypatch):
    import mlflow

    folder, faces, probs = stored
    assert probs.std(0).max() > 1e-3, "the model gives every face the same probabilities"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{(tmp_path / 'store.db').as_posix()}")
    model = mlflow.pyfunc.load_model(str(folder))
    table = model.predict(list(faces))
    assert list(table.columns) == ["Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral"]
    np.testing.assert_allclose(table.to_numpy(np.float64), probs, rtol=0, atol=1e-5)
    other_forms = [png(faces[0]), base64.b64encode(png(faces[1])).decode(), faces[2].tolist()]
    np.testing.assert_allclose(model.predict(other_forms).to_numpy(np.float64), probs[:3], rtol=0, atol=1e-5)


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_the_library_loads_its_bundle(stored, runtime):
    import fer_lib

    folder, faces, probs = stored
    predictor = fer_lib.load(str(folder / "artifacts" / "bundle"), runtime=runtime)
    np.testing.assert_allclose(predictor.probs(list(faces)), probs, rtol=0, atol=1e-5)


def test_the_predict_command_takes_its_bundle(stored, tmp_path):
    from road import fer

    folder, faces, probs = stored
    files = [tmp_path / f"{i}.png" for i in range(len(faces))]
    for file, face in zip(files, faces, strict=True):
        file.write_bytes(png(face))
    ran = fer("predict", *map(str, files), "--whole", "--json", "--model", str(folder / "artifacts" / "bundle"))
    assert ran.code == 0, ran.err
    found = [list(result["faces"][0]["probs"].values()) for result in json.loads(ran.out)["results"]]
    np.testing.assert_allclose(found, probs, rtol=0, atol=1e-5)


def test_every_name_that_its_entry_imports_is_there(stored):
    tree = ast.parse((stored[0] / ENTRY).read_text())
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [(alias.name, "__name__") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [(node.module, alias.name) for alias in node.names]
    assert ("fer_lib.deploy.pyfunc", "FerModel") in names
    for module, name in names:
        assert hasattr(importlib.import_module(module), name), (
            f"registered versions carry `from {module} import {name}`: keep a module of that name"
        )


# ---- making one


def blanked(text: str, folder: Path) -> str:
    """``text`` of an MLmodel file, its paths below ``folder`` cut to the file's name."""
    return re.sub(r"(?:file://)?" + re.escape(folder.as_posix()) + r"[^\s'\"]*/", "", text)


def register(home: Path) -> Path:
    """A small fit's bundle with ONNX file, temperature, bias and abstention, registered; the folder that came of it."""
    from fer_lib.calibration.temperature import Temperature
    from fer_lib.datasets.build import build_manifest
    from fer_lib.deploy.onnx_file import export_onnx
    from fer_lib.importers import import_all
    from fer_lib.models.bundle import ONNX, derive_bundle, read_bundle, write_bundle
    from fer_lib.params import ManifestParams, SourceSpec, TeacherParams
    from fer_lib.synthetic.dataset import write_raw
    from fer_lib.tracking.registry import register_model
    from fer_lib.training.teacher import train_teacher

    raw = write_raw(home / "raw", "tree", faces=420, seed=5, size=SIDE)
    import_all([SourceSpec(source="tree", root=str(raw))], home / "imports")
    manifest = build_manifest(ManifestParams(val_roles=(0.5, 0.3, 0.2)), home / "imports", home / "manifest")
    p = TeacherParams(
        backbone="test_efficientnet", image_size=32, embed_dim=16, epochs=6, batch_size=28, lr=4e-3, warmup_epochs=0.5,
        plain_epochs=1, ramp_end=2, arcface_s=12.0, threads=1, device="cpu", seed=5, name="golden",
    )  # fmt: skip
    list(train_teacher(p, manifest, home / "fit", home / "cache"))
    fit = read_bundle(home / "fit" / "best")
    weights = {name: short(value) for name, value in fit.state_dict().items()}
    rounded = write_bundle(
        home / "rounded", name=fit.name, kind=fit.meta["kind"], model_config=fit.meta["model"], state_dict=weights,
        contract=fit.contract, temperature=Temperature(mode="global", global_temperature=1.3, fitted_on="val", n=40),
        training_prior=fit.meta["training_prior"], ids=fit.meta["ids"], metrics=fit.meta["metrics"],
        logit_bias=[0.0, 0.2, -0.1, 0.1, 0.0, -0.2, 0.0], abstention=[0.2] * 7,
    )  # fmt: skip
    exported = export_onnx(rounded, home / "model.onnx")
    bundle = derive_bundle(rounded, home / "bundle", extra_files={ONNX: exported})
    register_model(bundle, "fer-golden", alias="golden")
    [found] = [path.parent for path in home.rglob("MLmodel")]
    return found


def short(value):
    """A tensor of floats with three bits of fraction, which packs to a quarter; any other tensor as it is."""
    import torch

    if not value.is_floating_point():
        return value
    fraction, exponent = torch.frexp(value)
    return torch.ldexp((fraction * 16).round() / 16, exponent)


def main(name: str) -> None:
    from fer_lib.synthetic.dataset import draw_faces

    archive = REGISTERED / f"{name}.tar.xz"
    if archive.exists():
        sys.exit(f"{archive} is there already, and what was registered does not change: give another name")
    with tempfile.TemporaryDirectory(prefix="fer-golden-") as folder:
        home = Path(folder).resolve()
        os.environ["FER_HOME"] = str(home)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        model = register(home)
        description = model / "MLmodel"
        description.write_text(blanked(blanked(description.read_text(), home), REPO))
        for file in (file for file in model.rglob("*") if file.is_file()):
            if any(path.as_posix().encode() in file.read_bytes() for path in (home, REPO, Path(sys.prefix))):
                sys.exit(f"{file.relative_to(model)} holds a path of this machine: blank it")
        import mlflow

        faces = draw_faces(7, seed=9, size=SIDE, labels=range(7))[0]
        probs = mlflow.pyfunc.load_model(str(model)).predict(list(faces)).to_numpy(np.float64)
        with tarfile.open(archive, "w:xz", preset=9) as packed:
            packed.add(model, "model", filter=anonymous)
        np.savez_compressed(archive.with_name(f"{name}.npz"), faces=faces, probs=probs)
    print(f"{archive}: {archive.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(*sys.argv[1:])
