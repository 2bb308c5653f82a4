"""Ten thousand damaged raw trees: a clear error or a counted exclusion, never a traceback, never a lost line."""

import pytest
from fuzzing import DAMAGED, hold

CASES = 10_400


@pytest.mark.parametrize(("layout", "source", "file"), DAMAGED, ids=lambda value: value.replace("/", "-"))
def test_damaged_raw_trees(layout, source, file):
    imports, errors = hold(layout, source, file, examples=CASES // len(DAMAGED))
    assert imports > 20 and imports + errors >= CASES // len(DAMAGED)
