"""Results of the phases that train: tables for the notebook, and what the run logs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from fer_lib.calibration.intervals import CHANCE, chance_note
from fer_lib.models.bundle import Bundle, read_bundle
from fer_lib.params import AdaptParams, FitParams
from fer_lib.storage.json_files import read_json
from fer_lib.storage.phase_result import PhaseResult
from fer_lib.training.negative_report import FILES as NEGATIVE_FILES

SHOWN = ("accuracy", "macro_f1", "minority_f1", "nll", "ece", "n_expected", "n_used")
IDS = ("weights_sha256", "manifest_sha256", "evalset_id", "protocol_id")
FIT_FILES = ("history", "alignmentreport", "reliabilitymetrics", "calibration", "environment")
NEXT_STEPS = {"teacher": "Export soft labels, or evaluate.", "student": "Evaluate."}


@dataclass(frozen=True)
class FinishedFit:
    """A finished fit in its ``folder``: its best bundle, its history and the scores on val/select."""

    params: FitParams | AdaptParams
    folder: Path

    @cached_property
    def best(self) -> Bundle:
        """The bundle of the best epoch, with its temperature."""
        return read_bundle(self.folder / "best")

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """One mapping per epoch: ``history.json``."""
        return read_json(self.folder / "history.json")

    @property
    def epoch(self) -> int:
        """The best epoch, from 0."""
        return self.best.meta["ids"]["epoch"]

    @property
    def select(self) -> dict[str, Any]:
        """The best epoch's metrics on val/select, before temperature scaling."""
        return self.best.meta["metrics"]["val_select"]

    @property
    def title(self) -> str:
        """Name, backbone and image size, for a figure."""
        return f"{self.params.name}: {self.params.backbone} at {self.params.image_size} px"

    def scores(self) -> pd.DataFrame:
        """One line: the best epoch's scores on val/select, before temperature scaling."""
        return pd.DataFrame([{key: self.select[key] for key in SHOWN}], index=[f"epoch {self.epoch + 1}"])


def fit_result(fit: FinishedFit, exported: Mapping[str, Any] | None = None) -> PhaseResult:
    """The result of a teacher's or student's fit.

    ``exported``: the report of ``deploy.onnx_file.export_fit``, with an ``error`` for each file that was not written.
    """
    p, best, select, exported = fit.params, fit.best, fit.select, exported or {}
    failures = {file: entry["error"] for file, entry in exported.items() if "error" in entry}
    reports = [*FIT_FILES, "starting_weights", *(["smoke_results"] if p.smoke else [])]
    files = [*(f"{name}.json" for name in reports), "best", *(NEGATIVE_FILES if p.negative.method != "none" else ())]
    files += [*(file for file in exported if file not in failures), "onnxparity.json"] if exported else []
    headline = {"val accuracy": select["accuracy"], "val macro-F1": select["macro_f1"], "chance": CHANCE}
    headline |= chance_note({p.name: select}, p.smoke)
    scaled, temperature = best.meta["metrics"]["val_select_scaled"], best.temperature.global_temperature
    return PhaseResult(
        ids={key: best.meta["ids"][key] for key in IDS},
        headline=headline | ({"not written": ", ".join(failures)} if failures else {}),
        bundle=best.path,
        artifacts=[fit.folder / name for name in files],
        metrics={"best": select, "best_scaled": scaled, "temperature": temperature},
        warnings=[f"{file} was not written: {why}" for file, why in failures.items()],
        note={
            "action": f"Trained {p.backbone} at {p.image_size} px for {p.epochs} epochs.",
            "result": f"Epoch {fit.epoch + 1} is kept: accuracy {select['accuracy']:.4f}, macro-F1 "
            f"{select['macro_f1']:.4f} on val/select.",
            "decision": "Chosen by macro-F1 on val/select; test rows were not opened.",
            "next": NEXT_STEPS[best.meta["kind"]],
        },
    )
