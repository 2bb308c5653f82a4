"""What the audit costs: hashes a second on one core, and a whole audit of rows that are hashed already, as they grow.

    python benchmarks/audit_scale.py [--rows 10000,100000,466284,2000000] [--folder DIR] [--write] [--keep]

Hashing is timed on drawn faces that are already decoded (decoding is stated beside it).  The audit is timed on a
manifest of generated rows whose hashes lie in the cache (below ``--folder``, 2 KB a row; blank: the system's temporary
folder), from reading them to the manifest written.  Generated thumbnails lie as near each other as those of real faces,
or nearer: half of their variance is a drawn face, half is drawn from the principal components of drawn faces (their
candidates a row stand beside FER2013's).  One row in a hundred is a planted copy, one of the kinds that
``tests/altered.py`` has (JPEG 50, resized to 48, grey, mirrored, CLAHE, cropped by up to 10 %, rotated by up to 10
degrees), made of a colour face of 96 pixels and hashed like any other; recall is of the pair itself.  Every size runs
in a process of its own, so that the peak of memory is its own.  ``--write`` puts ``docs/results/audit_scale.json`` and
its page beside the other results; ``--keep`` leaves there the sizes that an earlier run measured.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from _common import RESULTS, goal, one_core, publish

from fer_lib.audit import groups
from fer_lib.audit.hashes import SIDE, Hashes, cache_file, pixel_id, thumbnails
from fer_lib.audit.manifest_audit import audit_manifest
from fer_lib.datasets.manifest import SPLITS, Manifest
from fer_lib.faces.decode import decode
from fer_lib.params import AuditParams
from fer_lib.synthetic.dataset import draw_faces

sys.path.append(str(Path(__file__).resolve().parents[1]))
from tests.altered import ALTERED, hash_faces  # noqa: E402

COPIES = 0.01
SIZE = 96  # pixels of a planted face
KINDS = tuple(ALTERED)
PLANNED = 466_284  # rows of the largest manifest planned for; the goals are for that many
FER2013_CANDIDATES = 1.375
"""Candidates a distinct picture of FER2013: 46,811 of 34,034, by ``search.candidates`` on its 35,887 official rows."""


def hash_rates() -> list[dict]:
    """Faces a second of one core: hashing alone, and decoding alone, for three sizes of picture."""
    rows, threads = [], cv2.getNumThreads()
    cv2.setNumThreads(1)
    with one_core():
        for size, n in ((48, 2000), (96, 1000), (224, 300)):
            faces = list(draw_faces(n, size=size)[0])
            files = [cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes() for face in faces]
            hashing = min(timed(lambda f=faces: [(thumbnails(x), pixel_id(x)) for x in f]) for _ in range(3))
            decoding = min(timed(lambda f=files: [decode(x) for x in f]) for _ in range(3))
            rows.append({"pixels": size, "hashes_per_second": n / hashing, "decoded_per_second": n / decoding})
    cv2.setNumThreads(threads)
    return rows


def timed(work) -> float:
    """CPU seconds."""
    start = time.process_time()
    work()
    return time.process_time() - start


class Faces:
    """Generated faces, in any number."""

    def __init__(self, drawn: int = 4000):
        thumbs = np.stack([thumbnails(face)[0] for face in draw_faces(drawn)[0]])
        flat = thumbs.reshape(drawn, -1).astype(np.float32)
        self.mean = flat.mean(axis=0)
        self.own = flat - self.mean
        _, values, axes = np.linalg.svd(self.own, full_matrices=False)
        self.axes = (values[:400, None] / np.sqrt(drawn)).astype(np.float32) * axes[:400]

    def varied(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """float32 [n, SIDE * SIDE] to add to half of a drawn face's own variance."""
        return np.sqrt(0.5) * (rng.standard_normal((n, len(self.axes)), np.float32) @ self.axes)

    def thumbs(self, n: int, seed: int) -> np.ndarray:
        """uint8 [n, 2, SIDE, SIDE]."""
        out, clahe = np.empty((n, 2, SIDE, SIDE), np.uint8), cv2.createCLAHE(2.0, (8, 8))
        for start in range(0, n, 10_000):
            rng = np.random.default_rng([seed, start])
            some = out[start : start + 10_000]
            drawn = np.sqrt(0.5) * self.own[rng.integers(0, len(self.own), len(some))]
            some[:, 0] = np.clip(self.mean + drawn + self.varied(len(some), rng), 0, 255).reshape(-1, SIDE, SIDE)
            some[:, 1] = [clahe.apply(thumb) for thumb in some[:, 0]]
        return out

    def large(self, n: int, seed: int) -> list[np.ndarray]:
        """n faces uint8 RGB [SIZE, SIZE, 3], varied like the thumbnails."""
        rng = np.random.default_rng([seed, n])
        mean = cv2.resize(self.mean.reshape(SIDE, SIDE), (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)[..., None]
        faces = []
        for face, varied in zip(draw_faces(n, seed=seed, size=SIZE)[0], self.varied(n, rng), strict=True):
            more = cv2.resize(varied.reshape(SIDE, SIDE), (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)[..., None]
            faces.append(np.clip(mean + np.sqrt(0.5) * (face - mean) + more, 0, 255).astype(np.uint8))
        return faces


def generated(n: int) -> tuple[Hashes, np.ndarray, np.ndarray]:
    """The hashes of n rows, and the planted ones among them: copies [m] and originals [m], of KINDS in turn."""
    rng, faces, m = np.random.default_rng(n), Faces(), round(COPIES * n)
    thumbs = faces.thumbs(n, seed=n)
    rows = rng.choice(n, 2 * m, replace=False)
    for start in range(0, m, 1000):
        part = np.arange(start, min(start + 1000, m))
        originals = faces.large(len(part), seed=n + start)
        copies = [
            np.ascontiguousarray(ALTERED[KINDS[i % len(KINDS)]](f, rng)) for i, f in zip(part, originals, strict=True)
        ]
        thumbs[rows[part]], thumbs[rows[m + part]] = hash_faces(copies).thumbs, hash_faces(originals).thumbs
    pixels = rng.permutation(np.arange(2 * n, dtype=np.uint64)).reshape(n, 2)  # every row another picture
    return Hashes(thumbs, pixels, np.full(n, SIZE * SIZE)), rows[:m], rows[m:]


def manifest_of(n: int, folder: Path) -> Manifest:
    """n rows in three splits; there is no picture, since their hashes are known."""
    number = np.arange(n)
    names = [f"{i:020x}" for i in range(n)]
    split = np.array(SPLITS)[np.digitize(number % 10, (8, 9))]
    frame = pd.DataFrame({
        "sample_id": names, "content_id": [f"{i * 2654435761 % 2**64:064x}" for i in range(n)], "source": "generated",
        "record": names, "image_path": [f"{name}.png" for name in names], "label": number % 7, "split": split,
        "val_role": np.where(split == "val", "select", ""),
    })  # fmt: skip
    return Manifest(frame, {"root": folder.as_posix(), "tolerance": 0})


def measure(n: int, folder: Path) -> dict:
    """One row of the table: seconds of the audit and of its two longest steps, pairs, recall of what was planted."""
    hashes, copies, originals = generated(n)
    manifest, seconds = manifest_of(n, folder), {}
    np.savez(cache_file(manifest, folder), **vars(hashes))
    del hashes
    results = {}
    for step in ("candidates", "align"):  # the audit as it is, these two steps timed within
        setattr(groups, step, watched(step, seconds, results))
    began, cpu = time.time(), time.process_time()
    audit = audit_manifest(AuditParams(), manifest, folder / "audit", cache_dir=folder)
    total, cpu = time.time() - began, time.process_time() - cpu
    number = {name: i for i, name in enumerate(manifest.frame["sample_id"])}
    ends = zip(audit.pairs["first"].map(number), audit.pairs["second"].map(number), strict=True)
    pairs = {frozenset(pair) for pair in ends}
    hits = np.array([frozenset(pair) in pairs for pair in zip(copies.tolist(), originals.tolist(), strict=True)])
    recall = {kind: hits[i :: len(KINDS)].mean() for i, kind in enumerate(KINDS)}
    found = len(results["candidates"])
    return {
        "rows": n, "search_seconds": seconds["candidates"], "align_seconds": seconds["align"], "total_seconds": total,
        "cpu_seconds": cpu, "candidates": found, "candidates_per_row": found / n, "pairs": len(pairs),
        "planted": len(hits), "recall": recall, "largest_group": audit.summary["with_near"]["largest"],
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }  # fmt: skip


def watched(step: str, seconds: dict, results: dict) -> Callable:
    """A step of the audit that leaves how long it took and what it returned."""
    work = getattr(groups, step)

    def call(*args, **options):
        began = time.time()
        results[step] = work(*args, **options)
        seconds[step] = time.time() - began
        return results[step]

    return call


def run(n: int, folder: str | None) -> dict:
    """:func:`measure` in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="audit-scale-", dir=folder) as work:
        command = [sys.executable, __file__, "--measure", work, "--rows", str(n)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{n} rows: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def goals(result: dict) -> list[dict]:
    """The goals beside what was found: hashing on one core, and the audit at the planned number of rows."""
    found = [
        goal(f"hashes a second on one core, {r['pixels']} px", r["hashes_per_second"], 5000) for r in result["hashing"]
    ]
    for r in (r for r in result["audits"] if r["rows"] == PLANNED):
        found.append(goal(f"audit of {PLANNED:,} hashed rows, seconds", r["total_seconds"], 600, at_most=True))
    return found


def table(result: dict) -> str:
    """Both Markdown tables."""
    lines = ["| face, pixels | hashed a second, one core | decoded a second, one core |", "|---|---|---|"]
    for r in result["hashing"]:
        lines.append(f"| {r['pixels']} RGB | **{r['hashes_per_second']:,.0f}** | {r['decoded_per_second']:,.0f} |")
    head = (
        "rows",
        "neighbours, s",
        "alignment, s",
        "**whole audit, s**",
        "CPU s",
        "candidates a row",
        *KINDS,
        "peak memory",
    )
    lines += ["", "| " + " | ".join(head) + " |", "|" + " ---: |" * len(head)]
    for r in result["audits"]:
        cells = [f"{r['rows']:,}", f"{r['search_seconds']:.0f}", f"{r['align_seconds']:.0f}"]
        cells += [f"**{r['total_seconds']:.0f}**", f"{r['cpu_seconds']:.0f}", f"{r['candidates_per_row']:.2f}"]
        cells += [f"{r['recall'][kind]:.4f}" for kind in KINDS]
        lines.append("| " + " | ".join([*cells, f"{r['peak_gib']:.1f} GiB"]) + " |")
    return "\n".join(lines)


def page(result: dict) -> str:
    """``audit_scale.md`` from ``audit_scale.json``."""
    return (
        "# What the audit for near-duplicates costs\n\n"
        "`python benchmarks/audit_scale.py --write` measures these tables and writes this page from "
        f"[audit_scale.json](audit_scale.json). Measured on {result['cores']} cores.\n\n"
        + "\n".join(f"- {g['text']}" for g in goals(result))
        + "\n\nHashing counts a face that is decoded already: two 32 x 32 thumbnails and SHA-256 of its pixels. The "
        "audit starts from hashes in the cache and ends with its manifest written: neighbours of every row in 26 "
        "versions (cropped, turned, mirrored, equalised), then each candidate pair laid over each other and compared. "
        f"Rows are generated; FER2013 has {FER2013_CANDIDATES} candidates a picture. One row in a hundred is a planted "
        "copy; the share of these found, pair by pair, stands under its kind.\n\n" + table(result) + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="10000,100000,466284,2000000")
    parser.add_argument("--folder", default=None, help="where hashes are put; blank: the system's temporary folder")
    parser.add_argument("--write", action="store_true", help="write docs/results/audit_scale.{json,md}")
    parser.add_argument(
        "--keep", action="store_true", help="with --write: sizes written before and not measured now stay"
    )
    parser.add_argument("--measure", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(int(options.rows), Path(options.measure))))
        return
    result = {"cores": os.cpu_count(), "similarity": AuditParams().similarity, "hashing": hash_rates(), "audits": []}
    for n in map(int, options.rows.split(",")):
        result["audits"].append(run(n, options.folder))
        print(json.dumps(result["audits"][-1]), flush=True)
    if options.keep:
        measured = {r["rows"] for r in result["audits"]}
        earlier = json.loads((RESULTS / "audit_scale.json").read_text())["audits"]
        result["audits"] = sorted(
            [*result["audits"], *(r for r in earlier if r["rows"] not in measured)], key=lambda r: r["rows"]
        )
    print(page(result))
    if options.write:
        publish("audit_scale", result, page(result))


if __name__ == "__main__":
    main()
