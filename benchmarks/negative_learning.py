"""Does SelNLPL help against wrong labels?  Drawn faces with planted label noise, three losses, the same epochs.

    python benchmarks/negative_learning.py [--seeds 1 2 3 4 5] [--noise 0 0.2 0.4] [--work FOLDER] [--write]

ce          cross-entropy on the planted labels
selnlpl     SelNLPL (Kim et al. 2019): negative learning, then on selected rows, then cross-entropy on selected rows
wrong_sign  the control: SelNLPL whose negative loss is -log p_k, which raises the probability of a wrong class

Every seed draws other faces and plants other labels: a share of the train rows, the same for each loss, gets one of the
six other classes, each as likely.  The test labels are right.  The weights of the last epoch are measured, so no loss
profits from a choice.  Differences in macro-F1 are paired by seed; intervals are Student's over the seeds, 95 %
two-sided, and one-sided for the loss on clean labels.  A fit that is in ``--work`` is not repeated.  ``--write`` writes
docs/results/negative_learning.{json,md}.
"""

import argparse
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from _common import paired, points, publish, train_once
from scipy.stats import t as student_t
from torch.nn import functional as F

import fer_lib  # noqa: F401  (lets torchvision load beside a CPU build of torch)
from fer_lib.datasets.build import build_manifest
from fer_lib.datasets.manifest import Manifest
from fer_lib.datasets.splits import assign_val_roles
from fer_lib.emotions import NUM_CLASSES
from fer_lib.importers import import_all
from fer_lib.params import ManifestParams, SourceSpec, StudentParams
from fer_lib.synthetic.dataset import write_raw
from fer_lib.training import negative

LOSSES = ("ce", "selnlpl", "wrong_sign")
GAIN, LOST = 0.05, 0.005  # goals: macro-F1 gained on noisy labels, and the most that may be lost on clean ones


def drawn_faces(a: argparse.Namespace, seed: int, work: Path) -> Manifest:
    """The manifest of a seed's faces; 30 % are train rows and 60 % are test rows."""
    folder = work / f"data-{seed}-{a.faces}"
    if not (folder / "manifest" / "manifest.parquet").is_file():
        write_raw(folder / "raw", "tree", faces=a.faces, seed=seed, size=a.size)
        import_all([SourceSpec(name="drawn", source="tree", root=str(folder / "raw"))], folder / "imports")
        build_manifest(ManifestParams(), folder / "imports", folder / "manifest")
    manifest = Manifest.read(folder / "manifest" / "manifest.parquet")
    frame, n = manifest.frame.copy(), len(manifest.frame)  # no two drawn faces are alike: any rows may be test rows
    splits = np.repeat(["train", "val", "test"], [round(0.3 * n), round(0.1 * n), n - round(0.3 * n) - round(0.1 * n)])
    frame["split"] = np.random.default_rng(seed).permutation(splits)
    return Manifest(assign_val_roles(frame, (0.6, 0.2, 0.2), seed), manifest.meta, manifest.path)


def with_noise(manifest: Manifest, share: float, seed: int) -> Manifest:
    """The manifest with another class, each as likely, as the label of ``share`` of its train rows."""
    frame, rng = manifest.frame.copy(), np.random.default_rng(seed)
    train = np.flatnonzero(frame["split"] == "train")
    wrong = rng.choice(train, round(share * len(train)), replace=False)
    column = frame.columns.get_loc("label")
    labels = frame.iloc[wrong, column].to_numpy()
    frame.iloc[wrong, column] = (labels + rng.integers(1, NUM_CLASSES, len(wrong))) % NUM_CLASSES
    return Manifest(frame, manifest.meta, manifest.path)


