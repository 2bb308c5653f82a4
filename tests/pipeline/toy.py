"""A home with toy notebooks under the real notebooks' names: quick stand-ins for the phases that a test runs."""

from __future__ import annotations

import json
from pathlib import Path

HEAD = """import time
from pathlib import Path
from fer_lib.errors import DataError
from fer_lib.params import KINDS
from fer_lib.tracking import runs
params = KINDS["{kind}"][0].collect(globals())
run = runs.phase_run(params, "{kind}")
"""
BODIES = {
    "01_import_datasets": ("import", 'run.outputs(ids={"rows": params.sources[0].faces}, headline={"rows": 70})'),
    "02_build_manifest": (
        "manifest",
        "assert runs.read_outputs(run.inputs['imports'])['headline'] == {'rows': 70}\n"
        "if params.val_fraction > 0.8:\n"
        "    raise DataError('row 3 of toy.csv has 47 pixels')\n"
        "(run.output_dir / 'manifest.txt').write_text(str(params.val_fraction))\n"
        "run.outputs(ids={'manifest': params.val_fraction}, manifest=run.output_dir / 'manifest.txt')",
    ),
    "04_train_teacher": (
        "teacher",
        "assert (Path(run.inputs['manifest']) / 'manifest.txt').is_file()\n"
        "state = run.output_dir / 'steps.txt'\n"
        "done = int(state.read_text()) if state.is_file() else 0\n"
        "for step in range(done, params.epochs):\n"
        "    state.write_text(str(step + 1))\n"
        "    time.sleep(params.checkpoint_minutes)\n"
        "run.metrics({'val': {'macro_f1': 0.5}}, step=0)\n"
        "run.outputs(ids={'resumed_at': done}, headline={'macro-F1': 0.5, 'resumed at': done})",
    ),
}


def cell(source: str, kind: str = "code", tags: tuple[str, ...] = ()) -> dict:
    shared = {"cell_type": kind, "metadata": {"tags": list(tags)}, "source": source, "id": f"c{abs(hash(source))}"}
    return shared | ({"outputs": [], "execution_count": None} if kind == "code" else {})


def notebook(path: Path, kind: str, body: str) -> Path:
    """A four-cell notebook: parameters, start, body, finish."""
    cells = [cell("output_dir = ''\nseed = 1337", tags=("parameters",)), cell(HEAD.format(kind=kind)), cell(body)]
    cells.append(cell("run.finish()"))
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
    return path


def make_home(home: Path) -> Path:
    (home / "params").mkdir(parents=True)
    (home / "notebooks").mkdir()
    for name, (kind, body) in BODIES.items():
        notebook(home / "notebooks" / f"{name}.ipynb", kind, body)
    (home / "params" / "quickstart.yaml").write_text(
        "name: toy\nphases:\n  import: {sources: [{source: fer2013, faces: 70}]}\n  manifest: {}\n"
        "  teacher_a: {kind: teacher, epochs: 2, checkpoint_minutes: 0.01}\n"
    )
    return home
