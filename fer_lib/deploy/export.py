"""The library part of 09_export_onnx: choose the student, export it, prove the file, time it, seal the bundle."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fer_lib.calibration.metrics import softmax, summary
from fer_lib.datasets.batches import eval_batches
from fer_lib.datasets.facepack import open_or_build
from fer_lib.datasets.manifest import Manifest, evalset_id, protocol_id
from fer_lib.datasets.openings import log_test_opening
from fer_lib.deploy import latency
from fer_lib.deploy.onnx import compact, export_onnx, parity
from fer_lib.deploy.predict import Predictor
from fer_lib.errors import BundleError, FerError
from fer_lib.faces.decode import decode
from fer_lib.models.bundle import META, ONNX, Bundle, bundle_folder, derive_bundle, read_bundle
from fer_lib.onnx_session import open_session
from fer_lib.params import ExportParams

REAL_FACES = 256  # of val/select, that the exported file is checked on
SIDES = ("top", "left", "bottom", "right")


def export_model(
    params: ExportParams, inputs: Mapping[str, Any], out: Path | str, cache_dir: Path | None = None
) -> dict[str, Any]:
    """Export the best candidate into `out` and return what was done.

    `inputs`: ``candidates``, fit phase folders or bundles; ``evaluation``, an evaluation phase
    folder whose ``bundles/NAME`` is taken where it exists, or blank; ``manifest``, a manifest or its phase folder,
    whose val/select faces are used for the checks, or blank.  ``cache_dir``: where face packs lie.

    The candidate with the highest macro-F1 on val/select wins; ties go to the smaller file.  Written: ``bundle/``
    (weights, ``model.onnx``, metrics with ``onnx``), with ``compact`` also ``packaged/`` (the small file, measured by
    itself), ``onnxparity.json``, ``latencybenchmarks.csv``.  Returned: bundle (Path), selected, ranking, parity,
    latency, ids, onnx_bytes.

    Raises FerError when candidates were measured on different rows, or the file differs from torch by more than
    ``parity_tolerance``.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    ranking = rank([Path(c) for c in inputs["candidates"]])
    bundle = _calibrated(read_bundle(ranking[0]["bundle"]), inputs.get("evaluation"))
    faces, labels = _select_faces(inputs.get("manifest"), REAL_FACES)

    exported = export_onnx(bundle, out / "float32.onnx", opset=params.opset)
    report = parity(bundle, exported, **faces, tolerance=params.parity_tolerance)
    files = {"fp32": exported}
    final = derive_bundle(bundle, out / "bundle", extra_files={ONNX: exported})
    if params.compact:
        files["int8-weights"] = compact(exported, out / "compact.onnx")
        report["compact"] = _compact_report(bundle, files, faces)
        _write_packaged(final, files["int8-weights"], inputs.get("manifest"), out, cache_dir or out / "cache")
    if len(labels):
        final = derive_bundle(final, out / "bundle", metrics={"onnx": _agreement(final, faces, labels)})
    rows = latency.benchmark(bundle, files)
    (out / "onnxparity.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    with open(out / "latencybenchmarks.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, latency.COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    for file in files.values():
        file.unlink()  # the bundle holds the one that counts
    return {
        "bundle": final.path,
        "selected": final.name,
        "ranking": ranking,
        "parity": report,
        "latency": rows,
        "ids": final.meta["ids"],
        "onnx_bytes": (final.path / ONNX).stat().st_size,
    }


def rank(candidates: Sequence[Path]) -> list[dict[str, Any]]:
    """Candidates by macro-F1 on val/select, best first: [{name, folder, bundle, macro_f1, bytes, evalset_id}].

    Raises FerError without candidates, for one whose bundle has no such number, and when they were not measured on the
    same rows.
    """
    if not candidates:
        raise FerError("nothing to export: no candidate was given; run a student phase first, or name candidates")
    rows = []
    for folder in candidates:
        bundle = read_bundle(bundle_folder(folder))
        values = bundle.meta["metrics"].get("val_select") or {}
        if values.get("macro_f1") is None:
            raise BundleError(f"{bundle.path} has no macro-F1 on val/select: train it again with a val split")
        rows.append(
            {
                "name": bundle.name,
                "folder": folder,
                "bundle": bundle.path,
                "macro_f1": float(values["macro_f1"]),
                "bytes": sum((bundle.path / f).stat().st_size for f in bundle.meta["files"]),
                "evalset_id": values.get("evalset_id", bundle.meta["ids"].get("evalset_id")),
            }
        )
    if len({r["evalset_id"] for r in rows}) > 1:
        sets = ", ".join(f"{r['name']}: {r['evalset_id']}" for r in rows)
        raise FerError(
            f"candidates were measured on different rows and can't be ranked ({sets}); train on one manifest"
        )
    return sorted(rows, key=lambda r: (-r["macro_f1"], r["bytes"], r["name"]))


def _calibrated(bundle: Bundle, evaluation: Path | str | None) -> Bundle:
    """The evaluation's bundle of this model (temperature and test metrics in it), else the bundle itself."""
    if not evaluation:
        return bundle
    folder = Path(evaluation) / "bundles" / bundle.name
    if not (folder / META).is_file():
        return bundle
    measured = read_bundle(folder)
    if measured.weights_sha256 != bundle.weights_sha256:
        raise BundleError(
            f"{folder} was evaluated with other weights than {bundle.path} holds: run the evaluate phase again, after "
            "the training"
        )
    return measured


def _select_faces(manifest: Path | str | None, n: int) -> tuple[dict[str, list], np.ndarray]:
    """Up to `n` faces of val/select, evenly spread over its rows ({images, boxes}), and their class ids."""
    if not manifest:
        return {"images": [], "boxes": []}, np.empty(0, dtype=np.int64)
    path = Path(manifest)
    chosen = Manifest.read(path / "manifest.parquet" if path.is_dir() else path).rows(split="val", val_role="select")
    at = np.unique(np.linspace(0, len(chosen) - 1, min(n, len(chosen))).round().astype(int))
    records = chosen.frame.iloc[at].to_dict("records")
    boxes = [tuple(float(row.get(f"bbox_{side}", np.nan)) for side in SIDES) for row in records]
    faces = {
        "images": [decode(chosen.resolve(row)) for row in records],
        "boxes": [None if np.isnan(box).any() else box for box in boxes],
    }
    return faces, chosen.labels[at]


def _compact_report(bundle: Bundle, files: Mapping[str, Path], faces: dict[str, list]) -> dict[str, Any]:
    compared = parity(bundle, files["int8-weights"], **faces)
    sizes = {name: path.stat().st_size for name, path in files.items()}
    return {
        **{k: compared[k] for k in ("max_abs_diff", "max_abs_logit", "label_agreement", "n", "n_real")},
        "bytes": sizes["int8-weights"],
        "bytes_fp32": sizes["fp32"],
        "ratio": sizes["fp32"] / sizes["int8-weights"],
    }


def _write_packaged(bundle: Bundle, file: Path, manifest: Path | str | None, out: Path, cache_dir: Path) -> None:
    """``out/packaged``: the small file as a bundle of its own, whose test metrics are measured on that very file.

    This reads the test rows again, which is logged.  It has none where the float weights have none (no evaluation was
    given).
    """
    contract, temperature = bundle.contract, bundle.temperature
    metrics: dict[str, Any] = {"test": None, "test_raw": None, "test_float32": bundle.meta["metrics"].get("test")}
    if metrics["test_float32"] and manifest:
        path = Path(manifest)
        whole = Manifest.read(path / "manifest.parquet" if path.is_dir() else path)
        rows, weights = whole.rows(split="test"), {f"{bundle.name}, int8": [bundle.weights_sha256]}
        log_test_opening(rows, weights, "compact export", cache_dir, out, manifest_sha256=whole.sha256)
        tolerance = int(rows.meta.get("tolerance", 0))
        pack = open_or_build(rows, contract, cache_dir, tolerance, kind="none")  # so no pack is kept
        session = open_session(file)
        parts = [session.run(["logits"], {"faces": faces})[0] for _, faces in eval_batches(pack, 256)]
        logits, labels = np.concatenate(parts).astype(np.float64), pack.manifest.labels
        evalset = evalset_id(pack.manifest.sample_ids, labels, "test", tolerance)
        identity = {"evalset_id": evalset, "protocol_id": protocol_id(evalset, contract, "none")}
        identity |= {"n_expected": len(rows), "n_used": len(labels)}
        scaled = logits if temperature is None else temperature.apply(logits)
        metrics |= {"test": summary(scaled, labels) | identity, "test_raw": summary(logits, labels) | identity}
    derive_bundle(bundle, out / "packaged", extra_files={ONNX: file}, metrics=metrics, weights=False)


def _agreement(bundle: Bundle, faces: dict[str, list], labels: np.ndarray) -> dict[str, Any]:
    """How the file that ships and the torch weights that were measured compare on real faces, after temperature."""
    logits = {runtime: Predictor(bundle, runtime=runtime).logits(**faces) for runtime in ("onnx", "torch")}
    scale = bundle.temperature.apply if bundle.temperature is not None else np.asarray
    shipped, measured = (softmax(scale(logits[k])) for k in ("onnx", "torch"))
    return {
        "rows": "val/select",
        "n": len(labels),
        "max_abs_prob_diff": float(np.abs(shipped - measured).max()),
        "label_agreement": float((shipped.argmax(1) == measured.argmax(1)).mean()),
        "accuracy_onnx": float((shipped.argmax(1) == labels).mean()),
        "accuracy_torch": float((measured.argmax(1) == labels).mean()),
    }
