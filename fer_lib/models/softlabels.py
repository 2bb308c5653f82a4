"""Teachers' logits on disk: computed once a manifest, combined, verified by whoever reads them (SPEC 6)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_lib.calibration import metrics
from fer_lib.datasets.facepack import LIBRARIES, FacePack, open_or_build, rows_key
from fer_lib.datasets.manifest import Manifest, evalset_id, protocol_id
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
    """``logits`` float64 [N, 7] in the order of the manifest asked for; ``record`` the folder's alignmentreport."""

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
    """float64 logits [N, 7] of the bundle's model over ``rows`` and the pack they came from, computed once.

    Keyed by weights, rows, contract, view and what decodes the pictures; a damaged file is computed again.
    """
    tolerance = int(rows.meta.get("tolerance", 0))
    pack = open_or_build(rows, bundle.contract, cache_dir, tolerance, kind=pack_kind)
    used = pack.manifest  # other rows once a picture that a tolerance left out is back
    parts = [bundle.weights_sha256, rows_key(used), bundle.contract.id, flip_average, tolerance, LIBRARIES]
    file = cache_dir / f"logits-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}.npy"

    def compute() -> np.ndarray:
        return predict_logits(bundle.model().to(device), pack, batch_size, device, flip_average)

    return cached_array(file, compute), pack


def export_softlabels(
    p: SoftLabelParams, manifest: Manifest, teachers: list[Path], out: Path, cache_dir: Path, device
) -> dict[str, Any]:
    """Logits of every train row under the (searched or given) ensemble; weights are chosen on val/select.

    ``teachers``: bundle folders.  Writes SPEC 6's files into ``out`` and returns the alignmentreport.
    """
    if not teachers:
        raise FerError("no teachers: name at least one finished 04_train_teacher phase, or bundle folders")
    if p.weights and len(p.weights) != len(teachers):
        raise FerError(f"{len(p.weights)} weights for {len(teachers)} teachers: give one each, or none to search")
    out.mkdir(parents=True, exist_ok=True)
    bundles = [read_bundle(t) for t in teachers]
    train, select = manifest.rows(split="train"), manifest.rows(split="val", val_role="select")
    options = dict(flip_average=p.flip_average, batch_size=p.batch_size, device=device, pack_kind=p.pack)
    on_select, packs = zip(*[cached_logits(b, select, cache_dir, **options) for b in bundles], strict=True)
    used = _same_rows(packs)
    weights = list(p.weights) or search_weights(list(on_select), used.labels, p.space)[0]
    chosen = combine(list(on_select), weights, p.space)
    train_logits, train_packs = zip(*[cached_logits(b, train, cache_dir, **options) for b in bundles], strict=True)
    rows = _same_rows(train_packs)
    logits = combine(list(train_logits), weights, p.space)

    evalset = evalset_id(used.sample_ids, used.labels, "val/select", int(manifest.meta.get("tolerance", 0)))
    view = "flip" if p.flip_average else "none"
    identity = {
        "evalset_id": evalset,
        "protocol_id": protocol_id(evalset, bundles[0].contract, f"{view}:ensemble:{[b.contract.id for b in bundles]}"),
        "n_expected": len(select), "n_used": len(used),
    }  # fmt: skip
    summaries = [metrics.summary(z, used.labels) for z in on_select]
    members = [
        {"uri": _beside(out, t), "model": b.name, "backbone": b.meta["model"]["backbone"],
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
    summary = metrics.summary(chosen, used.labels)
    scores = {k: summary[k] for k in ("accuracy", "macro_f1", "per_class_f1", "nll", "ece", "brier")} | identity
    weighed = TrainingExposure.of((), used.frame["content_id"])  # the rows that chose the ensemble's weights
    seen = weighed.with_ancestors([read_exposure(b.path) for b in bundles])
    _write_folder(out, logits, rows, record, scores, seen)
    return record


def _beside(out: Path, bundle: Path) -> str:
    """The bundle's folder as ``out`` sees it when both lie in the same place, so that they can move together."""
    out, bundle = out.resolve(), bundle.resolve()
    near = bundle.is_relative_to(out.parent)
    return (Path("..") / bundle.relative_to(out.parent) if near else bundle).as_posix()


def _same_rows(packs: tuple[FacePack, ...]) -> Manifest:
    """The rows that every member scored; FerError when a tolerance left one of them with others."""
    first = packs[0].manifest
    if any(pack.manifest.sample_ids != first.sample_ids for pack in packs):
        raise FerError("the teachers could read different pictures; repair the manifest before they are put together")
    return first


def _write_folder(
    out: Path, logits: np.ndarray, rows: Manifest, record: dict, metrics: dict, seen: TrainingExposure
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
    seen.write(out / EXPOSURE_FILE)
    hashes = {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in _FILES}
    (out / "hash_manifest.json").write_text(json.dumps(hashes, indent=1))


def softlabels_sha256(folder: Path) -> str:
    """What the folder is: a hash over its files' hashes, each checked.  BundleError when one differs or is missing."""
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
    """The folder's logits for exactly ``rows``, in their order, for a student that sees faces by ``contract``.

    A teacher may have its own image size and normalisation; align, margin, CLAHE and grey must be the student's.
    Raises BundleError when a hash, the class order, the labels or a teacher's face contract differ, or when a row isn't
    covered.  Without ``contract`` the teachers' contracts are only checked to be recorded and to mean today's pixels.
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
    """BundleError unless the faces that ``teacher`` saw are those of ``contract`` but for size and normalisation."""
    if "face_contract" not in teacher:  # an id alone does not tell align, margin and CLAHE
        raise BundleError(f"{folder} does not record the face contract of teacher {teacher['model']}; {_ADVICE}")
    theirs = FaceContract.model_validate(teacher["face_contract"])
    if theirs.id != teacher["face_contract_id"]:  # the version, part of the id, was raised
        raise BundleError(
            f"{folder}: the face contract of teacher {teacher['model']} gives other pixels in this fer-lab (id "
            f"{teacher['face_contract_id']}, now {theirs.id}); train the teacher again and {_ADVICE}"
        )
    if contract is not None and theirs.crop_settings != contract.crop_settings:
        raise BundleError(
            f"{folder}: teacher {teacher['model']} saw faces with {theirs.crop_settings}, the student sees "
            f"{contract.crop_settings}: give the student the teacher's settings, or {_ADVICE} with teachers that were "
            "trained with the student's"
        )


def read_record(folder: Path) -> dict[str, Any]:
    """The folder's ``alignmentreport.json`` with the teachers' bundles where they lie now."""
    record = json.loads((folder / "alignmentreport.json").read_text())
    members = [t | {"uri": (folder / t["uri"]).resolve().as_posix()} for t in record["teachers"]]
    return record | {"teachers": members}


def sharpness(logits: np.ndarray) -> list[dict[str, float]]:
    """How sharp the targets are: quantiles of the largest probability and of the entropy (nats) at temperatures."""
    out = []
    for t in SHARPNESS_TEMPERATURES:
        log_p = metrics.log_softmax(logits / t)
        p = np.exp(log_p)
        top, entropy = p.max(1), -(p * log_p).sum(1)
        quantiles = {
            f"{name}_q{q:02d}": float(np.quantile(values, q / 100))
            for name, values in (("max_prob", top), ("entropy", entropy))
            for q in (5, 25, 50, 75, 95)
        }
        out.append({"temperature": t, **quantiles})
    return out
