"""Folds that keep copies together, and logits of nets that never saw the row."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_lib.datasets.facepack import open_or_build
from fer_lib.errors import DataError
from fer_lib.params import StudentParams
from fer_lib.training import cross_validation
from fer_lib.training.cross_validation import assign_folds, out_of_fold, subset
from fer_lib.training.data import make_contract

CPU = torch.device("cpu")
TINY = StudentParams(
    backbone="test_resnet", image_size=32, embed_dim=16, dropout=0.0, epochs=2, batch_size=32, lr=3e-3, threads=1,
    warmup_epochs=0.0, eval_every=2, checkpoint_every=3, device="cpu", max_train_batches=2,
)  # fmt: skip


def frame_of(contents, labels, groups=None):
    frame = pd.DataFrame({"content_id": [f"c{c}" for c in contents], "label": labels})
    return frame if groups is None else frame.assign(group=groups)


rows = st.lists(
    st.tuples(st.integers(0, 25), st.integers(0, 6), st.one_of(st.none(), st.integers(0, 8))), min_size=40, max_size=90
)


@settings(max_examples=30, deadline=None)
@given(rows, st.integers(2, 4), st.integers(0, 99), st.randoms())
def test_no_fold_splits_a_content_or_a_group(drawn, k, seed, shuffle):
    contents, labels, groups = zip(*drawn, strict=True)
    frame = frame_of(contents, labels, [None if g is None else f"g{g}" for g in groups])
    try:
        found = assign_folds(frame, k, seed)
    except DataError as error:
        assert "too few" in str(error)
        return
    assert set(found) <= set(range(k))
    for column in ("content_id", "group"):
        assert frame.assign(fold=found).dropna(subset=[column]).groupby(column)["fold"].nunique().le(1).all()
    order = list(range(len(frame)))
    shuffle.shuffle(order)
    again = assign_folds(frame.iloc[order].reset_index(drop=True), k, seed)
    assert again.tolist() == found[order].tolist()


def test_folds_hold_equal_shares_of_every_class_and_follow_the_seed():
    labels = np.repeat(np.arange(7), [100, 7, 30, 50, 41, 22, 60])
    frame = frame_of(range(len(labels)), labels)
    found = assign_folds(frame, 5, 1)
    table = pd.crosstab(labels, found)
    assert (table.max(axis=1) - table.min(axis=1) <= 1).all()
    assert np.ptp(table.sum().to_numpy()) <= 1
    assert (assign_folds(frame, 5, 2) != found).mean() > 0.5


def test_a_chain_of_content_and_group_stays_together():
    frame = frame_of([0, 0, 1, 1, 2, 3, 4, 5], [0] * 8, ["a", "b", "b", None, "c", None, "c", None])
    found = assign_folds(frame, 2, 0)
    assert len(set(found[:4])) == 1 and found[4] == found[6]


def test_too_few_pictures_for_the_folds():
    with pytest.raises(DataError, match="8 rows are 2 different pictures, too few for 3 folds"):
        assign_folds(frame_of([0, 1] * 4, [0] * 8), 3, 0)


@pytest.fixture(scope="module")
def pack(drawn_manifest, pack_cache):
    return open_or_build(drawn_manifest.rows(split="train"), make_contract(TINY), pack_cache)


def test_a_subset_reads_through_the_pack(pack):
    some = subset(pack, np.array([7, 2, 30]))
    assert some.manifest.sample_ids == [pack.manifest.sample_ids[i] for i in (7, 2, 30)]
    np.testing.assert_array_equal(some.faces[:], pack.faces[[7, 2, 30]])


def test_a_net_never_learns_the_rows_it_predicts(pack, tmp_path, monkeypatch):
    fold, seen = assign_folds(pack.manifest.frame, 3, 0), []
    learned = np.arange(len(fold)) % 5 > 0
    real = cross_validation.fit

    def watched(model, objective, data, *args, **options):
        seen.append((set(data.train.manifest.sample_ids), set(data.val.manifest.sample_ids)))
        return real(model, objective, data, *args, **options)

    monkeypatch.setattr(cross_validation, "fit", watched)
    logits = out_of_fold(pack, fold, learned, TINY, tmp_path, CPU)
    ids = np.array(pack.manifest.sample_ids)
    assert [held for _, held in seen] == [set(ids[fold == k]) for k in range(3)]
    assert [train for train, _ in seen] == [set(ids[(fold != k) & learned]) for k in range(3)]
    assert logits.shape == (len(fold), 7) and np.isfinite(logits).all() and len(np.unique(logits)) > 100


def test_a_stopped_audit_goes_on_where_it_was(pack, tmp_path):
    fold, everything = assign_folds(pack.manifest.frame, 2, 0), np.ones(len(pack.manifest), bool)
    unbroken = out_of_fold(pack, fold, everything, TINY, tmp_path / "unbroken", CPU)

    def stop(done, total):
        if done == 3:  # in the second fold, after its first epoch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        out_of_fold(pack, fold, everything, TINY, tmp_path / "broken", CPU, stop)
    kept = list((tmp_path / "broken").glob("fold-*.npy"))
    assert len(kept) == 1
    written = kept[0].stat().st_mtime_ns
    told = []
    again = out_of_fold(pack, fold, everything, TINY, tmp_path / "broken", CPU, lambda *now: told.append(now))
    np.testing.assert_array_equal(again, unbroken)
    assert kept[0].stat().st_mtime_ns == written
    assert told == [(2, 4), (4, 4), (4, 4)]  # the first fold from the cache, the second from its second epoch on
    assert not [f for f in (tmp_path / "broken").iterdir() if f.is_dir()]  # nothing but logits and locks is left
    kept[0].write_bytes(kept[0].read_bytes()[:-20])  # damaged: that fold is fitted again
    np.testing.assert_array_equal(out_of_fold(pack, fold, everything, TINY, tmp_path / "broken", CPU), unbroken)
    out_of_fold(pack, fold, everything, TINY.model_copy(update={"lr": 1e-3}), tmp_path / "broken", CPU)
    assert len(list((tmp_path / "broken").glob("fold-*.npy"))) == 4  # other nets, other logits


def test_a_fold_with_nothing_to_learn_from(pack, tmp_path):
    fold = assign_folds(pack.manifest.frame, 2, 0)
    with pytest.raises(DataError, match="leaves 0 rows to learn from"):
        out_of_fold(pack, fold, fold == 0, TINY, tmp_path, CPU)
