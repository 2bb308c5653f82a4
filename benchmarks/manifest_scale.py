"""What a manifest of many faces costs: import, build (paths or pictures checked), ids, splits, writing and reading.

    python benchmarks/manifest_scale.py [--rows 10000,100000,466284,2000000] [--folder DIR] [--write]

A ``<split>/<class>/`` tree of small JPEG files with a content of their own each is generated below ``--folder`` (blank:
the system's temporary folder; 4 KB of disk a file) and removed again.  Every size runs in a process of its own, so that
the peak of memory is its own.  The files were just written, so all but the first hashing find them in the page cache;
for that one their contents are dropped from it.  Goals stand beside the figures.  ``--write`` puts
``docs/results/manifest_scale.json`` and its page beside the other results.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _common import bytes_from_disk, cold_reading, drop_from_cache, goal, publish

STEPS = ("import", "build", "build_decode", "read", "evalset", "hash_cold", "hash_warm")
PLANNED = 466_284  # rows of the largest manifest planned for; the goals are for that many
SPLITS = (("train", 0.8), ("valid", 0.1), ("test", 0.1))


def generate(root: Path, rows: int) -> None:
    """``rows`` JPEG files: a few drawn faces, each time with other bytes after the picture's end (content differs)."""
    import cv2

    from fer_lib.emotions import EMOTIONS
    from fer_lib.synthetic.dataset import draw_faces

    faces, _ = draw_faces(70, seed=1, size=48)
    encoded = [cv2.imencode(".jpg", face)[1].tobytes() for face in faces]
    starts = [round(rows * sum(share for _, share in SPLITS[:i])) for i in range(len(SPLITS) + 1)]
    for (split, _), first, last in zip(SPLITS, starts[:-1], starts[1:], strict=True):
        for name in EMOTIONS:
            (root / split / name).mkdir(parents=True)
        for i in range(first, last):
            path = root / split / EMOTIONS[i % 7] / f"{i:07d}.jpg"
            path.write_bytes(encoded[i % len(encoded)] + i.to_bytes(8, "little"))


def measure(raw: Path, out: Path) -> dict:
    """Seconds and processor seconds of every step, and the peak of memory (bytes) after it."""
    from fer_lib.calibration import metrics
    from fer_lib.datasets.build import build_manifest
    from fer_lib.datasets.evalset_ids import evalset_id
    from fer_lib.datasets.manifest import Manifest
    from fer_lib.importers import import_source
    from fer_lib.params import ManifestParams, SourceSpec

    assert metrics.METRIC_VERSION  # imported here, so that no step pays for it
    results: dict[str, dict] = {}

    def timed(step: str, work):
        wall, cpu = time.perf_counter(), time.process_time()
        value = work()
        results[step] = {
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            * (1 if sys.platform == "darwin" else 1024),
        }
        return value

    timed("import", lambda: len(import_source(SourceSpec(source="tree", root=str(raw)), out / "imports").rows))
    timed("build", lambda: len(build_manifest(ManifestParams(check="paths"), out / "imports", out / "paths")))
    built = timed("build_decode", lambda: build_manifest(ManifestParams(), out / "imports", out / "decoded"))
    manifest = timed("read", lambda: Manifest.read(out / "decoded" / "manifest.parquet"))
    assert manifest.sha256 == built.sha256
    test = manifest.rows(split="test")
    timed("evalset", lambda: evalset_id(test.sample_ids, test.labels, "test", 0))
    pages, before = drop_from_cache(all_files(raw)), bytes_from_disk()
    results["bytes"] = timed("hash_cold", lambda: read_all(raw))
    results["hash_cold"] |= cold_reading(before, pages)
    timed("hash_warm", lambda: read_all(raw))
    results["rows"] = len(manifest)
    return results


def all_files(raw: Path):
    for folder, _, files in os.walk(raw):
        for name in files:
            yield os.path.join(folder, name)


def read_all(raw: Path) -> int:
    """SHA-256 of every file's bytes and nothing else: what the disk and the hash alone cost.  Returns the bytes."""
    import hashlib

    size = 0
    for path in all_files(raw):
        with open(path, "rb") as file:
            data = file.read()
        hashlib.sha256(data).digest()
        size += len(data)
    return size


