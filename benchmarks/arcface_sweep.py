"""What an ArcFace head is worth on FER2013 beside plain softmax, over its scale s and margin m.

    python benchmarks/arcface_sweep.py --root ROOT [--rows 12000] [--epochs 6] [--size 48] [--seeds 1337 42 2025]
        [--jobs 2] [--work FOLDER] [--write]

Every setting trains the same net (EfficientNet-lite0 with ImageNet weights) on the same training rows with the same
views, seed by seed; the epoch is chosen by macro-F1 on PublicTest's val/select.  The page's advice is the setting with
the best macro-F1 there.  PrivateTest is scored once for each net, so once for each setting and seed; each is logged in
``--work``.
Results stay in ``--work``, so that the same command goes on after an interruption and adds settings or seeds.  An
interval is the 2.5 and 97.5 % quantile over 2,000 resamples of PrivateTest's rows (the same ones for both settings) of
the mean over seeds; it does not hold the luck of the seeds, whose spread stands beside it.
"""

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from _common import publish

import fer_lib  # noqa: F401  (lets torchvision load beside a CPU build of torch)
from fer_lib.datasets.build import build_manifest
from fer_lib.datasets.manifest import Manifest
from fer_lib.importers import import_all
from fer_lib.params import ManifestParams, SourceSpec, TeacherParams
from fer_lib.storage.atomic import fresh_file, write_json

SOFTMAX = {"head": "linear"}
SETTINGS = [SOFTMAX] + [
    {"arcface_s": s, "arcface_m": m} for s in (7.5, 16.0, 30.0, 64.0) for m in (0.0, 0.1, 0.35)
]  # fmt: skip
RESAMPLES = 2000


def label(setting: dict) -> str:
    return "softmax" if setting == SOFTMAX else f"s{setting['arcface_s']:g}-m{setting['arcface_m']:g}"


def parameters(setting: dict, seed: int, a: argparse.Namespace) -> TeacherParams:
    return TeacherParams(
        name=label(setting), backbone="tf_efficientnet_lite0", pretrained="package", image_size=a.size, seed=seed,
        epochs=a.epochs, batch_size=64, lr=8e-4, warmup_epochs=1, plain_epochs=0.3, ramp_end=0.6, imbalance="none",
        ema_decay=0.998, threads=1, device="cpu", onnx="none", **setting,
    )  # fmt: skip


def prepared(a: argparse.Namespace) -> Manifest:
    """FER2013's official split with ``a.rows`` of the training rows, class shares kept, the same for every seed."""
    folder = Path(a.work)
    if not (folder / "manifest" / "manifest.parquet").is_file():
        import_all([SourceSpec(source="fer2013", root=a.root)], folder / "imports")
        build_manifest(ManifestParams(), folder / "imports", folder / "manifest")
    whole = Manifest.read(folder / "manifest" / "manifest.parquet")
    frame = whole.frame
    train = frame[frame["split"] == "train"]
    if a.rows < len(train):
        share = a.rows / len(train)
        kept = train.groupby("label")["sample_id"].transform(lambda ids: ids.rank(pct=True) <= share)
        frame = frame[(frame["split"] != "train") | kept.reindex(frame.index, fill_value=False)]
    return Manifest(frame.reset_index(drop=True), whole.meta, whole.path)


