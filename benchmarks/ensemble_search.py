"""How many ensemble weights a second the search scores, beside scoring them one by one, and how long a ranking takes.

``python benchmarks/ensemble_search.py [--rows 14000] [--members 5]`` prints a table of CPU time on one core.  The
logits are drawn: a shared error plus an independent one per member.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from _common import goal, one_core

from fer_lib.calibration import metrics
from fer_lib.models.ensemble import combine, rank_mixes, score_mixes


def draw(rows: int, members: int, seed: int = 1337) -> tuple[np.ndarray, np.ndarray]:
    """Logits float64 [members, rows, 7] and labels [rows]."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 7, rows)
    shared = 2.5 * np.eye(7)[y] + rng.normal(size=(rows, 7))
    return np.stack([shared + rng.normal(size=(rows, 7)) for _ in range(members)]), y


def one_by_one(logits: np.ndarray, y: np.ndarray, weights: np.ndarray, space: str) -> list[float]:
    """Macro-F1 of each mix."""
    return [metrics.macro_f1(combine([*logits], w.tolist(), space).argmax(1), y) for w in weights]


def seconds(work) -> tuple[float, object]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=14_000)  # val/select of the 466,284 rows of all sources
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--mixes", type=int, default=4000)
    args = parser.parse_args()
    logits, y = draw(args.rows, args.members)
    weights = np.random.default_rng(0).dirichlet(np.ones(args.members), args.mixes)
    agree = (logits.argmax(2) == logits[0].argmax(1)).all(0).mean()
    print(f"{args.members} members, {args.rows:,} rows, all members agree on {agree:.0%}")
    print(f"{'space':<6} {'mixes/s':>9} {'one by one':>11} {'ratio':>7} {'ranking, s':>11} {'sets':>5}")
    rates = []
    with one_core():
        for space in ("logit", "prob"):
            values = logits if space == "logit" else np.exp([metrics.log_softmax(z) for z in logits])
            few = weights[:40]
            slow, expected = seconds(lambda s=space, w=few: one_by_one(logits, y, w, s))
            fast, (f1, _) = seconds(lambda v=values: score_mixes(v, y, weights))
            assert f1[: len(few)].tolist() == expected, "both ways give the same scores"
            ranked, sets = seconds(lambda s=space: rank_mixes([*logits], y, [s]))
            rate, base = args.mixes / fast, len(few) / slow
            rates.append(rate)
            print(f"{space:<6} {rate:>9,.0f} {base:>11,.0f} {rate / base:>7.0f} {ranked:>11.1f} {len(sets):>5}")
    print(goal("mixes a second", min(rates), 2000)["text"])


if __name__ == "__main__":
    main()
