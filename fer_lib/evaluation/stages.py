"""Stage comparison: each evaluated child model beside the parent whose weights it started from, with scores and cost.

A child's ``starting_weights_sha256`` is its parent's ``weights_sha256``: stage B of a teacher, or a distilled student
that started from the plain one.  Both are scored on the same rows (one ``evalset_id``) under the single view.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fer_lib.errors import FerError
from fer_lib.evaluation.paired_comparison import METHOD, LogitPair, Measurement, compare
from fer_lib.evaluation.stage_views import stage_sentences
from fer_lib.models.bundle import WEIGHTS, Bundle, read_bundle
from fer_lib.params import EvaluateParams
from fer_lib.storage.atomic import write_json
from fer_lib.storage.json_files import flatten, read_json

STAGES = "stages.json"
NO_INTERVAL = "the difference in ECE has none: a bootstrap of the ECE does not cover; each ECE has one of its own"
_SCORES = ("accuracy", "macro_f1", "per_class_f1", "nll", "ece")
# settings that differ between any two fits, and settings that repeat another key
_VOLATILE_KEYS = ("time", "paths.manifest", "model.weights_sha256", "model.pretrained")
_REPEATED_PREFIXES = ("ids.", "init.", "data.n_", "face_contract.image_size", "face_contract.clahe")


def parent_child_pairs(bundles: dict[str, Bundle]) -> list[tuple[str, str]]:
    """(parent, child) names of every two models where the child started from the parent's weights."""
    owner = {bundle.weights_sha256: name for name, bundle in reversed(bundles.items())}
    started = {name: owner.get(bundle.meta["ids"].get("starting_weights_sha256")) for name, bundle in bundles.items()}
    return [(parent, child) for child, parent in started.items() if parent not in (None, child)]


def write_stages(
    out: Path,
    result: dict[str, Any],
    bundles: dict[str, Bundle],
    measured: dict[str, dict[str, Measurement]],
    p: EvaluateParams,
) -> dict[str, Any] | None:
    """Write ``stages.json`` into ``out`` when one of ``bundles`` is another's child, and return its content.

    ``result``: the evaluation.  ``measured``: model -> set of rows -> measurement under the single view.
    Raises FerError when a fit's report is not about the weights beside it, DataError for different rows.
    """
    pairs = parent_child_pairs(bundles)
    if not pairs:
        (out / STAGES).unlink(missing_ok=True)
        return None
    settings = {name: _fit_settings(bundles[name]) for pair in pairs for name in pair}
    costs: dict[str, dict[str, Any]] = {}
    for name in settings:
        costs[name] = {"parameters": result["models"][name]["parameters"], **cost(bundles[name], 5 if p.smoke else 20)}
    stages = []
    for parent, child in pairs:
        scores = {
            rows: compare_scores(measured[parent][rows], measured[child][rows], p.resamples, p.seed)
            for rows in measured[child]
        }
        stage = {
            "parent": parent, "child": child,
            "weights_sha256": [bundles[name].weights_sha256 for name in (parent, child)],
            "settings_known": [settings[name] is not None for name in (parent, child)],
            "changed": _changed_settings(settings[parent], settings[child], bundles[parent], bundles[child]),
            "scores": scores,
            "cost": {
                "parent": costs[parent], "child": costs[child],
                "seconds_in_all": _total_train_seconds(child, pairs, costs),
            },
        }  # fmt: skip
        stages.append(stage | {"said": stage_sentences(stage)})
    head = {key: result[key] for key in ("suite", "split", "sources", "manifest_sha256", "metric_version")}
    interval = {"method": METHOD, "level": 0.95, "resamples": p.resamples, "seed": p.seed, "ece": NO_INTERVAL}
    report = {**head, "view": "none", "interval": interval, "stages": stages}
    write_json(out / STAGES, report)
    return report


def read_stages(out: Path) -> dict[str, Any] | None:
    """The ``stages.json`` of an evaluation's folder; None where no model was another's child."""
    return read_json(out / STAGES) if (out / STAGES).is_file() else None


