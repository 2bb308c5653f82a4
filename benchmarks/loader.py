"""Augmented faces a second on one core: the usual chain beside the three kinds of face pack, in one run.

    python benchmarks/loader.py [--data EXPW_ROOT] [--faces 600] [--seconds 3] [--write]

Two sets: photos with boxes (drawn, or a real ExpW tree with ``--data``) and 48-pixel grey faces without boxes.  The
usual chain does the face contract's steps as such projects do them, one face after another: PIL (decode, crop to the
box, resize to R), CLAHE on the L of LAB, torchvision v1 transforms.  The packs go through ``train_batches``.  Cases
take turns for several rounds on one core; each is given by its median in faces per second of processor time, so that a
busy machine moves them little.  Batches of all packs and of 0, 1, 2 and 4 workers are compared bit by bit.  Where there
is a CUDA card, ResNet-18 at 224 pixels is trained on tensors already there and on what the loader brings.  ``--write``
puts ``docs/results/loader.json`` and its page beside the other results.
"""

import argparse
import hashlib
import itertools
import json
import os
import platform
import statistics
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import fer_lib  # noqa: F401  (lets torchvision load beside a CPU build of torch)
from fer_lib.datasets.batches import Sampler, train_batches
from fer_lib.datasets.build import build_manifest
from fer_lib.datasets.facepack import FacePack, open_or_build
from fer_lib.datasets.manifest import BOX, Manifest
from fer_lib.datasets.sources import import_all
from fer_lib.datasets.synthetic import draw_faces, write_raw
from fer_lib.emotions import EMOTIONS
from fer_lib.faces.contract import FaceContract
from fer_lib.params import AugmentParams, ManifestParams, SourceSpec

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
KINDS = ("faces", "native", "none")
AUGMENT, SEED, BATCH, ROUNDS = AugmentParams(), 1337, 64, 3
PLANNED = 466_284  # rows of the largest manifest planned for (SPEC 3)


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


def usual_chain(manifest: Manifest, size: int, clahe: bool):
    """Endless faces float32 [3, size, size], shuffled anew each time round, as such projects make them."""
    import cv2
    from PIL import Image
    from torchvision import transforms

    p, side = AUGMENT, FaceContract(image_size=size).resize
    chain = transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=p.scale, ratio=p.ratio),
            transforms.RandomHorizontalFlip(p.flip),
            transforms.ColorJitter(*p.jitter),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    equaliser = cv2.createCLAHE(2.0, (8, 8))
    rows = manifest.frame.to_dict("records")
    rng = np.random.default_rng(SEED)
    while True:
        for i in rng.permutation(len(rows)):
            with Image.open(manifest.resolve(rows[i]["image_path"])) as file:
                image = file.convert("RGB")
            top, left, bottom, right = (rows[i].get(side, np.nan) for side in BOX)
            if not np.isnan(top):
                image = image.crop((left, top, right, bottom))
            image = image.resize((side, side), Image.Resampling.BICUBIC)
            if clahe:
                lab = cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2LAB)
                lab[..., 0] = equaliser.apply(np.ascontiguousarray(lab[..., 0]))
                image = Image.fromarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB))
            yield chain(image)[None]


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


@contextmanager
def one_core():
    """This process and its threads on one core, where the system can do that."""
    import torch

    threads, cores = torch.get_num_threads(), getattr(os, "sched_getaffinity", lambda _: None)(0)
    torch.set_num_threads(1)
    if cores:
        os.sched_setaffinity(0, {max(cores)})
    yield
    if cores:
        os.sched_setaffinity(0, cores)
    torch.set_num_threads(threads)


def digest(pack: FacePack, workers: int) -> str:
    """Hash of the first batches, bit by bit."""
    found = hashlib.sha256()
    for images in itertools.islice(loaded(pack, workers), 6):
        found.update(np.ascontiguousarray(images).tobytes())
    return found.hexdigest()


def measure(name: str, manifest: Manifest, folder: Path, size: int, seconds: float) -> dict:
    """One set's table: rate, ratio to the usual chain, bytes on disk a face, seconds to make the pack."""
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
        streams = {"usual chain": usual_chain(manifest, size, clahe)} | {k: loaded(p) for k, p in packs.items()}
        with one_core():
            rounds = [{k: rate(stream, seconds) for k, stream in streams.items()} for _ in range(ROUNDS)]
        middle = {k: {c: statistics.median(r[k][c] for r in rounds) for c in ("cpu", "wall")} for k in streams}
        for kind, found in middle.items():
            stored = sum(f.stat().st_size for f in folder.glob(f"cache-{kind}-{clahe}/pack-*/faces.u8"))
            rows.append(
                {
                    "set": name, "clahe": clahe, "case": kind, "faces_per_cpu_second": found["cpu"],
                    "faces_per_second": found["wall"], "ratio": found["cpu"] / middle["usual chain"]["cpu"],
                    "bytes_per_face": stored / len(manifest), "packed_per_second": made.get(kind),
                }
            )  # fmt: skip
            print(line(rows[-1]), flush=True)
    workers = {n: rate(loaded(packs["faces"], n), seconds)["wall"] for n in (0, 1, 2, 4)}
    print(
        f"  pack faces on {os.cpu_count()} cores, workers: " + ", ".join(f"{n}: {v:,.0f}/s" for n, v in workers.items())
    )
    return {"name": name, "faces": len(manifest), "rows": rows, "workers": workers}


