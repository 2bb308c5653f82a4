"""Forked kernels: equal to new processes, isolated from each other, and gone with their client or their command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import forked
import psutil
import pytest
from toy import cell

from fer_lib.pipeline import kernel_server
from fer_lib.pipeline.kernel_server import OPTIONS, KernelServer
from fer_lib.pipeline.kernels import ForkedKernel
from fer_lib.pipeline.papermill import execute

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux only")

# Writes what a process is born with, then changes what it can.
PROBE = """
import json, os, random, signal, sys
from pathlib import Path
import numpy, torch
kinds = [os.readlink(f"/proc/self/fd/{n}").partition(":")[0] for n in os.listdir("/proc/self/fd")[3:-1]]
facts = {
    "argv": sys.argv, "orig main": __name__, "cwd": os.getcwd(), "path": sys.path, "fds": sorted(kinds),
    "environment": {k: v for k, v in os.environ.items() if k != "JPY_PARENT_PID"},
    "stdin": sys.stdin.read(), "leader": os.getsid(0) == os.getpid() == os.getpgid(0),
    "signals": [str(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE)],
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])), "warnings": sys.warnoptions,
    "torch": [torch.get_num_threads(), torch.get_default_dtype() is torch.float32],
}
drawn = {"numpy": numpy.random.rand(), "python": random.random(), "torch": torch.rand(()).item()}
drawn["parent"] = os.environ.get("JPY_PARENT_PID")
Path(sys.argv[1]).write_text(json.dumps([facts, drawn]))
os.environ["LEFT"] = "x"
torch.manual_seed(3); torch.set_default_dtype(torch.float64); torch.set_num_threads(3); sys.path.append("left")
signal.signal(signal.SIGTERM, signal.SIG_IGN)
"""
METHODS = """
import multiprocessing, sys
from pathlib import Path
import torch
from torch.utils.data import DataLoader, TensorDataset
if __name__ == "__main__":
    found = []
    for method in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            found.append(pool.apply(abs, (-4,)))
        rows = DataLoader(TensorDataset(torch.arange(4.0)), num_workers=1, multiprocessing_context=method)
        found.append(sum(float(row) for (row,) in rows))
    Path(sys.argv[1]).write_text(str(found))
"""
SLEEP = """
import sys, time, subprocess
from pathlib import Path
child = subprocess.Popen(["sleep", "60"])
Path(sys.argv[1]).write_text(str(child.pid))
try:
    time.sleep(60)
except KeyboardInterrupt:
    Path(sys.argv[1]).with_suffix(".interrupted").touch()
"""


@pytest.fixture(scope="module")
def server():
    server = KernelServer({})
    server.start()
    yield server
    server.close()


@pytest.fixture
def modules(tmp_path):
    """A folder with the modules ``probe``, ``methods`` and ``nap``."""
    for name, text in {"probe": PROBE, "methods": METHODS, "nap": SLEEP}.items():
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def fork(server: KernelServer, module: str, folder: Path, environment=None, out: str = "out") -> ForkedKernel:
    return forked.fork(server.address, module, folder, str(folder / out), environment=environment)


def wait_for(path: Path) -> str:
    until = time.monotonic() + 60
    while not path.exists() or not path.read_text():
        assert time.monotonic() < until, f"{path.name} was not written"
        time.sleep(0.02)
    return path.read_text()


@pytest.mark.parametrize("threads", ["", "2"])
def test_a_forked_kernel_begins_like_a_new_process(server, modules, threads):
    changes = dict.fromkeys(kernel_server.THREADS, threads) if threads else {}
    environment = (
        os.environ | kernel_server.backend_environment() | changes | {"CUDA_VISIBLE_DEVICES": "1", "MINE": "a"}
    )
    assert fork(server, "probe", modules, environment).wait() == 0
    forked, drawn = json.loads((modules / "out").read_text())
    command = [sys.executable, *OPTIONS, "-m", "probe", str(modules / "out")]
    subprocess.run(command, cwd=modules, env=environment, stdin=subprocess.DEVNULL, start_new_session=True, check=True)
    plain, _ = json.loads((modules / "out").read_text())
    assert forked == plain
    assert drawn["parent"] == str(server._process.pid)


def test_a_kernel_sees_nothing_of_the_ones_before(server, modules):
    found = []
    for _ in range(2):
        fork(server, "probe", modules).wait()
        found.append(json.loads((modules / "out").read_text()))
    assert found[0][0] == found[1][0] and "LEFT" not in found[1][0]["environment"]
    assert all(found[0][1][name] != found[1][1][name] for name in ("numpy", "python", "torch")), "drawn anew"


def test_every_start_method_works_in_a_kernel(server, modules):
    fork(server, "methods", modules).wait()
    assert (modules / "out").read_text() == str([4, 6.0] * 3)


def test_a_signal_reaches_its_kernel_alone_and_an_end_is_noticed(server, modules):
    kernels = [fork(server, "nap", modules, out=name) for name in ("a", "b")]
    for name in ("a", "b"):
        wait_for(modules / name)
    assert [kernel.poll() for kernel in kernels] == [None, None]
    os.killpg(kernels[0].pid, signal.SIGINT)
    assert kernels[0].wait() == 0 and (modules / "a.interrupted").exists()
    assert kernels[1].poll() is None and not (modules / "b.interrupted").exists()
    kernels[1].kill()
    assert kernels[1].wait() == 0 and kernels[1].poll() == 0
    kernels[1].send_signal(signal.SIGINT)  # nobody is there


def printed(tmp_path, code: str, server: str, environment=None) -> str:
    """What a notebook with this cell prints."""
    source = {"cells": [cell(code)], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "in.ipynb").write_text(json.dumps(source))
    execute(tmp_path / "in.ipynb", tmp_path / "out.ipynb", {}, tmp_path, environment or {}, server)
    outputs = json.loads((tmp_path / "out.ipynb").read_text())["cells"][-1]["outputs"]
    return "".join("".join(output["text"]) for output in outputs if output.get("name") == "stdout").strip()


FIT = """
from pathlib import Path
from fer_lib.datasets.manifest import Manifest
from fer_lib.params import TeacherParams
from fer_lib.training.teacher import train_teacher
from fer_lib.models.bundle import read_bundle
manifest, folder = Manifest.read(Path({manifest!r})), Path({folder!r})
for threads in (0, 1):
    p = TeacherParams(backbone="test_resnet", image_size=32, embed_dim=16, epochs=1, batch_size=28, lr=3e-3,
        plain_epochs=1, warmup_epochs=0.0, ramp_end=1, max_train_batches=4, device="cpu", threads=threads, onnx="none",
        seed=5)
    events = list(train_teacher(p, manifest, folder / str(threads), folder / "cache"))
    print(read_bundle(folder / str(threads) / "best").meta["ids"]["weights_sha256"])
    print({{key: value for key, value in events[-1].items() if key != "seconds"}})
