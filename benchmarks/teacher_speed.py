"""Images a second of a teacher's training loop beside a bare loop and timm's, and what an epoch costs beside its steps.

    python benchmarks/teacher_speed.py [--steps 40] [--rounds 7] [--faces 4000] [--threads 0] [--write]

*Bare*: forward, ArcFace loss, backward and AdamW on batches that lie in memory.  *Ours*: the phase as it runs in
notebook 04 (packs, augmentation by one thread, live figures and epochs into MLflow); no epoch here lasts
``checkpoint_minutes``, so what one checkpoint takes is measured and charged at that rate.
*timm*: its loader (one worker process, its standard augmentation of the same image files), its task and its optimiser.
The three take turns, an epoch each, in one process; a ratio is of neighbours, the median of the rounds.  An epoch's
overhead is what happens between its last step and the next one's first: evaluation, bundle, checkpoints, logging.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from _common import RESULTS, goal, publish

import fer_lib  # noqa: F401  (lets torchvision load beside a CPU build of torch)
from fer_lib.datasets.batches import Batch, train_batches
from fer_lib.datasets.build import build_manifest
from fer_lib.datasets.manifest import Manifest
from fer_lib.datasets.sources import import_all
from fer_lib.datasets.synthetic import write_raw
from fer_lib.models.classifier import build_classifier
from fer_lib.params import ManifestParams, SourceSpec, TeacherParams
from fer_lib.training import loop
from fer_lib.training.checkpoint import save_checkpoint
from fer_lib.training.data import open_data
from fer_lib.training.step import precision
from fer_lib.training.teacher import TeacherObjective, train_teacher

CASES = (
    ("resnet18", 48, 64), ("resnet18", 112, 32), ("resnet18", 224, 16), ("mobilenetv3_large_100", 96, 32),
    ("mobilenetv3_large_100", 224, 16),
)  # fmt: skip
WANTED = 0.97


def parameters(backbone: str, size: int, batch: int, a: argparse.Namespace) -> TeacherParams:
    return TeacherParams(
        name=f"{backbone}_{size}", backbone=backbone, image_size=size, batch_size=batch, epochs=a.rounds + 1,
        max_train_batches=a.steps, threads=a.threads, warmup_epochs=0.5, plain_epochs=0.3, ramp_end=0.6, onnx="none",
        device=a.device,
    )  # fmt: skip


def fitter(p: TeacherParams, data, device: torch.device):
    """A function that takes one step on a batch, as a loop without anything else would."""
    torch.manual_seed(0)
    config = dict(backbone=p.backbone, image_size=p.image_size, embed_dim=p.embed_dim, dropout=p.dropout,
                  head="cosine", s=p.arcface_s)  # fmt: skip
    model = build_classifier(config).to(device, memory_format=torch.channels_last).train()
    objective = TeacherObjective(p, data, device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=p.lr, weight_decay=p.weight_decay)

    def step(images: torch.Tensor, batch: Batch) -> None:
        optimiser.zero_grad(set_to_none=True)
        with as_ours(p, device):
            loss = objective.loss(model, images, batch, float(p.epochs)).mean()
        loss.backward()
        optimiser.step()

    return step


def as_ours(p: TeacherParams, device: torch.device):
    """The precision that our loop computes in."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision(p, device) == "bf16")


def bare(p: TeacherParams, data, device: torch.device, steps: int) -> Iterator[float]:
    """Images a second of ``steps`` steps on tensors in memory; a value each time it is asked."""
    step = fitter(p, data, device)
    batches = list(train_batches(data.train, data.sampler, p.augment, 0, 4, 0))
    images = [torch.from_numpy(b.images).to(device).contiguous(memory_format=torch.channels_last) for b in batches]
    while True:
        began = time.perf_counter()
        for i in range(steps):
            step(images[i % 4], batches[i % 4])
        if device.type == "cuda":
            torch.cuda.synchronize()
        yield steps * p.batch_size / (time.perf_counter() - began)


def by_timm(p: TeacherParams, raw: Path, device: torch.device, steps: int) -> Iterator[float]:
    """The same with timm's loader, task and optimiser."""
    import timm.data
    from timm.optim import create_optimizer_v2
    from timm.task import ClassificationTask

    config = dict(backbone=p.backbone, image_size=p.image_size, embed_dim=p.embed_dim, dropout=p.dropout, head="linear")
    model = build_classifier(config).to(device, memory_format=torch.channels_last).train()
    task = ClassificationTask(model, device=device, verbose=False)
    loader = timm.data.create_loader(
        timm.data.create_dataset("", root=str(raw / "train")), input_size=(3, p.image_size, p.image_size),
        batch_size=p.batch_size, is_training=True, num_workers=1, device=device, use_prefetcher=device.type == "cuda",
        scale=p.augment.scale, ratio=p.augment.ratio, color_jitter=0.2, persistent_workers=True,
    )  # fmt: skip
    optimiser = create_optimizer_v2(model, opt="adamw", lr=p.lr, weight_decay=p.weight_decay)
    stream = endless(loader)
    while True:
        began = time.perf_counter()
        for _ in range(steps):
            images, labels = next(stream)
            optimiser.zero_grad()
            images = images.to(device).contiguous(memory_format=torch.channels_last)
            with as_ours(p, device):
                loss = task(images, labels.to(device))["loss"]
            loss.backward()
            optimiser.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        yield steps * p.batch_size / (time.perf_counter() - began)


