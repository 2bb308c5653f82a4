"""A short real run of the teacher's phase for each backbone that the plan names, and what it costs here.

    python benchmarks/backbones.py [--root ROOT] [--steps 4] [--batch 14] [--only resnet18 ...] [--write]

Each backbone goes through the whole phase on FER2013 (``--root``; drawn faces without it): packs, ArcFace with its
margin, AdamW, two epochs of ``--steps`` steps, evaluation, checkpoints, the finished run re-opened, both
ONNX files with their parity.  It shows that the road is open and what a step costs; nothing is learned in so few
steps.  A process of its own each, so that the peak of memory is its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _common import RESULTS, publish

PLAN = (  # backbone, pixels of stage A, of stage B
    ("resnet18", 224, 384), ("resnet50", 224, 384), ("tf_efficientnet_b3", 224, 384), ("convnext_tiny", 224, 384),
    ("vit_base_patch16_384", 224, 384),
)  # fmt: skip


def one(backbone: str, size: int, a: argparse.Namespace) -> dict:
    """Run the phase in this process; the row of the table."""
    import fer_lib  # noqa: F401  (lets torchvision load beside a CPU build of torch)
    from fer_lib.datasets.build import build_manifest
    from fer_lib.deploy.onnx_file import export_fit
    from fer_lib.devices import describe_device, peak_memory_gb, resolve_device
    from fer_lib.importers import import_all
    from fer_lib.models.bundle import read_bundle
    from fer_lib.params import ManifestParams, SourceSpec, TeacherParams
    from fer_lib.training.teacher import train_teacher

    source = SourceSpec(source="fer2013", root=a.root or "embedded", **({} if a.root else {"faces": 600}))
    with tempfile.TemporaryDirectory(prefix="backbones-") as work:
        folder = Path(work)
        import_all([source], folder / "imports")
        manifest = build_manifest(ManifestParams(max_per_class=60), folder / "imports", folder / "manifest")
        p = TeacherParams(
            backbone=backbone, image_size=size, epochs=2, batch_size=a.batch, accum_steps=2, max_train_batches=a.steps,
            max_val_batches=4, warmup_epochs=0.5, plain_epochs=0.3, ramp_end=0.7, checkpoint_every=2, device=a.device,
        )  # fmt: skip
        began = time.perf_counter()
        events = list(train_teacher(p, manifest, folder / "out", folder / "cache"))
        phase = time.perf_counter() - began
        again = list(train_teacher(p, manifest, folder / "out", folder / "cache"))
        if again[0]["resumed_at_step"] != 2 * a.steps:
            raise SystemExit(f"{backbone}: the finished run did not resume where it ended")
        began = time.perf_counter()
        files = export_fit(folder / "out", "both")
        exported = time.perf_counter() - began
        best, epochs = read_bundle(folder / "out" / "best"), [e for e in events if e["event"] == "epoch"]
        facts = describe_device(a.device)
        return {
            "backbone": backbone, "pixels": size, "batch": a.batch, "device": facts["name"],
            "threads": facts.get("threads"), "data": "FER2013" if a.root else "drawn faces",
            "parameters": sum(v.numel() for k, v in best.state_dict().items() if "running" not in k),
            "images_per_sec": max(e["timing"]["images_per_sec"] for e in epochs),
            "data_wait_share": epochs[-1]["timing"]["data_wait_share"], "losses": [e["train"]["loss"] for e in epochs],
            "phase_seconds": phase, "peak_memory_gb": max(peak_memory_gb(resolve_device(a.device)),
                                                          epochs[-1]["timing"]["peak_memory_gb"]),
            "onnx_seconds": exported, "onnx_bytes": (folder / "out" / "best.onnx").stat().st_size,
            "onnx_diff": max(f["max_abs_diff"] for f in files.values()),
            "onnx_scale": max(f["max_abs_logit"] for f in files.values()),
            "checkpoint_bytes": sum(f.stat().st_size for f in (folder / "out" / "checkpoint_last").iterdir()),
        }  # fmt: skip


def page(rows: list[dict]) -> str:
    """The page."""
    first = rows[0]
    lines = [
        "# The backbones of the plan, each through the teacher's phase",
        "",
        "`python benchmarks/backbones.py --root ROOT --write` runs them and writes this page from "
        f"[backbones.json](backbones.json). Measured on {first['device']}"
        + (f", {first['threads']} threads" if first["threads"] else "")
        + f", {first['data']}, batch {first['batch']} in two micro-batches: two epochs "
        "of a few steps, evaluation, checkpoints, the finished run re-opened, "
        "both ONNX files. Nothing is learned in so few steps; the table says that the road is open and what it costs."
        + (f" {first['note']}" if first.get("note") else ""),
        "",
        "| backbone | pixels | parameters | images/s | peak memory | checkpoint | phase | ONNX files | best.onnx | "
        "largest difference of logits |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for r in rows:
        lines.append(
            f"| {r['backbone']} | {r['pixels']} | {r['parameters'] / 1e6:.1f} M | {r['images_per_sec']:.1f} | "
            f"{r['peak_memory_gb']:.1f} GB | {r['checkpoint_bytes'] / 1e6:,.0f} MB | {r['phase_seconds']:.0f} s | "
            f"{r['onnx_seconds']:.0f} s | {r['onnx_bytes'] / 1e6:.0f} MB | {r['onnx_diff']:.1e} of "
            f"{r['onnx_scale']:.1f} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="", help="FER2013's picture tree")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=14)
    parser.add_argument("--only", nargs="+", default=[name for name, _, _ in PLAN])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--note", default="", help="a sentence for the page, such as what else the machine did")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}/backbones.json and its page")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.measure:
        print(json.dumps(one(a.measure[0], int(a.measure[1]), a)))
        return
    rows = []
    for name, *sizes in PLAN:
        for size in sizes if name in a.only else []:
            own = ["--root", a.root, "--steps", str(a.steps), "--batch", str(a.batch), "--device", a.device]
            done = subprocess.run([sys.executable, __file__, "--measure", name, str(size), *own],
                                  stdout=subprocess.PIPE, text=True, check=True)  # fmt: skip
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{name} at {size}: {rows[-1]['images_per_sec']:.1f} images/s", flush=True)
    rows[0]["note"] = a.note
    print(page(rows))
    if a.write:
        publish("backbones", rows, page(rows))


if __name__ == "__main__":
    main()
