"""Fits that draw every source equally often: prior, adjustment, coverage, and a resumed run."""

import numpy as np
import pytest
import torch
from test_fit import Kill, assert_same_end, kill_at, params, read, slow_steps, train  # noqa: F401  (a fixture)

from fer_lib.datasets.manifest import Manifest
from fer_lib.models.bundle import read_bundle
from fer_lib.params import StudentParams
from fer_lib.training.fit_inputs import open_data
from fer_lib.training.label_objective import LabelObjective
from fer_lib.training.resume_check import fit_key


@pytest.fixture(scope="module")
def two_sources(drawn_manifest):
    """The drawn faces as two sources of unlike size and classes: most of Happy is in the small one."""
    frame = drawn_manifest.frame.copy()
    in_small = (np.arange(len(frame)) % 6 == 0) | (frame["label"].eq(3) & (np.arange(len(frame)) % 3 > 0))
    return Manifest(frame.assign(source=np.where(in_small, "small", "large")), drawn_manifest.meta, drawn_manifest.path)


def test_every_source_counts_once_in_the_prior_and_in_the_logit_adjustment(two_sources, pack_cache):
    train_rows = two_sources.rows(split="train").frame
    shares = [
        np.array([(rows["label"] == c).sum() for c in range(7)]) / len(rows) for _, rows in train_rows.groupby("source")
    ]
    expected, plain = np.mean(shares, axis=0), np.bincount(train_rows["label"]) / len(train_rows)
    assert len(shares) == 2 and np.abs(expected - plain).max() > 0.05
    for balance, prior in ((True, expected), (False, plain)):
        data = open_data(two_sources, params(imbalance="none", balance_sources=balance), pack_cache)
        assert data.prior == pytest.approx(prior)
        p = params(imbalance="none", balance_sources=balance, logit_adjustment=1.0)
        assert LabelObjective(p, data, torch.device("cpu")).adjustment.numpy() == pytest.approx(np.log(prior), rel=1e-5)
        half = open_data(two_sources, p.model_copy(update={"logit_adjustment": 0.5}), pack_cache)
        assert half.prior == pytest.approx(np.sqrt(prior) / np.sqrt(prior).sum())
    both = open_data(two_sources, params(imbalance="balanced", balance_sources=True), pack_cache)
    assert both.prior == pytest.approx([1 / 7] * 7)


def test_run_with_balanced_sources_killed_within_an_epoch_ends_as_the_unbroken_one(
    two_sources, pack_cache, tmp_path, monkeypatch
):
    p = params(balance_sources=True, imbalance="none", checkpoint_minutes=1e-9, max_train_batches=0, epochs=2)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    events = train(two_sources, whole, pack_cache, p)
    with monkeypatch.context() as m:
        kill_at(m, 10)
        with pytest.raises(Kill):
            train(two_sources, killed, pack_cache, p)
    assert train(two_sources, killed, pack_cache, p)[0]["resumed_at_step"] == 10
    assert_same_end(killed, whole)
    assert read(whole, "alignmentreport")["batching"]["balance_sources"] is True
    sources = two_sources.rows(split="train").frame["source"].value_counts()
    steps, batch = events[0]["steps_per_epoch"], p.batch_size
    drawn = np.minimum(sources, steps * batch // 2).sum()  # each source is walked whole before a row comes again
    coverage = [row["train"]["coverage"] for row in read(whole, "history")]
    assert coverage[0] == pytest.approx(drawn / sources.sum()) and coverage[0] < 1 and coverage[1] == 1.0
    plain = train(two_sources, tmp_path / "plain", pack_cache, p.model_copy(update={"balance_sources": False}))
    assert plain[0]["steps_per_epoch"] == steps - 1, "whole batches only"
    assert "balance_sources" not in read(tmp_path / "plain", "alignmentreport")["batching"]
    assert read_bundle(tmp_path / "plain" / "best").weights_sha256 != read_bundle(whole / "best").weights_sha256


def test_a_single_source_is_a_warning(drawn_manifest, pack_cache, tmp_path):
    p = params(balance_sources=True, epochs=1, max_train_batches=1)
    notes = [event["message"] for event in train(drawn_manifest, tmp_path, pack_cache, p) if event["event"] == "note"]
    assert any("balance_sources: all training rows are of tree" in note for note in notes)


def test_a_checkpoint_of_an_earlier_version_belongs_to_the_default():
    for p in (params(), StudentParams()):
        assert "balance_sources" in p.unused_fields(p.model_dump())
        balanced = p.model_copy(update={"balance_sources": True})
        assert "balance_sources" not in balanced.unused_fields(balanced.model_dump())
        assert fit_key(p, {}) != fit_key(balanced, {})
