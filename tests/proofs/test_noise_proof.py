"""The label-noise audit finds what was planted among drawn faces: average precision (AUPRC) at 10 % wrong labels."""

import json
import time

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from fer_lib.datasets.build import build_manifest
from fer_lib.datasets.noise import label_noise
from fer_lib.datasets.sources import import_all
from fer_lib.datasets.synthetic import write_raw
from fer_lib.params import ManifestParams, SourceSpec
from fer_lib.params.noise import NoiseParams

FACES = 12_000


@pytest.mark.parametrize("shape, least", [("symmetric", 0.90), ("confusions", 0.80)])
def test_wrong_labels_are_ranked_first(shape, least, tmp_path, record_property):
    raw = write_raw(tmp_path / "raw", "tree", faces=FACES, size=48, label_noise=0.1, noise_shape=shape)
    import_all([SourceSpec(source="tree", root=str(raw))], tmp_path / "imports")
    manifest = build_manifest(ManifestParams(), tmp_path / "imports", tmp_path / "manifest")
    p = NoiseParams(splits=["train", "val", "test"], folds=2, threads=1, device="cpu")
    started = time.process_time()
    report = label_noise(manifest, p, tmp_path / "out", tmp_path / "cache")
    seconds = time.process_time() - started
    truth = {r["record"]: r for r in json.loads((raw / "truth.json").read_text())["records"]}
    ranked = report.ranked
    wrong = np.array([truth[r]["noisy"] for r in ranked["record"]])
    true = np.array([truth[r]["true"] for r in ranked["record"]])
    assert len(wrong) == FACES and wrong.mean() == pytest.approx(0.1, abs=0.001)
    reached = average_precision_score(wrong, ranked["wrongness"])
    figures = {
        "auprc": reached,
        "auprc_self_confidence": average_precision_score(wrong, -ranked["self_confidence"]),
        "auprc_normalised_margin": average_precision_score(wrong, -ranked["normalised_margin"]),
        "suggested_right": (ranked["suggested"] == true)[wrong].mean(),
        "precision_of_the_first_500": wrong[:500].mean(),
        "noise_share": report.summary["noise_share"],
        "cpu_seconds": seconds,
    }
    print(shape, figures)
    for name, value in figures.items():
        record_property(f"{shape}_{name}", value)
    assert reached >= least
    assert wrong[:500].mean() >= 0.85
    assert report.verdict.refined_share < 0.1 < report.verdict.noise_share < 0.2  # what was planted lies between
