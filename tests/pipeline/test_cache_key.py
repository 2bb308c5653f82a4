"""The cache key changes with everything that a result depends on, and with nothing else."""

import ast
import json
import os
import shutil
from pathlib import Path

import pytest
from toy import cell

from fer_lib.deploy import packaged
from fer_lib.importers.source_table import SOURCES
from fer_lib.models.bundle import derive_bundle
from fer_lib.pipeline import cache_key


@pytest.fixture
def package(tmp_path):
    """A package: a (imports b inside a function), b, unused, sub (found by name), and an __init__ that offers all."""
    root = tmp_path / "pkg"
    (root / "sub").mkdir(parents=True)
    files = {
        "__init__.py": "from pkg import base\ndef load():\n    from pkg import unused\n    return unused\n",
        "base.py": "B = 1\n",
        "a.py": '"""Doc."""\ndef f():\n    from . import b\n    return b\n',
        "b.py": "X = 1\n",
        "unused.py": "Y = 1\n",
        "sub/__init__.py": "import pkgutil\n",
        "sub/one.py": "Z = 1\n",
    }
    for name, text in files.items():
        (root / name).write_text(text)
    return root


def edit(path: Path, text: str) -> None:
    path.write_text(text)
    cache_key._file.cache_clear()
    cache_key._module.cache_clear()


def test_imports_in_functions_count_but_functions_of_parent_packages_do_not(package):
    found = cache_key.reachable("import pkg\nfrom pkg.a import f\n", package)
    assert set(found) == {"pkg", "pkg.base", "pkg.a", "pkg.b"}
    assert "pkg.unused" in cache_key.reachable("import pkg\npkg.load()\n", package)
    assert "pkg.unused" in cache_key.reachable("from pkg import load\n", package)
    assert "pkg.sub.one" in cache_key.reachable("import pkg.sub\n", package)
    assert cache_key.reachable("import json\nimport numpy as np\n", package) == {}


def test_comments_and_docstrings_do_not_change_the_key(package):
    code = "from pkg.a import f\n"
    before = cache_key.reachable(code, package)
    edit(package / "a.py", '"""Another text."""\ndef f():\n    # a comment\n    from . import b\n    return b\n')
    assert cache_key.reachable(code, package) == before
    edit(package / "b.py", "X = 2\n")
    after = cache_key.reachable(code, package)
    assert after["pkg.b"] != before["pkg.b"] and after["pkg.a"] == before["pkg.a"]