def on_a_gpu(pack: FacePack, seconds: float) -> list[dict]:
    """ResNet-18, forward and backward, on tensors that are there and on the loader's: images a second and the share."""
    import timm
    import torch

    found = []
    for precision in (torch.float32, torch.bfloat16):
        model = timm.create_model("resnet18", num_classes=7).cuda().to(memory_format=torch.channels_last)
        optimiser = torch.optim.AdamW(model.parameters())
        y = torch.randint(0, 7, (BATCH,), device="cuda")

        def step(images, model=model, optimiser=optimiser, y=y, precision=precision):
            with torch.autocast("cuda", torch.bfloat16, enabled=precision is torch.bfloat16):
                loss = torch.nn.functional.cross_entropy(model(images), y[: len(images)])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()

        def steps(stream, step=step):
            for images in stream:
                step(torch.from_numpy(images).cuda() if isinstance(images, np.ndarray) else images)
                torch.cuda.synchronize()
                yield images

        there = torch.randn(BATCH, 3, 224, 224, device="cuda").to(memory_format=torch.channels_last)
        for stream in (itertools.repeat(there, 30), itertools.islice(loaded(pack, 4), 10)):
            list(steps(stream))
        resident = rate(steps(itertools.repeat(there)), seconds)["wall"]
        for workers in (1, 4, os.cpu_count()):
            fed = rate(steps(loaded(pack, workers)), seconds)["wall"]
            name = str(precision).removeprefix("torch.")
            found.append(
                {"precision": name, "workers": workers, "resident": resident, "fed": fed, "share": fed / resident}
            )
            print(
                f"  ResNet-18 {name}, workers {workers}: {fed:,.0f} of {resident:,.0f} images/s, {fed / resident:.0%}"
            )
    return found


HEADER = (
    "| set | CLAHE | faces from | faces a second of one core | of the clock | times the usual chain "
    "| bytes a face on disk | packed a second |\n|---|---|---|---|---|---|---|---|"
)


def line(r: dict) -> str:
    packed = f"{r['packed_per_second']:,.0f}" if r["packed_per_second"] else ""
    case = r["case"] if r["case"] == "usual chain" else f"`pack: {r['case']}`"
    return (
        f"| {r['set']} | {'yes' if r['clahe'] else 'no'} | {case} | **{r['faces_per_cpu_second']:,.0f}** "
        f"| {r['faces_per_second']:,.0f} | {r['ratio']:.1f} | {r['bytes_per_face']:,.0f} | {packed} |"
    )


def page(result: dict) -> str:
    """``loader.md`` from ``loader.json``."""
    tables = "\n".join(line(r) for s in result["sets"] for r in s["rows"])
    workers = "\n".join(
        f"- {s['name']}: " + ", ".join(f"{n} {v:,.0f}/s" for n, v in s["workers"].items()) for s in result["sets"]
    )
    side = FaceContract(image_size=result["image_size"]).resize
    text = (
        "# How fast does the loader make augmented faces?\n\n"
        "`python benchmarks/loader.py --write` measures this and writes this page from [loader.json](loader.json).\n\n"
        f"{result['image_size']}-pixel float32 faces, normalised, with the default augmentation (crop, flip, jitter), "
        f"on one core ({result['machine']}); packs hold faces at {side} pixels.  The cases took turns in one run, the "
        f"median of {ROUNDS} rounds of {result['seconds']:g} s is given.  Photos: {result['photos']}.\n\n"
        f"{HEADER}\n{tables}\n\n"
        "The three kinds of pack gave the same batches bit by bit, and so did 0, 1, 2 and 4 workers.\n\n"
        f"`pack: faces` of {PLANNED:,} colour faces takes {PLANNED * side**2 * 3 / 1e9:.0f} GB, of grey ones "
        f"{PLANNED * side**2 / 1e9:.0f} GB.\n\n"
        f"By the clock on {result['cores']} cores, `pack: faces` without CLAHE, by number of workers:\n\n{workers}\n"
    )
    if result["gpu"]:
        text += f"\nResNet-18 at 224 pixels on {result['gpu_name']}, batch {BATCH}, forward, backward and step:\n\n"
        text += "| precision | workers | tensors already there | fed by the loader | share |\n|---|---|---|---|---|\n"
        text += "".join(
            f"| {g['precision']} | {g['workers']} | {g['resident']:,.0f}/s | {g['fed']:,.0f}/s "
            f"| **{g['share']:.0%}** |\n"
            for g in result["gpu"]
        )
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="a real ExpW tree (label.lst and origin/) for the photos")
    parser.add_argument("--faces", type=int, default=600, help="drawn faces a set")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each case in each round")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    import torch

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "photos").mkdir()
        sets = {
            "photos with boxes": photos(folder / "photos", args.faces, args.data),
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
            pack = open_or_build(sets["photos with boxes"], FaceContract(), folder / "gpu")
            result |= {"gpu": on_a_gpu(pack, args.seconds), "gpu_name": torch.cuda.get_device_name()}
    if args.write:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / "loader.json").write_text(json.dumps(result, indent=1) + "\n")
        (RESULTS / "loader.md").write_text(page(result))


if __name__ == "__main__":
    main()
