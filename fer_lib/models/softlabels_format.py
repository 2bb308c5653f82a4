"""The files of a soft-label folder: written once, and verified when read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from fer_lib.datasets.manifest import Manifest
from fer_lib.datasets.provenance import EXPOSURE_FILE, TrainingExposure
from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.errors import BundleError
from fer_lib.faces.contract import FaceContract
from fer_lib.params.strict import first_problem
from fer_lib.storage.npz_files import read_npz

_ADVICE = "export the soft labels again (phase 06_export_softlabels)"
FILES = (
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


class SoftLabelRecord(BaseModel):
    """The part of ``alignmentreport.json`` that readers depend on."""

    model_config = ConfigDict(extra="allow")

    rows: Annotated[int, Field(ge=0)]
    ensemble_space: Literal["logit", "prob"]
    teachers: Annotated[list[TeacherRecord], Field(min_length=1)]


_Index = TypeAdapter(dict[str, Annotated[int, Field(ge=0)]])
_Hashes = TypeAdapter(dict[str, str])


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Translate the errors of damaged or foreign files into a BundleError that names the folder."""
    try:
        yield
    except ValidationError as error:
        raise BundleError(f"{folder} holds no soft labels ({first_problem(error)}); {_ADVICE}") from error
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise BundleError(f"{folder} holds no soft labels ({reason}); {_ADVICE}") from error


def softlabels_sha256(folder: Path) -> str:
    """SHA-256 over the hashes of the folder's files.  BundleError when a file is missing or was changed."""
    with _reading(folder):
        hashes = _Hashes.validate_json((folder / "hash_manifest.json").read_bytes())
        for name in FILES:
            content = (folder / name).read_bytes() if (folder / name).is_file() else b""
            if hashlib.sha256(content).hexdigest() != hashes.get(name):
                raise BundleError(f"{folder / name} is missing or was changed after it was written; {_ADVICE}")
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def read_softlabels(folder: Path, rows: Manifest, contract: FaceContract | None = None) -> SoftLabels:
    """The folder's logits for exactly ``rows``, in their order, for a student with face contract ``contract``.

    A teacher may have its own image size and normalisation; align, margin, CLAHE and grey must match the student's.
    Without ``contract``, teachers' contracts only have to be recorded and to be of the current version.
    Raises BundleError when a hash, the class order, the labels or a teacher's contract differ, a row is missing, or a
    file holds something else.
    """
    digest = softlabels_sha256(folder)
    record = read_record(folder)
    for teacher in record["teachers"]:
        _check_contract(folder, teacher, contract)
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
    missing = [s for s in rows.sample_ids if s not in position]
    if missing:
        raise BundleError(
            f"{folder} covers {len(rows) - len(missing)} of {len(rows)} training rows (first missing: {missing[0]}); "
            f"{_ADVICE}"
        )
    order = np.asarray([position[s] for s in rows.sample_ids], dtype=np.intp)
    if len(order) and order.max() >= len(y) or (y[order] != rows.labels).any():
        raise BundleError(f"{folder} was made with other labels than the manifest's; {_ADVICE}")
    return SoftLabels(logits[order], record, digest)


def _check_contract(folder: Path, teacher: dict[str, Any], contract: FaceContract | None) -> None:
    """BundleError unless the teacher's contract equals ``contract`` except for size and normalisation."""
    if teacher.get("face_contract") is None:  # the id alone does not give align, margin and CLAHE
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
    """The folder's ``alignmentreport.json``, with absolute paths of the teachers' bundles.

    Raises BundleError when it is missing or holds something else.
    """
    with _reading(folder):
        record = json.loads((folder / "alignmentreport.json").read_bytes())
        SoftLabelRecord.model_validate(record)
    members = [t | {"uri": (folder / t["uri"]).resolve().as_posix()} for t in record["teachers"]]
    return record | {"teachers": members}


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
    (out / "alignmentreport.json").write_text(json.dumps(record, indent=1))
    (out / "ensemble_metrics.json").write_text(json.dumps(metrics, indent=1))
    exposure.write(out / EXPOSURE_FILE)
    hashes = {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in FILES}
    (out / "hash_manifest.json").write_text(json.dumps(hashes, indent=1))
