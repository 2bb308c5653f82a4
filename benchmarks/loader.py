"""Augmented faces a second on one core: the usual chain beside the two kinds of face pack, in one run.

    python benchmarks/loader.py [--data EXPW_ROOT] [--faces 600] [--seconds 3] [--folder DIR] [--write]

Two sets: photos with boxes (drawn, or a real ExpW tree with ``--data``) and 48-pixel grey faces without boxes.  The
usual chain does the face contract's steps as such projects do them, one face after another: PIL (decode, crop to the
box, resize to R), CLAHE on the L of LAB, torchvision v1 transforms.  The packs go through ``train_batches``.  Cases
take turns for several rounds on one core, with all files in the page cache; each is given by its medians in faces a
second of the clock and of processor time (which a busy machine moves less).  Then one pass over each pack with its
files dropped from the cache.  Batches of all packs and of 0, 1, 2 and 4 workers are compared bit by bit.  Where there
is a CUDA card, ResNet-18 at 224 pixels is trained on tensors already there and on what the loader brings.  Goals stand
beside the figures.  ``--write`` puts ``docs/results/loader.json`` and its page beside the other results.
"""

import argparse
import hashlib
import itertools
import os
import platform
import statistics
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
from _common import bytes_from_disk, cold_reading, drop_from_cache, goal, one_core, publish
from _loader_gpu import on_a_gpu
from _loader_gpu import table as gpu_table
from _usual_chain import usual_chain

import fer_lib  # noqa: F401  (lets torchvision load beside a CPU build of torch)
from fer_lib.datasets.batches import Sampler, train_batches
from fer_lib.datasets.build import build_manifest
from fer_lib.datasets.facepack import FacePack, open_or_build
from fer_lib.datasets.facepack_writer import checksum
from fer_lib.datasets.manifest import Manifest
from fer_lib.emotions import EMOTIONS
from fer_lib.faces.contract import FaceContract
from fer_lib.importers import import_all
from fer_lib.params import AugmentParams, ManifestParams, SourceSpec
from fer_lib.synthetic.dataset import draw_faces, write_raw

KINDS = ("faces", "none")
AUGMENT, SEED, BATCH, ROUNDS = AugmentParams(), 1337, 64, 3
PLANNED = 466_284  # rows of the largest manifest planned for (SPEC 3)
PHOTOS = "photos with boxes"
WANTED_RATE, WANTED_RATIO, WANTED_SHARE = 2500, 10, 0.9


def photos(folder: Path, faces: int, data: str) -> Manifest:
    """Train rows with boxes: of a real ExpW tree, or of drawn photos with faces of 112 pixels, ExpW's median."""
    root = Path(data) if data else write_raw(folder / "raw", "expw", faces=faces, seed=3, size=112)
    return imported(folder, SourceSpec(source="expw_full", root=str(root)))


def grey_faces(folder: Path, faces: int) -> Manifest:
    """Train rows of drawn 48-pixel grey JPEG files, as FER2013 comes."""
    import cv2

    images, labels = draw_faces(faces, seed=3, size=48)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / "raw" / ("test" if i % 10 == 0 else "train") / EMOTIONS[label] / f"{i:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    return imported(folder, SourceSpec(source="tree", root=str(folder / "raw")))


def imported(folder: Path, source: SourceSpec) -> Manifest:
    import_all([source], folder / "imports")
    return build_manifest(ManifestParams(), folder / "imports", folder / "manifest").rows(split="train")


def loaded(pack: FacePack, workers: int = 0):
    """Endless batches float32 [BATCH, 3, S, S] of the loader."""
    sampler = Sampler(pack.manifest.labels, min(BATCH, len(pack.manifest)), False, SEED)
    for batch in train_batches(pack, sampler, AUGMENT, 0, 10**9, workers):
        yield batch.images


def rate(stream, seconds: float) -> dict[str, float]:
    """Faces a second of processor time and of the clock."""
    next(stream)
    faces, clock, processor = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - clock < seconds:
        faces += len(next(stream))
    return {"cpu": faces / (time.process_time() - processor), "wall": faces / (time.perf_counter() - clock)}


def digest(pack: FacePack, workers: int) -> str:
    """Hash of the first batches, bit by bit."""
    found = hashlib.sha256()
    for images in itertools.islice(loaded(pack, workers), 6):
        found.update(np.ascontiguousarray(images).tobytes())
    return found.hexdigest()


