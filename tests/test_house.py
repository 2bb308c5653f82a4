"""Project rules: notebooks, module sizes, light imports, no machine paths, layers."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from fer_lib.params import KINDS

REPO = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((REPO / "notebooks").glob("*.ipynb"))
MODULES = sorted((REPO / "fer_lib").rglob("*.py"))
HEAVY = ("torch", "torchvision", "timm", "mlflow", "pandas", "cv2", "sklearn", "matplotlib", "scipy", "onnxruntime")
# built from parts, so that this file does not match itself
MACHINE_PATH = re.compile(
    r"(?<![\w.])/(?:" + "|".join(["work", "root", "home", "tmp", "Users", "opt"]) + r")/\w|\b[A-Z]:\\+Users\b"
)


def code_cells(notebook: Path) -> list[dict]:
    return [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]


def parameters_of(notebook: Path) -> dict:
    """name -> default in the notebook's parameters cell."""
    cells = [c for c in code_cells(notebook) if "parameters" in c["metadata"].get("tags", [])]
    assert len(cells) == 1, f"{notebook.name}: {len(cells)} cells tagged parameters"
    values = {}
    for statement in ast.parse("".join(cells[0]["source"])).body:
        assert isinstance(statement, ast.AnnAssign), f"{notebook.name}: not a typed parameter: {ast.unparse(statement)}"
        values[statement.target.id] = ast.literal_eval(statement.value)
    return values


def test_kinds_and_notebooks_match():
    assert {notebook.stem for notebook in NOTEBOOKS} == {stem for _, stem in KINDS.values()}


@pytest.mark.parametrize("kind", KINDS)
def test_notebook_parameters_match_their_model(kind):
    model, stem = KINDS[kind]
    values = parameters_of(REPO / "notebooks" / f"{stem}.ipynb")
    assert {"advanced", "seed", "smoke"} <= set(values) and len(values) <= 14, f"{stem}: {len(values)} parameters"
    assert "output_dir" not in values and values.pop("advanced") == {}
    assert set(values) <= set(model.model_fields), set(values) - set(model.model_fields)
    written, default = model(**values), model()
    different = [name for name in model.model_fields if getattr(written, name) != getattr(default, name)]
    assert not different, f"{stem}: other defaults than {model.__name__}: {different}"


@pytest.mark.parametrize("kind", KINDS)
def test_no_cell_assigns_a_parameter(kind):
    """The opening cell, run again in the same kernel, would read the new value as the parameter."""
    model, stem = KINDS[kind]
    for cell in code_cells(REPO / "notebooks" / f"{stem}.ipynb"):
        if "parameters" not in cell["metadata"].get("tags", []):
            tree = ast.walk(ast.parse("".join(cell["source"])))
            stored = {node.id for node in tree if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
            tree = ast.walk(ast.parse("".join(cell["source"])))
            stored |= {a.asname or a.name for n in tree if isinstance(n, (ast.Import, ast.ImportFrom)) for a in n.names}
            assert not stored & {*model.model_fields, "advanced"}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_last_cell_only_finishes_the_run(notebook):
    last = ast.parse("".join(code_cells(notebook)[-1]["source"])).body
    assert len(last) == 1 and ast.unparse(last[0]).startswith("run.finish("), ast.unparse(last)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stripped_and_short_and_defines_nothing(notebook):
    cells = code_cells(notebook)
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells), "outputs not stripped"
    assert len(cells) <= 16, f"{len(cells)} code cells"
    for cell in cells:
        source = "".join(cell["source"])
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        assert not any(isinstance(node, kinds) for node in ast.walk(ast.parse(source))), f"a definition: {source}"


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(REPO)))
def test_a_module_is_short_and_has_a_docstring(module):
    text = module.read_text()
    assert text.count("\n") <= 300, f"{text.count(chr(10))} lines"
    assert not text or ast.get_docstring(ast.parse(text)), "no docstring"