def write_notebook(path: Path, *cells: dict) -> Path:
    path.write_text(json.dumps({"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


def test_key_depends_on_parameters_inputs_and_notebook(tmp_path, monkeypatch):
    monkeypatch.setenv("FER_HOME", str(tmp_path))
    folder = tmp_path / "import-1"
    folder.mkdir()
    (folder / "outputs.json").write_text(json.dumps({"ids": {"rows": "abc"}}))
    book = write_notebook(tmp_path / "n.ipynb", cell("x = 1", tags=("parameters",)), cell("%matplotlib inline\ny = 2"))
    values = {"val_fraction": 0.05, "output_dir": "", "imports": "", "smoke": False}

    def key(values=values, folder=folder, kind="manifest"):
        return cache_key.phase_key(kind, values, {"imports": str(folder)}, book)

    first = key()
    assert key(values | {"output_dir": "/elsewhere", "imports": str(folder)}) == first
    assert key(values | {"val_fraction": 0.1}) != first and key(kind="audit") != first
    second = tmp_path / "import-2"
    second.mkdir()
    (second / "outputs.json").write_text(json.dumps({"ids": {"rows": "abc"}, "headline": {"seconds": 3}}))
    assert key(folder=second) == first, "the same content elsewhere is the same input"
    (second / "outputs.json").write_text(json.dumps({"ids": {"rows": "abd"}}))
    assert key(folder=second) != first
    write_notebook(book, cell("x = 7", tags=("parameters",)), cell("words", kind="markdown"), cell("y = 2  # same"))
    assert key() == first
    write_notebook(book, cell("x = 7", tags=("parameters",)), cell("y = 3"))
    assert key() != first


def test_a_later_command_parses_only_what_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("FER_HOME", str(tmp_path))
    book = write_notebook(tmp_path / "n.ipynb", cell("from fer_lib.calibration.metrics import summary"))

    def command() -> tuple[str, int]:
        """(key, number of modules parsed) of a process that has parsed nothing itself."""
        for remembered in (cache_key._parsed, cache_key._parsed_earlier, cache_key._module):
            getattr(remembered, "cache_clear", getattr(remembered, "clear", None))()
        parsed = []
        with monkeypatch.context() as patch:
            patch.setattr(cache_key.ast, "parse", lambda text, parse=ast.parse: (parsed.append(text), parse(text))[1])
            return cache_key.phase_key("evaluate", {}, {}, book), len(parsed)

    key, count = command()
    assert count > 2 and command() == (key, 0)
    write_notebook(book, cell("from fer_lib.calibration.metrics import summary\nx = 1"))
    other, count = command()
    assert other != key and count == 1
    monkeypatch.setattr(cache_key, "PARSER", "another Python")
    again, count = command()
    assert again == other and count > 2, "another Python may print another tree"


@pytest.mark.parametrize("written", ["raw", "$RAW_DATA"])
def test_key_depends_on_the_data_files_in_parameters(tmp_path, monkeypatch, written):
    monkeypatch.setenv("FER_HOME", str(tmp_path))
    monkeypatch.setenv("RAW_DATA", str(tmp_path / "raw"))
    book = write_notebook(tmp_path / "n.ipynb", cell("y = 2"))
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.csv").write_text("1")
    values = {"sources": [{"source": "fer2013", "root": written}]}
    first = cache_key.phase_key("import", values, {}, book)
    assert cache_key.phase_key("import", values, {}, book) == first
    (tmp_path / "raw" / "b.csv").write_text("2")
    assert cache_key.phase_key("import", values, {}, book) != first


def test_key_depends_on_the_packaged_model(onnx_bundle, tmp_path, monkeypatch):
    ids = []
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        derive_bundle(onnx_bundle, folder, ids={"seed": seed}, weights=False)
        monkeypatch.setattr(packaged, "FOLDER", folder)
        ids += [cache_key.input_id("packaged"), cache_key.input_id("packaged")]
    assert ids[0] == ids[1] != ids[2] == ids[3]


def test_key_depends_on_the_content_of_a_weights_file(tmp_path, monkeypatch):
    """Not on its path or time; the content of a file that is gone is remembered."""
    monkeypatch.setenv("FER_HOME", str(tmp_path))
    book = write_notebook(tmp_path / "n.ipynb", cell("y = 2"))

    def key(name="a.pt"):
        return cache_key.phase_key("teacher", {"pretrained": name, "epochs": 3}, {}, book)

    unknown = key()
    (tmp_path / "a.pt").write_bytes(b"weights")
    first = key()
    os.utime(tmp_path / "a.pt", (1, 1))
    assert key() == first != unknown
    (tmp_path / "a.pt").rename(tmp_path / "b.pt")
    assert key("b.pt") == first, "the file was moved, and the run file has the new path"
    assert key() == first and key("never.pt") != first, "the file was moved, and the run file has the old path"
    (tmp_path / "a.pt").write_bytes(b"Weights")
    assert key() != first, "another file at the path"
    assert len({first, key("none"), key("hub"), key("package")}) == 4


@pytest.mark.parametrize(("mode", "same"), [("ce", True), ("kd", False)])
def test_fields_without_effect_are_not_in_the_key(tmp_path, monkeypatch, mode, same):
    monkeypatch.setenv("FER_HOME", str(tmp_path))
    book = write_notebook(tmp_path / "n.ipynb", cell("y = 2"))
    keys = {cache_key.phase_key("student", {"mode": mode, "temperature": t}, {}, book) for t in (2.0, 4.0)}
    assert (len(keys) == 1) is same


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_a_default_that_came_later_leaves_the_key_as_it_was(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("FER_HOME", str(tmp_path))
    book = write_notebook(tmp_path / "n.ipynb", cell("y = 2"))

    def key(**values):
        return cache_key.phase_key(kind, {"epochs": 3, **values}, {}, book)

    assert key() == key(backbone_args={}) != key(backbone_args={"pad_type": "same"})
    assert key() == key(optimizer="adamw", momentum=0.8) != key(optimizer="sgd", momentum=0.8)
    assert key(optimizer="sgd", momentum=0.9) != key(optimizer="sgd", momentum=0.8)


def test_unhashed_modules_are_excluded_and_reached_modules_included():
    found = cache_key.reachable(
        "from fer_lib.calibration.metrics import summary\nfrom fer_lib.tracking import phase_run\n"
    )
    assert "fer_lib.calibration.metrics" in found
    left_out = {"fer_lib.pipeline", "fer_lib.tracking.phase_run", "fer_lib.params", "fer_lib.deploy.predict"}
    assert not left_out & set(found)


def test_the_key_of_an_import_covers_the_importers_that_it_uses(tmp_path, monkeypatch):
    """Those of other sources, new ones included, are in no key."""
    monkeypatch.setenv("FER_HOME", str(tmp_path))
    package = tmp_path / "fer_lib"
    shutil.copytree(cache_key.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__", "*.onnx"))
    monkeypatch.setattr(cache_key.reachable, "__defaults__", (package,))
    book = write_notebook(tmp_path / "n.ipynb", cell("from fer_lib.importers import import_all\nimport_all([], '.')"))

    def keys():
        cache_key._file.cache_clear()
        cache_key._module.cache_clear()
        return {
            name: cache_key.phase_key("import", {"sources": [{"source": name}]}, {}, book)
            for name in ("ckplus", "tree", "ferplus", "rafdb_basic")
        }

    def changed(file, text="\nCHANGED = 1\n"):
        before = keys()
        with open(package / "importers" / file, "a") as module:
            module.write(text)
        after = keys()
        return {name for name in after if after[name] != before[name]}

    assert changed("new_source.py", "DECLARATIONS = {}\n") == set()
    assert changed("source_table.py", "\nSOURCES['new'] = 'fer_lib.importers.new_source'\n") == set()
    assert changed("ckplus.py") == {"ckplus"} and changed("rafdb.py") == {"rafdb_basic"}
    assert changed("tree.py") == {"tree", "ferplus"}, "FERPlus reads class trees too"
    assert changed("builder.py") == changed("engine.py") == {"ckplus", "tree", "ferplus", "rafdb_basic"}
    monkeypatch.setitem(SOURCES, "ckplus", "fer_lib.importers.new_source")
    assert changed("new_source.py") == {"ckplus"}, "the table decides which module counts"


def test_no_other_phase_covers_the_modules_of_sources():
    found = cache_key.reachable("from fer_lib.importers import read_imports\nfrom fer_lib.datasets import build\n")
    assert "fer_lib.importers.engine" in found
    assert not {module for module in SOURCES.values()} & set(found)