def raise_wrong_class(logits: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """-log p_k, [B]: the loss of a positive label ``k``, for the control."""
    return F.cross_entropy(logits.float(), k, reduction="none")


def macro_f1(a: argparse.Namespace, seed: int, share: float, loss: str, work: Path) -> dict:
    """Macro-F1 and accuracy on the test rows after a fit with ``loss``."""
    manifest = drawn_faces(a, seed, work)
    p = StudentParams(
        backbone=a.backbone, pretrained="none", image_size=a.size, embed_dim=a.embed_dim, dropout=0.0, seed=seed,
        epochs=a.epochs, batch_size=a.batch, lr=a.lr, warmup_epochs=0.5, imbalance="none", eval_every=a.epochs,
        checkpoint_every=a.epochs, threads=a.threads, device=a.device,
        augment={"scale": (0.85, 1.0), "jitter": (0.1, 0.1, 0.0, 0.0)},
        negative={"method": "none" if loss == "ce" else "selnlpl", "draws": a.draws},
    )  # fmt: skip
    out = work / f"{loss}-{share:g}-{seed}-{a.faces}x{a.epochs}x{a.draws}"
    sign = mock.patch.object(
        negative, "negative_loss", raise_wrong_class if loss == "wrong_sign" else negative.negative_loss
    )
    with sign:
        return train_once(p, with_noise(manifest, share, seed), out, work, {"test": manifest.rows(split="test")})


def summary(runs: dict[float, dict[str, list[dict]]], seeds: list[int]) -> list[dict]:
    """A row for each share of wrong labels and each loss: the scores of every seed and the difference to ``ce``."""
    rows = []
    for share, by_loss in runs.items():
        for loss, results in by_loss.items():
            values = [result["test_macro_f1"] for result in results]
            differences = [value - base["test_macro_f1"] for value, base in zip(values, by_loss["ce"], strict=True)]
            rows.append({"noise": share, "loss": loss, "macro_f1": values, "mean": float(np.mean(values)),
                         "std": float(np.std(values, ddof=1)) if len(seeds) > 1 else None,
                         "to_ce": paired(differences), "differences": differences})  # fmt: skip
    return rows


def lower_bound(differences: list[float]) -> float:
    """One-sided 95 % lower bound of the mean (Student)."""
    n = len(differences)
    return float(np.mean(differences) - student_t.ppf(0.95, n - 1) * np.std(differences, ddof=1) / np.sqrt(n))


def verdicts(table: list[dict]) -> list[str]:
    """A sentence about each goal, decided by the interval."""
    lines = []
    for row in table:
        gap, where = row["to_ce"], f"With {row['noise']:.0%} wrong labels" if row["noise"] else "On clean labels"
        if row["loss"] == "ce" or gap["lo"] is None:
            continue
        if row["loss"] == "wrong_sign":
            word = "loses" if gap["hi"] < 0 else "does not lose significantly"
            lines.append(f"- {where} the wrong sign {word}: {points(gap)} points.")
        elif row["noise"]:
            word = "reached" if gap["lo"] >= GAIN else "missed" if gap["hi"] < GAIN else "neither reached nor missed"
            lines.append(f"- {where} SelNLPL changes macro-F1 by {points(gap)} points: the goal of "
                         f"+{100 * GAIN:g} is {word}.")  # fmt: skip
        else:
            bound = lower_bound(row["differences"])
            word = "reached" if bound >= -LOST else "missed"
            lines.append(f"- {where} SelNLPL changes macro-F1 by {points(gap)} points, at worst {100 * bound:+.1f} "
                         f"(one-sided 95 %): the goal of at most -{100 * LOST:g} is {word}.")  # fmt: skip
    return lines


def page(result: dict) -> str:
    """``negative_learning.md`` from ``negative_learning.json``."""
    lines = [
        "# SelNLPL on drawn faces with wrong labels",
        "",
        "`python benchmarks/negative_learning.py --write` trains these nets and writes this page from "
        "[negative_learning.json](negative_learning.json).",
        "",
        f"{result['backbone']} from nothing at {result['size']} pixels, {result['epochs']} epochs of "
        f"{result['train']:,} train rows for every loss; {result['test']:,} test faces with right labels; seeds "
        f"{', '.join(map(str, result['seeds']))}, each with its own faces and wrong labels. Weights of the last epoch. "
        f"SelNLPL draws {result['draws']} wrong classes of a face at each step. Macro-F1 in percent; "
        "differences are paired by seed, in points, with Student's 95 % interval over seeds.",
        "",
        "| wrong labels | loss | each seed | mean | s.d. | to ce |",
        "|---:|---|---|---:|---:|---:|",
    ]
    for row in result["table"]:
        seeds = " ".join(f"{100 * value:.1f}" for value in row["macro_f1"])
        spread = "" if row["std"] is None else f"{100 * row['std']:.1f}"
        gap = "" if row["loss"] == "ce" else points(row["to_ce"])
        lines.append(f"| {row['noise']:.0%} | {row['loss']} | {seeds} | {100 * row['mean']:.1f} | {spread} | {gap} |")
    return "\n".join([*lines, "", "Decided by the interval:", "", *verdicts(result["table"]), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.2, 0.4])
    parser.add_argument("--losses", nargs="+", default=list(LOSSES), choices=LOSSES)
    parser.add_argument("--faces", type=int, default=8400, help="drawn faces of a seed")
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--draws", type=int, default=10, help="wrong classes of a face at each step")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--backbone", default="test_resnet")
    parser.add_argument("--embed-dim", type=int, default=64)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work", type=Path, help="where fits stay between calls; default: a temporary folder")
    parser.add_argument("--write", action="store_true", help="write docs/results/negative_learning.{json,md}")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = (a.work or Path(scratch)).resolve()
        runs: dict[float, dict[str, list[dict]]] = {share: {loss: [] for loss in a.losses} for share in a.noise}
        for seed in a.seeds:
            for share, by_loss in runs.items():
                for loss in by_loss:
                    by_loss[loss].append(macro_f1(a, seed, share, loss, work))
                    score = by_loss[loss][-1]["test_macro_f1"]
                    print(f"seed {seed}, {share:.0%} wrong labels, {loss}: macro-F1 {score:.3f}", flush=True)
        first = drawn_faces(a, a.seeds[0], work)
        counts = {split: len(first.rows(split=split)) for split in ("train", "test")}
    shared = {key: getattr(a, key) for key in ("backbone", "size", "epochs", "batch", "lr", "draws", "seeds")}
    result = shared | counts | {"table": summary(runs, a.seeds)}
    print(page(result))
    if a.write:
        publish("negative_learning", result, page(result))


if __name__ == "__main__":
    main()
