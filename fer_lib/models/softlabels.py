"""Soft labels: the logits of a teacher ensemble on disk, computed once per manifest and verified when read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_lib.calibration import metrics
from fer_lib.datasets.evalset_ids import evalset_id, protocol_id
from fer_lib.datasets.facepack import LIBRARIES, FacePack, open_or_build, rows_key
from fer_lib.datasets.manifest import Manifest
from fer_lib.datasets.provenance import EXPOSURE_FILE, TrainingExposure, read_exposure
from fer_lib.emotions import EMOTIONS
from fer_lib.errors import BundleError, FerError
from fer_lib.faces.contract import FaceContract
from fer_lib.models.bundle import Bundle, read_bundle
from fer_lib.models.cache import cached_array
from fer_lib.models.ensemble import combine, search_weights
from fer_lib.models.inference import predict_logits
from fer_lib.params import SoftLabelParams
from fer_lib.params.base import PackKind
from fer_lib.storage.progress import each, step

_ADVICE = "export the soft labels again (phase 06_export_softlabels)"
SHARPNESS_TEMPERATURES = (1.0, 1.2, 2.0, 4.0, 5.0, 6.0)
_FILES = (
    "softlabels.npz",
    "softlabels_index.jsonl",
    "classorder.json",
    "alignmentreport.json",
    "ensemble_metrics.json",
    EXPOSURE_FILE,
)


@dataclass(frozen=True)
class SoftLabels:
    """``logits`` float64 [N, 7] in the row order of the reader's manifest; ``record``: ``alignmentreport.json``."""

    logits: np.ndarray
    record: dict[str, Any]
    sha256: str


def cached_logits(
    bundle: Bundle,
    rows: Manifest,
    cache_dir: Path,
    *,
    flip_average: bool,
    batch_size: int,
    device,
    pack_kind: PackKind = "faces",
) -> tuple[np.ndarray, FacePack]:
    """float64 logits [N, 7] of the bundle's model for ``rows``, and the pack that holds these N faces.

    The logits are cached under a key of weights, rows, contract, view and image libraries.  N is smaller than the
    number of ``rows`` when a tolerance left images out.
    """
    tolerance = int(rows.meta.get("tolerance", 0))
    pack = open_or_build(rows, bundle.contract, cache_dir, tolerance, kind=pack_kind)
    pack_rows = rows_key(pack.manifest)  # changes when an image that a tolerance left out is restored
    parts = [bundle.weights_sha256, pack_rows, bundle.contract.id, flip_average, tolerance, LIBRARIES]
    file = cache_dir / f"logits-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}.npy"

    def compute() -> np.ndarray:
        return predict_logits(bundle.model().to(device), pack, batch_size, device, flip_average)

    return cached_array(file, compute), pack


