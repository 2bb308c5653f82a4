"""The model card of a bundle and its run, and the installation of the packaged bundle."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest

from fer_lib.calibration import metrics
from fer_lib.calibration.intervals import proportion_interval
from fer_lib.datasets.provenance import SourceRows, TrainingData
from fer_lib.deploy.packaged import FOLDER
from fer_lib.deploy.predict import Predictor
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import BundleError, FerError
from fer_lib.evaluation.report import model_report, temperature_for
from fer_lib.importers.source_table import SOURCES
from fer_lib.models.bundle import ONNX, derive_bundle, read_bundle
from fer_lib.models.published_weights import PACKAGES
from fer_lib.report import data_terms, model_card


def rows(n, seed):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 7, n)
    logits = rng.normal(size=(n, 7))
    logits[np.arange(n), y] += 1.5
    return logits * 2, y


@pytest.fixture(scope="module")
def file_metrics():
    """The metrics of the small file itself, as the export phase measures them."""
    ids = {"evalset_id": "evalset00000", "protocol_id": "protocol0own", "n_expected": 400, "n_used": 400}
    raw = metrics.summary(*rows(400, 9)) | ids
    return {"val_select": metrics.summary(*rows(150, 8)), "test_raw": raw, "test": raw | {"ece": 0.012345}}


@pytest.fixture(scope="module")
def packaged(onnx_bundle, file_metrics, tmp_path_factory):
    return derive_bundle(
        onnx_bundle, tmp_path_factory.mktemp("export") / "packaged", metrics=file_metrics, weights=False
    )


@pytest.fixture(scope="module")
def results(packaged):
    views = {}
    for view, seed in (("none", 3), ("flip", 4)):
        report = model_report(*rows(400, seed), temperature_for(*rows(200, 5), "global"), resamples=100)
        views[view] = {of: report | {"protocol_id": f"protocol{view}{of[:3]}"} for of in ("all", "leak_free")}
    weights = packaged.weights_sha256
    model = {"kind": "student", "backbone": "test_efficientnet", "weights_sha256": weights, "parameters": 345_678}
    sets = {
        of: {"evalset_id": f"set-{of}", "n_expected": n, "n_used": n, "removed": 400 - n}
        for of, n in (("all", 400), ("leak_free", 388))
    }
    data = {"train_rows": 700, "class_counts": list(range(97, 104)), "source_counts_after_filter": {"fer2013": 900}}
    source = {"source": "fer2013", "name": "", "root": "data/fer2013", "votes": "data/votes.csv"}
    return {
        "name": "real",
        "run_id": "0123456789abcdef",
        "git": "abcdef012345",
        "phases": {"import": {"kind": "import", "params": {"sources": [source]}}},
        "fits": {
            "student": {
                "ids": {"weights_sha256": weights},
                "data": data,
                "model": {"backbone": "tf_efficientnet_lite0"},
                "init": {"pretrained": "package"},
            }
        },
        "evaluation": {"suite": "fer2013_official", "sets": sets, "models": {"tiny": model | {"views": views}}},
    }


@pytest.fixture(scope="module")
def text(packaged, results):
    return model_card.render_card(packaged, results).replace("\u00a0", " ")


def line(text, start):
    return next(line for line in text.splitlines() if line.startswith(start))


def test_scores_of_the_onnx_file_come_first_with_interval(text, file_metrics):
    raw = file_metrics["test_raw"]
    low, high = proportion_interval(int(np.trace(raw["confusion"])), 400)
    row = f"| this file | single view, all rows | {100 * raw['accuracy']:.2f} % [{100 * low:.1f}, {100 * high:.1f}]"
    assert line(text, "| this file") == f"{row} | {raw['macro_f1']:.4f} | `protocol0own` |"
    assert "ECE after scaling, all rows: 0.0123." in text


def test_per_class_f1_and_calibration_match_the_run(text, results, file_metrics):
    view = results["evaluation"]["models"]["tiny"]["views"]["none"]["all"]
    for emotion in EMOTIONS:
        both = [file_metrics["test_raw"]["per_class_f1"][emotion], view["raw"]["per_class_f1"][emotion]]
        assert line(text, f"| {emotion} |").endswith(f"| {both[0]:.3f} | {both[1]:.3f} |")
    ece = view["ece_scaled"]
    row = f"| single view | after | {ece['value']:.4f} [{ece['lo']:.3f}, {ece['hi']:.3f}] | {ece['null_mean']:.4f}"
    assert line(text, "| single view | after").startswith(row)
    assert "Temperature (global): 1.700" in text


def test_card_names_use_terms_and_limits(text):
    for phrase in ("Research and teaching", "not at work or school", "research use only", "inherit that caution",
                   "48x48 grey", "was not measured", "FERPlus", "pretrained on ImageNet", "388 of them"):  # fmt: skip
        assert phrase in text, phrase
    assert "None" not in text and "nan" not in text.split()


def test_card_names_the_starting_weights_and_their_terms(packaged, results, text):
    assert "starting weights" not in text
    start = PACKAGES["mobilenetv1_100"].start
    data = TrainingData(sources={"fer2013": SourceRows(rows=700, drawn=False)}, starting_weights=start)
    faces = copy.deepcopy(results)
    faces["fits"]["student"]["model"]["backbone"] = "mobilenetv1_100"
    faces["fits"]["teacher"] = results["fits"]["student"] | {"ids": {"weights_sha256": "of the teacher"}}
    text = model_card.render_card(replace(packaged, training_data=data), faces).replace("\u00a0", " ")
    assert f"| starting weights | {start.text} |" in text and "licence MIT" in start.text
    words = " ".join(text.split())
    assert "networks began with backbone weights pretrained on ImageNet, whose images have terms too." in words
    assert "also began with backbone weights pretrained on VGGFace2, whose images are for research use only." in words


def test_card_names_drawn_faces(packaged, results, tmp_path):
    drawn = copy.deepcopy(results)
    drawn["phases"]["import"]["params"]["sources"][0] |= {"root": "embedded", "votes": ""}
    text = model_card.render_card(packaged, drawn)
    assert "has seen no real face" in text and "research use only" not in text and "[LICENSE]" not in text
    assert model_card.render_licence(packaged, drawn) == ""
    folder = tmp_path / "packaged_model"
    model_card.install(packaged.path, drawn, folder)
    assert not (folder / "LICENSE").exists() and Predictor(read_bundle(folder)).terms() == ""


def test_licence_names_every_source_and_start_and_is_shown(packaged, results, tmp_path):
    """An import's own name, and two raw layouts of one dataset, lead to the terms of the dataset."""
    mixed = copy.deepcopy(results)
    mixed["phases"]["import"]["params"]["sources"] += [
        {"source": "affectnet_yolo_format", "name": "affectnet", "root": "data/a", "votes": ""},
        {"source": "tree", "name": "own", "root": "data/own", "votes": ""},
    ]
    mixed["fits"]["student"]["data"]["source_counts_after_filter"] |= {"affectnet": 9, "own": 5}
    text = model_card.render_licence(packaged, mixed)
    for phrase in ("FER2013 (Goodfellow", "FERPlus (Barsoum", "AffectNet (Mollahosseini", "own: look up its terms",
                   "Starting weights pretrained on ImageNet", packaged.weights_sha256):  # fmt: skip
        assert text.count(phrase) == 1, phrase
    assert all(line in model_card.render_card(packaged, mixed) for line in text.splitlines() if line.startswith("- A"))
    folder = tmp_path / "packaged_model"
    model_card.install(packaged.path, mixed, folder)
    first = "For research use only, like the images that these weights were learned from."
    assert Predictor(read_bundle(folder)).terms() == f"{first} ({folder / 'LICENSE'})"


