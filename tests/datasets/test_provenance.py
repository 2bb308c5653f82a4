"""What a model has seen, as its bundle keeps it."""

import numpy as np
import pytest

from fer_lib.datasets.provenance import EXPOSURE_FILE, TrainingExposure, numbers, read_exposure
from fer_lib.errors import DataError


def seen(learned, chosen=(), whole=True):
    return TrainingExposure(np.array(learned, np.uint64), np.array(chosen, np.uint64), whole)


def test_a_manifest_s_pictures_are_told_apart_by_their_content(drawn_manifest):
    train, val = (drawn_manifest.rows(split=s) for s in ("train", "val"))
    found = TrainingExposure.of(train.frame["content_id"], val.frame["content_id"])
    contents = train.frame["content_id"].unique()
    assert found.learned.dtype == np.uint64 and len(found.learned) == len(contents)
    assert set(found.learned.tolist()) == {int(c[:16], 16) for c in contents}
    assert set(found.chosen_on.tolist()) == set(numbers(val.frame["content_id"]).tolist())


def test_ancestors_are_added_and_one_without_a_record_is_remembered():
    both = seen([1, 5], [2]).with_ancestors([seen([3, 5], [4])])
    assert (both.learned.tolist(), both.chosen_on.tolist(), both.whole) == ([1, 3, 5], [2, 4], True)
    assert not seen([1]).with_ancestors([None]).whole
    assert not seen([1]).with_ancestors([seen([2], whole=False)]).whole
    assert not seen([1], whole=False).with_ancestors([seen([2])]).whole


def test_it_is_written_and_read_and_a_damaged_one_is_named(tmp_path):
    assert read_exposure(tmp_path) is None
    seen([1, 2**64 - 1], [7], whole=False).write(tmp_path / EXPOSURE_FILE)
    found = read_exposure(tmp_path)
    assert (found.learned.tolist(), found.chosen_on.tolist(), found.whole) == ([1, 2**64 - 1], [7], False)
    whole = (tmp_path / EXPOSURE_FILE).read_bytes()
    for damaged in (whole[:40], b"", b"garbage"):
        (tmp_path / EXPOSURE_FILE).write_bytes(damaged)
        with pytest.raises(DataError, match=f"{EXPOSURE_FILE} is not a training exposure record"):
            read_exposure(tmp_path)