def export_softlabels(
    p: SoftLabelParams, manifest: Manifest, teachers: list[Path], out: Path, cache_dir: Path, device
) -> dict[str, Any]:
    """Write the ensemble logits of all train rows into ``out`` and return the content of ``alignmentreport.json``.

    ``teachers``: bundle folders.  Without ``p.weights`` the ensemble weights are searched on val/select.
    Raises FerError when there are no teachers, or not one weight per teacher.
    """
    if not teachers:
        raise FerError("no teachers: name at least one finished 04_train_teacher phase, or bundle folders")
    if p.weights and len(p.weights) != len(teachers):
        raise FerError(
            f"{len(p.weights)} weights for {len(teachers)} teachers: give one per teacher, or none to search them"
        )
    out.mkdir(parents=True, exist_ok=True)
    bundles = [read_bundle(t) for t in teachers]
    train, select = manifest.rows(split="train"), manifest.rows(split="val", val_role="select")
    options = dict(flip_average=p.flip_average, batch_size=p.batch_size, device=device, pack_kind=p.pack)
    select_logits, packs = zip(
        *[cached_logits(b, select, cache_dir, **options) for b in each("teacher", bundles)], strict=True
    )
    select_rows = _common_rows(packs)
    with step("searching ensemble weights"):
        weights = list(p.weights) or search_weights(list(select_logits), select_rows.labels, p.space)[0]
    ensemble_logits = combine(list(select_logits), weights, p.space)
    train_logits, train_packs = zip(
        *[cached_logits(b, train, cache_dir, **options) for b in each("teacher", bundles)], strict=True
    )
    rows = _common_rows(train_packs)
    logits = combine(list(train_logits), weights, p.space)

    tolerance = int(manifest.meta.get("tolerance", 0))
    evalset = evalset_id(select_rows.sample_ids, select_rows.labels, "val/select", tolerance)
    view = "flip" if p.flip_average else "none"
    identity = {
        "evalset_id": evalset,
        "protocol_id": protocol_id(evalset, bundles[0].contract, f"{view}:ensemble:{[b.contract.id for b in bundles]}"),
        "n_expected": len(select), "n_used": len(select_rows),
    }  # fmt: skip
    summaries = [metrics.summary(z, select_rows.labels) for z in select_logits]
    members = [
        {"uri": _relative_path(out, t), "model": b.name, "backbone": b.meta["model"]["backbone"],
         "epoch": b.meta["ids"].get("epoch"), "weight": w, "weights_sha256": b.weights_sha256,
         "face_contract_id": b.contract.id, "face_contract": b.contract.model_dump(mode="json"),
         "val_select": {k: s[k] for k in ("accuracy", "macro_f1", "nll", "ece")}}
        for t, b, w, s in zip(teachers, bundles, weights, summaries, strict=True)
    ]  # fmt: skip
    ranking = sorted(members, key=lambda m: (-m["val_select"]["macro_f1"], -m["val_select"]["accuracy"]))
    record = {
        "manifest_sha256": manifest.sha256, "split": "train", "rows": len(rows), "rows_sha256": rows.sha256,
        "image_size": [b.contract.image_size for b in bundles], "use_clahe": [b.contract.clahe for b in bundles],
        "teachers": members, "ranking": [m["model"] for m in ranking], "ensemble_space": p.space, "logits_kind": "raw",
        "flip_average": p.flip_average, "sharpness": sharpness(logits), **identity,
    }  # fmt: skip
    summary = metrics.summary(ensemble_logits, select_rows.labels)
    scores = {k: summary[k] for k in ("accuracy", "macro_f1", "per_class_f1", "nll", "ece", "brier")} | identity
    selection = TrainingExposure.of((), select_rows.frame["content_id"])  # the ensemble's weights depend on these rows
    exposure = selection.with_ancestors([read_exposure(b.path) for b in bundles])
    _write_folder(out, logits, rows, record, scores, exposure)
    return record


def _relative_path(out: Path, bundle: Path) -> str:
    """The bundle's path relative to ``out`` when both are below one parent, which may then be moved; else absolute."""
    out, bundle = out.resolve(), bundle.resolve()
    near = bundle.is_relative_to(out.parent)
    return (Path("..") / bundle.relative_to(out.parent) if near else bundle).as_posix()


def _common_rows(packs: tuple[FacePack, ...]) -> Manifest:
    """The rows of every pack; FerError when a tolerance left them with different rows."""
    first = packs[0].manifest
    if any(pack.manifest.sample_ids != first.sample_ids for pack in packs):
        raise FerError("the teachers' face packs hold different rows: repair the unreadable images of the manifest")
    return first


def _write_folder(
    out: Path, logits: np.ndarray, rows: Manifest, record: dict, metrics: dict, exposure: TrainingExposure
) -> None:
    np.savez(out / "softlabels.npz", logits=logits.astype(np.float32), y=rows.labels.astype(np.uint8))
    with open(out / "softlabels_index.jsonl", "w") as lines:
        columns = (rows.sample_ids, rows.frame["image_path"], rows.frame["source"], rows.labels)
        for i, (sample, path, source, y) in enumerate(zip(*columns, strict=True)):
            lines.write(
                json.dumps({"i": i, "sample_id": sample, "image_path": path, "source": source, "y": int(y)}) + "\n"
            )
    (out / "classorder.json").write_text(json.dumps(list(EMOTIONS)))
    (out / "alignmentreport.json").write_text(json.dumps(record, indent=1))
    (out / "ensemble_metrics.json").write_text(json.dumps(metrics, indent=1))
    exposure.write(out / EXPOSURE_FILE)
    hashes = {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in _FILES}
    (out / "hash_manifest.json").write_text(json.dumps(hashes, indent=1))


