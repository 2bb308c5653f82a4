"""The machine, packages and git state that a result was computed with.  Loads torch, and none of the training code."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from fer_lib.devices import describe_device
from fer_lib.storage.atomic import write_json
from fer_lib.storage.phase_result import PhaseResult

_ROOT = Path(__file__).resolve().parents[2]  # the checkout that this package runs from
_PACKAGES = (
    "torch", "torchvision", "timm", "mlflow", "numpy", "pandas", "opencv-python", "opencv-python-headless",
    "onnxruntime", "scikit-learn", "fer-lab",
)  # fmt: skip


def run_git(*words: str) -> str | None:
    """Output of ``git WORDS`` in the checkout; None without git, outside a checkout, or when the command fails."""
    try:
        done = subprocess.run(["git", "-C", str(_ROOT), *words], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def environment(device: str) -> dict[str, Any]:
    """Machine, packages and git state, for ``environment.json``.  ``device``: as in ``devices.resolve_device``."""
    import torch

    lock = _ROOT / "requirements.lock"
    changes = run_git("status", "--porcelain")
    installed = {d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions()}
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "git": {"commit": run_git("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)},
        "packages": {n: installed[n] for n in _PACKAGES if n in installed},
        "torch": torch.__version__,
        "device": describe_device(device) | {"cpu_capability": torch.backends.cpu.get_cpu_capability()},
        "lock_sha256": hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else None,
    }


def check_result(facts: dict[str, Any], versions: dict[str, Any], out: Path) -> PhaseResult:
    """The result of a device check: ``facts`` of ``devices.check_device`` and ``versions`` of :func:`environment`.

    Writes ``device.json`` and ``environment.json`` into ``out``.
    """
    return PhaseResult(
        ids={"backend": facts["backend"], "torch": facts["torch"]},
        headline={"device": facts["name"]},
        metrics={"step_seconds": facts["step_seconds"], "max_gradient_error": facts["max_gradient_error"]},
        artifacts=[write_json(out / "device.json", facts), write_json(out / "environment.json", versions)],
        note={
            "action": "Ran one training step and compared its gradients with the CPU's in float64.",
            "result": f"{facts['name']}: largest gradient error {facts['max_gradient_error']:.2g}.",
            "next": "Import datasets.",
        },
    )
