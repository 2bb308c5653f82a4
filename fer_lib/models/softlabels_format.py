"""The files of a soft-label folder: written once, and verified when read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from fer_lib.datasets.manifest import Manifest
from fer_lib.datasets.provenance import EXPOSURE_FILE, TrainingExposure
from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.errors import BundleError
from fer_lib.faces.contract import FaceContract
from fer_lib.models.bundle_format import Cost
from fer_lib.params.strict import first_problem
from fer_lib.storage.json_files import file_sha256
from fer_lib.storage.npz_files import read_npz

_ADVICE = "export the soft labels again (phase 06_export_softlabels)"
RECORD, METRICS, HASHES = "alignmentreport.json", "ensemble_metrics.json", "hash_manifest.json"
# beside the set, not part of it: seconds of training would change its hash
RANKING, RANKING_CSV, COSTS = "ensemble_ranking.json", "ensemble_ranking.csv", "training_costs.json"
FILES = ("softlabels.npz", "softlabels_index.jsonl", "classorder.json", RECORD, METRICS, EXPOSURE_FILE)


@dataclass(frozen=True)
class SoftLabels:
    """``logits`` float64 [N, 7] in the row order of the reader's manifest; ``record``: ``alignmentreport.json``."""

    logits: np.ndarray
    record: dict[str, Any]
    sha256: str


Score = Annotated[float, Field(ge=0, le=1)] | None


class TeacherRecord(BaseModel):
    """One teacher of ``alignmentreport.json``.  ``uri``: its bundle folder, relative to the soft labels or absolute."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    uri: str
    model: str
    backbone: str
    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    weights_sha256: str
    face_contract_id: str
    face_contract: FaceContract | None = None  # None: written before it was recorded


class TeacherCost(BaseModel):
    """One teacher of ``training_costs.json``."""

    weights_sha256: str
    cost: Cost | None


class SoftLabelRecord(BaseModel):
    """The part of ``alignmentreport.json`` that readers depend on; ``name``: of a registered ensemble."""

    model_config = ConfigDict(extra="allow")

    name: str | None = None
    rows: Annotated[int, Field(ge=0)]
    ensemble_space: Literal["logit", "prob"]
    teachers: Annotated[list[TeacherRecord], Field(min_length=1)]


class EnsembleMetrics(BaseModel):
    """The part of ``ensemble_metrics.json`` that an ensemble has as its metrics and ids."""

    evalset_id: str
    protocol_id: str
    macro_f1: Score = None
    accuracy: Score = None
    ece: Score = None


_Index = TypeAdapter(dict[str, Annotated[int, Field(ge=0)]])
_Hashes = TypeAdapter(dict[str, str])
_Costs = TypeAdapter(list[TeacherCost])


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Translate the errors of damaged or foreign files into a BundleError that names the folder."""
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise BundleError(f"{folder} holds no soft labels ({first_problem(error)}); {_ADVICE}") from error


def softlabels_sha256(folder: Path) -> str:
    """SHA-256 over the hashes of the folder's files.  BundleError when a file is missing or was changed."""
    return hashlib.sha256(json.dumps(verify_files(folder, FILES), sort_keys=True).encode()).hexdigest()