def one(setting: dict, seed: int, a: argparse.Namespace) -> Path:
    """Train and score one setting with one seed, unless that was done; the folder with its ``result.json``."""
    from fer_lib.calibration import metrics
    from fer_lib.datasets.facepack import open_or_build
    from fer_lib.datasets.openings import log_test_opening
    from fer_lib.models.bundle import read_bundle
    from fer_lib.models.inference import predict_logits
    from fer_lib.training.teacher import train_teacher

    work = Path(a.work)
    out = work / f"{label(setting)}-{seed}-{a.rows}x{a.epochs}-{a.size}px"
    p = parameters(setting, seed, a)
    if (out / "result.json").is_file():
        if json.loads((out / "result.json").read_text())["params"] == p.model_dump(mode="json"):
            return out
        raise SystemExit(f"{out} was trained with other parameters: give another --work")
    manifest, began = prepared(a), time.perf_counter()
    for event in train_teacher(p, manifest, out, work / "cache"):
        if event["event"] == "epoch":
            print(f"{out.name}: epoch {event['epoch'] + 1} macro-F1 {event['val']['macro_f1']:.4f}", flush=True)
    best = read_bundle(out / "best")
    rows, weights = manifest.rows(split="test"), {out.name: [best.weights_sha256]}
    log_test_opening(rows, weights, "arcface sweep", work / "cache", out, manifest_sha256=manifest.sha256)
    pack = open_or_build(rows, best.contract, work / "cache")
    logits = predict_logits(best.model(), pack)
    raw = metrics.summary(logits, pack.manifest.labels)
    scaled = metrics.summary(best.temperature.apply(logits), pack.manifest.labels)
    with fresh_file(out / "test.npz") as file, open(file, "wb") as stream:
        np.savez_compressed(stream, logits=logits, y=pack.manifest.labels)
    keys = ("accuracy", "macro_f1", "nll", "ece")
    write_json(out / "result.json", {
        "setting": setting, "seed": seed, "params": p.model_dump(mode="json"), "n": len(logits),
        "epoch": best.meta["ids"]["epoch"],
        "evalset_id": best.meta["ids"]["evalset_id"], "temperature": best.temperature.global_temperature,
        "raw": {k: raw[k] for k in keys}, "scaled": {k: scaled[k] for k in keys},
        "val_macro_f1": best.meta["metrics"]["val_select"]["macro_f1"], "seconds": time.perf_counter() - began,
    })  # fmt: skip
    return out


def f1_mean(cells: np.ndarray) -> np.ndarray:
    """Macro-F1 of confusion counts [..., 7, 7]."""
    hit = np.diagonal(cells, axis1=-2, axis2=-1)
    return (2 * hit / np.maximum(cells.sum(-1) + cells.sum(-2), 1)).mean(-1)


def summary(folders: dict[str, list[Path]]) -> list[dict]:
    """A row a setting: means over seeds, their spread, and the paired difference to softmax with its interval."""
    tests = {name: [np.load(f / "test.npz") for f in own] for name, own in folders.items()}
    y = tests["softmax"][0]["y"]
    for own in tests.values():
        if any(not np.array_equal(t["y"], y) for t in own):
            raise SystemExit("the settings were scored on different rows: give another --work")
    guesses = {name: np.stack([t["logits"].argmax(1) for t in own]) for name, own in tests.items()}
    drawn = np.random.default_rng(0).integers(0, len(y), (RESAMPLES, len(y)))
    boot = {name: resampled(g, y, drawn) for name, g in guesses.items()}
    rows = []
    for name, own in folders.items():
        results = [json.loads((f / "result.json").read_text()) for f in own]
        row = {"setting": name, "seeds": [r["seed"] for r in results], "epochs_kept": [r["epoch"] + 1 for r in results]}
        for i, key in enumerate(("accuracy", "macro_f1")):
            values = [r["raw"][key] for r in results]
            gap = boot[name][i] - boot["softmax"][i]
            plain = [json.loads((f / "result.json").read_text())["raw"][key] for f in folders["softmax"]]
            row[key] = {
                "mean": float(np.mean(values)),
                "sd_over_seeds": float(np.std(values, ddof=1)) if len(own) > 1 else None,
                "interval": np.quantile(boot[name][i], [0.025, 0.975]).tolist(),
                "gain": float(np.mean(values) - np.mean(plain)),
                "gain_interval": np.quantile(gap, [0.025, 0.975]).tolist(),
            }
        row |= {k: float(np.mean([r["raw"][k] for r in results])) for k in ("ece", "nll")}
        row |= {f"{k}_scaled": float(np.mean([r["scaled"][k] for r in results])) for k in ("ece", "nll")}
        row["val_macro_f1"] = float(np.mean([r["val_macro_f1"] for r in results]))
        row["temperature"] = float(np.mean([r["temperature"] for r in results]))
        rows.append(row)
    return rows


