"""The public names of ``fer_lib``: frozen, lazy, typed, and documented."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fer_lib

PUBLIC = ["Bundle", "EMOTIONS", "FaceContract", "FerError", "Manifest", "Predictor", "load", "metrics", "plots",
          "read_bundle", "temperature"]  # fmt: skip
PACKAGE = Path(fer_lib.__file__).parent


def test_the_list_of_public_names_is_frozen():
    assert sorted(fer_lib.__all__) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_in_dir_and_has_a_docstring(name):
    assert name in dir(fer_lib)
    value = getattr(fer_lib, name)
    assert name == "EMOTIONS" or value.__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Manifst'"):
        fer_lib.Manifst  # noqa: B018


def test_dir_imports_no_heavy_package():
    code = "import sys, fer_lib; dir(fer_lib); print(sorted({'torch', 'pandas', 'mlflow', 'cv2'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_type_checkers_see_the_same_names():
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text())
    imported = {a.asname for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names if a.asname}
    defined = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
    assert imported | defined == set(PUBLIC) and (PACKAGE / "py.typed").is_file()


def test_each_public_name_is_documented():
    page = (PACKAGE.parent / "docs" / "library.md").read_text()
    assert not [name for name in PUBLIC if f"fer_lib.{name}" not in page]
