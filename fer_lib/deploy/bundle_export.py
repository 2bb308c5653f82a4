"""The exported bundle: the best candidate with a verified ONNX file, its calibration and metrics.

The export notebook registers it (``fer_lib.tracking.registry.register_model``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fer_lib.calibration.metrics import softmax, summary
from fer_lib.datasets.evalset_ids import evalset_id, protocol_id
from fer_lib.datasets.facepack import open_or_build
from fer_lib.datasets.manifest import Manifest, box_of
from fer_lib.datasets.openings import log_test_opening
from fer_lib.deploy import latency
from fer_lib.deploy.onnx_compact import compact
from fer_lib.deploy.onnx_file import export_verified
from fer_lib.deploy.onnx_parity import parity
from fer_lib.deploy.predict import Predictor
from fer_lib.errors import BundleError, FerError
from fer_lib.faces.decode import decode
from fer_lib.models.bundle import META, ONNX, Bundle, bundle_folder, derive_bundle, read_bundle
from fer_lib.models.inference import network, predict_logits
from fer_lib.params import ExportParams
from fer_lib.storage.atomic import write_json
from fer_lib.storage.phase_result import PhaseResult, Registration
from fer_lib.storage.progress import step

REAL_FACES = 256  # val/select faces for verifying the exported file
COMPARED = ("max_abs_diff", "max_abs_logit", "label_agreement", "n", "n_real")  # of the compact file


def export_model(
    params: ExportParams, inputs: Mapping[str, Any], out: Path | str, cache_dir: Path | None = None
) -> dict[str, Any]:
    """Export the best candidate into `out` and return what was done.

    `inputs`: ``candidates``, fit phase folders or bundles; ``evaluation``, an evaluation phase folder whose
    ``bundles/NAME`` is used where it exists, or blank; ``manifest``, a manifest or its phase folder, whose val/select
    faces verify the export, or blank.  ``cache_dir``: the folder of face packs.

    The candidate with the highest macro-F1 on val/select wins; ties go to the smaller file.  Files: ``bundle/``
    (weights, ``model.onnx``, metrics with ``onnx``), with ``compact`` also ``packaged/`` (the small file with its own
    test metrics), ``onnxparity.json``, ``latencybenchmarks.csv``.  Returned: bundle (Path), selected, ranking, parity,
    latency, ids, onnx_bytes.

    Raises FerError when candidates were measured on different rows, or the file differs from torch by more than
    ``parity_tolerance``.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    ranking = rank([Path(c) for c in inputs["candidates"]])
    bundle = _calibrated(read_bundle(ranking[0]["bundle"]), inputs.get("evaluation"))
    faces, labels = _select_faces(inputs.get("manifest"), REAL_FACES)

    final, report = export_bundle(
        bundle, out / "bundle", opset=params.opset, n=64, **faces, tolerance=params.parity_tolerance
    )
    files = {"fp32": final.path / ONNX}
    if params.compact:
        files["int8-weights"] = _write_packaged(final, inputs.get("manifest"), out, cache_dir or out / "cache")
        compared = parity(bundle, files["int8-weights"], **faces)
        fp32, int8 = (file.stat().st_size for file in files.values())
        report["compact"] = {key: compared[key] for key in COMPARED}
        report["compact"] |= {"bytes": int8, "bytes_fp32": fp32, "ratio": fp32 / int8}
    if len(labels):
        final = derive_bundle(final, out / "bundle", metrics={"onnx": _agreement(final, faces, labels)})
    rows = latency.benchmark(bundle, files)
    write_json(out / "onnxparity.json", report)
    pd.DataFrame(rows).to_csv(out / "latencybenchmarks.csv", index=False, lineterminator="\r\n")
    return {
        "bundle": final.path,
        "selected": final.name,
        "ranking": ranking,
        "parity": report,
        "latency": rows,
        "ids": final.meta["ids"],
        "onnx_bytes": files["fp32"].stat().st_size,
    }


def export_bundle(
    bundle: Bundle, folder: Path, metrics: Mapping[str, Any] | None = None, **options: Any
) -> tuple[Bundle, dict[str, Any]]:
    """Copy ``bundle`` to ``folder`` with a verified ``model.onnx`` and more ``metrics``; also the parity report.

    ``options`` are those of :func:`export_verified`.  Nothing is written to ``folder`` when the export fails.
    """
    file = folder.with_name(f".{folder.name}.onnx")
    try:
        report = export_verified(bundle, file, **options)
        return derive_bundle(bundle, folder, metrics=metrics, extra_files={ONNX: file}), report
    finally:
        file.unlink(missing_ok=True)


def rank(candidates: Sequence[Path]) -> list[dict[str, Any]]:
    """Candidates by macro-F1 on val/select, best first: [{name, folder, bundle, macro_f1, bytes, evalset_id}].

    Raises FerError without candidates and when they were measured on different rows, BundleError for a bundle without
    macro-F1.
    """
    if not candidates:
        raise FerError("nothing to export: there is no candidate; run a student phase first, or name candidates")
    rows = []
    for folder in candidates:
        bundle = read_bundle(bundle_folder(folder))
        values = bundle.meta["metrics"].get("val_select") or {}
        if values.get("macro_f1") is None:
            raise BundleError(f"{bundle.path} has no macro-F1 on val/select: train it again with a val split")
        rows.append({
            "name": bundle.name, "folder": folder, "bundle": bundle.path, "macro_f1": float(values["macro_f1"]),
            "bytes": sum((bundle.path / f).stat().st_size for f in bundle.meta["files"]),
            "evalset_id": values.get("evalset_id", bundle.meta["ids"].get("evalset_id")),
        })  # fmt: skip
    if len({r["evalset_id"] for r in rows}) > 1:
        sets = ", ".join(f"{r['name']}: {r['evalset_id']}" for r in rows)
        raise FerError(
            f"candidates were measured on different rows and can't be ranked ({sets}); train on one manifest"
        )
    return sorted(rows, key=lambda r: (-r["macro_f1"], r["bytes"], r["name"]))


