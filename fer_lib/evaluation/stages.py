"""What training on from a model changed, and what that cost: each evaluated child beside the parent it started from.

A child is a model whose ``starting_weights_sha256`` is another's ``weights_sha256``: stage B of a teacher, a distilled
student that began as the plain one.  Both are scored on the same rows (the same ``evalset_id``) under the single view.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_lib.errors import FerError
from fer_lib.evaluation.paired import METHOD, mcnemar, paired_differences
from fer_lib.evaluation.stage_views import sentences
from fer_lib.models.bundle import WEIGHTS, Bundle, read_bundle
from fer_lib.params import EvaluateParams
from fer_lib.storage.atomic import write_json

STAGES = "stages.json"
NO_INTERVAL = "the difference in ECE has none: a bootstrap of the ECE does not cover; each ECE has one of its own"
_SCORES = ("accuracy", "macro_f1", "per_class_f1", "nll", "ece")
# what differs in any two fits, or says again what stands under another key
_ALWAYS = ("time", "paths.manifest", "model.weights_sha256", "model.pretrained")
_AGAIN = ("ids.", "init.", "data.n_", "face_contract.image_size", "face_contract.clahe")


@dataclass(frozen=True)
class Measured:
    """A model on one set of rows: its ``report`` there, ``logits`` [N, K], labels ``y`` [N] and their sample ids."""

    name: str
    report: dict[str, Any]
    logits: np.ndarray
    y: np.ndarray
    sample_ids: list[str]


def related(bundles: dict[str, Bundle]) -> list[tuple[str, str]]:
    """(parent, child) of every two models of which the second started from the weights of the first, parents first."""
    owner = {bundle.weights_sha256: name for name, bundle in reversed(bundles.items())}
    started = {name: owner.get(bundle.meta["ids"].get("starting_weights_sha256")) for name, bundle in bundles.items()}
    return [(parent, child) for child, parent in started.items() if parent not in (None, child)]


def write_stages(
    out: Path,
    result: dict[str, Any],
    bundles: dict[str, Bundle],
    measured: dict[str, dict[str, Measured]],
    p: EvaluateParams,
) -> dict[str, Any] | None:
    """Write ``stages.json`` into ``out`` when any of ``bundles`` is another's child, and return what it says.

    ``result``: the evaluation; ``measured``: model -> set of rows -> the model there under the single view.  Raises
    FerError when a fit's report lies beside weights that it is not about.
    """
    pairs = related(bundles)
    if not pairs:
        (out / STAGES).unlink(missing_ok=True)
        return None
    known = {name: _settings(bundles[name]) for pair in pairs for name in pair}
    costs: dict[str, dict[str, Any]] = {}
    for name in known:
        costs[name] = {"parameters": result["models"][name]["parameters"], **cost(bundles[name], 5 if p.smoke else 20)}
    found = []
    for parent, child in pairs:
        scores = {
            rows: compare(measured[parent][rows], measured[child][rows], p.resamples, p.seed)
            for rows in measured[child]
        }
        stage = {
            "parent": parent, "child": child,
            "weights_sha256": [bundles[name].weights_sha256 for name in (parent, child)],
            "settings_known": [known[name] is not None for name in (parent, child)],
            "changed": _changed(known[parent], known[child], bundles[parent], bundles[child]), "scores": scores,
            "cost": {"parent": costs[parent], "child": costs[child], "seconds_in_all": _in_all(child, pairs, costs)},
        }  # fmt: skip
        found.append(stage | {"said": sentences(stage)})
    head = {key: result[key] for key in ("suite", "split", "sources", "manifest_sha256", "metric_version")}
    interval = {"method": METHOD, "level": 0.95, "resamples": p.resamples, "seed": p.seed, "ece": NO_INTERVAL}
    report = {**head, "view": "none", "interval": interval, "stages": found}
    write_json(out / STAGES, report)
    return report


def read_stages(out: Path) -> dict[str, Any] | None:
    """What :func:`write_stages` left in an evaluation's folder; None where no model was another's child."""
    return json.loads((out / STAGES).read_text()) if (out / STAGES).is_file() else None


def compare(parent: Measured, child: Measured, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """The scores of both on one set of rows, the paired differences (child minus parent) and McNemar's exact test.

    Raises FerError when the two were measured on other rows.
    """
    ids = [model.report["evalset_id"] for model in (parent, child)]
    if ids[0] != ids[1] or set(parent.sample_ids) != set(child.sample_ids):
        raise FerError(
            f"{parent.name} was measured on {len(parent.y)} rows (evalset {ids[0]}), {child.name} on {len(child.y)} "
            f"(evalset {ids[1]}): numbers of other rows can't be compared; evaluate both in one phase, on sources that "
            "both may be scored on (include_sources, exclude_sources)"
        )
    place = {sample: i for i, sample in enumerate(child.sample_ids)}
    logits = child.logits[[place[sample] for sample in parent.sample_ids]]
    return {
        "evalset_id": ids[0],
        "protocol_id": {"parent": parent.report["protocol_id"], "child": child.report["protocol_id"]},
        "n_expected": parent.report["n_expected"], "n_used": parent.report["n_used"],
        "parent": _scores(parent.report), "child": _scores(child.report),
        "difference": paired_differences(parent.logits, logits, parent.y, resamples, seed),
        "mcnemar": mcnemar(parent.logits.argmax(axis=1), logits.argmax(axis=1), parent.y),
    }  # fmt: skip


def _scores(report: dict[str, Any]) -> dict[str, Any]:
    own = {key: report["raw"][key] for key in _SCORES} | {"ece_interval": [report["ece_raw"][k] for k in ("lo", "hi")]}
    ends = [report["ece_scaled"][k] for k in ("lo", "hi")]
    scaled = {"nll": report["scaled"]["nll"], "ece": report["scaled"]["ece"], "ece_interval": ends}
    return own | {"temperature": report["temperature"]["global_temperature"], "scaled": scaled}


def cost(bundle: Bundle, iterations: int = 20) -> dict[str, Any]:
    """What a model took to train and takes to run.

    Of its own fit ``train_seconds``, ``images_per_sec`` (over all epochs), ``epochs`` and ``kept_epoch`` (counted from
    0), null where no history lies beside the bundle; ``gflops`` of one face (a multiply-add counts as two) and
    ``latency_ms`` {p50, p95} of torch on one CPU thread, batch 1, at ``image_size``, over ``iterations`` calls.
    """
    spent: dict[str, Any] = dict.fromkeys(("train_seconds", "images_per_sec", "epochs", "kept_epoch"))
    if (file := bundle.path.parent / "history.json").is_file() and (history := json.loads(file.read_text())):
        seconds = np.asarray([row["timing"]["epoch_sec"] for row in history], np.float64)
        speed = np.asarray([row["timing"]["images_per_sec"] for row in history], np.float64)
        spent = {
            "train_seconds": history[-1]["timing"]["total_sec"],
            "images_per_sec": float((seconds * speed).sum() / max(seconds.sum(), 1e-9)),
            "epochs": len(history),
            "kept_epoch": bundle.meta["ids"].get("epoch"),
        }
    return spent | _running(bundle, iterations)


def _running(bundle: Bundle, iterations: int) -> dict[str, Any]:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from fer_lib.deploy.latency import benchmark

    size = bundle.contract.image_size
    if not bundle.has(WEIGHTS):  # a packaged model: ONNX alone
        return {"image_size": size, "gflops": None, "latency_ms": None}
    own = read_bundle(bundle.path)  # the model of the one that was measured may be on an accelerator by now
    # attention written out as products of matrices: the counter knows no CPU kernel that fuses them
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        own.model()(torch.zeros(1, 3, size, size))
    [line] = benchmark(own, {}, batches=(1,), threads=1, iterations=iterations)
    latency = {"p50": line["p50_ms"], "p95": line["p95_ms"]}
    return {"image_size": size, "gflops": counter.get_total_flops() / 1e9, "latency_ms": latency}


def _in_all(child: str, pairs: list[tuple[str, str]], costs: dict[str, dict[str, Any]]) -> float | None:
    """Seconds of training of a child and of the evaluated models before it; None where one is not known."""
    parent_of = {c: p for p, c in pairs}
    chain = [child]
    while (parent := parent_of.get(chain[-1])) is not None and parent not in chain:
        chain.append(parent)
    seconds = [costs[name]["train_seconds"] for name in chain]
    return None if None in seconds else float(sum(seconds))


def _settings(bundle: Bundle) -> dict[str, Any] | None:
    """What its fit's ``alignmentreport.json`` says, on one level; None where none lies beside the bundle."""
    from fer_lib.storage.json_files import flatten

    file = bundle.path.parent / "alignmentreport.json"
    if not file.is_file():
        return None
    report = json.loads(file.read_text())
    for key in ("manifest_sha256", "starting_weights_sha256"):
        if report.get("ids", {}).get(key) != bundle.meta["ids"].get(key):
            raise FerError(f"{file} is not about the weights beside it ({key} differs): run the fit again with --fresh")
    return flatten(report)


def _changed(
    parent: dict[str, Any] | None, child: dict[str, Any] | None, before: Bundle, after: Bundle
) -> dict[str, list[Any]]:
    """Setting -> [parent's, child's] where they differ; of the models alone, where a fit's report is not at hand."""
    if parent is None or child is None:
        parent, child = ({f"model.{k}": v for k, v in b.meta["model"].items()} for b in (before, after))
    values = {key: [parent.get(key), child.get(key)] for key in (*parent, *(k for k in child if k not in parent))}
    said = [key for key in values if key not in _ALWAYS and not key.startswith(_AGAIN)]
    return {key: values[key] for key in said if values[key][0] != values[key][1]}
