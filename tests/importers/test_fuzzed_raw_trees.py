"""Damaged raw trees end in a clear error or a counted exclusion: never a traceback, never a lost line."""

import pytest
from fuzzing import DAMAGED, hold


@pytest.mark.parametrize(("layout", "source", "file"), DAMAGED, ids=lambda value: value.replace("/", "-"))
def test_a_damaged_raw_tree_is_an_error_or_counted(layout, source, file):
    assert sum(hold(layout, source, file, examples=12)) >= 12