def measure(name: str, manifest: Manifest, folder: Path, size: int, seconds: float) -> dict:
    """One set's tables: rates, ratio to the usual chain, bytes on disk a face, faces packed a second; cold passes."""
    rows = []
    for clahe in (True, False):
        contract, packs, made = FaceContract(image_size=size, clahe=clahe), {}, {}
        for kind in KINDS:
            started = time.perf_counter()
            packs[kind] = open_or_build(manifest, contract, folder / f"cache-{kind}-{clahe}", kind=kind)
            made[kind] = len(manifest) / (time.perf_counter() - started)
        hashes = {digest(packs[kind], workers) for kind in KINDS for workers in (0, 1, 2, 4)}
        if len(hashes) != 1:
            raise SystemExit("batches differ between packs or numbers of workers: nothing here can be trusted")
        streams = {"usual chain": usual_chain(manifest, size, clahe, AUGMENT, SEED)} | {
            k: loaded(p) for k, p in packs.items()
        }
        with one_core():
            rounds = [{k: rate(stream, seconds) for k, stream in streams.items()} for _ in range(ROUNDS)]
        middle = {k: {c: statistics.median(r[k][c] for r in rounds) for c in ("cpu", "wall")} for k in streams}
        for kind, found in middle.items():
            stored = sum(f.stat().st_size for f in folder.glob(f"cache-{kind}-{clahe}/pack-*/faces.u8"))
            rows.append(
                {
                    "set": name, "clahe": clahe, "case": kind, "faces_per_second": found["wall"],
                    "faces_per_cpu_second": found["cpu"], "ratio": found["wall"] / middle["usual chain"]["wall"],
                    "bytes_per_face": stored / len(manifest), "packed_per_second": made.get(kind),
                }
            )  # fmt: skip
            print(line(rows[-1]), flush=True)
    workers = {n: rate(loaded(packs["faces"], n), seconds)["wall"] for n in (0, 1, 2, 4)}
    sums = checksums(packs["faces"])
    del packs, streams  # and with them the mappings, which would keep the files in the cache
    warm = {r["case"]: r["faces_per_second"] for r in rows if not r["clahe"]}
    cold = [cold_pass(manifest, contract, folder, kind, warm[kind]) for kind in KINDS]
    return {"name": name, "faces": len(manifest), "rows": rows, "workers": workers, "cold": cold, "checksums": sums}


