"""An ensemble on disk: a soft-label folder, or a registered folder, which also holds copies of the members' bundles.

Both have ``alignmentreport.json`` (members, weights, space) and ``ensemble_metrics.json`` (scores on val/select).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer_lib.datasets.provenance import TrainingData, join_training_data
from fer_lib.errors import BundleError, FerError
from fer_lib.models.bundle import Bundle, read_bundle
from fer_lib.models.softlabels_format import (
    HASHES,
    METRICS,
    RECORD,
    file_hashes,
    read_metrics,
    read_record,
    verify_files,
)
from fer_lib.storage.paths import below, home


@dataclass(frozen=True)
class Ensemble:
    """Bundles with their weights in one space.  Properties that a :class:`Bundle` has too are those of the mix."""

    path: Path
    name: str
    bundles: list[Bundle]
    weights: list[float]
    space: str
    metrics: dict[str, Any]

    temperature = None  # an evaluation fits one
    logit_bias = None

    @property
    def meta(self) -> dict[str, Any]:
        """Metrics and ids as a bundle has them."""
        ids = {key: self.metrics[key] for key in ("evalset_id", "protocol_id")}
        return {"metrics": {"val_select": self.metrics}, "ids": ids}

    @property
    def weights_sha256(self) -> str:
        """Hash of the members' weights, their shares and the space."""
        parts = [[b.weights_sha256, w] for b, w in zip(self.bundles, self.weights, strict=True)]
        return hashlib.sha256(json.dumps([self.space, *parts]).encode()).hexdigest()

    @property
    def training_data(self) -> TrainingData | None:
        """The training data of all members."""
        return join_training_data([bundle.training_data for bundle in self.bundles])


def is_ensemble(folder: Path) -> bool:
    """Whether the folder holds an ensemble."""
    return (folder / METRICS).is_file()


def read_ensemble(folder: Path) -> Ensemble:
    """The ensemble in a soft-label or registered folder.

    Raises BundleError when a file or a member was changed since it was written.
    """
    verify_files(folder, (RECORD, METRICS))
    record, metrics = read_record(folder), read_metrics(folder)
    name = record.get("name") or folder.name.rsplit("-", 1)[0]
    weights = [teacher["weight"] for teacher in record["teachers"]]
    return Ensemble(folder, name, member_bundles(record), weights, record["ensemble_space"], metrics)


def member_bundles(record: dict[str, Any]) -> list[Bundle]:
    """The bundles of the teachers of ``record`` (``softlabels_format.read_record``).

    Raises BundleError when one has other weights or another face contract than it records.
    """
    bundles = [read_bundle(teacher["uri"]) for teacher in record["teachers"]]
    for bundle, teacher in zip(bundles, record["teachers"], strict=True):
        if (bundle.weights_sha256, bundle.contract.id) != (teacher["weights_sha256"], teacher["face_contract_id"]):
            raise BundleError(
                f"{bundle.path} holds other weights or another face contract than when the soft labels were made: "
                f"{teacher['model']} was trained again since; export the soft labels again"
            )
    return bundles


def open_teachers(folders: Sequence[Path]) -> tuple[list[Bundle], Ensemble | None]:
    """The bundles in ``folders``; of one folder with an ensemble, its members and the ensemble.

    Raises FerError when an ensemble is one of several.
    """
    for folder in folders:
        if is_ensemble(folder) and len(folders) > 1:
            raise FerError(f"{folder} is an ensemble, whose weights are fixed: name it as the only teacher")
        if is_ensemble(folder):
            ensemble = read_ensemble(folder)
            return ensemble.bundles, ensemble
    return [read_bundle(folder) for folder in folders], None


def copy_ensemble(folder: Path, out: Path) -> Ensemble:
    """Write the ensemble of a soft-label folder to the new folder ``out``, with copies of its members' bundles.

    Its ``alignmentreport.json`` adds ``name``, and to each member its ``origin``: the bundle's folder, relative to the
    home where it lies there.  Raises the errors of :func:`read_ensemble`.
    """
    ensemble, record = read_ensemble(folder), read_record(folder)
    members = []
    for number, (bundle, teacher) in enumerate(zip(ensemble.bundles, record["teachers"], strict=True)):
        shutil.copytree(bundle.path, out / "members" / str(number))
        members.append(teacher | {"uri": f"members/{number}", "origin": below(bundle.path, home())})
    (out / RECORD).write_text(json.dumps(record | {"name": ensemble.name, "teachers": members}, indent=1))
    shutil.copy(folder / METRICS, out)
    (out / HASHES).write_text(json.dumps(file_hashes(out, (RECORD, METRICS)), indent=1))
    return read_ensemble(out)