def endless(loader):
    while True:
        yield from loader


def timed_checkpoints(written: list[float]):
    """From now on the seconds that each checkpoint of our loop takes are added to ``written``."""

    def save(*args):
        began = time.perf_counter()
        save_checkpoint(*args)
        written.append(time.perf_counter() - began)

    loop.save_checkpoint = save


def taking_turns(events, others: dict[str, Iterator[float]], rounds: list[dict], written: list[float]):
    """The events of our loop; after each epoch the others have theirs, and the round is written down."""
    resumed = time.perf_counter()
    for event in events:
        arrived = time.perf_counter()
        yield event  # whoever follows logs it now
        if event["event"] != "epoch":
            continue
        timing, logged = event["timing"], time.perf_counter()
        found = {"ours": timing["images_per_sec"], "data_wait_share": timing["data_wait_share"]}
        found["overhead"] = arrived - resumed - timing["epoch_sec"] + logged - arrived
        found["checkpoint"] = written.pop()
        found["ours"] /= 1 + found["checkpoint"] / (60 * TeacherParams().checkpoint_minutes)
        rounds.append(found | {name: next(stream) for name, stream in others.items()})
        resumed = time.perf_counter()


def measure(backbone: str, size: int, batch: int, manifest: Manifest, raw: Path, folder: Path, a) -> dict:
    from fer_lib.devices import resolve_device
    from fer_lib.tracking import runs

    p = parameters(backbone, size, batch, a).model_copy(update={"manifest": str(folder / "manifest")})
    device, rounds, written = resolve_device(p.device), [], []
    timed_checkpoints(written)
    if p.threads:
        torch.set_num_threads(p.threads)
    data = open_data(manifest, p, folder / "cache")
    others = {"bare": bare(p, data, device, a.steps), "timm": by_timm(p, raw, device, a.steps)}
    run = runs.phase_run(p, "teacher")
    events = train_teacher(p, manifest, run.output_dir, folder / "cache", run_id=run.run_id)
    run.follow(taking_turns(events, others, rounds, written), echo=False)
    run.close("FINISHED")
    counted = rounds[1:]  # the first warms everything up
    middle = {k: statistics.median(r[k] for r in counted) for k in counted[0]}
    ratios = {k: statistics.median(r["ours"] / r[k] for r in counted) for k in others}
    row = {"backbone": backbone, "pixels": size, "batch": batch, **middle, "ratio_bare": ratios["bare"],
           "ratio_timm": ratios["timm"], "rounds": counted, "threads": torch.get_num_threads(),
           "precision": precision(p, device)}  # fmt: skip
    print(line(row), flush=True)
    return row


def line(r: dict) -> str:
    return (
        f"| {r['backbone']} | {r['pixels']} | {r['batch']} | {r['bare']:,.1f} | **{r['ours']:,.1f}** | "
        f"{r['timm']:,.1f} | **{r['ratio_bare']:.3f}** | {r['ratio_timm']:.2f} | {r['data_wait_share']:.1%} | "
        f"{r['checkpoint']:.2f} s | {r['overhead']:.2f} s |"
    )


def page(result: dict) -> str:
    """The page."""
    lines = [
        "# Speed of a teacher's training loop",
        "",
        "`python benchmarks/teacher_speed.py --write` measures this table and writes this page from "
        f"[teacher_speed.json](teacher_speed.json). Measured on {result['device']}.",
        "",
        *[f"- {g['text']}" for g in result["goals"]],
        "",
        "Images a second of forward, backward and step: *bare* on tensors in memory; *ours* with faces read, augmented "
        "and logged, and the checkpoint that is due every 10 minutes charged at the seconds that one took; *timm* with "
        f"its own loader and task on the same image files. The three take turns, {result['steps']} steps each, "
        f"{result['rounds']} times; ratios are medians of neighbours. An epoch's overhead is evaluation on val (here "
        f"{result['val_rows']} faces), the best bundle, the checkpoint and logging: it does not grow with the training "
        "set.",
        "",
        "| backbone | pixels | batch | bare | **ours** | timm | **ours / bare** | ours / timm | waiting for data | "
        "a checkpoint | overhead an epoch |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        *[line(r) for r in result["rows"]],
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--faces", type=int, default=4000)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}/teacher_speed.json and its page")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="teacher-speed-") as work:
        folder = Path(work)
        for name in ("params", "notebooks"):
            os.symlink(RESULTS.parents[1] / name, folder / name)
        os.environ["FER_HOME"] = work
        raw = write_raw(folder / "raw", "tree", faces=a.faces, seed=3, size=112)
        import_all([SourceSpec(source="tree", root=str(raw))], folder / "imports")
        manifest = build_manifest(ManifestParams(), folder / "imports", folder / "manifest")
        rows = [measure(*case, manifest, raw, folder, a) for case in CASES]
    from fer_lib.devices import describe_device

    facts = describe_device(a.device)
    device = f"{facts['name']}, {rows[0]['threads']} threads, {rows[0]['precision']}"
    result = {
        "device": device, "steps": a.steps, "rounds": a.rounds, "rows": rows,
        "val_rows": len(manifest.rows(split="val")),
        "goals": [goal(f"ours / bare, {r['backbone']} at {r['pixels']}", r["ratio_bare"], WANTED, ".3f") for r in rows],
    }  # fmt: skip
    print(page(result))
    if a.write:
        publish("teacher_speed", json.loads(json.dumps(result)), page(result))


if __name__ == "__main__":
    main()
