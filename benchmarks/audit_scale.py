"""What the audit costs: hashes a second on one core, and the search for near-duplicates as the rows grow.

    python benchmarks/audit_scale.py [--rows 10000 100000 466284 2000000] [--write]

Hashing is timed on drawn faces that are already decoded (decoding is stated beside it).  The search is timed on
generated thumbnails whose neighbours lie as near each other as those of real faces: half of their variance is a drawn
face, half is drawn from the principal components of drawn faces.  One row in a hundred is a planted copy (mirrored,
noisy, gamma-changed or cropped), which shows what the search still finds at that size.  ``--write`` puts
``docs/results/audit_scale.json`` and the page rendered from it beside the other results.
"""

import argparse
import json
import os
import resource
import time
from pathlib import Path

import cv2
import numpy as np
from threadpoolctl import threadpool_limits

from fer_lib.datasets.audit.alignment import align
from fer_lib.datasets.audit.hashes import SIDE, pixel_id, thumbnails
from fer_lib.datasets.audit.search import candidates
from fer_lib.datasets.synthetic import draw_faces
from fer_lib.faces.decode import decode
from fer_lib.params import AuditParams

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
COPIES = 0.01
KINDS = ("mirrored", "noisy", "gamma", "cropped")


def hash_rates() -> list[dict]:
    """Faces a second of one core: hashing alone, and decoding alone, for two sizes of picture."""
    rows = []
    for size, n in ((48, 2000), (96, 1000), (224, 300)):
        faces = list(draw_faces(n, size=size)[0])
        files = [cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes() for face in faces]
        with threadpool_limits(1):
            cv2.setNumThreads(1)
            hashing = min(timed(lambda f=faces: [(thumbnails(x), pixel_id(x)) for x in f]) for _ in range(3))
            decoding = min(timed(lambda f=files: [decode(x) for x in f]) for _ in range(3))
        rows.append({"pixels": size, "hashes_per_second": n / hashing, "decoded_per_second": n / decoding})
    return rows


def timed(work) -> float:
    """CPU seconds."""
    start = time.process_time()
    work()
    return time.process_time() - start


class Faces:
    """Generated thumbnails, in any number."""

    def __init__(self, drawn: int = 4000):
        thumbs = np.stack([thumbnails(face)[0] for face in draw_faces(drawn)[0]])
        flat = thumbs.reshape(drawn, -1).astype(np.float32)
        self.mean = flat.mean(axis=0)
        self.own = flat - self.mean
        _, values, axes = np.linalg.svd(self.own, full_matrices=False)
        self.axes = (values[:400, None] / np.sqrt(drawn)).astype(np.float32) * axes[:400]

    def thumbs(self, n: int, seed: int) -> np.ndarray:
        """uint8 [n, 2, SIDE, SIDE]."""
        out = np.empty((n, 2, SIDE, SIDE), np.uint8)
        for start in range(0, n, 10_000):
            rng = np.random.default_rng([seed, start])
            some = out[start : start + 10_000]
            varied = rng.standard_normal((len(some), len(self.axes)), np.float32) @ self.axes
            face = self.mean + np.sqrt(0.5) * (self.own[rng.integers(0, len(self.own), len(some))] + varied)
            some[:, 0] = np.clip(face, 0, 255).reshape(-1, SIDE, SIDE)
            some[:, 1] = equalised(some[:, 0])
        return out


def equalised(thumbs: np.ndarray) -> np.ndarray:
    """CLAHE of thumbnails uint8 [n, SIDE, SIDE]."""
    clahe = cv2.createCLAHE(2.0, (8, 8))
    return np.stack([clahe.apply(thumb) for thumb in thumbs])


