"""Cross-validation: folds that keep duplicates together, and logits of nets that were trained without the row."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from watched_steps import counts, watched_steps

from fer_lib.datasets.facepack import open_or_build
from fer_lib.errors import DataError
from fer_lib.params import StudentParams
from fer_lib.training import cross_validation
from fer_lib.training.cross_validation import assign_folds, out_of_fold, subset
from fer_lib.training.fit_inputs import make_contract

CPU = torch.device("cpu")
TINY = StudentParams(
    backbone="test_resnet", image_size=32, embed_dim=16, dropout=0.0, epochs=2, batch_size=32, lr=3e-3, threads=1,
    warmup_epochs=0.0, eval_every=2, checkpoint_every=3, device="cpu", max_train_batches=2,
)  # fmt: skip


def frame_of(contents, labels, groups=None):
    frame = pd.DataFrame({"content_id": [f"c{c}" for c in contents], "label": labels})
    return frame if groups is None else frame.assign(group=groups)


ROWS = st.lists(
    st.tuples(st.integers(0, 25), st.integers(0, 6), st.one_of(st.none(), st.integers(0, 8))), min_size=40, max_size=90
)


@settings(max_examples=30, deadline=None)
@given(ROWS, st.integers(2, 4), st.integers(0, 99), st.randoms())
def test_no_fold_splits_a_content_or_a_group(rows, k, seed, random):
    contents, labels, groups = zip(*rows, strict=True)
    frame = frame_of(contents, labels, [None if g is None else f"g{g}" for g in groups])
    try:
        fold = assign_folds(frame, k, seed)
    except DataError as error:
        assert "too few" in str(error)
        return
    assert set(fold) <= set(range(k))
    for column in ("content_id", "group"):
        assert frame.assign(fold=fold).dropna(subset=[column]).groupby(column)["fold"].nunique().le(1).all()
    order = list(range(len(frame)))
    random.shuffle(order)
    shuffled = assign_folds(frame.iloc[order].reset_index(drop=True), k, seed)
    assert shuffled.tolist() == fold[order].tolist()


def test_folds_have_equal_shares_of_every_class_and_depend_on_the_seed():
    labels = np.repeat(np.arange(7), [100, 7, 30, 50, 41, 22, 60])
    frame = frame_of(range(len(labels)), labels)
    fold = assign_folds(frame, 5, 1)
    table = pd.crosstab(labels, fold)
    assert (table.max(axis=1) - table.min(axis=1) <= 1).all()
    assert np.ptp(table.sum().to_numpy()) <= 1
    assert (assign_folds(frame, 5, 2) != fold).mean() > 0.5


def test_rows_linked_through_content_and_group_share_a_fold():
    frame = frame_of([0, 0, 1, 1, 2, 3, 4, 5], [0] * 8, ["a", "b", "b", None, "c", None, "c", None])
    fold = assign_folds(frame, 2, 0)
    assert len(set(fold[:4])) == 1 and fold[4] == fold[6]


def test_too_few_images_for_the_folds_is_an_error():
    with pytest.raises(DataError, match="8 rows are 2 different images, too few for 3 folds"):
        assign_folds(frame_of([0, 1] * 4, [0] * 8), 3, 0)


@pytest.fixture(scope="module")
def pack(drawn_manifest, pack_cache):
    return open_or_build(drawn_manifest.rows(split="train"), make_contract(TINY), pack_cache)


def test_subset_reads_the_faces_of_the_pack(pack):
    part = subset(pack, np.array([7, 2, 30]))
    assert part.manifest.sample_ids == [pack.manifest.sample_ids[i] for i in (7, 2, 30)]
    np.testing.assert_array_equal(part.faces[:], pack.faces[[7, 2, 30]])


def test_nets_are_not_trained_on_the_rows_they_predict(pack, tmp_path, monkeypatch):
    fold, splits = assign_folds(pack.manifest.frame, 3, 0), []
    trainable = np.arange(len(fold)) % 5 > 0
    real = cross_validation.fit

    def record(model, objective, data, *args, **options):
        splits.append((set(data.train.manifest.sample_ids), set(data.val.manifest.sample_ids)))
        return real(model, objective, data, *args, **options)

    monkeypatch.setattr(cross_validation, "fit", record)
    logits = out_of_fold(pack, fold, trainable, TINY, tmp_path, CPU)
    ids = np.array(pack.manifest.sample_ids)
    assert [val for _, val in splits] == [set(ids[fold == k]) for k in range(3)]
    assert [train for train, _ in splits] == [set(ids[(fold != k) & trainable]) for k in range(3)]
    assert logits.shape == (len(fold), 7) and np.isfinite(logits).all() and len(np.unique(logits)) > 100


def test_stopped_audit_resumes(pack, tmp_path):
    fold, everything = assign_folds(pack.manifest.frame, 2, 0), np.ones(len(pack.manifest), bool)
    unbroken = out_of_fold(pack, fold, everything, TINY, tmp_path / "unbroken", CPU)

    def stop(done, total):
        if done == 3:  # in the second fold, after its first epoch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), watched_steps(stop):
        out_of_fold(pack, fold, everything, TINY, tmp_path / "broken", CPU)
    [file] = (tmp_path / "broken").glob("fold-*.npz")
    mtime = file.stat().st_mtime_ns
    with watched_steps() as records:
        resumed = out_of_fold(pack, fold, everything, TINY, tmp_path / "broken", CPU)
    np.testing.assert_array_equal(resumed, unbroken)
    assert file.stat().st_mtime_ns == mtime
    epochs = list(dict.fromkeys(counts(records)))
    assert epochs == [(0, 4), (2, 4), (4, 4)]  # the first fold from the cache, the second from its second epoch on
    assert any("validating" in record["text"] for record in records)
    assert not [f for f in (tmp_path / "broken").iterdir() if f.is_dir()], "only logits and locks remain"
    file.write_bytes(file.read_bytes()[:-20])  # a damaged fold is fitted again
    np.testing.assert_array_equal(out_of_fold(pack, fold, everything, TINY, tmp_path / "broken", CPU), unbroken)
    out_of_fold(pack, fold, everything, TINY.model_copy(update={"lr": 1e-3}), tmp_path / "broken", CPU)
    assert len(list((tmp_path / "broken").glob("fold-*.npz"))) == 4  # other parameters have their own cache files


def test_fold_without_training_rows_is_an_error(pack, tmp_path):
    fold = assign_folds(pack.manifest.frame, 2, 0)
    with pytest.raises(DataError, match="leaves 0 rows to train on"):
        out_of_fold(pack, fold, fold == 0, TINY, tmp_path, CPU)