def cold_pass(manifest: Manifest, contract: FaceContract, folder: Path, kind: str, warm: float) -> dict:
    """One pass over the faces on one core after their files were dropped from the page cache, the median of rounds."""
    cache, found = folder / f"cache-{kind}-{contract.clahe}", []
    pictures = [manifest.resolve(path) for path in manifest.frame["image_path"].unique()]
    files = pictures if kind == "none" else list(cache.glob("pack-*/faces.u8"))
    size = sum(f.stat().st_size for f in files)
    for _ in range(ROUNDS):
        pages, before = drop_from_cache(files), bytes_from_disk()
        started = time.perf_counter()
        with one_core():
            pack = open_or_build(manifest, contract, cache, kind=kind)
            faces = sum(map(len, itertools.islice(loaded(pack), max(1, len(manifest) // BATCH))))
        found.append((faces / (time.perf_counter() - started), cold_reading(before, pages)))
        del pack
    cold, about = sorted(found, key=lambda pair: pair[0])[ROUNDS // 2]
    needed = warm * size / len(manifest) / 1e6
    return {"case": kind, "warm": warm, "cold": cold, "bytes": size, "needed_mb_per_second": needed} | about


def checksums(pack: FacePack) -> dict[str, float]:
    """GB a second of processor time: the pack's checksum of a face, and CRC-32 of all its bytes."""
    face = np.ascontiguousarray(pack.faces.compact(0)).reshape(-1)
    found = {}
    for name, work in (("checksum", checksum), ("crc32", zlib.crc32)):
        times = []
        for _ in range(5):
            started = time.process_time()
            for _ in range(2000):
                work(face)
            times.append(time.process_time() - started)
        found[name] = 2000 * face.size / min(times) / 1e9
    return found


def goals(sets: list[dict], gpu: list[dict]) -> list[dict]:
    """The goals beside what was found, each by its worst case."""
    packed = [r for s in sets for r in s["rows"] if r["case"] == "faces"]
    out = [
        goal("augmented faces a second of the clock on one core from `pack: faces`",
             min(r["faces_per_second"] for r in packed), WANTED_RATE),
        goal("times the usual chain on photos with boxes, `pack: faces`",
             min(r["ratio"] for r in packed if r["set"] == PHOTOS), WANTED_RATIO, ".1f"),
    ]  # fmt: skip
    for precision in dict.fromkeys(g["precision"] for g in gpu):
        best = max(g["share"] for g in gpu if g["precision"] == precision)
        out.append(
            goal(f"ResNet-18 {precision}: share of its rate on tensors already there", best, WANTED_SHARE, ".0%")
        )
    return out


HEADER = (
    "| set | CLAHE | faces from | faces a second, one core, of the clock | of processor time | times the usual chain "
    "| bytes a face on disk | packed a second |\n|---|---|---|---|---|---|---|---|"
)


def line(r: dict) -> str:
    packed = f"{r['packed_per_second']:,.0f}" if r["packed_per_second"] else ""
    case = r["case"] if r["case"] == "usual chain" else f"`pack: {r['case']}`"
    return (
        f"| {r['set']} | {'yes' if r['clahe'] else 'no'} | {case} | **{r['faces_per_second']:,.0f}** "
        f"| {r['faces_per_cpu_second']:,.0f} | {r['ratio']:.1f} | {r['bytes_per_face']:,.0f} | {packed} |"
    )


def cold_table(sets: list[dict]) -> str:
    lines = [
        "| set | faces from | in the page cache | dropped from it | what came from the disk | random reading needed |",
        "|---|---|---|---|---|---|",
    ]
    for s in sets:
        for c in s["cold"]:
            lines.append(
                f"| {s['name']} | `pack: {c['case']}` | {c['warm']:,.0f}/s | {c['cold']:,.0f}/s "
                f"| {c['bytes'] / 1e6:,.0f} MB, {c['words']} | {c['needed_mb_per_second']:,.0f} MB/s |"
            )
    return "\n".join(lines)


def page(result: dict) -> str:
    """``loader.md`` from ``loader.json``."""
    sets, side = result["sets"], FaceContract(image_size=result["image_size"]).resize
    workers = "\n".join(
        f"- {s['name']}: " + ", ".join(f"{n} {v:,.0f}/s" for n, v in s["workers"].items()) for s in sets
    )
    sums = "; ".join(
        f"{s['name']} {s['checksums']['checksum']:.1f} GB/s (CRC-32 of all bytes {s['checksums']['crc32']:.1f})"
        for s in sets
    )
    tables = "\n".join(line(r) for s in sets for r in s["rows"])
    text = (
        "# How fast does the loader make augmented faces?\n\n"
        "`python benchmarks/loader.py --write` measures this and writes this page from [loader.json](loader.json).\n\n"
        + "\n".join(f"- {g['text']}" for g in result["goals"])
        + f"\n\n{result['image_size']}-pixel float32 faces, normalised, with the default augmentation (crop, flip, "
        f"jitter), on one core ({result['machine']}), files in the page cache; packs hold faces at {side} pixels.  The "
        f"cases took turns in one run, the median of {ROUNDS} rounds of {result['seconds']:g} s is given.  Photos: "
        f"{result['photos']}.\n\n{HEADER}\n{tables}\n\n"
        "The two kinds of pack gave the same batches bit by bit, and so did 0, 1, 2 and 4 workers.\n\n"
        f"`pack: faces` of {PLANNED:,} colour faces takes {PLANNED * side**2 * 3 / 1e9:.0f} GB, of grey ones "
        f"{PLANNED * side**2 / 1e9:.0f} GB.\n\n"
        "Faces a second of the clock on one core without CLAHE, with the files (of `pack: none` the pictures) in the "
        "page cache, and in one shuffled pass after they were dropped from it, opening included.  The last column is "
        f"what a disk must read at random places to keep the first rate.\n\n{cold_table(sets)}\n\n"
        f"Every face is compared with its checksum when it is read: {sums}, of processor time.\n\n"
        f"By the clock on {result['cores']} cores, `pack: faces` without CLAHE, by number of workers:\n\n{workers}\n"
    )
    return text + ("\n" + gpu_table(result["gpu"], result["gpu_name"], BATCH) if result["gpu"] else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="a real ExpW tree (label.lst and origin/) for the photos")
    parser.add_argument("--faces", type=int, default=600, help="drawn faces a set")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each case in each round")
    parser.add_argument("--folder", default=None, help="where files are put; blank: the system's temporary folder")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    import torch

    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        folder = Path(temporary)
        (folder / "photos").mkdir()
        sets = {
            PHOTOS: photos(folder / "photos", args.faces, args.data),
            "48-pixel grey faces": grey_faces(folder / "grey", args.faces),
        }
        print(HEADER, flush=True)
        result = {
            "image_size": args.image_size, "seconds": args.seconds, "cores": os.cpu_count(),
            "machine": platform.machine(), "photos": "an ExpW tree" if args.data else "drawn",
            "sets": [measure(n, m, folder / f"packs-{n}", args.image_size, args.seconds) for n, m in sets.items()],
            "gpu": [], "gpu_name": "",
        }  # fmt: skip
        if torch.cuda.is_available():
            pack = open_or_build(sets[PHOTOS], FaceContract(), folder / "gpu")
            found = on_a_gpu(lambda workers: loaded(pack, workers), 224, BATCH, args.seconds)
            result |= {"gpu": found, "gpu_name": torch.cuda.get_device_name()}
    result["goals"] = goals(result["sets"], result["gpu"])
    text = page(result)
    print("\n" + text)
    if args.write:
        publish("loader", result, text)


if __name__ == "__main__":
    main()
