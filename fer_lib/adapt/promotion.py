"""Promotion: measure a base and a candidate for the gates, seal the candidate's bundle, and register it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from fer_lib.adapt.data import AdaptData
from fer_lib.datasets.manifest import Manifest
from fer_lib.deploy.bundle_export import export_bundle
from fer_lib.deploy.onnx_file import weights_ids
from fer_lib.evaluation.gates import decide, offline_gate, session_gate
from fer_lib.evaluation.suites import measure_suite
from fer_lib.live.replay import replay
from fer_lib.live.score import score
from fer_lib.models.bundle import Bundle, derive_bundle
from fer_lib.params import AdaptParams
from fer_lib.storage.atomic import write_json
from fer_lib.storage.phase_result import PhaseResult
from fer_lib.tracking.registry import register_model
from fer_lib.training.results import FIT_FILES, IDS, FinishedFit


def run_gates(
    p: AdaptParams, base: Bundle, candidate: Bundle, manifest: Manifest, session: Path | None, trained_on: bool,
    out: Path, cache_dir: Path, device,
) -> dict[str, Any]:  # fmt: skip
    """Measure both models and decide on ``candidate``; the content of ``gates.json``.

    ``trained_on``: whether the gate session was trained on.  ``out``: the folder of replays, in the phase's folder.
    """
    models = {"base": base, "candidate": candidate}
    offline = []
    for gate in p.gates.offline:
        (before, after), leaks = measure_suite(models, manifest, gate.suite, p, cache_dir, out.parent, device)
        offline.append(offline_gate(before, after, gate, p.gates, p.seed) | {"leaks": leaks})
    live = None
    if session is not None:
        shutil.rmtree(out, ignore_errors=True)  # of an interrupted attempt
        out.mkdir(parents=True)
        replays = [replay(session, bundle, str(bundle.path), out / name) for name, bundle in models.items()]
        live = session_gate(*map(score, replays), p.gates.session) | {"session": session.name}
    head = {n: {"name": b.name, "weights_sha256": b.weights_sha256} for n, b in models.items()}
    return {**head, "manifest_sha256": manifest.sha256, **decide(offline, live, trained_on)}


def inherit_policy(candidate: Bundle, base: Bundle, out: Path) -> Bundle:
    """``candidate`` with the base's logit bias and abstention, which a fit does not produce.

    A copy in ``out/candidate``, or ``candidate`` itself where the base has neither.
    """
    policy = {"logit_bias": base.logit_bias, "abstention": base.abstention}
    policy = {name: values.tolist() for name, values in policy.items() if values is not None}
    return derive_bundle(candidate, out / "candidate", **policy) if policy else candidate


def seal_bundle(candidate: Bundle, result: dict[str, Any], out: Path) -> Bundle:
    """Write ``out/bundle``, the candidate with a verified ONNX file and the gates' outcome, and ``onnxparity.json``.

    Raises ExportError when the candidate does not export or its file differs from torch.
    """
    outcome = {key: result[key] for key in ("passed", "mark", "learned_from_gate_session")}
    bundle, report = export_bundle(candidate, out / "bundle", metrics={"gates": outcome})
    write_json(out / "onnxparity.json", {"candidate.onnx": report | weights_ids(candidate)})
    return bundle


def register_if_passed(p: AdaptParams, bundle: Bundle, result: dict[str, Any], run_id: str) -> str:
    """Register the candidate and move the alias, if an alias is set and every gate passed; return a sentence about it.

    The version's description begins with ``offline-only`` where no session gated.
    """
    if not p.alias:
        return "Nothing was registered: no alias is set."
    if not result["passed"]:
        return f"Nothing was registered: a gate did not pass, so {p.registered_name}@{p.alias} stays what it is."
    description = " ".join(filter(None, [f"{result['mark']}:" if result["mark"] else "", *result["said"]]))
    registration = register_model(bundle, p.registered_name, p.alias, run_id, p.smoke, description)
    return " ".join(filter(None, [registration.refusal and f"{registration.refusal}.", registration.message]))


def adapt_result(
    p: AdaptParams, fit: FinishedFit, base: Bundle, bundle: Bundle, result: dict[str, Any], data: AdaptData,
    counts: pd.DataFrame, registered: str,
) -> PhaseResult:  # fmt: skip
    """The result of an adaptation whose sealed candidate is ``bundle``; writes ``gates.json``.

    ``result``: of :func:`run_gates`; ``counts``: of ``data.counts_table``; ``registered``: of
    :func:`register_if_passed`.
    """
    out, reports = fit.folder, [folder / "buffer.json" for folder in data.buffers]
    files = [out / f"{name}.json" for name in (*FIT_FILES, "onnxparity")]
    scores = {one.get("suite", "session"): one["scores"] for one in result["gates"]}
    verdict = "passed" if result["passed"] else "not passed"
    buffered, replayed = counts.filter(like="buffered", axis=0)["total"].sum(), counts.loc["replayed", "total"]
    return PhaseResult(
        ids={key: fit.best.meta["ids"][key] for key in IDS},
        headline={
            "gates": ", ".join(filter(None, [verdict, result["mark"]])),
            "val macro-F1": fit.select["macro_f1"],
            "from": base.name,
        },
        bundle=bundle.path,
        artifacts=[write_json(out / "gates.json", result), *files, *reports, bundle.path],
        artifact_folders={report: f"buffers/{number}" for number, report in enumerate(reports)},
        metrics={"best": fit.select, "gates": scores | {"passed": float(result["passed"])}},
        tags={"fer.gates": verdict, "fer.gates.mark": result["mark"]},
        note={
            "action": f"Tuned {p.tune} of {base.name} on {buffered} rows of sessions and {replayed} replayed ones.",
            "result": " ".join(result["said"]),
            "decision": f"{'Every gate passed' if result['passed'] else 'Not every gate passed'}. {registered}",
            "next": "Record another session and gate on that one, or evaluate the candidate beside the base.",
        },
    )
