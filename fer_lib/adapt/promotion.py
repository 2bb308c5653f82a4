"""A base and a candidate measured on the same rows and on the same replayed session, for the gates to judge."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from fer_lib.datasets.manifest import Manifest, evalset_id, protocol_id
from fer_lib.datasets.openings import log_test_opening
from fer_lib.datasets.provenance import read_exposure
from fer_lib.errors import DataError
from fer_lib.evaluation.gates import decide, offline_gate, session_gate
from fer_lib.evaluation.leaks import checked_leaks
from fer_lib.evaluation.stages import Measured
from fer_lib.models.bundle import Bundle
from fer_lib.models.softlabels import cached_logits
from fer_lib.params import AdaptParams
from fer_lib.params.curate import SELECTIONS
from fer_lib.params.gates import Suite
from fer_lib.storage.atomic import explained, write_json


def suite_rows(manifest: Manifest, suite: Suite) -> Manifest:
    """The rows of a suite: ``val`` are val rows that chose no epoch (of any role but select); the others test rows.

    ``eval_only`` keeps those of SPEC 3's eval-only sources, each content once.  DataError when none is left.
    """
    frame = manifest.frame
    if suite == "val":
        frame = frame[(frame["split"] == "val") & (frame["val_role"] != "select")]
        hint = "build the manifest with smaller select share (val_roles)"
    else:
        frame, hint = frame[frame["split"] == "test"], "name a manifest that has them, or gate on suite: val"
        if suite == "eval_only":
            sources = SELECTIONS["classification_manifest_eval_only"].sources
            frame = frame[frame["source"].isin(sources)].sort_values("sample_id").drop_duplicates("content_id")
            hint = f"it wants test rows of {', '.join(sources)}; or gate on suite: val or test"
    if frame.empty:
        raise DataError(f"{manifest.path or 'the manifest'} has no rows for the suite {suite}: {hint}")
    return Manifest(frame.reset_index(drop=True), manifest.meta, manifest.path)


def measure(
    models: dict[str, Bundle], manifest: Manifest, suite: Suite, p: AdaptParams, cache_dir: Path, folder: Path, device
) -> tuple[list[Measured], dict[str, Any]]:
    """Each model's logits on the suite, single view, and what is known of rows that it may remember.

    Reading test rows is logged, in the phase's ``folder`` too.  DataError when rows are known to stand in train and
    their source is not in ``p.allow_leaks``.
    """
    rows, split = suite_rows(manifest, suite), "val" if suite == "val" else "test"
    _, leaks = checked_leaks(
        manifest, rows, split, p.allow_leaks, {n: read_exposure(b.path) for n, b in models.items()}
    )
    label, tolerance = ("val/held" if suite == "val" else suite), int(manifest.meta.get("tolerance", 0))
    weights = {name: [bundle.weights_sha256] for name, bundle in models.items()}
    log_test_opening(rows, weights, "gate", cache_dir, folder, label, suite=suite, manifest_sha256=manifest.sha256)
    found = []
    for name, bundle in models.items():
        options = dict(flip_average=False, batch_size=256, device=device, pack_kind=p.pack)
        logits, pack = cached_logits(bundle, rows, cache_dir, **options)
        used = pack.manifest
        evalset = evalset_id(used.sample_ids, used.labels, label, tolerance)
        protocol = protocol_id(evalset, bundle.contract, "none")
        report = {"evalset_id": evalset, "protocol_id": protocol, "n_expected": len(rows), "n_used": len(used)}
        found.append(Measured(name, report, logits, used.labels, used.sample_ids))
    return found, leaks


def measure_session(models: dict[str, Bundle], session: Path, out: Path) -> list[dict[str, Any]]:
    """Protocol-Lite of ``session`` as each model judges it, replayed into ``out/NAME``; raises what these do."""
    from fer_lib.live.replay import replay
    from fer_lib.live.score import score

    found = []
    for name, bundle in models.items():
        with explained(out):
            shutil.rmtree(out / name, ignore_errors=True)  # of an attempt that was interrupted
            out.mkdir(parents=True, exist_ok=True)
        found.append(score(replay(session, bundle, str(bundle.path), out / name)))
    return found


def gate(
    p: AdaptParams, base: Bundle, candidate: Bundle, manifest: Manifest, session: Path | None, learned: bool, out: Path,
    cache_dir: Path, device,
) -> dict[str, Any]:  # fmt: skip
    """What decides on ``candidate``, as ``gates.json`` holds it.  ``learned``: the session was learned from, too.

    ``out``: where sessions are replayed, below the phase's folder.
    """
    models = {"base": base, "candidate": candidate}
    offline = []
    for wanted in p.gates.offline:
        (before, after), leaks = measure(models, manifest, wanted.suite, p, cache_dir, out.parent, device)
        offline.append(offline_gate(before, after, wanted, p.gates, p.seed) | {"leaks": leaks})
    live = None
    if session is not None:
        live = session_gate(*measure_session(models, session, out), p.gates.session) | {"session": session.name}
    head = {n: {"name": b.name, "weights_sha256": b.weights_sha256} for n, b in models.items()}
    return {**head, "manifest_sha256": manifest.sha256, **decide(offline, live, learned)}


def gates_table(result: dict[str, Any]):
    """A line a score of each gate, as a table (pandas) to look at."""
    import pandas as pd

    lines = []
    for one in result["gates"]:
        for name, score in one["scores"].items():
            change = score.get("change", {})
            lines.append({
                "gate": one.get("suite", "session"), "score": name, "base": score["base"],
                "candidate": score["candidate"], "change": score["candidate"] - score["base"],
                "lo": change.get("lo"), "hi": change.get("hi"), "passed": score["passed"], "rows": one["n_used"],
            })  # fmt: skip
    return pd.DataFrame(lines)


def inherit_policy(candidate: Bundle, base: Bundle, out: Path) -> Bundle:
    """``candidate`` with the base's logit bias and abstention, which no fit makes, so that one policy judges both.

    As it is where the base has neither, else a copy in ``out/candidate``.
    """
    from fer_lib.models.bundle import derive_bundle

    kept = {"logit_bias": base.logit_bias, "abstention": base.abstention}
    kept = {name: values.tolist() for name, values in kept.items() if values is not None}
    return derive_bundle(candidate, out / "candidate", **kept) if kept else candidate


def seal_bundle(candidate: Bundle, result: dict[str, Any], out: Path) -> Bundle:
    """``out/bundle``: the candidate with its ONNX file, proved against torch, and what the gates said of it.

    FerError when the file's logits differ from torch's.
    """
    from fer_lib.deploy.fit_onnx import export_proved
    from fer_lib.models.bundle import ONNX, derive_bundle

    report = export_proved(candidate, out / "candidate.onnx")
    write_json(out / "onnxparity.json", {"candidate.onnx": report})
    said = {key: result[key] for key in ("passed", "mark", "learned_from_gate_session")}
    bundle = derive_bundle(
        candidate, out / "bundle", metrics={"gates": said}, extra_files={ONNX: out / "candidate.onnx"}
    )
    (out / "candidate.onnx").unlink()  # the bundle holds it
    return bundle


def register_if_passed(p: AdaptParams, bundle: Bundle, result: dict[str, Any], run_id: str) -> str:
    """Register the candidate and move the alias, if one was asked for and every gate passed; in words, what was done.

    The version's description begins with ``offline-only`` where no session gated.
    """
    from fer_lib.tracking.registry import alias_message, alias_version, permitted_alias, register_bundle

    if not p.alias:
        return "Nothing was registered: no alias was asked for."
    if not result["passed"]:
        return f"Nothing was registered: a gate did not pass, so {p.registered_name}@{p.alias} stays what it is."
    alias, refusal = permitted_alias(bundle, p.registered_name, p.alias, p.smoke)
    before = alias_version(p.registered_name, alias)
    said = " ".join(filter(None, [f"{result['mark']}:" if result["mark"] else "", *result["said"]]))
    version = register_bundle(bundle, p.registered_name, alias, run_id, description=said)
    moved = alias_message(p.registered_name, alias, version, before, bundle)
    return f"{refusal}. {moved}" if refusal else moved