"""


def test_a_fit_in_a_forked_kernel_has_the_bits_of_one_in_a_new_process(server, drawn_manifest, tmp_path):
    """With ``threads: 0``, the first, the number comes from the environment, as for phases that run in parallel."""
    found = []
    for address in (server.address, ""):
        folder = tmp_path / f"fit{len(found)}"
        code = FIT.format(manifest=str(drawn_manifest.path), folder=str(folder))
        found.append(printed(tmp_path, code, address, dict.fromkeys(kernel_server.THREADS, "2")))
    assert found[0] == found[1]
    assert len(found[0].split()[0]) == 64 and found[0].count("macro_f1") == 2


def test_the_server_imports_no_code_of_phases_and_touches_no_gpu():
    code = (
        "import importlib, sys, threading, fer_lib, torch\n"
        "def fail(*_): raise AssertionError('a GPU was asked for')\n"
        "for name in ('is_available', 'device_count', 'init', '_lazy_init'): setattr(torch.cuda, name, fail)\n"
        "from fer_lib.pipeline.kernel_server import LATER, LIBRARIES\n"
        "for name in LIBRARIES + LATER: importlib.import_module(name)\n"
        "print(threading.active_count(), *sorted(n for n in sys.modules if n.startswith('fer_lib.')))"
    )
    done = subprocess.run([sys.executable, *OPTIONS, "-c", code], capture_output=True, text=True, check=True)
    threads, *own = done.stdout.split()
    assert threads == "1"
    rooms = {
        "fer_lib." + room for room in ("training", "models", "datasets", "evaluation", "faces", "params", "deploy")
    }
    assert not {name for name in own if any(name == room or name.startswith(room + ".") for room in rooms)}


def test_a_kernel_dies_with_its_client_and_all_die_with_the_command(server, modules):
    """Ends the server, so it is the last test that uses it."""
    kernels = [fork(server, "nap", modules, out=name) for name in ("a", "b")]
    family = [psutil.Process(int(wait_for(modules / name))) for name in ("a", "b")]
    family += [psutil.Process(kernel.pid) for kernel in kernels]
    kernels[0]._connection.close()
    gone, alive = psutil.wait_procs([family[0], family[2]], timeout=20)
    assert alive == [] and family[3].is_running()
    code = "import sys; print('threadpoolctl' in sys.modules)"
    assert printed(modules, code, server.address) == "True", "forked: the libraries are there"
    address = server.address
    server._process.stdin.close()
    assert psutil.wait_procs(family[1:], timeout=20)[1] == []
    assert server._process.wait(timeout=20) == 0
    assert not Path(address).parent.exists(), "the server removes its socket"
    assert printed(modules, code, address) == "False", "without its server a kernel starts by itself"
