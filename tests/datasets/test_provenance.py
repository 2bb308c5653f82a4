"""The training exposure record of a bundle."""

import numpy as np
import pytest

from fer_lib.datasets.provenance import EXPOSURE_FILE, TrainingExposure, content_numbers, read_exposure
from fer_lib.errors import DataError


def record(trained_on, selected_on=(), complete=True):
    return TrainingExposure(np.array(trained_on, np.uint64), np.array(selected_on, np.uint64), complete)


def test_images_are_identified_by_their_content(drawn_manifest):
    train, val = (drawn_manifest.rows(split=s) for s in ("train", "val"))
    exposure = TrainingExposure.of(train.frame["content_id"], val.frame["content_id"])
    contents = train.frame["content_id"].unique()
    assert exposure.trained_on.dtype == np.uint64 and len(exposure.trained_on) == len(contents)
    assert set(exposure.trained_on.tolist()) == {int(c[:16], 16) for c in contents}
    assert set(exposure.selected_on.tolist()) == set(content_numbers(val.frame["content_id"]).tolist())


def test_ancestors_are_added_and_a_missing_record_makes_it_incomplete():
    both = record([1, 5], [2]).with_ancestors([record([3, 5], [4])])
    assert (both.trained_on.tolist(), both.selected_on.tolist(), both.complete) == ([1, 3, 5], [2, 4], True)
    assert not record([1]).with_ancestors([None]).complete
    assert not record([1]).with_ancestors([record([2], complete=False)]).complete
    assert not record([1], complete=False).with_ancestors([record([2])]).complete


def test_a_record_is_read_back_and_a_damaged_one_is_named(tmp_path):
    assert read_exposure(tmp_path) is None
    record([1, 2**64 - 1], [7], complete=False).write(tmp_path / EXPOSURE_FILE)
    exposure = read_exposure(tmp_path)
    found = exposure.trained_on.tolist(), exposure.selected_on.tolist(), exposure.complete
    assert found == ([1, 2**64 - 1], [7], False)
    whole = (tmp_path / EXPOSURE_FILE).read_bytes()
    for damaged in (whole[:40], b"", b"garbage"):
        (tmp_path / EXPOSURE_FILE).write_bytes(damaged)
        with pytest.raises(DataError, match=f"{EXPOSURE_FILE} is not a training exposure record"):
            read_exposure(tmp_path)


FOREIGN = {
    "another type": {"learned": np.zeros(3)}, "text": {"learned": np.array(["a"])},
    "a table": {"chosen_on": np.zeros((2, 2), np.uint64)},
    "one number": {"learned": np.uint64(4)}, "no bool": {"whole": 1}, "bools": {"whole": np.array([True, False])},
    "objects": {"whole": np.array({})},
}  # fmt: skip


@pytest.mark.parametrize("change", FOREIGN.values(), ids=FOREIGN)
def test_arrays_that_no_record_has_are_one_message(change, tmp_path):
    values = {"learned": np.zeros(3, np.uint64), "chosen_on": np.zeros(0, np.uint64), "whole": True}
    np.savez(tmp_path / EXPOSURE_FILE, **values)
    assert read_exposure(tmp_path).complete
    np.savez(tmp_path / EXPOSURE_FILE, **values | change)
    with pytest.raises(DataError, match=f"{EXPOSURE_FILE} is not a training exposure record"):
        read_exposure(tmp_path)


def test_a_record_without_one_of_its_arrays_is_one_message(tmp_path):
    np.savez(tmp_path / EXPOSURE_FILE, learned=np.zeros(3, np.uint64), whole=True)
    with pytest.raises(DataError, match=f"{EXPOSURE_FILE} is not a training exposure record.*chosen_on"):
        read_exposure(tmp_path)
