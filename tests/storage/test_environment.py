"""The record of the environment, and what it costs to make."""

import subprocess
import sys
from importlib.metadata import version

from fer_lib.pipeline.cache_key import notebook_code
from fer_lib.storage.environment import environment


def test_the_environment_names_versions_and_device():
    record = environment("cpu")
    assert record["packages"]["torch"] == record["torch"] == version("torch")
    assert record["device"]["backend"] == "cpu" and record["device"]["cpu_capability"]
    assert set(record) == {"time", "python", "git", "packages", "torch", "device", "lock_sha256"}


def test_the_device_check_loads_no_training_code(repo):
    lines = notebook_code(repo / "notebooks" / "00_check_device.ipynb").splitlines()
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    assert any("environment" in line for line in imports)
    check = "import sys; found = {'timm', 'accelerate', 'fer_lib.training'} & set(sys.modules); assert not found, found"
    done = subprocess.run([sys.executable, "-c", "\n".join([*imports, check])], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
