"""The script that measures the ECE interval's coverage makes the populations that it says it makes."""

import pytest


@pytest.fixture(scope="module")
def benchmark(measurement):
    return measurement("ece_coverage")


@pytest.mark.parametrize("shape", ["sharp", "shy", "spot", "zigzag"])
@pytest.mark.parametrize("target", [0.01, 0.1])
def test_populations_have_the_ece_they_are_made_for(benchmark, shape, target):
    probs, right, truth = benchmark.population(shape, target)
    assert truth == pytest.approx(target, abs=1e-9)
    assert ((right >= 0) & (right <= 1)).all()
    index = benchmark.bin_index(probs.max(1))
    by_hand = sum(abs((probs.max(1) - right)[index == b].sum()) for b in range(15)) / len(right)
    assert by_hand == pytest.approx(target, abs=1e-6)


def test_a_few_simulations_end_to_end(benchmark):
    row = benchmark.measure(("sharp", 0.03, 500, 8))
    assert row["coverage"] >= 0.5
    assert row["percentile_coverage"] <= 0.5
    assert row["mean_lo"] < row["population_ece"] < row["mean_hi"]
    assert "sharp" in benchmark.table([row])


def test_the_page_says_what_was_measured(benchmark):
    row = benchmark.measure(("spot", 0.1, 500, 3)) | {"coverage": 0.667}
    page = benchmark.page({"level": 0.95, "resamples": 1000, "simulations": 3, "rows": [row]})
    assert "Lowest coverage: 0.667 (true ECE 0.10, n = 500, spot)" in page
    assert "| 0.10 | 500 | spot |" in page
