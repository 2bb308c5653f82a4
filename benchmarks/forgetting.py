"""Does nested learning forget less?  Train on domain A, go on with domain B, and measure A again.

    python benchmarks/forgetting.py [--seeds 1 2 3] [--faces 2800] [--epochs 6] [--work FOLDER] [--write]
    python benchmarks/forgetting.py --a fer2013=ROOT --b affectnet_yolo_format=ROOT [--backbone NAME] [--size 48] ...

By default A is drawn faces in colour and B other drawn faces as grey negatives, new ones for every seed.  With --a and
--b the domains are real datasets.  On B every method takes the same number of steps with the same batch size:

plain    fine-tuning of the model that was trained on A
ema      the same, and the moving average of its weights is measured
replay   each batch mixes rows of A (``--replay`` of them for each row of B) with those of B
blocks   fine-tuning of a model with residual blocks: shows what the blocks alone do
nested   the same blocks, each updated at its own interval, on A as well as on B

The weights of the last epoch are measured, so no method profits from a choice.  Forgetting is macro-F1 on A's test rows
after A minus after B.  Every difference is paired by seed with ``plain``; its 95 % interval is Student's over the
seeds.  With drawn faces it holds the choice of faces; with real data the rows are fixed, and it holds the seeds alone.
A fit that is in ``--work`` is not repeated.  ``--write`` writes docs/results/forgetting.{json,md}.
"""

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from _common import paired, points, publish, train_once

import fer_lib  # noqa: F401  (lets torchvision load beside a CPU build of torch)
from fer_lib.datasets.build import build_manifest
from fer_lib.datasets.manifest import Manifest
from fer_lib.importers import import_all
from fer_lib.params import ManifestParams, SourceSpec, StudentParams

BLOCKS = {"kind": "blocks", "intervals": [1, 1, 1]}
NESTED = {"kind": "blocks", "intervals": [1, 4, 16]}
METHODS = {  # parameters on A, and those that are added on B
    "plain": ({}, {}),
    "ema": ({}, {"ema_decay": 0.99}),
    "replay": ({}, {}),
    "blocks": ({"nested": BLOCKS}, {}),
    "nested": ({"nested": NESTED}, {}),
}
SCORES = ("a_before", "a_after", "forgetting", "b_after", "mean_after")


def domains(a: argparse.Namespace, seed: int, work: Path) -> Manifest:
    """One manifest with the sources ``a`` and ``b``."""
    folder = work / (f"data-{seed}" if a.a is None else "data")
    if not (folder / "manifest" / "manifest.parquet").is_file():
        specs = real_domains(a) if a.a else drawn_domains(folder, a.faces, a.size, seed)
        import_all(specs, folder / "imports")
        build_manifest(ManifestParams(), folder / "imports", folder / "manifest")
    return Manifest.read(folder / "manifest" / "manifest.parquet")


def real_domains(a: argparse.Namespace) -> list[SourceSpec]:
    parts = [(name, *text.partition("=")[::2]) for name, text in (("a", a.a), ("b", a.b))]
    return [SourceSpec(name=name, source=source, root=root) for name, source, root in parts]


def drawn_domains(folder: Path, faces: int, size: int, seed: int) -> list[SourceSpec]:
    """Drawn faces in colour, and other people as grey negatives."""
    from fer_lib.synthetic.dataset import write_raw

    for name, series in (("a", 2 * seed), ("b", 2 * seed + 1)):
        if not (folder / name).is_dir():
            write_raw(folder / f"{name}-colour", "tree", faces=faces, seed=series, size=size)
            for file in (folder / f"{name}-colour").rglob("*.jpg") if name == "b" else ():
                grey = 255 - cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
                cv2.imwrite(str(file), grey, [cv2.IMWRITE_JPEG_QUALITY, 95])
            (folder / f"{name}-colour").rename(folder / name)
    return [SourceSpec(name=name, source="tree", root=str(folder / name)) for name in ("a", "b")]


def with_replay(manifest: Manifest, share: float, seed: int) -> Manifest:
    """The manifest with train rows of ``a`` left for ``share`` of those of ``b``, drawn at random."""
    frame = manifest.frame
    train = {name: frame[(frame["split"] == "train") & (frame["source"] == name)] for name in ("a", "b")}
    some = train["a"].sample(n=min(len(train["a"]), round(share * len(train["b"]))), random_state=seed)
    rest = frame.drop(train["a"].index)
    return Manifest(pd.concat([rest, some]).sort_index().reset_index(drop=True), manifest.meta, manifest.path)


