"""Selection and check of the compute device.  ``auto`` is the first of cuda, xpu, mps, cpu that torch can use."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import time
from typing import Any

from fer_lib.errors import FerError

CHOICES = ("auto", "cpu", "cuda", "xpu", "mps")


def install_line() -> str:
    """The pip command that installs a CUDA build of the installed torch version."""
    import importlib.metadata

    torch, vision = (importlib.metadata.version(name).partition("+")[0] for name in ("torch", "torchvision"))
    index = "https://download.pytorch.org/whl/cu130"
    return f'pip install --force-reinstall "torch=={torch}" "torchvision=={vision}" --index-url {index}'


def available() -> list[str]:
    """Backends that torch can use here, best first; the last one is always ``cpu``."""
    import torch

    usable = {"cuda": torch.cuda.is_available(), "xpu": hasattr(torch, "xpu") and torch.xpu.is_available()}
    usable["mps"] = torch.backends.mps.is_available()
    return [name for name in ("cuda", "xpu", "mps") if usable[name]] + ["cpu"]


def cores() -> int:
    """Number of cores for this process: its share ``$FER_CORES`` when phases run in parallel, else all usable cores."""
    if share := os.environ.get("FER_CORES"):
        return int(share)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resolve_device(name: str = "auto"):
    """The ``torch.device`` for a device parameter.

    Raises:
        FerError: the name is unknown, or torch cannot use the device; the message has the next step.
    """
    import torch

    if name not in CHOICES:
        raise FerError(f"unknown device {name!r}: use one of {', '.join(CHOICES)}")
    usable = available()
    if name == "auto":
        return torch.device(usable[0])
    if name not in usable:
        raise FerError(
            f"device {name!r} is set, but torch {torch.__version__} can use only {', '.join(usable)} here: "
            f"set device: auto" + (f", or install a CUDA build: {install_line()}" if name == "cuda" else "")
        )
    return torch.device(name)


def architecture_fits(capability: tuple[int, int], arch_list: list[str]) -> bool:
    """Whether a build for ``arch_list`` (``sm_90``, ``compute_90``, ...) runs on a GPU of this compute capability.

    Machine code (``sm_XX``) runs on the same major version with an equal or higher minor version (``sm_80`` on 8.6);
    ``sm_90a`` runs only on 9.0.  PTX (``compute_XX``) is compiled at load time for any newer GPU.
    """
    for arch in arch_list:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)(a?)f?", arch)
        if not match:
            continue
        built = (int(match[2]), int(match[3]))
        if match[1] == "compute" and not match[4] and built <= capability:
            return True
        if match[1] == "sm" and built[0] == capability[0]:
            if (built == capability) if match[4] else (built[1] <= capability[1]):
                return True
    return False


def _driver() -> str:
    program = shutil.which("nvidia-smi")
    if not program:
        return "unknown"
    query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):  # the check of a training step reports a broken driver
        return "unknown"
    return answer.stdout.strip().splitlines()[0] if answer.returncode == 0 and answer.stdout.strip() else "unknown"


def describe_device(name: str = "auto") -> dict[str, Any]:
    """Facts about a device: backend, name, memory (GB); for CUDA also capability, driver and build architectures."""
    import os

    import psutil
    import torch

    device = resolve_device(name)
    facts: dict[str, Any] = {"backend": device.type, "torch": torch.__version__, "python": platform.python_version()}
    if device.type == "cuda":
        if torch.version.hip:
            facts["backend_detail"] = f"ROCm {torch.version.hip}"
        free, total = torch.cuda.mem_get_info(device)
        major, minor = torch.cuda.get_device_capability(device)
        facts |= {"name": torch.cuda.get_device_name(device), "capability": f"{major}.{minor}", "driver": _driver(),
                  "cuda": torch.version.cuda, "arch_list": torch.cuda.get_arch_list(),
                  "memory_gb": round(total / 1e9, 1), "memory_free_gb": round(free / 1e9, 1)}  # fmt: skip
    elif device.type == "xpu":
        properties = torch.xpu.get_device_properties(device)
        facts |= {"name": properties.name, "memory_gb": round(properties.total_memory / 1e9, 1)}
    else:
        memory = psutil.virtual_memory()
        facts |= {"name": _processor() if device.type == "cpu" else "Apple GPU", "threads": torch.get_num_threads(),
                  "cores": os.cpu_count(), "memory_gb": round(memory.total / 1e9, 1),
                  "memory_free_gb": round(memory.available / 1e9, 1)}  # fmt: skip
    return facts


def peak_memory_gb(device) -> float:
    """Peak memory in GB: of a CUDA device since the last call, else of this process since its start."""
    import torch

    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak / 1e9
    import psutil

    if hasattr(memory := psutil.Process().memory_info(), "peak_wset"):  # Windows
        return memory.peak_wset / 1e9
    import resource

    unit = 1 if platform.system() == "Darwin" else 1024  # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _processor() -> str:
    """The processor's model name; on Linux ``platform`` has only its family."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:  # no such file on Windows and macOS
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def check_device(name: str = "auto") -> dict[str, Any]:
    """:func:`describe_device`, and a forward-backward step compared with the same step on the CPU in float64.

    Adds ``step_seconds`` and ``max_gradient_error`` (absolute; the largest gradient is about 1).

    Raises:
        FerError: the build does not support this GPU (with the install command), or the step fails or is wrong.
    """
    facts = describe_device(name)
    if facts["backend"] == "cuda" and "backend_detail" not in facts:
        capability = tuple(int(part) for part in facts["capability"].split("."))
        if not architecture_fits(capability, facts["arch_list"]):
            raise FerError(
                f"{facts['name']} needs sm_{capability[0]}{capability[1]}, but torch {facts['torch']} was built for "
                f"{', '.join(facts['arch_list'])}. Install a build that has it: {install_line()}"
            )
    start = time.perf_counter()
    try:
        gradients = _gradients(facts["backend"], "float32")
    except RuntimeError as error:  # torch raises it for every device fault
        raise FerError(
            f"a forward-backward step on {facts['name']} failed: {error}. Use device: cpu, or install a "
            f"matching build: {install_line()}"
        ) from error
    facts["step_seconds"] = round(time.perf_counter() - start, 3)
    worst = max(float((a - b).abs().max()) for a, b in zip(gradients, _gradients("cpu", "float64"), strict=True))
    facts["max_gradient_error"] = worst
    if not worst < 1e-2:  # TF32 has a mantissa of ten bits; NaN fails too
        raise FerError(f"{facts['name']} computes wrong gradients (off by {worst:.2g}): update its driver or use cpu")
    return facts


def _gradients(backend: str, precision: str) -> list:
    """Gradients of one small convolutional step, as float64, scaled to a maximum of 1."""
    import torch

    dtype, generator = getattr(torch, precision), torch.Generator().manual_seed(0)
    draw = [torch.randn(size, generator=generator, dtype=torch.float64)
            for size in ((8, 3, 16, 16), (8, 3, 3, 3), (7, 8))]  # fmt: skip
    x, kernel, weight = (t.to(device=backend, dtype=dtype).requires_grad_(i > 0) for i, t in enumerate(draw))
    features = torch.nn.functional.conv2d(x, kernel).relu().mean((2, 3))
    target = torch.arange(8, device=backend) % 7
    torch.nn.functional.cross_entropy(features @ weight.T, target).backward()
    gradients = [t.grad.detach().to("cpu", torch.float64) for t in (kernel, weight)]
    largest = max(g.abs().max() for g in gradients)
    return [g / largest for g in gradients]
