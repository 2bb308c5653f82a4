"""Which tests run on one worker of pytest-xdist, and which run first."""

from __future__ import annotations

from collections import Counter

import pytest

# Files whose tests share the fixture `road`, which takes a minute.
ROAD_FILES = frozenset(
    (
        "tests/end_to_end/test_registered_model.py",
        "tests/end_to_end/test_run_again.py",
        "tests/golden/test_run_outputs.py",
        "tests/notebooks/test_ablation_notebook.py",
        "tests/notebooks/test_alone.py",
        "tests/notebooks/test_evaluated_sources.py",
        "tests/notebooks/test_score_session.py",
        "tests/notebooks/test_what_phases_leave.py",
    )
)
# The longest groups, longest first.  One that starts late would leave the other worker idle at the end.
LONG = (
    "road",
    "tests/pipeline/test_parallel.py",
    "tests/pipeline/test_one_at_a_time.py",
    "tests/pipeline/test_sweep.py",
    "tests/pipeline/test_pipeline.py",
    "tests/training/test_distributed.py",
    "tests/adapt/test_adapt.py",
    "tests/tracking/test_store.py",
)


def group(nodeid: str) -> str:
    """The tests that must run on one worker: those of one file, and all tests of the road."""
    file = nodeid.partition("::")[0]
    return "road" if file in ROAD_FILES else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Distribute whole groups, in the order of the collection.

    The mark ``xdist_group`` has no effect here: pytest-xdist 3.8 writes it to a field that pytest 9.2 does not read.
    """
    from xdist.scheduler import LoadScopeScheduling

    config.option.loadscopereorder = False

    class GroupScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    return GroupScheduling(config, log)


def pytest_collection_modifyitems(config, items):
    """On a worker of pytest-xdist, put the longest groups first, then those with the most tests."""
    if hasattr(config, "workerinput"):
        tests = Counter(group(item.nodeid) for item in items)
        rank = {name: place for place, name in enumerate(LONG)}
        items.sort(key=lambda item: (rank.get(group(item.nodeid), len(LONG)), -tests[group(item.nodeid)]))