def one_seed(a: argparse.Namespace, seed: int, work: Path) -> dict[str, dict]:
    """Method -> its scores: A before and after, forgetting, B after, and the mean of both domains after."""
    manifest = domains(a, seed, work)
    counts = manifest.frame[manifest.frame["split"] == "train"]["source"].value_counts()
    shared = dict(
        backbone=a.backbone, pretrained=a.pretrained, image_size=a.size, embed_dim=a.embed_dim, dropout=0.0, seed=seed,
        epochs=a.epochs, batch_size=a.batch, lr=a.lr, warmup_epochs=0.5, imbalance="none", eval_every=a.epochs,
        checkpoint_every=a.epochs, threads=a.threads, device=a.device,
        augment={"scale": (0.85, 1.0), "jitter": (0.1, 0.1, 0.0, 0.0)},
    )  # fmt: skip
    tests = {name: manifest.rows(split="test", include_sources=[name]) for name in ("a", "b")}
    results, setting = {}, f"{seed}-{a.faces if a.a is None else 'real'}x{a.epochs}"
    for method, (on_a, on_b) in METHODS.items():
        start = work / f"a-{on_a['nested']['intervals'] if on_a else 'plain'}-{setting}"
        before = train_once(StudentParams(**shared, **on_a, include_sources=["a"]), manifest, start, work, tests)
        p = StudentParams(
            **shared | on_a | on_b | {"pretrained": "none"}, max_train_batches=int(counts["b"]) // a.batch,
            include_sources=["a", "b"] if method == "replay" else ["b"],
        )  # fmt: skip
        rows = with_replay(manifest, a.replay, seed) if method == "replay" else manifest
        after = train_once(p, rows, work / f"b-{method}-{setting}", work, tests, start)
        results[method] = {
            "a_before": before["a_macro_f1"], "a_after": after["a_macro_f1"], "b_after": after["b_macro_f1"],
            "forgetting": before["a_macro_f1"] - after["a_macro_f1"],
            "mean_after": (after["a_macro_f1"] + after["b_macro_f1"]) / 2,
            "applied": after["applied"], "n_a": after["n_a"], "n_b": after["n_b"],
        }  # fmt: skip
        print(f"seed {seed} {method}: " + ", ".join(f"{k} {results[method][k]:.3f}" for k in SCORES), flush=True)
    return results


def summary(runs: dict[int, dict[str, dict]]) -> list[dict]:
    """A row per method: means over seeds, and paired differences to plain fine-tuning and to the plain blocks."""
    rows = []
    for method in METHODS:
        row = {"method": method, "applied": [run[method]["applied"] for run in runs.values()]}
        for score in SCORES:
            values = [run[method][score] for run in runs.values()]
            row[score] = {"mean": float(np.mean(values)), "values": values}
            for other in ("plain", "blocks"):
                row[score][f"to_{other}"] = paired([run[method][score] - run[other][score] for run in runs.values()])
        rows.append(row)
    return rows


def verdict(row: dict, other: str = "plain") -> str:
    """One sentence about a method's forgetting beside another's, decided by the interval."""
    gap = row["forgetting"][f"to_{other}"]
    word = "does not differ significantly from"
    if gap["lo"] is None:
        word = "is compared on one seed, which decides nothing, with"
    elif gap["hi"] < 0 or gap["lo"] > 0:
        word = "forgets less than" if gap["hi"] < 0 else "forgets more than"
    return f"- `{row['method']}` {word} `{other}`: {points(gap)} points."


def page(result: dict) -> str:
    """``forgetting.md`` from ``forgetting.json``."""
    lines = [
        "# Does nested learning forget less?",
        "",
        "`python benchmarks/forgetting.py --write` trains these nets and writes this page from "
        "[forgetting.json](forgetting.json).",
        "",
        f"Domain A: {result['a']}. Domain B: {result['b']}. {result['backbone']} at {result['size']} pixels, "
        f"{result['epochs']} epochs on each, the same number of steps for every method on B, weights of the last "
        f"epoch; seeds {', '.join(map(str, result['seeds']))}. Test rows: {result['n_a']:,} of A, {result['n_b']:,} of "
        f"B. Replay mixes {result['replay']:g} rows of A for each row of B. Forgetting is macro-F1 on A after A minus "
        "after B. Differences to plain fine-tuning are paired by seed, in points, with Student's 95 % interval over "
        "seeds.",
        "",
        "| method | A after A | A after B | forgetting | to plain | B after B | to plain | mean of both | to plain |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in result["table"]:
        cells = [row["method"], *(f"{100 * row[k]['mean']:.1f}" for k in ("a_before", "a_after"))]
        for score in ("forgetting", "b_after", "mean_after"):
            gap = "" if row["method"] == "plain" else points(row[score]["to_plain"])
            cells += [f"{100 * row[score]['mean']:.1f}", gap]
        lines.append(f"| {' | '.join(cells)} |")
    rows = {row["method"]: row for row in result["table"]}
    lines += ["", "Forgetting, decided by the interval:", ""]
    lines += [verdict(row) for method, row in rows.items() if method != "plain"]
    lines += [verdict(rows["nested"], "blocks") + " Both have the same net: the difference is the intervals.", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--a", metavar="SOURCE=ROOT", help="a dataset; default: drawn faces")
    parser.add_argument("--b", metavar="SOURCE=ROOT", help="another dataset; default: drawn faces as grey negatives")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--faces", type=int, default=2800, help="drawn faces per domain")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--replay", type=float, default=0.2, help="rows of A for each row of B")
    parser.add_argument("--backbone", default="test_resnet")
    parser.add_argument("--pretrained", default="none", help="starting weights on A")
    parser.add_argument("--embed-dim", type=int, default=64)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work", type=Path, help="where fits stay between calls; default: a temporary folder")
    parser.add_argument("--write", action="store_true", help="write docs/results/forgetting.{json,md}")
    a = parser.parse_args()
    if (a.a is None) != (a.b is None):
        parser.error("--a and --b go together")
    with tempfile.TemporaryDirectory() as scratch:
        work = (a.work or Path(scratch)).resolve()
        runs = {seed: one_seed(a, seed, work) for seed in a.seeds}
    looks = ("drawn faces in colour", "other drawn faces as grey negatives")
    names = looks if a.a is None else tuple(text.partition("=")[0] for text in (a.a, a.b))
    shared = {k: getattr(a, k) for k in ("backbone", "size", "epochs", "batch", "lr", "replay", "seeds")}
    counts = {k: runs[a.seeds[0]]["plain"][k] for k in ("n_a", "n_b")}
    result = {"a": names[0], "b": names[1]} | shared | counts | {"table": summary(runs)}
    print(page(result))
    if a.write:
        publish("forgetting", result, page(result))


if __name__ == "__main__":
    main()
