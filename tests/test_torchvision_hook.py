"""The import hook for torchvision with a CPU build of torch; each case runs in a new process."""

import subprocess
import sys

import pytest


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_torchvision_imports_with_both_operators_and_the_hook_is_gone_after_use():
    out = run(
        "import sys, fer_lib\n"
        "from fer_lib import _torchvision as t\n"
        "count = lambda: sum(isinstance(f, t._BeforeTorchvision) for f in sys.meta_path)\n"
        "t.install(); before = count()\n"
        "import torch, torchvision\n"
        "t.install(); print(before, count())\n"
        "from torchvision.transforms import v2\n"
        "print(v2.Resize(4)(torch.zeros(3, 8, 8)).shape[-1])\n"
        "print(torch.ops.torchvision.nms.default, torch.ops.torchvision.qnms.default)"
    )
    assert out.split() == ["1", "0", "4", "torchvision.nms.default", "torchvision.qnms.default"]


def test_the_hook_imports_nothing_before_torchvision():
    assert run("import fer_lib, sys; print('torch' in sys.modules, 'torchvision' in sys.modules)") == "False False"


@pytest.mark.parametrize("loads", [True, False], ids=["library loads", "library does not load"])
def test_schemas_are_declared_only_where_the_compiled_library_does_not_load(loads):
    """Replaces torch's loader by one that succeeds, and declares the operators, or fails."""
    out = run(
        "import torch, fer_lib\n"
        "from fer_lib import _torchvision\n"
        "torch.version.cuda = torch.version.hip = None\n"
        "asked = []\n"
        "def load(path):\n"
        "    asked.append(path)\n"
        f"    if not {loads}: raise OSError('undefined symbol')\n"
        "    load.kept = torch.library.Library('torchvision', 'DEF')\n"
        "    for schema in _torchvision._SCHEMAS: load.kept.define(schema)\n"
        "torch.ops.load_library = load\n"
        "_torchvision._declare_missing_operators()\n"
        "print(len(asked), '_C' in asked[0], _torchvision._library is None, hasattr(torch.ops.torchvision, 'nms'))"
    )
    assert out == f"1 True {loads} True"


def test_a_cuda_build_of_torch_is_not_changed():
    out = run(
        "import torch\n"
        "from fer_lib import _torchvision\n"
        "torch.version.cuda = '13.0'\n"
        "_torchvision._declare_missing_operators()\n"
        "print(_torchvision._library, hasattr(torch.ops.torchvision, 'nms'))"
    )
    assert out == "None False"
