"""Device selection and checks; a build without code for the GPU is refused with the install command."""

import pytest

from fer_lib import devices
from fer_lib.errors import FerError


@pytest.mark.parametrize(
    ("capability", "archs", "fits"),
    [
        ((12, 0), ["sm_80", "sm_90", "sm_100"], False),
        ((12, 0), ["sm_90", "sm_120"], True),
        ((8, 9), ["sm_80", "sm_90"], True),  # machine code of the same major version
        ((8, 0), ["sm_86"], False),
        ((12, 0), ["sm_90", "compute_90"], True),  # PTX is compiled at load time
        ((9, 0), ["sm_90a"], True),
        ((9, 1), ["sm_90a", "compute_90a"], False),  # architecture-specific code runs on that one only
        ((7, 5), [], False),
    ],
)
def test_architecture_fits_the_compute_capability(capability, archs, fits):
    assert devices.architecture_fits(capability, archs) is fits


def test_an_unsupported_gpu_is_refused_with_the_install_command(monkeypatch):
    archs = ["sm_80", "sm_90"]
    facts = {"backend": "cuda", "name": "RTX 5070 Ti", "capability": "12.0", "torch": "2", "arch_list": archs}
    monkeypatch.setattr(devices, "describe_device", lambda name: facts)
    with pytest.raises(FerError, match=r"RTX 5070 Ti needs sm_120.*sm_80, sm_90.*pip install .*torch=="):
        devices.check_device("cuda")


def test_the_cpu_computes_correct_gradients():
    facts = devices.check_device("cpu")
    assert facts["backend"] == "cpu" and facts["max_gradient_error"] < 1e-5 and facts["step_seconds"] >= 0
    assert facts["memory_gb"] > 0 and facts["name"]


def test_wrong_gradients_are_an_error(monkeypatch):
    correct = devices._gradients
    monkeypatch.setattr(devices, "_gradients", lambda b, p: [g * (1.5 if p == "float32" else 1) for g in correct(b, p)])
    with pytest.raises(FerError, match="wrong gradients"):
        devices.check_device("cpu")


def test_auto_is_the_best_device_and_an_absent_one_is_refused(monkeypatch):
    monkeypatch.setattr(devices, "available", lambda: ["mps", "cpu"])
    assert devices.resolve_device("auto").type == "mps"
    assert devices.resolve_device("cpu").type == "cpu"
    with pytest.raises(FerError, match="only mps, cpu here.*CUDA build"):
        devices.resolve_device("cuda")
    with pytest.raises(FerError, match="unknown device 'gpu'"):
        devices.resolve_device("gpu")