def _calibrated(bundle: Bundle, evaluation: Path | str | None) -> Bundle:
    """The evaluation's bundle of this model, with temperature and test metrics; without one, the bundle itself."""
    if not evaluation:
        return bundle
    folder = Path(evaluation) / "bundles" / bundle.name
    if not (folder / META).is_file():
        return bundle
    evaluated = read_bundle(folder)
    if evaluated.weights_sha256 != bundle.weights_sha256:
        raise BundleError(
            f"{folder} was evaluated with other weights than those of {bundle.path}: run the evaluate phase again"
        )
    return evaluated


def _read_manifest(path: Path | str) -> Manifest:
    path = Path(path)
    return Manifest.read(path / "manifest.parquet" if path.is_dir() else path)


def _select_faces(manifest: Path | str | None, n: int) -> tuple[dict[str, list], np.ndarray]:
    """Up to `n` faces of val/select ({images, boxes}), evenly spread over its rows, and their class ids."""
    if not manifest:
        return {"images": [], "boxes": []}, np.empty(0, dtype=np.int64)
    rows = _read_manifest(manifest).rows(split="val", val_role="select")
    positions = np.unique(np.linspace(0, len(rows) - 1, min(n, len(rows))).round().astype(int))
    records = rows.frame.iloc[positions].to_dict("records")
    faces = {"images": [decode(rows.resolve(row)) for row in records], "boxes": [box_of(row) for row in records]}
    return faces, rows.labels[positions]


def _write_packaged(bundle: Bundle, manifest: Path | str | None, out: Path, cache_dir: Path) -> Path:
    """Write ``out/packaged``: only the compact ONNX file, with its own test metrics where the float32 file has some."""
    file = compact(bundle.path / ONNX, out / "compact.onnx")
    metrics: dict[str, Any] = {"test": None, "test_raw": None, "test_float32": bundle.meta["metrics"].get("test")}
    packaged = derive_bundle(bundle, out / "packaged", extra_files={ONNX: file}, metrics=metrics, weights=False)
    file.unlink()
    if metrics["test_float32"] and manifest:
        whole = _read_manifest(manifest)
        rows, weights = whole.rows(split="test"), {f"{bundle.name}, int8": [bundle.weights_sha256]}
        log_test_opening(rows, weights, "compact export", cache_dir, out, manifest_sha256=whole.sha256)
        tolerance = int(rows.meta.get("tolerance", 0))
        pack = open_or_build(rows, bundle.contract, cache_dir, tolerance, kind="none")  # test faces are not cached
        logits, labels = predict_logits(network(packaged), pack), pack.manifest.labels
        evalset = evalset_id(pack.manifest.sample_ids, labels, "test", tolerance)
        identity = {"evalset_id": evalset, "protocol_id": protocol_id(evalset, bundle.contract, "none")}
        identity |= {"n_expected": len(rows), "n_used": len(labels)}
        scaled = logits if bundle.temperature is None else bundle.temperature.apply(logits)
        scores = {"test": summary(scaled, labels) | identity, "test_raw": summary(logits, labels) | identity}
        packaged = derive_bundle(packaged, packaged.path, metrics=scores)
    return packaged.path / ONNX


def _agreement(bundle: Bundle, faces: dict[str, list], labels: np.ndarray) -> dict[str, Any]:
    """Agreement of the ONNX file and the torch weights on real faces, after temperature."""
    with step("comparing ONNX with torch"):
        logits = {runtime: Predictor(bundle, runtime=runtime).logits(**faces) for runtime in ("onnx", "torch")}
    scale = bundle.temperature.apply if bundle.temperature is not None else np.asarray
    onnx_probs, torch_probs = (softmax(scale(logits[k])) for k in ("onnx", "torch"))
    return {
        "rows": "val/select",
        "n": len(labels),
        "max_abs_prob_diff": float(np.abs(onnx_probs - torch_probs).max()),
        "label_agreement": float((onnx_probs.argmax(1) == torch_probs.argmax(1)).mean()),
        "accuracy_onnx": float((onnx_probs.argmax(1) == labels).mean()),
        "accuracy_torch": float((torch_probs.argmax(1) == labels).mean()),
    }


def export_result(exported: Mapping[str, Any], bundle: Bundle, registration: Registration, out: Path) -> PhaseResult:
    """The result of an export phase in ``out``; ``exported``: from :func:`export_model`, whose model is ``bundle``."""
    difference, size = exported["parity"]["max_abs_diff"], exported["onnx_bytes"]
    refusal = f"{registration.refusal}." if registration.refusal else ""
    return PhaseResult(
        ids={"weights_sha256": bundle.weights_sha256},
        headline={"registered": registration.text, "from": exported["selected"]},
        bundle=bundle.path,
        artifacts=[out / "onnxparity.json", out / "latencybenchmarks.csv"],
        metrics={"onnx_bytes": size, "max_abs_diff": difference},
        warnings=registration.warnings,
        note={
            "action": f"Exported {exported['selected']} and checked it against torch.",
            "result": f"Largest difference of logits {difference:.2g}; {size / 1e6:.1f} MB.",
            "decision": " ".join(filter(None, [refusal, registration.message])),
            "next": f"Predict: fer predict PHOTO --model {registration.uri}.",
        },
    )
