"""One run of all phases on a few synthetic faces by the real command, shared by tests of several folders."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

REPO = Path(__file__).resolve().parents[1]
TINY = """
name: tiny
seed: 7
phases:
  check: {device: cpu}
  import:
    sources:
      - {source: fer2013, root: embedded, faces: 420, duplicates: 6, leaks: 9}
  manifest: {val_roles: [0.5, 0.4, 0.1]}
  teacher_a: &fit
    kind: teacher
    name: teacher_a
    backbone: test_resnet
    image_size: 40
    embed_dim: 32
    epochs: 3
    batch_size: 28
    lr: 4.0e-3
    warmup_epochs: 0.3
    plain_epochs: 0.4
    ramp_end: 0.8
    arcface_s: 16.0
    arcface_m: 0.1
    ema_decay: 0.9
    checkpoint_every: 1
    threads: 1
  teacher_b:
    <<: *fit
    name: teacher_b
    image_size: 32
    epochs: 2
    seed: 8
  checkpoints: {select_by: calibrated, calibration: vector, resamples: 100}
  softlabels: {}
  student_ce: &student
    kind: student
    name: student_ce
    backbone: test_resnet
    image_size: 40
    embed_dim: 32
    epochs: 2
    batch_size: 28
    lr: 4.0e-3
    warmup_epochs: 0.3
    ema_decay: 0.9
    threads: 1
  student_kd: {<<: *student, name: student_kd, mode: kd, epochs: 1, init_from: student_ce}
  student_dkd: {<<: *student, name: student_dkd, mode: dkd, epochs: 1, init_from: student_ce}
  evaluate: {resamples: 100, smoke: true, allow_leaks: [fer2013]}
  ablation: {variants: {ce: [student_ce], kd: [student_kd], dkd: [student_dkd]}, resamples: 100}
  export: {}
  curated:
    kind: manifest
    val_roles: [0.5, 0.4, 0.1]
    manifests: [manifest]
    curate: {splits: [train, test], deduplicate: true, max_per_class: 20}
  audit:
    manifest: manifest
    noise: true
    noise_nets: {folds: 2, rounds: 1, epochs: 1, image_size: 32, embed_dim: 16, shown: 8}
  score: {}
  adapt:
    base: student_ce
    epochs: 1
    batch_size: 28
    tune: both
    bn_policy: update
    threads: 1
    allow_leaks: [fer2013]
    gates: {offline: [{suite: val, macro_f1_drop: 1.0, minority_f1_drop: 1.0}], resamples: 100}
    offline_only: true
    registered_name: adapted
    alias: candidate
"""
PHASES = ("check", "import", "manifest", "teacher_a", "teacher_b", "checkpoints", "softlabels", "student_ce",
          "student_kd", "student_dkd", "evaluate", "ablation", "export", "curated", "audit", "score",
          "adapt")  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """Result of a command: exit code, stdout, stderr, and CPU seconds of it and its children."""

    code: int
    out: str
    err: str
    cpu: float


@dataclass
class Road:
    """A home with the notebooks and ``params/tiny.yaml``, and the result of its first run."""

    home: Path
    first: Ended

    @property
    def file(self) -> Path:
        return self.home / "params" / "tiny.yaml"

    @cached_property
    def walk(self) -> tuple[Any, dict[str, Any]]:
        """The first run of the file: its parent run and phase -> child run (cached)."""
        parent = self.parents()[-1]
        return parent, self.nested(parent)

    def parents(self) -> list:
        """Parent runs, newest first."""
        return self._search("tags.`fer.kind` = 'run'")

    def nested(self, parent) -> dict[str, Any]:
        """Phase -> run below a parent, directly or as a child of the phase that made its weights."""
        every, found, parents = self._search(""), {}, {parent.info.run_id}
        for run in reversed(every):  # oldest first: parents come before their children
            if run.data.tags.get("mlflow.parentRunId") in parents:
                parents.add(run.info.run_id)
                found[run.info.run_name] = run
        return found

    def of_folder(self, folder: Path) -> Any:
        """The one run that wrote a phase folder."""
        [run] = self._search(f"tags.`fer.folder` = 'mlruns/phases/{folder.name}'")
        return run

    def _search(self, query: str) -> list:
        """Runs of this home, newest first."""
        import mlflow

        client = mlflow.MlflowClient()
        experiments = [e.experiment_id for e in client.search_experiments()]
        return list(client.search_runs(experiments, query, order_by=["attributes.start_time DESC"]))

    def artifact(self, run, path: str) -> Path:
        """An artifact as a local file, fetched through MLflow."""
        import mlflow

        return Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=path))

    def json(self, run, path: str) -> Any:
        return json.loads(self.artifact(run, path).read_text())

    def statuses(self, parent) -> dict[str, str]:
        """Phase -> its status in that run, in order."""
        return {row["phase"]: row["status"] for row in self.json(parent, "phases.json")["phases"]}

    def folder(self, run) -> Path:
        """The phase folder that a run wrote."""
        return self.home / run.data.tags["fer.folder"]


def red_boxes(cells: list[dict[str, Any]]) -> list[str]:
    """Outputs that Jupyter paints red: errors, and text on stderr."""
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    red = [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
    return ["".join(o.get("text") or o["traceback"]) for o in red]


def make_home(home: Path) -> Path:
    """A home with the repository's notebooks and run files, and ``params/tiny.yaml``."""
    home.mkdir(parents=True, exist_ok=True)
    for name in ("notebooks", "params"):
        shutil.copytree(REPO / name, home / name, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    (home / "params" / "tiny.yaml").write_text(TINY)
    return home


def environment(home: Path | None) -> dict[str, str]:
    """The environment of a user's shell: optional FER_HOME, one thread per library, no outer MLflow run."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "FER_HOME", "PYTEST_"))}
    return variables | {"OMP_NUM_THREADS": "1"} | ({"FER_HOME": str(home)} if home else {})


def command(*words: str, home: Path | None, cwd: Path, timeout: float = 3600) -> Ended:
    """Run ``python -m WORDS`` in a new process."""
    before = _cpu_of_children()
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=cwd, env=environment(home), capture_output=True, text=True, timeout=timeout
    )
    return Ended(done.returncode, done.stdout, done.stderr, _cpu_of_children() - before)


def kernels(pid: int) -> list[psutil.Process]:
    """The kernels of a running command: forks of its kernel server, or processes that it started."""
    below = psutil.Process(pid).children(recursive=True)
    servers = [p for p in psutil.Process(pid).children() if "fer_lib.pipeline.kernel_server" in _words(p)]
    return [k for s in servers for k in s.children()] + [p for p in below if "ipykernel_launcher" in _words(p)]


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has just ended
        return []


def fer(*arguments: str) -> Ended:
    """Run ``fer ARGUMENTS`` in this process, which saves seconds of imports."""
    from fer_lib.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    handler, start = signal.getsignal(signal.SIGTERM), _cpu_of_children() + sum(os.times()[:2])
    code = None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main(list(arguments))
    except SystemExit as end:
        code = end.code
    finally:
        signal.signal(signal.SIGTERM, handler)
    return Ended(code, out.getvalue(), err.getvalue(), _cpu_of_children() + sum(os.times()[:2]) - start)


def _cpu_of_children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def walk(folder: Path) -> Road:
    """Make a home in ``folder`` and run every phase in it."""
    home = make_home(folder / "home")
    outside = environment(home)
    before = dict(os.environ)
    try:
        os.environ.clear()
        os.environ.update(outside)
        first = fer("run", str(home / "params" / "tiny.yaml"))
    finally:
        os.environ.clear()
        os.environ.update(before)
    return Road(home, first)
