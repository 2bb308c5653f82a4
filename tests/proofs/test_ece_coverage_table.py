"""The committed coverage table holds what the ECE interval promises, and its page is the one its script renders.

Measure it again with ``python benchmarks/ece_coverage.py --write``.
"""

import json

import pytest


@pytest.fixture(scope="module")
def benchmark(measurement):
    return measurement("ece_coverage")


@pytest.fixture(scope="module")
def result(repo):
    return json.loads((repo / "docs" / "results" / "ece_coverage.json").read_text())


def test_the_page_is_rendered_from_the_json(repo, benchmark, result):
    assert (repo / "docs" / "results" / "ece_coverage.md").read_text() == benchmark.page(result)


def test_every_point_was_measured_and_held(result):
    points = {(row["true_ece"], row["n"]) for row in result["rows"]}
    assert points == {(t, n) for t in (0.0, 0.01, 0.03, 0.1) for n in (500, 3068)}
    assert all(row["simulations"] >= 500 for row in result["rows"])
    assert min(row["coverage"] for row in result["rows"]) >= 0.93
