"""The rows of a step depend on its number alone; worker threads end with the iterator."""

import hashlib
import math
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_lib.datasets import batches
from fer_lib.datasets.batches import Sampler, eval_batches, keyed_rng, train_batches
from fer_lib.datasets.facepack import open_or_build
from fer_lib.errors import DataError
from fer_lib.faces.contract import FaceContract
from fer_lib.params import AugmentParams

CONTRACT = FaceContract(image_size=32)
AUGMENT = AugmentParams(rotation=10.0, erasing=0.5)
AS_IS = AugmentParams(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, jitter=(0.0, 0.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def pack(drawn_manifest, pack_cache):
    return open_or_build(drawn_manifest.rows(split="train"), CONTRACT, pack_cache)


def labels_of(counts, seed=0):
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(7), counts))


def per_class(sampler, steps):
    """int [steps, 7]: how many of each class every step drew."""
    drawn = [np.bincount(sampler.labels[sampler.rows(s)[0]], minlength=7) for s in steps]
    return np.array(drawn)


def test_balanced_batches_of_fourteen_have_two_rows_per_class():
    sampler = Sampler(labels_of([50, 1, 7, 90, 3, 20, 11]), 14, True, 3)
    assert (per_class(sampler, range(60)) == 2).all()


@pytest.mark.parametrize("batch_size", [15, 16, 20, 64, 100])
def test_the_remainder_modulo_seven_rotates_over_classes(batch_size):
    sampler = Sampler(labels_of([50, 1, 7, 90, 3, 20, 11]), batch_size, True, 3)
    drawn = per_class(sampler, range(28))
    assert (drawn.sum(1) == batch_size).all()
    assert set(np.unique(drawn)) == {batch_size // 7, batch_size // 7 + 1}
    for start in range(0, 22):
        assert (drawn[start : start + 7].sum(0) == batch_size).all(), "any seven batches give equal shares"


@settings(max_examples=60, deadline=None, database=None)
@given(
    counts=st.lists(st.integers(1, 40), min_size=7, max_size=7),
    batch_size=st.integers(14, 90),
    seed=st.integers(0, 5),
)
def test_every_row_is_drawn_within_the_documented_epochs(counts, batch_size, seed):
    """ceil(7 max n_c / N) epochs, and each class is walked whole before any of its rows comes again."""
    sampler = Sampler(labels_of(counts, seed), batch_size, True, seed)
    epochs = math.ceil(7 * max(counts) / sum(counts))
    rows, walks = zip(*[sampler.rows(s) for s in range(epochs * sampler.steps_per_epoch)], strict=True)
    rows, walks = np.concatenate(rows), np.concatenate(walks)
    assert set(rows.tolist()) == set(range(sum(counts)))
    assert len({(r, w) for r, w in zip(rows.tolist(), walks.tolist(), strict=True)}) == len(rows)
    for c, n in enumerate(counts):
        own = rows[sampler.labels[rows] == c]
        assert len(set(own[:n].tolist())) == n


@pytest.mark.parametrize("by_source", [True, False])
@pytest.mark.parametrize("balanced", [True, False])
def test_a_step_depends_on_its_number_alone(balanced, by_source):
    labels = labels_of([50, 4, 7, 90, 3, 20, 11])
    sources = sources_of(labels, (0.2, 0.7, 0.1)) if by_source else None
    walked = Sampler(labels, 16, balanced, 9, sources)
    forwards = [walked.rows(s) for s in range(40)]
    asked = Sampler(labels, 16, balanced, 9, sources)
    for s in (39, 0, 17, 17, 5):
        assert np.array_equal(asked.rows(s)[0], forwards[s][0]) and np.array_equal(asked.rows(s)[1], forwards[s][1])
    other = Sampler(labels, 16, balanced, 10, sources)
    assert any(not np.array_equal(other.rows(s)[0], forwards[s][0]) for s in range(3))


def test_each_unbalanced_epoch_is_a_new_permutation():
    sampler = Sampler(labels_of([10] * 7), 14, False, 1)
    epochs = [np.concatenate([sampler.rows(e * 5 + i)[0] for i in range(5)]) for e in range(3)]
    assert sampler.steps_per_epoch == 5
    assert all(sorted(order) == list(range(70)) for order in epochs)
    assert not np.array_equal(epochs[0], epochs[1]) and not np.array_equal(epochs[1], epochs[2])
    assert (sampler.rows(12)[1] == 2).all()


def test_epochs_of_rows_that_the_batch_does_not_divide():
    labels = labels_of([10, 10, 10, 10, 10, 10, 13])
    assert Sampler(labels, 14, True, 0).steps_per_epoch == 6  # all 73 rows' worth
    assert Sampler(labels, 14, False, 0).steps_per_epoch == 5  # whole batches; other rows are left out each epoch
    few = Sampler(labels, 512, False, 0)
    assert few.steps_per_epoch == 1 and len(few.rows(3)[0]) == 73


def test_missing_classes_and_rows_are_refused():
    with pytest.raises(DataError, match="none for: Disgust, Neutral; use imbalance: none"):
        Sampler(labels_of([5, 0, 5, 5, 5, 5, 0]), 14, True, 0)
    Sampler(labels_of([5, 0, 5, 5, 5, 5, 0]), 14, False, 0)
    with pytest.raises(DataError, match="no training rows"):
        Sampler(np.empty(0, np.int64), 14, False, 0)


SOURCES = np.array(["affectnet", "fer2013", "rafdb"])


def sources_of(labels, shares, seed=0):
    """Sources by row; rafdb has no Disgust."""
    names = np.random.default_rng(seed).choice(SOURCES, len(labels), p=shares)
    return np.where((labels == 1) & (names == "rafdb"), "fer2013", names)


def drawn_by_hand(labels, sources, batch_size, balanced, seed, steps):
    """The sorted rows of the first ``steps`` batches: every class and every source has its own deck of cards."""
    decks = {}

    def next_card(key, members):
        deck, shuffled = decks.setdefault(key, ([], [0]))
        if not deck:
            deck += members[keyed_rng(seed, *key, shuffled[0]).permutation(len(members))].tolist()
            shuffled[0] += 1
        return deck.pop(0)

    groups = [(("class", c), labels == c) for c in range(7)] if balanced else [((), np.full(len(labels), True))]
    turns, batches, dealt = [0] * len(groups), [], 0
    for _ in range(steps):
        batch, sizes = [], [batch_size // len(groups)] * len(groups)
        for _ in range(batch_size % len(groups)):  # the remainder goes round
            sizes[dealt % len(groups)] += 1
            dealt += 1
        for g, (key, among) in enumerate(groups):
            own = [name for name in SOURCES.tolist() if (among & (sources == name)).any()]
            for _ in range(sizes[g]):
                name = own[turns[g] % len(own)]
                batch.append(next_card((*key, "source", name), np.flatnonzero(among & (sources == name))))
                turns[g] += 1
        batches.append(sorted(batch))
    return batches


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("batch_size", [14, 16, 25])
def test_batches_of_balanced_sources_are_those_dealt_by_hand(balanced, batch_size):
    labels = labels_of([50, 6, 7, 90, 8, 20, 11])
    sources = sources_of(labels, (0.2, 0.7, 0.1))
    sampler = Sampler(labels, batch_size, balanced, 3, sources)
    expected = drawn_by_hand(labels, sources, batch_size, balanced, 3, 40)
    assert [sorted(sampler.rows(s)[0].tolist()) for s in range(40)] == expected


@pytest.mark.parametrize("balanced", [True, False])
def test_sources_have_equal_shares_and_every_row_is_drawn(balanced):
    labels = labels_of([300, 40, 70, 500, 200, 100, 90])
    sources = sources_of(labels, (0.3, 0.65, 0.05))
    sampler = Sampler(labels, 32, balanced, 5, sources)
    sizes = np.array([(sources == name).sum() for name in SOURCES])
    most = 7 * np.bincount(labels).max() if balanced else sizes.max()
    epochs = math.ceil(3 * most / len(labels))
    rows, walks = zip(*[sampler.rows(s) for s in range(epochs * sampler.steps_per_epoch)], strict=True)
    seen = np.array([[(sources[batch] == name).sum() for name in SOURCES] for batch in rows])
    rows, walks = np.concatenate(rows), np.concatenate(walks)
    assert set(rows.tolist()) == set(range(len(labels)))
    assert len(set(zip(rows.tolist(), walks.tolist(), strict=True))) == len(rows), "one augmentation per draw"
    if balanced:
        cells = np.array([[(sources[rows[labels[rows] == c]] == name).sum() for name in SOURCES] for c in range(7)])
        assert np.ptp(cells.sum(axis=1)) <= 1 and (np.ptp(np.delete(cells, 1, axis=0), axis=1) <= 1).all()
        assert cells[1, 2] == 0 and abs(cells[1, 0] - cells[1, 1]) <= 1, "a class that a source lacks"
    else:
        assert (np.ptp(seen, axis=1) <= 1).all() and np.ptp(seen.sum(axis=0)) <= 1
        shares = np.bincount(labels[rows], minlength=7) / len(rows)
        own = [np.bincount(labels[sources == name], minlength=7) / n for name, n in zip(SOURCES, sizes, strict=True)]
        assert np.abs(shares - np.mean(own, axis=0)).max() < 0.02


def test_one_balanced_source_keeps_the_class_shares():
    labels = labels_of([50, 4, 7, 90, 3, 20, 11])
    one = Sampler(labels, 16, False, 9, np.full(len(labels), "fer2013"))
    assert one.steps_per_epoch == 12  # all 185 rows' worth
    first = np.concatenate([one.rows(s)[0] for s in range(12)])
    assert sorted(first[: len(labels)].tolist()) == list(range(len(labels)))


def test_keyed_randomness_differs_by_every_part_of_the_key():
    keys = [(1, "a", 2), (1, "a", 3), (2, "a", 2), (1, "b", 2), (12, "a"), (1, "2a")]
    draws = [tuple(keyed_rng(*k).integers(0, 2**60, 4)) for k in keys]
    assert len(set(draws)) == len(keys)
    assert draws == [tuple(keyed_rng(*k).integers(0, 2**60, 4)) for k in keys]
    for key, drawn in zip(keys, draws, strict=True):
        words = np.frombuffer(hashlib.blake2b(repr(key).encode(), digest_size=16).digest(), np.uint64)
        plain = np.random.Generator(np.random.Philox(key=words))
        assert drawn == tuple(plain.integers(0, 2**60, 4))


@pytest.mark.parametrize("balanced", [True, False])
def test_batches_started_in_the_middle_are_the_same(pack, balanced):
    sampler = Sampler(pack.manifest.labels, 16, balanced, 4)
    whole = list(train_batches(pack, sampler, AUGMENT, 0, 13))
    rest = list(train_batches(pack, sampler, AUGMENT, 6, 13))
    assert len(whole) == 13 and len(rest) == 7
    for a, b in zip(whole[6:], rest, strict=True):
        assert np.array_equal(a.rows, b.rows) and np.array_equal(a.images, b.images)
        assert a.images.dtype == np.float32 and a.images.shape == (16, 3, 32, 32)
        assert np.array_equal(a.labels, pack.manifest.labels[a.rows])


def test_a_row_is_augmented_differently_each_time(pack):
    sampler = Sampler(pack.manifest.labels, 14, True, 4)
    views: dict[int, list] = {}
    for batch in train_batches(pack, sampler, AUGMENT, 0, 6):  # Disgust has four rows, and twelve draws in six steps
        for row, image in zip(batch.rows.tolist(), batch.images, strict=True):
            views.setdefault(row, []).append(image.tobytes())
    again = [v for v in views.values() if len(v) > 1]
    assert again and all(len(set(v)) == len(v) for v in again)


def test_without_augmentation_a_batch_is_the_packed_face_resized(pack):
    sampler = Sampler(pack.manifest.labels, 14, False, 4)
    batch = next(iter(train_batches(pack, sampler, AS_IS, 0, 1)))
    mean = pack.faces[batch.rows].reshape(14, -1, 3).mean(1) / 255
    means = batch.images.transpose(0, 2, 3, 1).reshape(14, -1, 3).mean(1) * CONTRACT.std + CONTRACT.mean
    assert np.abs(mean - means).max() < 0.01


def test_eval_batches_are_the_centre_view_in_order(pack):
    rows, images = zip(*eval_batches(pack, 50), strict=True)
    assert np.concatenate(rows).tolist() == list(range(len(pack.faces)))
    expected = CONTRACT.normalise(np.ascontiguousarray(CONTRACT.centre(pack.faces[:])))
    assert np.array_equal(np.concatenate(images), expected)
    mirrored = np.concatenate([i for _, i in eval_batches(pack, 50, flip=True)])
    assert np.array_equal(mirrored, expected[..., ::-1])


def loaders():
    return [t for t in threading.enumerate() if t.name.startswith("fer-batches")]


@pytest.mark.parametrize("kind", ["faces", "none"])
def test_batches_are_the_same_for_any_number_of_workers_and_any_pack(drawn_manifest, pack_cache, pack, kind):
    everything = AugmentParams(rotation=10.0, erasing=0.5, grey=0.2, motion_blur=0.5, gamma=0.5, noise=8.0, jpeg=0.5)
    sampler = Sampler(pack.manifest.labels, 16, True, 4)
    expected = list(train_batches(pack, sampler, everything, 3, 12, workers=0))
    same_faces = open_or_build(drawn_manifest.rows(split="train"), CONTRACT, pack_cache, kind=kind)
    for workers in (0, 1, 2, 4):
        got = list(train_batches(same_faces, sampler, everything, 3, 12, workers))
        assert len(got) == len(expected) == 9
        for a, b in zip(got, expected, strict=True):
            assert np.array_equal(a.rows, b.rows) and np.array_equal(a.labels, b.labels)
            assert np.array_equal(a.images, b.images)
    runs = [list(eval_batches(same_faces, 50, True, workers)) for workers in (0, 3)]
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(*runs, strict=True))


def test_images_are_channels_last_in_memory(pack):
    batch = next(train_batches(pack, Sampler(pack.manifest.labels, 16, True, 4), AUGMENT, 0, 1, workers=0))
    assert batch.images.transpose(0, 2, 3, 1).flags.c_contiguous


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_error_in_a_worker_is_raised_in_the_caller(pack, monkeypatch, workers):
    sampler = Sampler(pack.manifest.labels, 14, True, 4)
    real, fourth = batches.augment, sampler.rows(3)[0][5]
    keys = [int(i[:15], 16) for i in pack.manifest.sample_ids]

    def breaks(face, rng, *rest):
        if rng.bit_generator.state["state"]["key"].tolist() == broken:
            raise StopIteration("the worst of errors, for it ends loops in silence")
        return real(face, rng, *rest)

    rng = keyed_rng(sampler.seed, "augment", int(sampler.rows(3)[1][5]), keys[fourth])
    broken = rng.bit_generator.state["state"]["key"].tolist()
    monkeypatch.setattr(batches, "augment", breaks)
    results = []
    with pytest.raises(RuntimeError, match="StopIteration") as caught:
        for batch in train_batches(pack, sampler, AUGMENT, 0, 8, workers):
            results.append(batch)
    assert len(results) == 3 and isinstance(caught.value.__cause__, StopIteration)
    assert not loaders()


def test_an_abandoned_loader_leaves_no_thread(pack):
    sampler = Sampler(pack.manifest.labels, 14, True, 4)
    steps = train_batches(pack, sampler, AUGMENT, 0, 10_000, workers=2)
    next(steps)
    assert len(loaders()) == 2
    time.sleep(0.05)  # let it make what it may and wait
    steps.close()
    assert not loaders()
    list(eval_batches(pack, 64))
    assert not loaders()


def test_only_a_few_batches_are_made_ahead(pack, monkeypatch):
    real, made = batches.Batch, []
    monkeypatch.setattr(batches, "Batch", lambda *a: (made.append(1), real(*a))[1])
    steps = train_batches(pack, Sampler(pack.manifest.labels, 14, True, 4), AUGMENT, 0, 10_000, workers=2)
    next(steps)
    time.sleep(0.3)
    assert len(made) <= 5
    steps.close()
