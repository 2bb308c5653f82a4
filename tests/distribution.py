"""Which tests run on one worker of pytest-xdist."""

from __future__ import annotations

import pytest

# Files whose tests share the fixture `road`, which takes minutes.
ROAD_FILES = frozenset(
    (
        "tests/end_to_end/test_registered_model.py",
        "tests/end_to_end/test_run_again.py",
        "tests/golden/test_run_outputs.py",
        "tests/notebooks/test_alone.py",
        "tests/notebooks/test_score_session.py",
        "tests/notebooks/test_what_phases_leave.py",
    )
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Run the tests of one file, and all tests of the road, on one worker, so that no costly fixture is made twice.

    The mark ``xdist_group`` has no effect here: pytest-xdist 3.8 writes it to a field that pytest 9.2 does not read.
    """
    from xdist.scheduler import LoadScopeScheduling

    class FileScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "road" if file in ROAD_FILES else file

    return FileScheduling(config, log)
