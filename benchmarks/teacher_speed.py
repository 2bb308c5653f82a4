"""Images a second of a teacher's training loop beside a bare loop and timm's, and what an epoch costs beside its steps.

    python benchmarks/teacher_speed.py [--chunk 10] [--rounds 5] [--share 1] [--faces 4000] [--threads 0] [--write]

*Bare*: forward, ArcFace loss, backward and AdamW, as torch gives it, on batches that lie in memory; *bare, fused*: the
same with the fused AdamW that our loop takes.  *Ours*: the phase as it runs in notebook 04 (packs, augmentation,
progress and figures into MLflow).  What comes seldom is measured and charged
at its rate, for the turns here would not meet it or meet it too often: a checkpoint every ``checkpoint_minutes``, a
call to MLflow with live figures every 30 s and one for each epoch of FER2013 (28,709 pictures).
*timm*: its loader (one worker process, its standard augmentation of the same image files), its task and its optimiser.
The four take turns of some steps in one process; a ratio is of neighbours, the median of the turns, with the 95 %
interval of that median when turns are drawn again.  An epoch's overhead is what happens between its last step and the
next one's first: evaluation, bundle, checkpoints, logging.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _common import RESULTS, goal, publish

import fer_lib  # noqa: F401  (lets torchvision load beside a CPU build of torch)
from fer_lib.datasets.batches import Batch, train_batches
from fer_lib.datasets.build import build_manifest
from fer_lib.datasets.manifest import Manifest
from fer_lib.importers import import_all
from fer_lib.models.classifier import build_classifier
from fer_lib.params import ManifestParams, SourceSpec, TeacherParams
from fer_lib.synthetic.dataset import write_raw
from fer_lib.tracking.event_logger import LIVE_SECONDS
from fer_lib.training import loop
from fer_lib.training.checkpoint import save_checkpoint
from fer_lib.training.fit_inputs import open_data
from fer_lib.training.step import precision
from fer_lib.training.teacher import TeacherObjective, train_teacher

CASES = (  # backbone, pixels, batch, steps an epoch: more of the short ones, about as long in all
    ("resnet18", 48, 64, 80), ("resnet18", 112, 32, 60), ("resnet18", 224, 16, 40),
    ("mobilenetv3_large_100", 96, 32, 80), ("mobilenetv3_large_100", 224, 16, 60),
)  # fmt: skip
WANTED = 0.97
FER2013 = 28_709  # training pictures, an epoch of which ends in a call to MLflow
PAUSE = 0.5  # seconds in which timm's worker, which goes on for two batches after its turn, comes to rest


def parameters(backbone: str, size: int, batch: int, steps: int, a: argparse.Namespace) -> TeacherParams:
    return TeacherParams(
        name=f"{backbone}_{size}", backbone=backbone, image_size=size, batch_size=batch, epochs=a.rounds + 1,
        max_train_batches=steps, threads=a.threads, warmup_epochs=0.5, plain_epochs=0.3, ramp_end=0.6, onnx="none",
        device=a.device, workers="auto" if a.device == "cuda" else 0,  # no batch is made in the others' turns
    )  # fmt: skip


def fitter(p: TeacherParams, data, device: torch.device, fused: bool):
    """A function that takes one step on a batch, as a loop without anything else would."""
    torch.manual_seed(0)
    config = dict(backbone=p.backbone, image_size=p.image_size, embed_dim=p.embed_dim, dropout=p.dropout,
                  head="cosine", s=p.arcface_s)  # fmt: skip
    model = build_classifier(config).to(device, memory_format=torch.channels_last).train()
    objective = TeacherObjective(p, data, device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=p.lr, weight_decay=p.weight_decay, fused=fused or None)

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


def bare(p: TeacherParams, data, device: torch.device, fused: bool = False) -> Callable[[int], None]:
    """A function that takes so many steps on tensors in memory."""
    step = fitter(p, data, device, fused)
    batches = list(train_batches(data.train, data.sampler, p.augment, 0, 4, 0))
    images = [torch.from_numpy(b.images).to(device).contiguous(memory_format=torch.channels_last) for b in batches]

    def run(steps: int) -> None:
        for i in range(steps):
            step(images[i % 4], batches[i % 4])

    return run


def by_timm(p: TeacherParams, raw: Path, device: torch.device) -> Callable[[int], None]:
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

    def run(steps: int) -> None:
        for _, (images, labels) in zip(range(steps), stream, strict=False):
            optimiser.zero_grad()
            images = images.to(device).contiguous(memory_format=torch.channels_last)
            with as_ours(p, device):
                loss = task(images, labels.to(device))["loss"]
            loss.backward()
            optimiser.step()

    return run


def endless(loader):
    while True:
        yield from loader


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(work: Callable, seconds: list[float]) -> Callable:
    """``work``, which adds the seconds that each call takes to ``seconds``."""

    def measured(*args, **named):
        began = time.perf_counter()
        work(*args, **named)
        seconds.append(time.perf_counter() - began)

    return measured


def taking_turns(events, others: dict[str, Callable], chunk: int, p: TeacherParams, device: torch.device, found: dict):
    """The events of our loop, of its ``step`` events every ``chunk``-th; then the others take as many steps.

    ``found["turns"]``: images a second of all, a dict a turn; ``found["epochs"]``: seconds beside the steps, and the
    share of waiting for data.
    """
    began, first = now(device), 0
    away = beside = 0.0  # of this epoch: seconds in which the others ran; seconds since its last turn
    for event in events:
        beside += now(device) - began
        if event["event"] == "step" and event["step"] - first < chunk:
            began = now(device)
            continue
        logged = now(device)
        yield event  # whoever follows logs it now
        beside += now(device) - logged
        if event["event"] == "step":
            turn = {"ours": chunk * p.batch_size / beside}
            for name, run in others.items():
                started = now(device)
                run(chunk)
                turn[name] = chunk * p.batch_size / (now(device) - started)
                away += now(device) - started
            time.sleep(PAUSE)
            away += PAUSE
            found["turns"].append(turn)
            first, beside = event["step"], 0.0
        elif event["event"] == "epoch":
            waited = event["timing"]["data_wait_share"] * event["timing"]["epoch_sec"]
            share = waited / (event["timing"]["epoch_sec"] - away)
            found["epochs"].append({"overhead": beside, "data_wait_share": share})
            away = beside = 0.0
        began = now(device)


def measure(case: tuple, manifest: Manifest, raw: Path, folder: Path, a: argparse.Namespace) -> dict:
    from fer_lib.devices import resolve_device
    from fer_lib.pipeline import standalone

    p = parameters(*case, a).model_copy(update={"manifest": str(folder / "manifest")})
    device, written, logged, found = resolve_device(p.device), [], [], {"turns": [], "epochs": []}
    loop.save_checkpoint = timed(save_checkpoint, written)
    loop.TELL_EVERY = 0.0  # every step is told here, and those that end a turn are passed on
    if p.threads:
        torch.set_num_threads(p.threads)
    data = open_data(manifest, p, folder / "cache")
    others = {
        "bare": bare(p, data, device), "bare_fused": bare(p, data, device, fused=True),
        "timm": by_timm(p, raw, device),
    }  # fmt: skip
    # batches are prepared ahead for a GPU: a short turn would have a start
    chunk = p.max_train_batches if device.type == "cuda" else a.chunk
    run = standalone.phase_run("teacher", p.model_dump())
    run.metrics = timed(run.metrics, logged)
    events = train_teacher(p, manifest, run.output_dir, folder / "cache", run_id=run.run_id)
    run.follow(taking_turns(events, others, chunk, p, device, found), echo=False)
    run.close("FINISHED")
    # the first epoch warms everything up
    turns, epochs = found["turns"][p.max_train_batches // chunk :], found["epochs"][1:]
    checkpoint, call = statistics.median(written), statistics.median(logged)
    seldom = checkpoint / (60 * TeacherParams().checkpoint_minutes) + call / LIVE_SECONDS
    for turn in turns:
        turn["ours"] /= 1 + seldom + call * turn["ours"] / FER2013
    middle = {k: statistics.median(t[k] for t in some) for some in (turns, epochs) for k in some[0]}
    ratios = {k: [t["ours"] / t[k] for t in turns] for k in others}
    row = {"backbone": p.backbone, "pixels": p.image_size, "batch": p.batch_size, **middle,
           "checkpoint": checkpoint, "log_call": call,
           **{f"ratio_{k}": statistics.median(values) for k, values in ratios.items()},
           **{f"interval_{k}": interval(values) for k, values in ratios.items()}, "turns": turns,
           "threads": torch.get_num_threads(), "precision": precision(p, device)}  # fmt: skip
    print(line(row), flush=True)
    return row


def interval(values: list[float]) -> list[float]:
    """Of their median: the 2.5 and 97.5 % quantile over 2,000 bootstrap draws."""
    drawn = np.random.default_rng(0).choice(values, (2000, len(values)))
    return np.quantile(np.median(drawn, axis=1), [0.025, 0.975]).tolist()


def line(r: dict) -> str:
    beside = {k: f"{r[f'ratio_{k}']:.3f} ({low:.3f} to {high:.3f})" for k in ("bare", "bare_fused")
              for low, high in [r[f"interval_{k}"]]}  # fmt: skip
    return (
        f"| {r['backbone']} | {r['pixels']} | {r['batch']} | {r['bare']:,.1f} | {r['bare_fused']:,.1f} | "
        f"**{r['ours']:,.1f}** | {r['timm']:,.1f} | **{beside['bare']}** | {beside['bare_fused']} | "
        f"{r['ratio_timm']:.2f} | {r['data_wait_share']:.1%} | {r['checkpoint']:.2f} s | {r['overhead']:.2f} s |"
    )


def page(result: dict) -> str:
    """The page."""
    turns, fused = [len(r["turns"]) for r in result["rows"]], [r["ratio_bare_fused"] for r in result["rows"]]
    low, high = min(fused), max(fused)
    lines = [
        "# Speed of a teacher's training loop",
        "",
        "`python benchmarks/teacher_speed.py --write` measures this table and writes this page from "
        f"[teacher_speed.json](teacher_speed.json). Measured on {result['device']}.",
        "",
        *[f"- {g['text']}" for g in result["goals"]],
        f"- beside a bare loop with the fused optimiser that ours takes: {low:.3f} to {high:.3f}, below {WANTED} in "
        f"{sum(f < WANTED for f in fused)} of {len(fused)} cases",
        "",
        "Images a second of forward, backward and step: *bare* on tensors in memory, with AdamW as torch gives it by "
        "default; *bare, fused* the same with the fused AdamW that our loop takes; *ours* with faces read, augmented "
        "and logged, and with the seconds of a checkpoint every 10 minutes and of a call to MLflow every "
        f"{LIVE_SECONDS:.0f} s and after each {FER2013:,} pictures charged; *timm* with "
        f"its own loader and task on the same image files. The four take turns, {result['chunk']} steps each, "
        f"{min(turns)} to {max(turns)} times; ratios are medians over turns, in brackets the 95 % interval of that "
        "median when turns are drawn again. An epoch's overhead "
        f"is evaluation on val (here {result['val_rows']} faces), the best bundle, the checkpoint and logging: it "
        "grows with val (FER2013's has 3,589), not with the training set.",
        "",
        "| backbone | pixels | batch | bare | bare, fused | **ours** | timm | **ours / bare** | ours / bare, fused | "
        "ours / timm | waiting for data | a checkpoint | overhead an epoch |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        *[line(r) for r in result["rows"]],
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunk", type=int, default=10, help="steps a turn; on a CPU")
    parser.add_argument("--rounds", type=int, default=5, help="epochs that count, after the first")
    parser.add_argument("--share", type=float, default=1.0, help="of each case's steps an epoch: less takes less time")
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
        cases = [(*case, max(a.chunk, round(steps * a.share))) for *case, steps in CASES]
        rows = [measure(case, manifest, raw, folder, a) for case in cases]
    from fer_lib.devices import describe_device

    facts = describe_device(a.device)
    device = f"{facts['name']}, {rows[0]['threads']} threads, {rows[0]['precision']}"
    result = {
        "device": device, "chunk": a.chunk, "rows": rows,
        "val_rows": len(manifest.rows(split="val")),
        "goals": [goal(f"ours / bare, {r['backbone']} at {r['pixels']}", r["ratio_bare"], WANTED, ".3f") for r in rows],
    }  # fmt: skip
    print(page(result))
    if a.write:
        publish("teacher_speed", json.loads(json.dumps(result)), page(result))


if __name__ == "__main__":
    main()