def verify_files(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """The hashes that ``hash_manifest.json`` records.  BundleError when one of ``names`` is missing or was changed."""
    with _reading(folder):
        hashes = _Hashes.validate_json((folder / HASHES).read_bytes())
        for name in names:
            content = (folder / name).read_bytes() if (folder / name).is_file() else b""
            if hashlib.sha256(content).hexdigest() != hashes.get(name):
                raise BundleError(f"{folder / name} is missing or was changed after it was written; {_ADVICE}")
    return hashes


def file_hashes(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """The content of ``hash_manifest.json`` for the files ``names``."""
    return {name: file_sha256(folder / name) for name in names}


def read_softlabels(
    folder: Path,
    rows: Manifest | None = None,
    contract: FaceContract | None = None,
    passed: Callable[[str], Any] = lambda line: None,
) -> SoftLabels:
    """The folder's logits for exactly ``rows``, in their order (None: all), for a student with ``contract``.

    A teacher may have its own image size and normalisation; align, margin, CLAHE and grey must match the student's, or
    without ``contract`` those of the first teacher.  ``passed`` gets a line for each check that the folder passes.
    Raises BundleError when a hash, the class order, the labels or a teacher's contract differ, a row is missing, or a
    file holds something else.
    """
    digest = softlabels_sha256(folder)
    passed(f"hashes: {len(FILES)} files are as they were written (set {digest[:12]})")
    position, index_y, logits, y = _read_arrays(folder)
    passed(f"class order: {', '.join(EMOTIONS)}")
    record = read_record(folder)
    contracts = [_recorded_contract(folder, teacher) for teacher in record["teachers"]]
    reference = contract or contracts[0]
    for teacher, own in zip(record["teachers"], contracts, strict=True):
        if own.crop_settings != reference.crop_settings:
            raise BundleError(
                f"{folder}: teacher {teacher['model']} was trained on faces with {own.crop_settings}, "
                f"{'the student' if contract else 'the first teacher'} with {reference.crop_settings}: no student has "
                f"both; give the student its teachers' settings, or {_ADVICE} with teachers that share the student's"
            )
    text = ", ".join(f"{name} {value}" for name, value in reference.crop_settings.items())
    passed(f"face contract: {len(contracts)} teacher{'s' * (len(contracts) > 1)}, {text}")
    if [*position.values()] != [*range(len(y))] or index_y != y.tolist() or len(y) != record["rows"]:
        raise BundleError(
            f"{folder}: the index ({len(index_y)} rows), the arrays ({len(y)}) and the record ({record['rows']}) are "
            f"not about the same rows in the same order; {_ADVICE}"
        )
    passed(f"rows: {len(y):,}, the same in the index, the arrays and the record")
    if rows is None:
        passed("coverage: not checked, since no manifest is named (--manifest)")
        return SoftLabels(logits, record, digest)
    order = _order(folder, position, y, rows)
    passed(f"coverage: all {len(rows):,} training rows of {rows.path}, with their labels")
    return SoftLabels(logits[order], record, digest)


def _read_arrays(folder: Path) -> tuple[dict[str, int], list[Any], np.ndarray, np.ndarray]:
    """Sample id -> position and the labels, both of the index; then the logits float64 [N, 7] and labels [N]."""
    with _reading(folder):
        if json.loads((folder / "classorder.json").read_bytes()) != list(EMOTIONS):
            raise BundleError(f"{folder}: the class order is not {list(EMOTIONS)}; {_ADVICE}")
        with open(folder / "softlabels_index.jsonl", encoding="utf-8") as lines:
            entries = [json.loads(line) for line in lines]
        position = _Index.validate_python({entry["sample_id"]: entry["i"] for entry in entries})
        stored = read_npz(folder / "softlabels.npz")
        logits, y = stored["logits"].astype(np.float64), stored["y"]
        if logits.shape != (len(y), NUM_CLASSES) or y.ndim != 1 or not np.isfinite(logits).all():
            raise ValueError(f"logits {logits.shape} and y {y.shape} are not finite rows of {NUM_CLASSES}")
    return position, [entry.get("y") for entry in entries], logits, y


def _order(folder: Path, position: dict[str, int], y: np.ndarray, rows: Manifest) -> np.ndarray:
    """The positions of ``rows`` in the arrays, int [N].  BundleError when one is missing or has another label."""
    missing = [s for s in rows.sample_ids if s not in position]
    if missing:
        raise BundleError(
            f"{folder} covers {len(rows) - len(missing)} of {len(rows)} training rows (first missing: {missing[0]}); "
            f"{_ADVICE}"
        )
    order = np.asarray([position[s] for s in rows.sample_ids], dtype=np.intp)
    if (y[order] != rows.labels).any():
        raise BundleError(f"{folder} was made with other labels than the manifest's; {_ADVICE}")
    return order


def _recorded_contract(folder: Path, teacher: dict[str, Any]) -> FaceContract:
    """BundleError unless the folder records the teacher's contract, and it gives the same pixels today."""
    if teacher.get("face_contract") is None:  # the id alone does not give align, margin and CLAHE
        raise BundleError(f"{folder} does not record the face contract of teacher {teacher['model']}; {_ADVICE}")
    recorded = FaceContract.model_validate(teacher["face_contract"])
    if recorded.id != teacher["face_contract_id"]:  # the contract version, part of the id, has changed
        raise BundleError(
            f"{folder}: the face contract of teacher {teacher['model']} gives other pixels in this fer-lab (id "
            f"{teacher['face_contract_id']}, now {recorded.id}); train the teacher again and {_ADVICE}"
        )
    return recorded


def read_record(folder: Path) -> dict[str, Any]:
    """The folder's ``alignmentreport.json``, with absolute paths of the teachers' bundles.

    Raises BundleError when it is missing or holds something else.
    """
    with _reading(folder):
        record = json.loads((folder / RECORD).read_bytes())
        SoftLabelRecord.model_validate(record)
        members = [t | {"uri": (folder / t["uri"]).resolve().as_posix()} for t in record["teachers"]]
    return record | {"teachers": members}


def read_metrics(folder: Path) -> dict[str, Any]:
    """The folder's ``ensemble_metrics.json``.  Raises BundleError when it is missing or holds something else."""
    with _reading(folder):
        metrics = json.loads((folder / METRICS).read_bytes())
        EnsembleMetrics.model_validate(metrics)
    return metrics


def read_costs(folder: Path) -> list[tuple[str, dict[str, Any] | None]]:
    """Weights' hash and training cost of each teacher; None where it is not recorded.

    Raises BundleError when ``training_costs.json`` or the record holds something else.
    """
    if not (folder / COSTS).is_file():  # a set of an earlier version
        return [(teacher["weights_sha256"], None) for teacher in read_record(folder)["teachers"]]
    with _reading(folder):
        teachers = _Costs.validate_json((folder / COSTS).read_bytes())
    return [(t.weights_sha256, t.cost and t.cost.model_dump()) for t in teachers]


def write_softlabels(
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
    (out / RECORD).write_text(json.dumps(record, indent=1))
    (out / METRICS).write_text(json.dumps(metrics, indent=1))
    exposure.write(out / EXPOSURE_FILE)
    (out / HASHES).write_text(json.dumps(file_hashes(out, FILES), indent=1))