def softlabels_sha256(folder: Path) -> str:
    """SHA-256 over the hashes of the folder's files.  BundleError when a file is missing or was changed."""
    try:
        hashes = json.loads((folder / "hash_manifest.json").read_text())
    except (OSError, ValueError) as error:
        raise BundleError(f"{folder} holds no soft labels ({error}); {_ADVICE}") from error
    for name in _FILES:
        content = (folder / name).read_bytes() if (folder / name).is_file() else b""
        if hashlib.sha256(content).hexdigest() != hashes.get(name):
            raise BundleError(f"{folder / name} is missing or was changed after it was written; {_ADVICE}")
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def read_softlabels(folder: Path, rows: Manifest, contract: FaceContract | None = None) -> SoftLabels:
    """The folder's logits for exactly ``rows``, in their order, for a student with face contract ``contract``.

    A teacher may have its own image size and normalisation; align, margin, CLAHE and grey must match the student's.
    Without ``contract``, teachers' contracts only have to be recorded and to be of the current version.
    Raises BundleError when a hash, the class order, the labels or a teacher's contract differ, or a row is missing.
    """
    digest = softlabels_sha256(folder)
    record = read_record(folder)
    for teacher in record["teachers"]:
        _check_contract(folder, teacher, contract)
    if json.loads((folder / "classorder.json").read_text()) != list(EMOTIONS):
        raise BundleError(f"{folder}: the class order is not {list(EMOTIONS)}; {_ADVICE}")
    with np.load(folder / "softlabels.npz") as stored:
        logits, y = stored["logits"].astype(np.float64), stored["y"]
    with open(folder / "softlabels_index.jsonl") as lines:
        position = {entry["sample_id"]: entry["i"] for entry in map(json.loads, lines)}
    missing = [s for s in rows.sample_ids if s not in position]
    if missing:
        raise BundleError(
            f"{folder} covers {len(rows) - len(missing)} of {len(rows)} training rows (first missing: {missing[0]}); "
            f"{_ADVICE}"
        )
    order = np.asarray([position[s] for s in rows.sample_ids])
    if (y[order] != rows.labels).any():
        raise BundleError(f"{folder} was made with other labels than the manifest's; {_ADVICE}")
    return SoftLabels(logits[order], record, digest)


def _check_contract(folder: Path, teacher: dict[str, Any], contract: FaceContract | None) -> None:
    """BundleError unless the teacher's contract equals ``contract`` except for size and normalisation."""
    if "face_contract" not in teacher:  # the id alone does not give align, margin and CLAHE
        raise BundleError(f"{folder} does not record the face contract of teacher {teacher['model']}; {_ADVICE}")
    recorded = FaceContract.model_validate(teacher["face_contract"])
    if recorded.id != teacher["face_contract_id"]:  # the contract version, part of the id, has changed
        raise BundleError(
            f"{folder}: the face contract of teacher {teacher['model']} gives other pixels in this fer-lab (id "
            f"{teacher['face_contract_id']}, now {recorded.id}); train the teacher again and {_ADVICE}"
        )
    if contract is not None and recorded.crop_settings != contract.crop_settings:
        raise BundleError(
            f"{folder}: teacher {teacher['model']} was trained on faces with {recorded.crop_settings}, the student is "
            f"trained with {contract.crop_settings}: give the student the teacher's settings, or {_ADVICE} with "
            "teachers that were trained with the student's"
        )


def read_record(folder: Path) -> dict[str, Any]:
    """The folder's ``alignmentreport.json``, with absolute paths of the teachers' bundles."""
    record = json.loads((folder / "alignmentreport.json").read_text())
    members = [t | {"uri": (folder / t["uri"]).resolve().as_posix()} for t in record["teachers"]]
    return record | {"teachers": members}


def sharpness(logits: np.ndarray) -> list[dict[str, float]]:
    """Quantiles of the largest probability and of the entropy (nats) at each of ``SHARPNESS_TEMPERATURES``.

    ``logits`` float [N, 7].
    """
    table = []
    for t in SHARPNESS_TEMPERATURES:
        log_p = metrics.log_softmax(logits / t)
        p = np.exp(log_p)
        top, entropy = p.max(1), -(p * log_p).sum(1)
        quantiles = {
            f"{name}_q{q:02d}": float(np.quantile(values, q / 100))
            for name, values in (("max_prob", top), ("entropy", entropy))
            for q in (5, 25, 50, 75, 95)
        }
        table.append({"temperature": t, **quantiles})
    return table
