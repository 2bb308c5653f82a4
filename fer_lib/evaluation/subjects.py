"""What is evaluated: models and ensembles, with their logits, training data and own temperatures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fer_lib.calibration.temperature import Temperature
from fer_lib.datasets.evalset_ids import protocol_id
from fer_lib.datasets.manifest import Manifest
from fer_lib.datasets.provenance import TrainingExposure, read_exposure
from fer_lib.errors import BundleError, DataError, FerError
from fer_lib.models.bundle import WEIGHTS, Bundle, bundle_folder, read_bundle
from fer_lib.models.classifier import parameter_count
from fer_lib.models.ensemble import combine
from fer_lib.models.softlabels import cached_logits
from fer_lib.models.softlabels_format import read_record
from fer_lib.params import EvaluateParams
from fer_lib.storage.json_files import read_json


@dataclass(frozen=True)
class Subject:
    """A model or an ensemble to evaluate: bundles and their weights (a single model has one bundle of weight 1)."""

    name: str
    kind: str
    bundles: list[Bundle]
    weights: list[float]
    space: str = "logit"
    val_select: dict[str, Any] | None = None

    def protocol(self, evalset: str, view: str) -> str:
        if len(self.bundles) == 1:
            return protocol_id(evalset, self.bundles[0].contract, view)
        contracts = "+".join(b.contract.id for b in self.bundles)
        return protocol_id(evalset, self.bundles[0].contract, f"{view}:{self.space}:{contracts}")

    def exposure(self) -> TrainingExposure | None:
        """The training exposure of all members; None when no member has a record."""
        first, *others = sorted((read_exposure(b.path) for b in self.bundles), key=lambda record: record is None)
        return None if first is None else first.with_ancestors(others)

    def trained_on(self) -> list[str] | None:
        """The sources that its members were trained on; None when one has no record."""
        records = [b.training_data for b in self.bundles]
        return None if None in records else sorted({source for record in records for source in record.sources})

    def training_prior(self) -> np.ndarray:
        """Class shares float64 [7] that the loss saw; of an ensemble, the weighted mean of its members' shares."""
        return np.average([b.meta["training_prior"] for b in self.bundles], axis=0, weights=self.weights)

    def own_temperature(self) -> Temperature:
        """The temperature that the bundle holds, for the logits of any view; none where it holds none."""
        own = self.bundles[0].temperature if len(self.bundles) == 1 else None
        if own is None:
            return Temperature(mode="none", note="not calibrated: the model holds no temperature")
        return own.model_copy(update={"view": None, "note": "the bundle's own, not fitted here"})

    def logits(self, rows: Manifest, cache_dir: Path, view: str, p: EvaluateParams, device):
        """Logits float64 [N, 7] and the N rows that could be read.

        Raises DataError when the members of an ensemble could not read the same images.
        """
        options = dict(flip_average=view == "flip", batch_size=p.batch_size, device=device, pack_kind=p.pack)
        logits, packs = zip(*[cached_logits(b, rows, cache_dir, **options) for b in self.bundles], strict=True)
        used = packs[0].manifest
        if any(pack.manifest.sha256 != used.sha256 for pack in packs):
            raise DataError(
                f"{self.name}: not all of its members could read the same images; repair the manifest first"
            )
        return combine(list(logits), self.weights, self.space), used

    def _parameters(self) -> int | None:
        try:
            return sum(parameter_count(b.meta["model"]) for b in self.bundles)
        except FerError:  # an ONNX file of a backbone that timm does not have
            return None

    def describe(self) -> dict[str, Any]:
        """The model's entry in ``evaluation.json``, without its scores."""
        own, *others = self.bundles
        entry = {
            "kind": self.kind,
            "backbone": "+".join(b.meta["model"]["backbone"] for b in self.bundles),
            "image_size": [b.contract.image_size for b in self.bundles] if others else own.meta["model"]["image_size"],
            "weights_sha256": None if others else own.weights_sha256,
            "parameters": self._parameters(),
            "runtime": "torch" if own.has(WEIGHTS) else "onnx",
            "trained_on": self.trained_on(),
            "val_select": self.val_select,
        }
        if others:
            members = zip(self.bundles, self.weights, strict=True)
            entry["members"] = [{"name": b.name, "weight": w, "weights_sha256": b.weights_sha256} for b, w in members]
            entry["space"] = self.space
        return entry


def subjects(models: list[Path], ensembles: list[Path]) -> list[Subject]:
    """Subjects from fit or bundle folders (``models``) and soft-label folders of several teachers (``ensembles``).

    A model with the name of an earlier one, as two versions of a registered model have, gets the first digits of the
    hash of its file appended.
    Raises FerError when a model is named twice, BundleError when a teacher's weights changed after the soft labels.
    """
    found = []
    for folder in models:
        bundle = read_bundle(bundle_folder(folder))
        select = bundle.meta["metrics"].get("val_select")
        found.append(Subject(bundle.name, bundle.meta["kind"], [bundle], [1.0], val_select=select))
    for folder in ensembles:
        record = read_record(folder)
        if len(record["teachers"]) < 2:
            continue
        bundles = [read_bundle(t["uri"]) for t in record["teachers"]]
        for bundle, teacher in zip(bundles, record["teachers"], strict=True):
            if bundle.weights_sha256 != teacher["weights_sha256"]:
                raise BundleError(
                    f"{folder}: teacher {teacher['model']} was trained again since; export the soft labels again"
                )
        select = read_json(folder / "ensemble_metrics.json")
        name = "ensemble" if len(ensembles) == 1 else f"ensemble_{folder.name.rsplit('-', 1)[0]}"
        weights = [t["weight"] for t in record["teachers"]]
        found.append(Subject(name, "ensemble", bundles, weights, record["ensemble_space"], select))
    identities = [(s.name, s.bundles[0].network_sha256) for s in found]
    if repeated := sorted({name for name, network in identities if identities.count((name, network)) > 1}):
        raise FerError(f"two models are called {', '.join(repeated)} and have the same weights: name each model once")
    names = [s.name for s in found]
    return [
        replace(s, name=f"{s.name}-{s.bundles[0].network_sha256[:6]}") if s.name in names[:i] else s
        for i, s in enumerate(found)
    ]
