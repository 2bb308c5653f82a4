"""A run whose command is killed at moments that are waited for, and what each ``kill -9`` cost.

Nothing in the library knows of this: a moment is seen from outside, by what a process has open or has left on the disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "tests"))

from road import command, environment, make_home  # noqa: E402
from road import kernels as running_kernels  # noqa: E402

from fer_lib.storage.json_files import file_sha256  # noqa: E402

MINUTES = 0.03  # checkpoint_minutes of the runs that are killed; an epoch takes several times as long
RUN_FILE = """
name: killed
seed: 3
phases:
  import: {{sources: [{{source: fer2013, root: embedded, faces: 2400}}]}}
  manifest: {{val_roles: [0.5, 0.4, 0.1]}}
  teacher: &fit {{backbone: test_resnet, image_size: 64, embed_dim: 32, epochs: 5, batch_size: 28, lr: 3.0e-3,
    warmup_epochs: 0.5, plain_epochs: 0.3, ramp_end: 0.7, ema_decay: 0.95, checkpoint_every: 2,
    checkpoint_minutes: {minutes}, threads: {threads}}}
  softlabels: {{}}
  student: {{backbone: test_resnet, image_size: 64, embed_dim: 32, epochs: 4, batch_size: 28, lr: 3.0e-3, mode: kd,
    warmup_epochs: 0.5, ema_decay: 0.95, checkpoint_every: 2, checkpoint_minutes: {minutes}, threads: {threads}}}
"""
HOLDER = ".lock.holder.json"
WORDS = ("fer_lib.cli.main", "run", "params/killed.yaml")
PHASES = ("import", "manifest", "teacher", "softlabels", "student")
DATA_SUFFIXES = (".parquet", ".safetensors", ".onnx", ".npz")
SMALL_RUN = """
name: killed
seed: 3
phases:
  import: {{sources: [{{source: fer2013, root: embedded, faces: 600}}]}}
  manifest: {{val_roles: [0.5, 0.4, 0.1]}}
  teacher: {{backbone: test_resnet, image_size: 40, embed_dim: 32, epochs: {teacher}, batch_size: 28, lr: 3.0e-3,
    warmup_epochs: 0.5, plain_epochs: 0.3, ramp_end: 0.7, ema_decay: 0.95, checkpoint_every: 3,
    checkpoint_minutes: 0.005, threads: 1}}
  softlabels: {{}}
  student: {{backbone: test_resnet, image_size: 40, embed_dim: 32, epochs: {student}, batch_size: 28, lr: 3.0e-3,
    mode: kd, warmup_epochs: 0.5, ema_decay: 0.95, checkpoint_every: 3, checkpoint_minutes: 0.005, threads: 1}}