def planted(thumbs: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows that are made copies of others, in place: (copies [m], originals [m])."""
    m = round(COPIES * len(thumbs))
    rows = rng.choice(len(thumbs), 2 * m, replace=False)
    copies, originals = rows[:m], rows[m:]
    for k, (copy, original) in enumerate(zip(copies, originals, strict=True)):
        thumbs[copy, 0] = changed(thumbs[original, 0], KINDS[k % len(KINDS)], rng)
    thumbs[copies, 1] = equalised(thumbs[copies, 0])
    return copies, originals


def changed(thumb: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    if kind == "mirrored":
        return thumb[:, ::-1]
    if kind == "gamma":
        return (255 * (thumb / 255.0) ** rng.uniform(0.7, 1.4)).astype(np.uint8)
    if kind == "noisy":
        return np.clip(thumb + rng.normal(0, 4, thumb.shape), 0, 255).astype(np.uint8)
    side = rng.uniform(0.92, 1.0) * SIDE
    top, left = rng.uniform(0, SIDE - side, 2)
    matrix = np.float32([[side / SIDE, 0, left], [0, side / SIDE, top]])
    return cv2.warpAffine(thumb, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def search(faces: Faces, n: int, similarity: float) -> dict:
    """One row of the table: seconds of both steps, pairs, recall of what was planted."""
    thumbs = faces.thumbs(n, seed=n)
    copies, originals = planted(thumbs, np.random.default_rng(n))
    began, cpu = time.time(), time.process_time()
    pairs = candidates(thumbs)
    between = time.time()
    alignment = align(thumbs, pairs)
    ended = time.time()
    kept = alignment.similarity >= similarity
    found = set(zip(pairs.first[kept].tolist(), pairs.second[kept].tolist(), strict=True))
    wanted = list(zip(np.minimum(copies, originals).tolist(), np.maximum(copies, originals).tolist(), strict=True))
    recall = {kind: float(np.mean([pair in found for pair in wanted[k :: len(KINDS)]])) for k, kind in enumerate(KINDS)}
    return {
        "rows": n, "search_seconds": between - began, "align_seconds": ended - between,
        "total_seconds": ended - began, "cpu_seconds": time.process_time() - cpu, "candidates": len(pairs),
        "pairs": len(found), "planted": len(wanted), "recall": recall,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }  # fmt: skip


def table(result: dict) -> str:
    """Both Markdown tables."""
    lines = ["| face, pixels | hashed a second, one core | decoded a second, one core |", "|---|---|---|"]
    for r in result["hashing"]:
        lines.append(f"| {r['pixels']} RGB | **{r['hashes_per_second']:,.0f}** | {r['decoded_per_second']:,.0f} |")
    lines += [
        "",
        "| rows | neighbours, s | alignment, s | **total, s** | CPU s | candidates | recall of copies | peak memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in result["search"]:
        recall = ", ".join(f"{kind} {share:.4f}" for kind, share in r["recall"].items())
        lines.append(
            f"| {r['rows']:,} | {r['search_seconds']:.0f} | {r['align_seconds']:.0f} | **{r['total_seconds']:.0f}** "
            f"| {r['cpu_seconds']:.0f} | {r['candidates']:,} | {recall} | {r['peak_gib']:.1f} GiB |"
        )
    return "\n".join(lines)


def page(result: dict) -> str:
    """``audit_scale.md`` from ``audit_scale.json``."""
    return (
        "# What the audit for near-duplicates costs\n\n"
        "`python benchmarks/audit_scale.py --write` measures these tables and writes this page from "
        f"[audit_scale.json](audit_scale.json). Measured on {result['cores']} cores.\n\n"
        "Hashing counts a face that is decoded already: two 32 x 32 thumbnails and SHA-256 of its pixels. The search "
        "works on hashes: neighbours of every row in 26 versions (cropped, turned, mirrored, equalised), then each "
        "candidate pair laid over each other and compared. One row in a hundred is a planted copy.\n\n"
        + table(result)
        + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 466_284, 2_000_000])
    parser.add_argument("--write", action="store_true", help="write docs/results/audit_scale.{json,md}")
    options = parser.parse_args()
    faces, similarity = Faces(), AuditParams().similarity
    result = {"cores": os.cpu_count(), "similarity": similarity, "hashing": hash_rates(), "search": []}
    for n in options.rows:
        result["search"].append(search(faces, n, similarity))
        print(json.dumps(result["search"][-1]), flush=True)
    print(table(result))
    if options.write:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / "audit_scale.json").write_text(json.dumps(result, indent=1) + "\n")
        (RESULTS / "audit_scale.md").write_text(page(result))


if __name__ == "__main__":
    main()
