"""Registration of the ensemble of a soft-label phase.  Its members need not be registered: they are copied."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from fer_lib.models.ensemble_folder import copy_ensemble
from fer_lib.params import SoftLabelParams
from fer_lib.storage.phase_result import Registration
from fer_lib.tracking.registry import register_model


def register_ensemble(p: SoftLabelParams, folder: Path, run_id: str | None = None) -> Registration | None:
    """Register the ensemble of a soft-label ``folder`` with copies of its members; None where ``p.alias`` is blank.

    Raises the errors of :func:`register_model`, and BundleError when a member was changed since.
    """
    if not p.alias:
        return None
    with TemporaryDirectory(dir=folder) as work:
        ensemble = copy_ensemble(folder, Path(work) / "ensemble")
        return register_model(ensemble, p.registered_name, p.alias, run_id, p.smoke)
