"""How often the ECE's interval holds the true ECE, beside the plain percentile bootstrap.

    python benchmarks/ece_coverage.py [--simulations 500] [--workers 2] [--write]

Populations of 200,000 rows with FER-like confidences; P(right | row) is bent away from the confidence in several shapes
until the population's 15-bin ECE is the wanted value.  Samples are drawn with replacement, labels from P(right | row).
``--write`` puts ``docs/results/ece_coverage.json`` and the page rendered from it beside the repository's other results.
About 15 minutes on two cores.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from scipy.optimize import brentq

from fer_lib.calibration.intervals import ece_interval, ece_null
from fer_lib.calibration.metrics import bin_index, ece, softmax

SIZES = (500, 3068)
TRUE_ECE = (0.0, 0.01, 0.03, 0.1)
SHAPES = ("sharp", "shy", "spot", "zigzag")
ROWS = 200_000
LEVEL = 0.95
RESAMPLES = 1000


def bent(confidence: np.ndarray, shape: str, amount: float) -> np.ndarray:
    """P(right | confidence) [N]: overconfident everywhere, underconfident everywhere, in one bin, or by turns."""
    odds = np.log(confidence) - np.log1p(-confidence)
    if shape == "sharp":
        return 1 / (1 + np.exp(-(odds / (1 + amount))))
    if shape == "shy":
        return 1 / (1 + np.exp(-(odds + 8 * amount)))
    index = bin_index(confidence)
    if shape == "spot":
        return np.clip(confidence - 1.5 * amount * (index >= 13), 0, 1)
    return np.clip(confidence - amount * np.where(index % 2, 1, -1), 0, 1)


def population(shape: str, target: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Probabilities [ROWS, 7], P(right) [ROWS] and the exact binned ECE of that population."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(ROWS, 7))
    logits[np.arange(ROWS), rng.integers(0, 7, ROWS)] += rng.gamma(3.0, 1.2, ROWS)
    probs = softmax(1.3 * logits)
    confidence = np.clip(probs.max(axis=1), None, 1 - 1e-12)
    index = bin_index(confidence)

    def size(amount: float) -> float:
        right = bent(confidence, shape, amount)
        return np.abs(np.bincount(index, weights=confidence - right)).sum() / ROWS

    amount = brentq(lambda a: size(a) - target, 0.0, 3.0) if target else 0.0
    right = bent(confidence, shape, amount) if target else confidence
    return probs, right, size(amount) if target else 0.0


def percentile_interval(probs, y, rng) -> tuple[float, float]:
    """The plain bootstrap of rows, for comparison only.

    Rows of one bin that are alike right or wrong count with their mean confidence, so that a resample is a multinomial.
    """
    n, confidence, right = len(y), probs.max(axis=1), (probs.argmax(axis=1) == y).astype(int)
    cell = 2 * bin_index(confidence) + right
    count = np.bincount(cell, minlength=30)
    gap = np.bincount(cell, weights=confidence - right, minlength=30) / np.maximum(count, 1)
    drawn = rng.multinomial(n, count / n, size=RESAMPLES) * gap
    values = np.abs(drawn[:, ::2] + drawn[:, 1::2]).sum(axis=1) / n
    return tuple(np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))


def measure(task: tuple) -> dict:
    """One row of the table: coverage, misses on each side, width."""
    shape, target, n, simulations = task
    probs, right, truth = population(shape, target)
    rng = np.random.default_rng([n, int(1000 * target), SHAPES.index(shape)])
    seen, ours, plain, null = [], [], [], []
    for simulation in range(simulations):
        rows = rng.integers(0, ROWS, n)
        p, top = probs[rows], probs[rows].argmax(axis=1)
        y = np.where(rng.random(n) < right[rows], top, (top + 1) % 7)
        seen.append(ece(p, y))
        ours.append(ece_interval(p, y, LEVEL, RESAMPLES, seed=simulation))
        plain.append(percentile_interval(p, y, rng))
        if simulation < 20:
            null.append(ece_null(p, 200, simulation)["mean"])
    ours, plain = np.array(ours), np.array(plain)
    return {
        "shape": shape if target else "calibrated",
        "true_ece": target,
        "n": n,
        "simulations": simulations,
        "population_ece": float(truth),
        "mean_observed_ece": float(np.mean(seen)),
        "mean_null_ece": float(np.mean(null)),
        "coverage": float(np.mean((ours[:, 0] <= truth) & (truth <= ours[:, 1]))),
        "truth_below": float(np.mean(truth < ours[:, 0])),
        "truth_above": float(np.mean(truth > ours[:, 1])),
        "mean_lo": float(ours[:, 0].mean()),
        "mean_hi": float(ours[:, 1].mean()),
        "percentile_coverage": float(np.mean((plain[:, 0] <= truth) & (truth <= plain[:, 1]))),
        "percentile_mean_lo": float(plain[:, 0].mean()),
        "percentile_mean_hi": float(plain[:, 1].mean()),
    }


def table(rows: list[dict]) -> str:
    """A Markdown table of the measured rows."""
    lines = [
        "| true ECE | n | shape | seen, mean | calibrated model's | coverage | truth below / above | interval, mean "
        "| percentile bootstrap |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        lines.append(
            f"| {r['true_ece']:.2f} | {r['n']:,} | {r['shape']} "
            f"| {r['mean_observed_ece']:.4f} | {r['mean_null_ece']:.4f} | **{r['coverage']:.3f}** "
            f"| {r['truth_below']:.3f} / {r['truth_above']:.3f} "
            f"| {r['mean_lo']:.4f} .. {r['mean_hi']:.4f} | {r['percentile_coverage']:.3f} |"
        )
    return "\n".join(lines)


def page(result: dict) -> str:
    """``ece_coverage.md`` from ``ece_coverage.json``."""
    worst = min(result["rows"], key=lambda r: r["coverage"])
    return (
        "# Does the interval of an ECE hold the true ECE?\n\n"
        "`python benchmarks/ece_coverage.py --write` measures this table and writes this page from "
        "[ece_coverage.json](ece_coverage.json).\n\n"
        f"Nominal level {result['level']:.2f}, {result['resamples']:,} draws an interval, {result['simulations']:,} "
        "samples a row (so a coverage of 0.95 is known to about "
        f"{1.96 * (0.95 * 0.05 / result['simulations']) ** 0.5:.3f} either way).  "
        f"Lowest coverage: {worst['coverage']:.3f} (true ECE {worst['true_ece']:.2f}, n = {worst['n']:,}, "
        f"{worst['shape']}).\n\n"
        "Shapes: *sharp* is overconfident everywhere, *shy* underconfident everywhere, *spot* wrong in the two "
        "surest bins only, *zigzag* over- and underconfident by turns of the bins.  The true ECE is that of the "
        "population's 15 equal-width bins.\n\n" + table(result["rows"]) + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=500)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="write docs/results/ece_coverage.{json,md}")
    options = parser.parse_args()
    points = [(s, t, n) for t in TRUE_ECE for n in SIZES for s in (SHAPES if t else SHAPES[:1])]
    with ProcessPoolExecutor(options.workers) as pool:
        rows = list(pool.map(measure, [(*point, options.simulations) for point in points]))
    result = {"level": LEVEL, "resamples": RESAMPLES, "simulations": options.simulations, "rows": rows}
    print(table(rows))
    if options.write:
        from _common import publish  # beside this file, which tests load by its path

        publish("ece_coverage", result, page(result))


if __name__ == "__main__":
    main()
