"""Damaged files for every reader: a value or a clear error, never another exception, in bounded time and memory.

    python tests/fuzz/fuzz.py [--cheap 46000] [--heavy 10000] [--only NAME] [--workers 2] [--write]

``--cheap`` and ``--heavy``: cases for each reader of a kind (readers.py).  A case is a function of the reader and its
number.  What fails is put into corpus/, which the tests replay.  ``--write`` puts docs/results/fuzz.json and its page
beside the other results; with ``--only`` it replaces the rows of these readers.  Exit 1 when anything failed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import re
import sys
import tempfile
import time
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
RESULTS = HERE.parents[1] / "docs" / "results"

SECONDS, MEGABYTES = 2.0, 512  # the most CPU time that a case may take, and that memory may grow
CORPUS = HERE / "corpus"
MEMORY = Path("/dev/shm")  # a disk would take longer than most readers


def memory(key: str) -> float:
    """A line of /proc/self/status in MiB: VmRSS, or VmHWM, its peak; NaN where there is no such file."""
    try:
        return int(re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
    except OSError:
        return float("nan")


def folder_of(reader: str) -> Path:
    """The folder of a reader's failing inputs."""
    return CORPUS / re.sub(r"\W+", "-", reader).strip("-")


def run(name: str, cases: int) -> dict:
    """``cases`` damaged files for one reader; the row of the table."""
    from damage import FORMS
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from readers import READERS

    from fer_lib.errors import FerError

    reader = READERS[name]
    row = {"reader": name, "cases": 0, "read": 0, "refused": 0, "seconds": 0.0, "failure": ""}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=MEMORY if MEMORY.is_dir() else None) as work:
        folder = Path(work, "f")
        folder.mkdir()
        sound = reader.prepare(folder)
        reader.read(folder, sound)
        before, last, cpu = memory("VmRSS"), [b""], time.process_time()

        @seed(int(hashlib.sha256(name.encode()).hexdigest()[:8], 16))
        @settings(max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck),
                  phases=[Phase.generate], print_blob=False)  # fmt: skip
        @given(FORMS[reader.form](sound))
        def check(damaged: bytearray) -> None:
            last[0] = content = bytes(damaged)
            start = time.process_time()  # other programs' load is no time of the reader's
            try:
                reader.read(folder, content)
                row["read"] += 1
            except FerError:
                row["refused"] += 1
            row["cases"] += 1
            row["seconds"] = max(row["seconds"], time.process_time() - start)

        warnings.simplefilter("ignore")  # Hypothesis warns of long examples
        try:
            check()
        except Exception as error:  # any other exception of a reader is the finding
            row["failure"] = f"{type(error).__name__}: {str(error)[:200]}"
            place = folder_of(name)
            place.mkdir(parents=True, exist_ok=True)
            (place / hashlib.sha256(last[0]).hexdigest()[:12]).write_bytes(last[0])
        row["megabytes"] = memory("VmHWM") - before
    row["cases_per_cpu_second"] = row["cases"] / (time.process_time() - cpu)
    return row | {"minutes": (time.monotonic() - began) / 60}


def run_job(job: tuple[str, int]) -> dict:
    """:func:`run` with one argument."""
    return run(*job)


def page(result: dict) -> str:
    """The table as Markdown."""
    lines = [
        "# Damaged files",
        "",
        "`make fuzz` damages a sound file of every format that a reader may be given, and reads it. A reader ends in a "
        f"value or in a message in less than {SECONDS:g} CPU seconds, and memory grows by less than {MEGABYTES} MiB. "
        "Checksums are made to fit again, so that what lies behind them is reached.",
        "",
        "| reader | cases | read | refused by a message | slowest case, s | memory, MiB | failure |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in result["rows"]:
        lines.append(
            f"| {row['reader']} | {row['cases']:,} | {row['read']:,} | {row['refused']:,} | {row['seconds']:.2f} | "
            f"{row['megabytes']:.0f} | {row['failure'].replace('|', '/')} |"
        )
    total = sum(row["cases"] for row in result["rows"])
    lines += ["", f"{total:,} cases in {result['minutes']:.0f} minutes on {result['workers']} cores.", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cheap", type=int, default=46_000)  # a million for all of them together
    parser.add_argument("--heavy", type=int, default=10_000)
    parser.add_argument("--only", default="", help="readers with this in their name")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    a = parser.parse_args()
    from readers import READERS

    wanted = [reader for name, reader in READERS.items() if a.only in name]
    found = {}
    jobs = [(reader.name, a.heavy if reader.heavy else a.cheap) for reader in wanted]
    with multiprocessing.get_context("spawn").Pool(a.workers, maxtasksperchild=1) as pool:
        for row in pool.imap_unordered(run_job, jobs, chunksize=1):
            found[row["reader"]] = row
            print(
                f"{row['reader']}: {row['cases']:,} cases, {row['refused']:,} refused, slowest {row['seconds']:.2f} s, "
                f"{row['megabytes']:.0f} MiB, {row['minutes']:.1f} min, "
                f"{row['cases_per_cpu_second']:.0f} cases per CPU second {row['failure']}",
                flush=True,
            )
    rows = [found[reader.name] for reader in wanted]
    if a.write:
        file = RESULTS / "fuzz.json"
        if a.only:
            found = {row["reader"]: row for row in json.loads(file.read_text())["rows"]} | found
        every = [found[name] for name in READERS if name in found]
        result = {"rows": every, "minutes": sum(row["minutes"] for row in every) / a.workers, "workers": a.workers}
        file.write_text(json.dumps(result, indent=1) + "\n")
        file.with_suffix(".md").write_text(page(result))
    slow = [r for r in rows if r["seconds"] >= SECONDS or r["megabytes"] >= MEGABYTES]
    if slow or any(row["failure"] for row in rows):
        sys.exit("failed: " + ", ".join(r["reader"] for r in rows if r["failure"] or r in slow))


if __name__ == "__main__":
    main()
