"""docs/adding-a-source.md works as written: one file and one line of the table add a source."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np

from fer_lib.importers.engine import load_source
from fer_lib.importers.source_table import SOURCES
from fer_lib.synthetic.layouts import encode

REPORT = """
import json, sys, fer_lib
from pathlib import Path
from fer_lib.pipeline.cache_key import phase_key
notebook = Path(sys.argv[1])
keys = {source: phase_key("import", {"sources": [{"source": source}]}, {}, notebook) for source in ("tree", "ckplus")}
print(json.dumps([fer_lib.__file__, keys]))
"""


def test_the_documented_source_is_imported_and_changes_no_other_cache_key(repo, tmp_path):
    page = (repo / "docs" / "adding-a-source.md").read_text()
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", page, re.M | re.S)
    (_, raw), (_, declaration), (_, line), (_, use), (_, printed) = blocks
    name = re.search(r"`fer_lib/importers/(\w+)\.py`:", page)[1]
    assert name not in SOURCES and len(declaration.splitlines()) <= 60
    shutil.copytree(repo / "fer_lib", tmp_path / "fer_lib", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "data" / "listed" / "faces").mkdir(parents=True)
    (tmp_path / "data" / "listed" / "emotions.txt").write_text(raw)
    for i, words in enumerate(map(str.split, raw.splitlines())):
        image = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        (tmp_path / "data" / "listed" / "faces" / words[0]).write_bytes(encode(image, ".png"))

    def run(code):
        environment = os.environ | {"FER_HOME": str(tmp_path), "PYTHONPATH": str(tmp_path)}
        command = [sys.executable, "-c", code, str(repo / "notebooks" / "01_import_datasets.ipynb")]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    before = json.loads(run(REPORT))
    (tmp_path / "fer_lib" / "importers" / f"{name}.py").write_text(declaration)
    table = tmp_path / "fer_lib" / "importers" / "source_table.py"
    table.write_text(table.read_text().replace('    "tree":', line + '    "tree":'))
    output, after = run(use + REPORT).strip().rsplit("\n", 1)
    assert output == printed.strip()
    assert json.loads(after) == before and before[0].startswith(str(tmp_path))
    rows = json.loads((tmp_path / "imported" / "clean_report.json").read_text())["manifest"]["counts"]
    assert rows == {"test|Sad": 1, "train|Angry": 1, "train|Happy": 1}


def test_every_source_of_the_table_is_declared_and_every_declaration_is_in_the_table(repo):
    files = (repo / "fer_lib" / "importers").glob("*.py")
    modules = [f"fer_lib.importers.{file.stem}" for file in files if "\nDECLARATIONS = " in file.read_text()]
    declared = {name: module for module in modules for name in importlib.import_module(module).DECLARATIONS}
    assert declared == SOURCES
    assert all(callable(load_source(name).read) for name in SOURCES)
