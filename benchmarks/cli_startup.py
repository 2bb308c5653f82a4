"""How long ``fer --help`` takes, beside an empty Python and beside what it avoids importing.

``python benchmarks/cli_startup.py [--repeat N]`` prints the median and the quickest of N starts of each, in turns.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

STARTS = {
    "python -c pass": ("-c", "pass"),
    "fer --help": ("-c", "from fer_lib.cli.main import main; main(['--help'])"),
    "fer --version": ("-c", "from fer_lib.cli.main import main; main(['--version'])"),
    "fer run --help": ("-c", "from fer_lib.cli.main import main; main(['run', '--help'])"),
    "import mlflow": ("-c", "import mlflow"),
    "import timm": ("-c", "import fer_lib, timm"),
}
HEAVY = ("import mlflow", "import timm")  # seconds each: a few starts are enough


def seconds(name: str) -> float:
    """One start, from the outside, in seconds by the clock."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *STARTS[name]], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def measure(repeat: int, names=tuple(STARTS)) -> dict[str, list[float]]:
    """Seconds of ``repeat`` starts of each (three of the heavy ones) after one that does not count, in turns."""
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeat + 1):
        for name in names:
            if name not in HEAVY or turn <= 3:
                took = seconds(name)
                if turn:
                    found[name].append(took)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=15)
    found = measure(parser.parse_args().repeat)
    empty = statistics.median(found["python -c pass"])
    print(f"{'start':<16} {'median ms':>10} {'min ms':>8} {'above empty ms':>15}")
    for name, values in found.items():
        median = statistics.median(values)
        print(f"{name:<16} {median * 1e3:>10.0f} {min(values) * 1e3:>8.0f} {(median - empty) * 1e3:>15.0f}")


if __name__ == "__main__":
    main()