def resampled(guesses: np.ndarray, y: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy and macro-F1, each [RESAMPLES], the mean over seeds of ``guesses`` [seeds, N]."""
    accuracy, f1 = np.empty(len(drawn)), np.empty(len(drawn))
    cells = y * 7 + guesses
    for i, rows in enumerate(drawn):
        counts = np.stack([np.bincount(c[rows], minlength=49) for c in cells]).reshape(-1, 7, 7)
        accuracy[i] = np.trace(counts, axis1=-2, axis2=-1).mean() / len(rows)
        f1[i] = f1_mean(counts).mean()
    return accuracy, f1


def percent(value: dict, form: str = "+.2f") -> str:
    low, high = (100 * v for v in value["gain_interval"])
    return f"{100 * value['gain']:{form}} ({low:{form}} to {high:{form}})"


def page(result: dict) -> str:
    """The page."""
    lines = [
        "# What the ArcFace head is worth",
        "",
        "`python benchmarks/arcface_sweep.py --root ROOT --write` trains these nets on FER2013 and writes this "
        "page from [arcface_sweep.json](arcface_sweep.json).",
        "",
        f"EfficientNet-lite0 with ImageNet weights at {result['size']} pixels, {result['rows']:,} training rows, "
        f"{result['epochs']} epochs, seeds {', '.join(map(str, result['seeds']))}; the epoch is chosen on PublicTest's "
        f"val/select. PrivateTest (n = {result['n']:,}) is scored once for each setting and seed, "
        f"{sum(len(r['seeds']) for r in result['table'])} times in all, single view. The gain is over plain softmax "
        "with everything else the same; in brackets the 95 % interval of paired resamples of the rows (the mean over "
        "seeds), which does not hold the luck of the seeds: their standard deviation stands beside the accuracy.",
        "",
        "| head | accuracy, % | sd over seeds | gain, points | macro-F1, % | gain, points | ECE raw | ECE scaled | "
        "NLL scaled | T |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for r in result["table"]:
        sd = r["accuracy"]["sd_over_seeds"]
        own = r["setting"] == "softmax"
        lines.append(
            f"| {r['setting']} | {100 * r['accuracy']['mean']:.2f} | {'' if sd is None else f'{100 * sd:.2f}'} | "
            f"{'' if own else percent(r['accuracy'])} | {100 * r['macro_f1']['mean']:.2f} | "
            f"{'' if own else percent(r['macro_f1'])} | {r['ece']:.3f} | {r['ece_scaled']:.3f} | "
            f"{r['nll_scaled']:.3f} | {r['temperature']:.2f} |"
        )
    better = [r["setting"] for r in result["table"] if r["accuracy"]["gain_interval"][0] > 0]
    worse = [r["setting"] for r in result["table"] if r["accuracy"]["gain_interval"][1] < 0]
    lines += [
        "",
        f"Intervals above 0 in accuracy: {', '.join(better) or 'none'}. Below 0: {', '.join(worse) or 'none'}. With "
        f"{len(result['table']) - 1} comparisons one such interval in twenty is to be expected by chance.",
        "",
        advice(result["table"]),
        "",
    ]
    return "\n".join(lines)


def advice(table: list[dict]) -> str:
    """Which setting val rows choose; where the figures on val rows were not kept, that test rows can't choose one."""
    if any("val_macro_f1" not in r for r in table):
        return (
            "The scores on val rows were not kept with these figures, so this page gives no advice which setting to "
            "take. A setting picked from the table is picked on test rows, and its figures there are then no unbiased "
            "estimate of it."
        )
    ranked = sorted(table, key=lambda r: -r["val_macro_f1"])
    shown = ", ".join(f"{r['setting']} {r['val_macro_f1']:.4f}" for r in ranked)
    return (
        f"Advice: `{ranked[0]['setting']}`. It has the best macro-F1 on val/select (mean over seeds: {shown}). The "
        "scores on test rows above had no part in that."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="FER2013's picture tree")
    parser.add_argument("--rows", type=int, default=12_000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1337, 42, 2025])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--work", default="arcface-sweep", help="where results stay between calls")
    parser.add_argument("--write", action="store_true")
    a = parser.parse_args()
    if a.root is None:
        print("nothing measured: give FER2013's picture tree by --root (several hours on two cores)")
        return
    a.work = str(Path(a.work).resolve())
    prepared(a)
    jobs = [(setting, seed) for seed in a.seeds for setting in SETTINGS]  # seed by seed: a cut-short sweep is balanced
    with ProcessPoolExecutor(a.jobs, mp_context=get_context("spawn")) as pool:
        first = one(*jobs[0], a)  # makes the packs that all share
        others = [pool.submit(one, *job, a) for job in jobs[1:]]
        done = [first, *[f.result() for f in others]]
    folders: dict[str, list[Path]] = {}
    for (setting, _), folder in zip(jobs, done, strict=True):
        folders.setdefault(label(setting), []).append(folder)
    n = json.loads((first / "result.json").read_text())["n"]
    table = summary(folders)
    result = {k: getattr(a, k) for k in ("rows", "epochs", "size", "seeds")} | {"n": n, "table": table}
    print(page(result))
    if a.write:
        publish("arcface_sweep", result, page(result))


if __name__ == "__main__":
    main()
