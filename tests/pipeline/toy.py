"""A home with toy notebooks under the names of the real ones, which run in seconds."""

from __future__ import annotations

import json
from pathlib import Path

HEAD = """import time
from pathlib import Path
from fer_lib.errors import DataError
from fer_lib.pipeline.standalone import phase_run
from fer_lib.storage.json_files import read_outputs
from fer_lib.storage.phase_result import PhaseResult
run = phase_run("{kind}", globals())
params = run.params
"""
# Writes when the phase ran and its environment.  With workers: N it waits until N phases have started.
MOMENTS = """
import json, os
moments = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}
def record(what):
    moments[what] = time.time()
    (run.output_dir / "moments.json").write_text(json.dumps(moments))
record("begin")
deadline = time.time() + 60
expected = getattr(params, "workers", "auto")
while expected != "auto" and len(list(run.output_dir.parent.glob("*/moments.json"))) < expected:
    if time.time() > deadline:
        raise DataError("waited for a phase that did not start")
    time.sleep(0.02)
"""
BODIES = {
    "01_import_datasets": (
        "import",
        'result = PhaseResult(ids={"rows": params.sources[0].faces}, headline={"rows": 70})',
    ),
    "02_build_manifest": (
        "manifest",
        "assert read_outputs(run.inputs['imports'])['headline'] == {'rows': 70}\n"
        "if params.val_fraction > 0.8:\n"
        "    raise DataError('row 3 of toy.csv has 47 pixels')\n"
        "(run.output_dir / 'manifest.txt').write_text(str(params.val_fraction))\n"
        "result = PhaseResult(ids={'manifest': params.val_fraction}, bundle=run.output_dir / 'manifest.txt')",
    ),
    "04_train_teacher": (
        "teacher",
        "evalset = 'rows-' + (Path(run.inputs['manifest']) / 'manifest.txt').read_text()\n"
        + MOMENTS
        + "if params.epochs == 13 and Path('unlucky').exists() and Path('unlucky').read_text() in evalset:\n"
        "    raise DataError('thirteen')\n"
        "state = run.output_dir / 'steps.txt'\n"
        "done = int(state.read_text()) if state.is_file() else 0\n"
        "for step in range(done, params.epochs):\n"
        "    (part := state.with_suffix('.part')).write_text(str(step + 1))\n"
        "    part.replace(state)\n"
        "    time.sleep(params.checkpoint_minutes)\n"
        "run.metrics({'val': {'macro_f1': 0.5}}, step=0)\n"
        "record('end')\n"
        "ids = {'resumed_at': done, 'evalset_id': evalset, 'epochs': params.epochs}\n"
        "scores = {'macro-F1': 0.5, 'val macro-F1': 0.5 + params.epochs / 100}\n"
        "result = PhaseResult(ids=ids, headline=scores | {'resumed at': done})",
    ),
    "07_train_student": (
        "student",
        MOMENTS + "record('end')\nresult = PhaseResult(ids={'rows': 1}, headline={'rows': 1})",
    ),
    "08_evaluate": (
        "evaluate",
        MOMENTS + "models = [Path(folder).name.rpartition('-')[0] for folder in run.inputs['models']]\n"
        "scores = {model: {'accuracy': 0.25} for model in models}\n"
        "result = PhaseResult(ids={'evalset_id': 'test-rows'}, headline=scores | {'chance': 1 / 7})",
    ),
}


def cell(source: str, kind: str = "code", tags: tuple[str, ...] = ()) -> dict:
    shared = {"cell_type": kind, "metadata": {"tags": list(tags)}, "source": source, "id": f"c{abs(hash(source))}"}
    return shared | ({"outputs": [], "execution_count": None} if kind == "code" else {})


def notebook(path: Path, kind: str, body: str) -> Path:
    """A four-cell notebook: parameters, start, body, finish."""
    cells = [cell("output_dir = ''\nseed = 1337", tags=("parameters",)), cell(HEAD.format(kind=kind)), cell(body)]
    cells.append(cell("run.finish(result)"))
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
    return path


def make_home(home: Path) -> Path:
    """A home with toy notebooks; ``quickstart.yaml`` has three phases in a row, ``diamond.yaml`` branches."""
    (home / "params").mkdir(parents=True)
    (home / "notebooks").mkdir()
    for name, (kind, body) in BODIES.items():
        notebook(home / "notebooks" / f"{name}.ipynb", kind, body)
    (home / "params" / "quickstart.yaml").write_text(
        "name: toy\nphases:\n  import: {sources: [{source: fer2013, faces: 70}]}\n  manifest: {}\n"
        "  teacher_a: {kind: teacher, epochs: 2, checkpoint_minutes: 0.01}\n"
    )
    (home / "params" / "diamond.yaml").write_text(
        "name: diamond\nphases:\n  import: {sources: [{source: fer2013, faces: 70}]}\n  manifest: {}\n"
        "  teacher_a: &fit {kind: teacher, epochs: 2, checkpoint_minutes: 0.01, workers: 2}\n"
        "  teacher_b: {<<: *fit, threads: 3}\n  student: {init_from: teacher_a}\n  evaluate: {}\n"
    )
    return home