def compare_scores(parent: Measurement, child: Measurement, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Scores of both models on one set of rows, paired differences (child minus parent) and McNemar's exact test.

    Raises DataError when the two were measured on different rows.
    """
    compared = compare(LogitPair.of(parent, child), resamples, seed)
    return {
        "evalset_id": parent.report["evalset_id"],
        "protocol_id": {"parent": parent.report["protocol_id"], "child": child.report["protocol_id"]},
        "n_expected": parent.report["n_expected"], "n_used": parent.report["n_used"],
        "parent": _scores(parent.report), "child": _scores(child.report),
        **compared,
    }  # fmt: skip


def _scores(report: dict[str, Any]) -> dict[str, Any]:
    own = {key: report["raw"][key] for key in _SCORES} | {"ece_interval": [report["ece_raw"][k] for k in ("lo", "hi")]}
    ends = [report["ece_scaled"][k] for k in ("lo", "hi")]
    scaled = {"nll": report["scaled"]["nll"], "ece": report["scaled"]["ece"], "ece_interval": ends}
    return own | {"temperature": report["temperature"]["global_temperature"], "scaled": scaled}


def cost(bundle: Bundle, iterations: int = 20) -> dict[str, Any]:
    """Training and inference cost of a model.

    From its own fit: ``train_seconds``, ``images_per_sec`` (over all epochs), ``epochs`` and ``kept_epoch`` (from 0);
    all None where no history lies beside the bundle.  ``gflops`` of one face (a multiply-add counts as two) and
    ``latency_ms`` {p50, p95} of torch on one CPU thread, batch 1, at ``image_size``, over ``iterations`` calls; both
    None without torch weights.
    """
    spent: dict[str, Any] = dict.fromkeys(("train_seconds", "images_per_sec", "epochs", "kept_epoch"))
    if (file := bundle.path.parent / "history.json").is_file() and (history := read_json(file)):
        seconds = np.asarray([row["timing"]["epoch_sec"] for row in history], np.float64)
        speed = np.asarray([row["timing"]["images_per_sec"] for row in history], np.float64)
        spent = {
            "train_seconds": history[-1]["timing"]["total_sec"],
            "images_per_sec": float((seconds * speed).sum() / max(seconds.sum(), 1e-9)),
            "epochs": len(history),
            "kept_epoch": bundle.meta["ids"].get("epoch"),
        }
    return spent | _inference_cost(bundle, iterations)


def _inference_cost(bundle: Bundle, iterations: int) -> dict[str, Any]:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from fer_lib.deploy.latency import benchmark

    size = bundle.contract.image_size
    if not bundle.has(WEIGHTS):  # a packaged model: ONNX alone
        return {"image_size": size, "gflops": None, "latency_ms": None}
    own = read_bundle(bundle.path)  # the evaluation may have moved its model to an accelerator
    # plain matrix products for attention: the counter does not count the fused CPU kernel
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        own.model()(torch.zeros(1, 3, size, size))
    [line] = benchmark(own, {}, batches=(1,), threads=1, iterations=iterations)
    latency = {"p50": line["p50_ms"], "p95": line["p95_ms"]}
    return {"image_size": size, "gflops": counter.get_total_flops() / 1e9, "latency_ms": latency}


def _total_train_seconds(child: str, pairs: list[tuple[str, str]], costs: dict[str, dict[str, Any]]) -> float | None:
    """Training seconds of a child and of its evaluated ancestors; None where one is unknown."""
    parent_of = {c: p for p, c in pairs}
    chain = [child]
    while (parent := parent_of.get(chain[-1])) is not None and parent not in chain:
        chain.append(parent)
    seconds = [costs[name]["train_seconds"] for name in chain]
    return None if None in seconds else float(sum(seconds))


def _fit_settings(bundle: Bundle) -> dict[str, Any] | None:
    """The flattened ``alignmentreport.json`` of its fit; None where there is none beside the bundle."""
    file = bundle.path.parent / "alignmentreport.json"
    if not file.is_file():
        return None
    report = read_json(file)
    for key in ("manifest_sha256", "starting_weights_sha256"):
        if report.get("ids", {}).get(key) != bundle.meta["ids"].get(key):
            raise FerError(f"{file} is not about the weights beside it ({key} differs): run the fit again with --fresh")
    return flatten(report)


def _changed_settings(
    parent: dict[str, Any] | None, child: dict[str, Any] | None, before: Bundle, after: Bundle
) -> dict[str, list[Any]]:
    """Setting -> [parent's, child's] where they differ; only model settings where a fit's report is missing."""
    if parent is None or child is None:
        parent, child = ({f"model.{k}": v for k, v in b.meta["model"].items()} for b in (before, after))
    values = {key: [parent.get(key), child.get(key)] for key in (*parent, *(k for k in child if k not in parent))}
    return {
        key: pair
        for key, pair in values.items()
        if key not in _VOLATILE_KEYS and not key.startswith(_REPEATED_PREFIXES) and pair[0] != pair[1]
    }
