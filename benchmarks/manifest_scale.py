"""What a manifest of many faces costs: import, build (paths or pictures checked), ids, splits, writing and reading.

    python benchmarks/manifest_scale.py [--rows 10000,100000,466284,2000000] [--folder DIR] [--write]

A ``<split>/<class>/`` tree of small JPEG files with a content of their own each is generated below ``--folder`` (blank:
the system's temporary folder; 4 KB of disk a file) and removed again.  Every size runs in a process of its own, so that
the peak of memory is its own.  ``--write`` puts ``docs/results/manifest_scale.json`` and its page beside the other
results.
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

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
STEPS = ("import", "build", "build_decode", "read", "evalset", "hash_files")
SPLITS = (("train", 0.8), ("valid", 0.1), ("test", 0.1))


def generate(root: Path, rows: int) -> None:
    """``rows`` JPEG files: a few drawn faces, each time with other bytes after the picture's end (content differs)."""
    import cv2

    from fer_lib.datasets.synthetic import draw_faces
    from fer_lib.emotions import EMOTIONS

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
    from fer_lib.calibration import scores
    from fer_lib.datasets.build import build_manifest
    from fer_lib.datasets.manifest import Manifest, evalset_id
    from fer_lib.datasets.sources import import_source
    from fer_lib.params import ManifestParams, SourceSpec

    assert scores.METRIC_VERSION  # imported here, so that no step pays for it
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
    timed("hash_files", lambda: read_all(raw))
    results["hash_files"]["bytes"] = sum(p.stat().st_size for p in raw.rglob("*.jpg"))
    results["rows"] = len(manifest)
    return results


def read_all(raw: Path) -> None:
    """SHA-256 of every file's bytes and nothing else: what the disk and the hash alone cost."""
    import hashlib

    for folder, _, files in os.walk(raw):
        for name in files:
            with open(os.path.join(folder, name), "rb") as file:
                hashlib.sha256(file.read()).digest()


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


def render(results: list[dict]) -> str:
    """The page, from what was measured."""
    head = [
        "rows",
        "import",
        "build, paths checked",
        "build, pictures decoded",
        "reading",
        "evalset id of test",
        "peak",
    ]
    lines = [
        "# What a manifest of many faces costs",
        "",
        "`python benchmarks/manifest_scale.py --write` measures this table and writes this page from "
        "[manifest_scale.json](manifest_scale.json).",
        "",
        "Seconds on the clock, with processor seconds in brackets; the last column is the largest memory of the "
        "process after all of it.  Import reads, hashes and links every file and gives the ids; building joins, "
        "checks, assigns val and its roles, and writes.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + " ---: |" * len(head),
    ]
    for r in results:
        cells = [f"{r[s]['seconds']:.2f} ({r[s]['cpu_seconds']:.2f})" for s in STEPS[:5]]
        peak = max(r[s]["peak_bytes"] for s in STEPS[:5])
        lines.append("| " + " | ".join([f"{r['rows']:,}", *cells, f"{peak / 2**30:.2f} GiB"]) + " |")
    lines += ["", "| rows | bytes | SHA-256 of the files alone | rate | import's rate |", "|" + " ---: |" * 5]
    for r in results:
        h = r["hash_files"]
        rates = [f"{r['rows'] / r[s]['seconds']:,.0f} files/s" for s in ("hash_files", "import")]
        lines.append(f"| {r['rows']:,} | {h['bytes'] / 1e6:,.0f} MB | {h['seconds']:.2f} s | {rates[0]} | {rates[1]} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="10000,100000,466284,2000000")
    parser.add_argument("--folder", default=None)
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
    page = render(results)
    print(page)
    if args.write:
        (RESULTS / "manifest_scale.json").write_text(json.dumps(results, indent=1) + "\n")
        (RESULTS / "manifest_scale.md").write_text(page)


if __name__ == "__main__":
    main()