def run(rows: int, folder: str | None) -> dict:
    work = Path(tempfile.mkdtemp(prefix="manifest-scale-", dir=folder))
    try:
        generate(work / "raw", rows)
        command = [sys.executable, __file__, "--measure", str(work)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{rows} rows: {done.stderr[-2000:]}")
        return json.loads(done.stdout.splitlines()[-1])
    finally:
        shutil.rmtree(work)


def goals(results: list[dict]) -> list[dict]:
    """The goals beside what was found at the planned number of rows; none where that was not measured."""
    out = []
    for r in (r for r in results if r["rows"] == PLANNED):
        at, seconds = f"at {PLANNED:,} rows", r["import"]["seconds"] + r["build"]["seconds"]
        peak = max(r[s]["peak_bytes"] for s in ("import", "build")) / 2**30
        out += [
            goal(f"import (ids) + build (paths checked, split) {at}, seconds", seconds, 60, ".1f", at_most=True),
            goal(f"its peak of memory {at}, GiB", peak, 2, ".2f", at_most=True),
            goal(f"reading {at}, seconds", r["read"]["seconds"], 1, ".2f", at_most=True),
        ]
    return out


def page(results: list[dict]) -> str:
    """The page, from what was measured."""
    head = (
        "rows", "import", "build, paths checked", "**import + build**", "build, pictures decoded", "reading",
        "evalset id of test", "peak of import and build, paths", "peak of all",
    )  # fmt: skip
    lines = [
        "# What a manifest of many faces costs",
        "",
        "`python benchmarks/manifest_scale.py --write` measures this table and writes this page from "
        "[manifest_scale.json](manifest_scale.json).",
        "",
        *(f"- {g['text']}" for g in goals(results)),
        "",
        "Seconds on the clock, with processor seconds in brackets; peaks of memory of the process.  Import reads, "
        "hashes and links every file and gives the ids; building joins, checks, assigns val and its roles, and writes. "
        "Files were in the page cache.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + " ---: |" * len(head),
    ]
    for r in results:
        both = {k: r["import"][k] + r["build"][k] for k in ("seconds", "cpu_seconds")}
        steps = (r["import"], r["build"], both, r["build_decode"], r["read"], r["evalset"])
        cells = [f"{s['seconds']:.2f} ({s['cpu_seconds']:.2f})" for s in steps]
        cells[2] = f"**{cells[2]}**"
        peaks = [max(r[s]["peak_bytes"] for s in some) / 2**30 for some in (STEPS[:2], STEPS)]
        lines.append("| " + " | ".join([f"{r['rows']:,}", *cells, *(f"{peak:.2f} GiB" for peak in peaks)]) + " |")
    lines += [
        "",
        "SHA-256 of the files alone, one after another: with their contents dropped from the page cache (names and "
        "inodes stay), and again at once.",
        "",
        "| rows | bytes | cold | cold, rate | what came from the disk | page cache | its rate | import's rate |",
        "|" + " ---: |" * 8,
    ]
    for r in results:
        cells = [f"{r['rows']:,}", f"{r['bytes'] / 1e6:,.0f} MB"]
        for step in ("hash_cold", "hash_warm"):
            took = r[step]["seconds"]
            cells += [f"{took:.2f} s", f"{r['bytes'] / took / 1e6:,.1f} MB/s, {r['rows'] / took:,.0f} files/s"]
        cells.insert(4, r["hash_cold"]["words"])
        cells.append(f"{r['rows'] / r['import']['seconds']:,.0f} files/s")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="10000,100000,466284,2000000")
    parser.add_argument("--folder", default=None, help="where the files are put; blank: the system's temporary folder")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--measure", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        work = Path(args.measure)
        print(json.dumps(measure(work / "raw", work / "out")))
        return
    results = []
    for rows in map(int, args.rows.split(",")):
        results.append(run(rows, args.folder))
        print(f"{rows:,} rows: " + ", ".join(f"{s} {results[-1][s]['seconds']:.2f} s" for s in STEPS), flush=True)
    text = page(results)
    print(text)
    if args.write:
        publish("manifest_scale", results, text)


if __name__ == "__main__":
    main()