def test_every_layout_of_a_dataset_has_terms():
    assert set(data_terms.TERMS) == set(SOURCES) - {"tree"}


def test_card_names_the_attributes_of_raf_db(packaged, results, text):
    assert "the data carry no such labels" in text
    raf = copy.deepcopy(results)
    raf["fits"]["student"]["data"]["source_counts_after_filter"]["rafdb_basic"] = 100
    text = model_card.render_card(packaged, raf)
    assert "no such labels" not in text and "RAF-DB's annotations carry gender, race and age" in text


def test_card_names_uncommitted_changes(packaged, results, text):
    assert "uncommitted changes" not in text
    dirty = model_card.render_card(packaged, results | {"git": "abcdef012345-dirty"})
    assert "uncommitted changes on top of commit `abcdef012345`, so these weights cannot be reproduced exactly" in dirty
    assert "uncommitted changes" not in model_card.render_card(packaged, results | {"git": None})


def test_packaged_card_matches_the_packaged_bundle_and_its_run(repo):
    bundle = read_bundle(FOLDER)
    results = json.loads((repo / "docs" / "results" / "fer2013.json").read_text(encoding="utf-8"))
    card = (FOLDER / model_card.CARD).read_text(encoding="utf-8")
    assert card == model_card.render_card(bundle, results)
    licence = (FOLDER / "LICENSE").read_text(encoding="utf-8")
    assert licence == model_card.render_licence(bundle, results)
    assert "-dirty" not in results["git"] or "uncommitted changes" in card


def test_card_refuses_a_run_of_other_weights(packaged, results):
    other = json.loads(json.dumps(results).replace(packaged.weights_sha256, "0" * 64))
    with pytest.raises(FerError, match="did not evaluate the weights"):
        model_card.render_card(packaged, other)


def test_install_replaces_the_bundle_and_writes_its_card(packaged, results, tmp_path):
    folder = tmp_path / "packaged_model"
    for _ in range(2):
        installed = model_card.install(packaged.path, results, folder)
    assert sorted(p.name for p in folder.iterdir()) == ["LICENSE", "MODEL_CARD.md", "bundle.json", ONNX]
    assert (folder / "MODEL_CARD.md").read_text(encoding="utf-8") == model_card.render_card(packaged, results)
    assert read_bundle(folder).meta == packaged.meta and installed.session() is not None
    assert [p.name for p in tmp_path.iterdir()] == ["packaged_model"]


def test_install_refuses_other_bundles_and_keeps_the_old(packaged, onnx_bundle, results, tmp_path, monkeypatch):
    folder = tmp_path / "packaged_model"
    model_card.install(packaged.path, results, folder)
    before = (folder / "bundle.json").read_bytes()
    with pytest.raises(BundleError, match="no model.safetensors"):
        model_card.install(onnx_bundle.path, results, folder)
    with_path = derive_bundle(packaged, tmp_path / "x" / "b", ids={"run": "/srv/ann/run"}, weights=False)
    with pytest.raises(BundleError, match="/srv/ann/run"):
        model_card.install(with_path.path, results, folder)
    monkeypatch.setattr(model_card, "MAX_BYTES", (packaged.path / ONNX).stat().st_size - 1)
    with pytest.raises(BundleError, match="MB at most"):
        model_card.install(packaged.path, results, folder)
    assert (folder / "bundle.json").read_bytes() == before


def test_file_limit_is_five_megabytes():
    assert model_card.MAX_BYTES == 5_000_000
