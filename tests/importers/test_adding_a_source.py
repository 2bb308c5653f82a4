"""docs/adding-a-source.md, followed to the letter: one file, one registration, nothing else edited."""

import json
import os
import re
import shutil
import subprocess
import sys

from fer_lib.importers import SOURCES
from fer_lib.synthetic.layouts import encode


def test_the_page_s_source_is_found_imported_and_part_of_the_re_use_key(repo, tmp_path):
    import numpy as np

    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", (repo / "docs" / "adding-a-source.md").read_text(), re.M | re.S)
    (_, raw), (_, source), (_, use), (_, printed) = blocks
    name = re.search(r"`fer_lib/datasets/sources/(\w+)\.py`:", (repo / "docs" / "adding-a-source.md").read_text())[1]
    assert name not in SOURCES
    shutil.copytree(repo / "fer_lib", tmp_path / "fer_lib", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "fer_lib" / "datasets" / "sources" / f"{name}.py").write_text(source)
    (tmp_path / "data" / "listed" / "faces").mkdir(parents=True)
    (tmp_path / "data" / "listed" / "emotions.txt").write_text(raw)
    for i, line in enumerate(raw.splitlines()):
        picture = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        (tmp_path / "data" / "listed" / "faces" / line.split()[0]).write_bytes(encode(picture, ".png"))
    more = (
        "\nimport json, fer_lib\nfrom fer_lib.pipeline.cache_key import reachable\n"
        "modules = reachable('from fer_lib.importers import import_all')\n"
        "print(json.dumps([fer_lib.__file__, sorted(modules)]))\n"
    )
    environment = os.environ | {"FER_HOME": str(tmp_path), "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", use + more]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said, modules = done.stdout.strip().rsplit("\n", 1)
    assert said == printed.strip()
    package, modules = json.loads(modules)
    assert package.startswith(str(tmp_path)) and f"fer_lib.importers.{name}" in modules
    rows = json.loads((tmp_path / "imported" / "clean_report.json").read_text())["manifest"]["counts"]
    assert rows == {"test|Sad": 1, "train|Angry": 1, "train|Happy": 1}