def test_importing_the_library_loads_no_heavy_package():
    code = f"import sys, fer_lib; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, check=True)
    assert done.stdout.strip() == "[]"


def tracked_text() -> dict[str, str]:
    """Committed text files by name."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPO, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    texts = {}
    for name in filter(None, listed.stdout.split("\0")):
        data = (REPO / name).read_bytes() if (REPO / name).is_file() else b""
        if b"\0" not in data:
            texts[name] = data.decode()
    return texts


def test_no_committed_file_contains_a_path_of_a_machine():
    texts = tracked_text()
    assert "pyproject.toml" in texts
    found = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("bad", ["open('/ho" + "me/ann/x')", "in /wo" + "rk/main", "C:\\Us" + "ers\\ann"])
def test_machine_paths_are_recognised(bad):
    assert MACHINE_PATH.search(bad)
    assert not MACHINE_PATH.search("see docs/home/x, https://a.b/tmp/c, out/work/y and ${TMPDIR:-/tmp}")


def lint_imports(folder: Path) -> subprocess.CompletedProcess:
    """Run import-linter with the contracts of pyproject.toml in a folder."""
    code = (
        "import sys; sys.path.insert(0, ''); from importlinter.cli import lint_imports_command as c; c(['--no-cache'])"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)


WRONG_IMPORTS = [
    ("emotions.py", "fer_lib.cli.main"), ("datasets/splits.py", "mlflow"),
    ("calibration/metrics.py", "fer_lib.faces.decode"), ("nowhere/__init__.py", "os"),
]  # fmt: skip


def test_wrong_imports_break_the_layers(tmp_path):
    """Four in one copy of the library, each named in the report."""
    shutil.copytree(REPO / "fer_lib", tmp_path / "fer_lib", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPO / "pyproject.toml", tmp_path)
    for name, imported in WRONG_IMPORTS:
        file = tmp_path / "fer_lib" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text((file.read_text() if file.exists() else '"""Nothing."""\n') + f"\nimport {imported}  # noqa\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1 and "BROKEN" in done.stdout, done.stdout + done.stderr
    reported = " ".join(done.stdout.split())
    for chain in (
        "emotions -> fer_lib.cli.main",
        "datasets.splits -> mlflow",
        "calibration.metrics -> fer_lib.faces.decode",
    ):
        assert f"fer_lib.{chain} (l." in reported, done.stdout
    assert "not listed as layers: - fer_lib.nowhere" in reported, done.stdout


def test_the_layers_hold():
    done = lint_imports(REPO)
    assert done.returncode == 0, done.stdout + done.stderr


def test_tests_that_share_the_road_run_on_one_worker():
    """A file that asks for the fixture and is not listed would walk the road a second time on the other worker."""
    from distribution import ROAD_FILES

    asking = {
        str(file.relative_to(REPO)) for file in (REPO / "tests").rglob("test_*.py")
        if "proofs" not in file.parts and re.search(r"def test_\w+\([^)]*\b(road|walked)\b", file.read_text())
    }  # fmt: skip
    assert asking == ROAD_FILES


def test_the_longest_files_exist_and_run_first_on_a_worker():
    from distribution import LONG, ROAD_FILES, pytest_collection_modifyitems

    assert {*LONG} - {"road"} == {name for name in LONG if (REPO / name).is_file()}
    files = ["tests/a.py", "tests/b.py", "tests/b.py", LONG[-1], min(ROAD_FILES)]
    items = [SimpleNamespace(nodeid=f"{file}::test_{number}") for number, file in enumerate(files)]
    alone = [*items]
    pytest_collection_modifyitems(SimpleNamespace(), alone)
    assert alone == items, "without workers the order is pytest's"
    pytest_collection_modifyitems(SimpleNamespace(workerinput={}), items)
    assert [item.nodeid.partition("::")[0] for item in items] == [
        min(ROAD_FILES), LONG[-1], "tests/b.py", "tests/b.py", "tests/a.py"]  # fmt: skip
