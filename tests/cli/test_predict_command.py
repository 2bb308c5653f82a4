"""fer predict and fer models, as a person types them."""

import csv
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from failing_models import failing_bundle
from PIL import Image
from road import fer
from typer.testing import CliRunner

from fer_lib.cli.models import models
from fer_lib.cli.predict import list_images, predict
from fer_lib.deploy import packaged
from fer_lib.deploy.predict import Predictor
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError
from fer_lib.models.bundle import derive_bundle
from fer_lib.tracking import registry

app = typer.Typer()
app.command("predict")(predict)
app.command("models")(models)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two images, one nested, one broken file and one of another kind; no registry anywhere near."""
    rng = np.random.default_rng(4)
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for name in ("a.png", "=b.jpg", "more/c.png"):
        Image.fromarray(rng.integers(0, 256, (60, 50, 3), dtype=np.uint8)).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.txt").write_text("not an image")
    monkeypatch.setenv("FER_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "photos"


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_json_holds_the_predictors_own_probabilities(folder, onnx_bundle):
    done = run("predict", folder, "--model", onnx_bundle.path, "--whole", "--json", "--recursive")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["model"]["weights_sha256"] == onnx_bundle.weights_sha256
    assert [r["path"] for r in told["results"]] == [str(folder / n) for n in ("=b.jpg", "a.png", "more/c.png")]
    expected = Predictor(onnx_bundle).predict(folder / "a.png", whole=True)[0].as_dict()
    (face,) = told["results"][1]["faces"]
    assert face["probs"] == pytest.approx(expected["probs"], abs=1e-9) and face["label"] == expected["label"]


def test_stderr_names_the_model_and_its_terms(folder, onnx_bundle, tmp_path):
    done = run("predict", folder / "a.png", "--whole", "--json")
    assert done.exit_code == 0, done.output
    model, terms = done.stderr.splitlines()
    assert model == "model: packaged student_dkd (trained on 28,709 faces of fer2013)"
    assert terms.startswith("terms: For research use only,") and terms.endswith(f"({packaged.FOLDER / 'LICENSE'})")
    assert json.loads(done.stdout)["model"]["uri"] == "packaged"
    done = run("predict", folder / "a.png", "--whole", "--model", onnx_bundle.path)
    unknown = "its bundle does not record what it was trained on"
    assert done.stderr == f"model: tiny in {onnx_bundle.path} ({unknown})\n" and "model:" not in done.stdout


def test_a_broken_file_is_named_and_the_others_are_done(folder, onnx_bundle, tmp_path):
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:200])
    file = tmp_path / "out" / "faces.csv"
    done = run("predict", folder, tmp_path / "gone.jpg", "--model", onnx_bundle.path, "--whole", "--csv", file)
    assert done.exit_code == 1
    assert "broken.png" in done.stderr and "gone.jpg: there is no such file" in done.stderr
    assert "a.png" in done.stdout and done.stderr.count("not read") == 2
    rows = list(csv.DictReader(file.open()))
    assert [bool(r["label"]) for r in rows] == [True, True, False, False]
    assert "broken.png" in rows[2]["error"]
    for row in rows[:2]:
        probs = [float(row[f"prob_{e}"]) for e in EMOTIONS]
        assert sum(probs) == pytest.approx(1) and row["label"] == EMOTIONS[int(np.argmax(probs))]
        assert (row["bbox_bottom"], row["bbox_right"]) == ("60.0", "50.0")


@pytest.mark.parametrize("options", [["--whole"], ["--detector", "haar"]], ids=" ".join)
def test_a_very_thin_image_ends_no_folder(folder, onnx_bundle, tmp_path, options):
    for name, size in (("thin.png", (3_000_000, 1)), ("zz.png", (1, 3_000_000))):
        Image.new("L", size).save(folder / name)
    drawn = tmp_path / "drawn"
    done = run("predict", folder, "--model", onnx_bundle.path, "--json", "--annotate", drawn, *options)
    assert done.exit_code == 0, done.output
    results = json.loads(done.stdout)["results"]
    assert [Path(r["path"]).name for r in results] == ["=b.jpg", "a.png", "thin.png", "zz.png"]
    assert [r["error"] for r in results] == [None] * 4 and len(list(drawn.iterdir())) == 4


def test_a_dangerous_name_is_neutral_in_the_csv(folder, onnx_bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    done = run("predict", "=b.jpg", "--model", onnx_bundle.path, "--whole", "--csv", tmp_path / "f.csv")
    assert done.exit_code == 0, done.output
    assert next(csv.DictReader((tmp_path / "f.csv").open()))["path"] == "'=b.jpg"


def test_no_face_is_said(folder, onnx_bundle):
    Image.fromarray(np.full((200, 200, 3), 90, np.uint8)).save(folder / "blank.png")
    done = run("predict", folder / "blank.png", "--model", onnx_bundle.path, "--detector", "haar")
    assert done.exit_code == 0 and "no face found" in done.stdout and "--whole" in done.stdout


def test_annotated_pictures_of_one_name_do_not_overwrite_each_other(folder, onnx_bundle, tmp_path):
    (folder / "more" / "c.png").rename(folder / "more" / "a.png")
    where = tmp_path / "drawn"
    done = run(
        "predict", folder / "a.png", folder / "more", "--model", onnx_bundle.path, "--whole", "--annotate", where
    )
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in where.iterdir()) == ["a-1.png", "a.png"]
    original, drawn = (np.asarray(Image.open(p)) for p in (folder / "a.png", where / "a.png"))
    assert original.shape == drawn.shape and (original != drawn).any()


@pytest.mark.parametrize("option", ["--csv", "--annotate"])
def test_what_cannot_be_written_is_named(folder, onnx_bundle, option):
    """A folder where the file should be, a file where the folder should be."""
    there = folder / "more" if option == "--csv" else folder / "notes.txt"
    done = run("predict", folder / "a.png", "--model", onnx_bundle.path, "--whole", option, there)
    assert done.exit_code == 1 and isinstance(done.exception, DataError)
    assert f"cannot write {there}" in str(done.exception)
    assert ("a.png" in done.stdout) == (option == "--csv")  # what was found is not lost with the file


def test_the_packaged_model_is_the_default_without_a_registry(folder, onnx_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(packaged, "FOLDER", derive_bundle(onnx_bundle, tmp_path / "shipped", weights=False).path)
    done = run("predict", folder / "a.png", "--whole", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["model"]["uri"] == "packaged"
    assert not (tmp_path / "home" / "mlruns").exists()


def test_listing(folder, tmp_path):
    assert [p.name for p, _ in list_images([folder], recursive=False)] == ["=b.jpg", "a.png"]
    (tmp_path / "empty").mkdir()
    ((path, error),) = list_images([tmp_path / "empty"], recursive=False)
    assert path.name == "empty" and "no image in this folder" in error and "--recursive" in error


def test_models_without_a_registry(folder):
    done = run("models")
    assert done.exit_code == 0 and "fer run params/quickstart.yaml" in done.stdout
    assert json.loads(run("models", "--json").stdout) == []


def test_models_are_readable_in_a_narrow_terminal(folder, monkeypatch):
    """Eighty columns: no number and no id is cut short."""
    row = {
        "name": "fer-student", "version": 12, "aliases": ["champion"], "macro_f1": 0.61234, "accuracy": 0.67891,
        "ece": 0.02345, "measured_on": "val_select", "evalset_id": "30a24a913b34", "size_bytes": 4_300_000,
        "created": "2026-11-23T19:08:00+00:00", "description": "",
    }  # fmt: skip
    (folder.parent / "home" / "mlruns").mkdir()
    (folder.parent / "home" / "mlruns" / "mlflow.db").touch()
    monkeypatch.setattr(registry, "list_models", lambda: [row])
    monkeypatch.setenv("COLUMNS", "80")
    shown = run("models").stdout
    for part in ("fer-student/12", "@champion", "0.6123", "0.6789", "0.0234", "val_select", "30a24a913b34", "4.3 MB"):
        assert part in shown


@pytest.mark.skipif(sys.platform != "linux", reason="file names are any bytes only there")
def test_a_name_that_is_not_utf_8_is_escaped(folder, onnx_bundle, tmp_path):
    good, broken = (folder / os.fsdecode(name) for name in (b"caf\xe9.png", b"broken\xff.png"))
    (folder / "a.png").rename(good)
    broken.write_bytes(b"no image")
    options = ("--model", onnx_bundle.path, "--whole", "--csv", tmp_path / "out.csv")
    done = run("predict", good, broken, *options)
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit)
    assert "caf\\udce9.png" in done.stdout and "broken\\udcff.png" in done.stderr
    with open(tmp_path / "out.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [Path(row["path"]).name for row in rows] == ["caf\\udce9.png", "broken\\udcff.png"]
    assert run("predict", good, *options[:-2], "--json").exit_code == 0


def test_a_model_that_fails_when_it_is_run_is_one_line(folder, torch_bundle, tmp_path):
    bundle = failing_bundle(torch_bundle, tmp_path / "model", "index")
    ended = fer("predict", str(folder / "a.png"), "--whole", "--model", str(bundle.path))
    [message] = [line for line in ended.err.splitlines() if not line.startswith("model: ")]
    assert ended.code == 1 and ended.out == ""
    assert message.startswith(f"fer: the model in {bundle.path} fails on faces [1, 3, 48, 48]: "), message