"""  # a proof sets the two numbers of epochs
KINDS = ("step", "checkpoint", "export", "log", "between")
# What is killed in which phase; the order within a phase is drawn.  "between": after that phase, before the next.
PLAN = (
    ("import", ["between"]),
    ("manifest", ["between"]),
    ("teacher", ["step"] * 4 + ["checkpoint"] * 4 + ["log"] * 2),
    ("teacher", ["export"] * 3 + ["between"]),
    ("softlabels", ["between"]),
    ("student", ["step"] * 3 + ["checkpoint"] * 3 + ["log"] * 2),
)  # fmt: skip


@dataclass
class Kill:
    """One ``kill -9``.  ``lost``: seconds of training since the last safe state, 0 outside training."""

    threads: int
    kind: str
    phase: str
    died: str  # command and kernel, command, kernel
    seen: str  # what lay on the disk, or was open, when the process was gone
    step: int  # of the checkpoint that the next start goes on from
    within: bool  # whether that checkpoint was written within an epoch
    lost: float


class Victim:
    """A home whose run is started and killed again and again."""

    def __init__(self, home: Path, threads: int):
        self.home, self.threads = make_home(home), threads
        text = RUN_FILE.format(minutes=MINUTES, threads=threads)
        (home / "params" / "killed.yaml").write_text(text)
        self.rng = random.Random(threads)
        self.kills: list[Kill] = []

    def folder(self, phase: str) -> Path | None:
        return next(iter(self.home.glob(f"mlruns/phases/{phase}-*")), None)

    def kill_all(self) -> None:
        for phase, kinds in PLAN:
            for kind in self.rng.sample(kinds[:-1], len(kinds) - 1) + kinds[-1:]:
                self.kills.append(self._kill(phase, kind))

    def finish(self) -> dict:
        """Give the command once more and let it end; what must equal the unbroken run."""
        ended = command(*WORDS, home=self.home, cwd=self.home)
        assert ended.code == 0, ended.out + ended.err
        return phase_results(self.home)

    def _kill(self, phase: str, kind: str) -> Kill:
        """Start the command, wait for the moment, kill; AssertionError when the run ended before it."""
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        began = time.time()
        process = subprocess.Popen([sys.executable, "-m", *WORDS], cwd=self.home, env=environment(self.home), **quiet)
        moment, kernels = getattr(self, f"_{kind}")(phase, began), []
        while not (kernels or kind == "between") or not moment(kernels):
            assert process.poll() is None, f"{phase} was over before a moment of kind {kind}: {len(self.kills)} kills"
            assert time.time() - began < 300, f"no moment of kind {kind} in {phase}"
            time.sleep(0.0005 if kernels else 0.01)
            if not kernels and kind != "between" and _touched(folder := self.folder(phase), HOLDER, began):
                kernels = [psutil.Process(json.loads((folder / HOLDER).read_text())["pid"])]
        if kind == "step":
            died = self.rng.choice(("command and kernel", "command", "kernel"))
        else:  # the moment is the kernel's, and a kernel that outlives its command gets past it
            died = "command and kernel"
        gone = self._end(process, kernels or running_kernels(process.pid), died)
        return Kill(
            self.threads, kind, phase, died, self._evidence(phase, kind, kernels), *self._cost(phase, kind, began, gone)
        )

    def _end(self, process: subprocess.Popen, kernels: list[psutil.Process], died: str) -> float:
        """Kill; the time at which the phase was gone (a kernel whose command was killed follows it)."""
        if "kernel" in died:
            for kernel in kernels:
                kernel.kill()
        if "command" in died:
            process.kill()
        assert not psutil.wait_procs(kernels, timeout=60)[1], "the kernel outlived its command"
        gone = time.time()
        process.wait(timeout=60)
        return gone

    def _step(self, phase: str, began: float) -> Callable:
        """Some time into the training loop."""
        delay, since = self.rng.uniform(0.0, 2.0), None

        def moment(kernels) -> bool:
            nonlocal since
            if since is None and _touched(self.folder(phase), "history.json", began):
                since = time.time()
            return since is not None and time.time() - since > delay

        return moment

    def _checkpoint(self, phase: str, began: float) -> Callable:
        """While a new checkpoint, the first to the third, lies half-written beside the old one."""
        delay, number, written = self.rng.uniform(0.0, 0.01), self.rng.randint(1, 3), set()

        def moment(kernels) -> bool:
            folder = self.folder(phase)
            for half in _half(folder, ".checkpoint_", kernels):
                with contextlib.suppress(FileNotFoundError):  # it is whole just now
                    written.add((folder / half).stat().st_ino)
            if len(written) < number:
                return False
            time.sleep(delay)
            return True

        return moment

    def _log(self, phase: str, began: float) -> Callable:
        """Inside a transaction of MLflow's database, while the phase trains."""
        journal = self.home / "mlruns" / "mlflow.db-journal"

        def moment(kernels) -> bool:
            return _touched(self.folder(phase), "progress.json", began) and journal.exists()

        return moment

    def _export(self, phase: str, began: float) -> Callable:
        """From the exporter's import to the proof of the file that it wrote."""
        delay, since = self.rng.uniform(0.0, 3.0), None

        def moment(kernels) -> bool:
            nonlocal since
            folder = self.folder(phase)
            if since is None and _touched(folder, "reliabilitymetrics.json", began):
                since = time.time() if any(_has_open(k, "onnx_cpp2py") for k in kernels) else None
            over = folder is not None and _touched(folder, "onnxparity.json", began)
            return since is not None and (
                time.time() - since > delay or bool(_half(folder, ".best.onnx.", kernels)) or over
            )

        return moment

    def _between(self, phase: str, began: float) -> Callable:
        """After a phase's last word, before the next one's first."""
        delay, since = self.rng.uniform(0.0, 2.5), None

        def moment(kernels) -> bool:
            nonlocal since
            if since is None and _touched(self.folder(phase), "done.json", began):
                since = time.time()
            return since is not None and time.time() - since > delay

        return moment

    def _evidence(self, phase: str, kind: str, kernels: list[psutil.Process]) -> str:
        folder = self.folder(phase)
        ends = (".previous", *(f".{kernel.pid}.partial" for kernel in kernels))
        found = [_kind_of(p.name) for p in folder.iterdir() if p.name.endswith(ends)]
        if (self.home / "mlruns" / "mlflow.db-journal").exists():
            found.append("open transaction")
        if kind == "export":
            found.append("onnx loaded, not yet proved" if not (folder / "onnxparity.json").exists() else "proved")
        if kind == "between":
            following = self.folder(PHASES[PHASES.index(phase) + 1])
            begun = following is not None and (following / HOLDER).exists()
            found.append("next phase begun" if begun else "no phase open")
        return ", ".join(sorted(set(found)))

    def _cost(self, phase: str, kind: str, began: float, gone: float) -> tuple[int, bool, float]:
        """(step of the newest whole checkpoint, whether it lies within an epoch, seconds of training since what the
        next start goes on from)."""
        folder = self.folder(phase)
        states = [folder / name / "state.json" for name in ("checkpoint_last", ".checkpoint_last.previous")]
        state = next((s for s in states if s.is_file()), None)
        found = json.loads(state.read_text()) if state else {"step": 0, "epoch": 0.0}
        step, within = found["step"], found["epoch"] % 1 > 0
        if kind in ("export", "between") or phase not in ("teacher", "student"):
            return step, within, 0.0
        entered = folder / "alignmentreport.json"  # written when a start of the phase enters its loop
        if not _touched(folder, entered.name, began):
            return step, within, 0.0
        safe = max(entered.stat().st_mtime, state.stat().st_mtime if state else 0.0)
        return step, within, max(0.0, gone - safe)


