"""Parameters of all phases: one pydantic model per notebook; unknown keys are errors.

A run file (``params/NAME.yaml``) has ``name``, ``experiment`` and an ordered mapping ``phases``.  Each phase has a kind
(default: its name) and overrides of that kind's defaults.  An input may name a phase of the run, a folder or a registry
URI; a blank input uses the newest earlier phase of the run.
"""

from __future__ import annotations

from fer_lib.params.adapt import AdaptFit, AdaptParams, GateParams, OfflineGate, SessionGate, read_gates
from fer_lib.params.base import CheckParams, PhaseParams, usable_alias
from fer_lib.params.data import AuditParams, CsvParams, CurateParams, ImportParams, ManifestParams, SourceSpec
from fer_lib.params.fit import AugmentParams, FitParams, StudentParams, TeacherParams
from fer_lib.params.live import BufferParams, LiveParams, ScoreParams, SmoothingParams, StudyParams
from fer_lib.params.models import AblationParams, CheckpointParams, EvaluateParams, ExportParams, SoftLabelParams
from fer_lib.params.negative import NegativeParams
from fer_lib.params.nested import NestedParams
from fer_lib.params.strict import Strict

KINDS: dict[str, tuple[type[PhaseParams], str]] = {
    "check": (CheckParams, "00_check_device"),
    "import": (ImportParams, "01_import_datasets"),
    "manifest": (ManifestParams, "02_build_manifest"),
    "audit": (AuditParams, "03_audit_data"),
    "teacher": (TeacherParams, "04_train_teacher"),
    "checkpoints": (CheckpointParams, "05_sweep_checkpoints"),
    "softlabels": (SoftLabelParams, "06_export_softlabels"),
    "student": (StudentParams, "07_train_student"),
    "evaluate": (EvaluateParams, "08_evaluate"),
    "export": (ExportParams, "09_export_onnx"),
    "score": (ScoreParams, "10_score_session"),
    "adapt": (AdaptParams, "11_adapt"),
    "ablation": (AblationParams, "14_ablation"),
}