def phase_results(home: Path) -> dict[str, dict]:
    """Phase folder -> what must equal that of an unbroken run; every phase of the home is finished.

    Its ids, its history without times, and the SHA-256 of every file of rows, weights or logits: bundles, checkpoints
    with optimiser and EMA, ONNX files, soft labels.
    """
    results: dict[str, dict] = {}
    for folder in sorted(home.glob("mlruns/phases/*")):
        assert (folder / "done.json").is_file(), folder.name
        history = folder / "history.json"
        rows = json.loads(history.read_text()) if history.is_file() else []
        files = sorted(path for path in folder.rglob("*") if path.suffix in DATA_SUFFIXES)
        results[folder.name] = {
            "ids": json.loads((folder / "outputs.json").read_text())["ids"],
            "history": [{k: v for k, v in row.items() if k != "timing"} for row in rows],
            "files": {path.relative_to(folder).as_posix(): file_sha256(path) for path in files},
        }
    return results


def _has_open(process: psutil.Process, library: str) -> bool:
    try:
        return library in Path(f"/proc/{process.pid}/maps").read_text()
    except OSError:  # it has just ended
        return False


def _touched(folder: Path | None, name: str, since: float) -> bool:
    """Whether that file was written after ``since``."""
    try:
        return folder is not None and (folder / name).stat().st_mtime > since
    except FileNotFoundError:
        return False


def _half(folder: Path | None, prefix: str, kernels: list[psutil.Process]) -> list[str]:
    """What these processes are writing under such a name; what earlier ones left does not count."""
    ends = tuple(f".{kernel.pid}.partial" for kernel in kernels)
    names = os.listdir(folder) if folder is not None else []
    return [name for name in names if name.startswith(prefix) and name.endswith(ends)]


def _kind_of(name: str) -> str:
    """``.checkpoint_last.4711.partial`` -> ``checkpoint_last half-written``."""
    what = name[1:].rsplit(".", 1)[0].rstrip("0123456789").rstrip(".")
    return f"{what} {'half-written' if name.endswith('.partial') else 'set aside'}"
