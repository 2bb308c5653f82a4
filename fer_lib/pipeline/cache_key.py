"""The cache key of a phase.  A finished phase with the same key is re-used (``folders.py`` decides).

The key hashes the kind, its parameters, the ids of its inputs, the code of its notebook and the ``fer_lib`` sources
which that code can reach.  Sources are compared as syntax trees without docstrings, so a comment costs no training.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fer_lib.errors import FerError
from fer_lib.params import KINDS
from fer_lib.pipeline.runfile import INPUTS
from fer_lib.storage.atomic import write_json
from fer_lib.storage.json_files import file_sha256, read_json, try_read_json
from fer_lib.storage.paths import external, is_uri, mlruns

PACKAGE = Path(__file__).resolve().parents[1]
PATH_FIELDS = ("root", "votes", "images", "image_map")  # parameters that may name files outside the run
PARSER = hashlib.sha256(Path(__file__).read_bytes() + sys.version.encode()).hexdigest()  # what _parse depends on
_parsed: dict[str, dict[str, Any]] = {}  # hash of a module's text -> what _parse found
# These modules only pass on and record values.  The key contains the values, so it leaves out the modules' code.
UNHASHED_MODULES = frozenset(
    f"fer_lib.{name}"
    for name in ("params", "pipeline", "errors", "cli", "importers.source_table",
                 *(f"storage.{part}" for part in ("locks", "paths", "progress")),
                 *(f"tracking.{part}" for part in ("store", "phase_run", "records", "event_logger", "run_status")))
)  # fmt: skip


def phase_key(kind: str, params: dict[str, Any], inputs: dict[str, str | list[str]], notebook: Path) -> str:
    """The cache key, 64 hex digits.

    Args:
        kind: the phase's kind.
        params: its validated parameters as plain values; ``output_dir``, the input fields, how a fit is computed
            (``FitParams.RUNTIME_FIELDS``) and what has no effect (``PhaseParams.unused_fields``) are ignored.
        inputs: input field -> folder(s) or URI(s), every one finished.
        notebook: the notebook that runs it.
    """
    code = notebook_code(notebook)
    model = KINDS[kind][0]
    apart = {"output_dir", *INPUTS, *getattr(model, "RUNTIME_FIELDS", ()), *model.unused_fields(params)}
    own = {key: value for key, value in params.items() if key not in apart}
    if weights := weights_id(own.get("pretrained", "")):
        own["pretrained"] = weights
    parts = {"kind": kind, "params": own, "inputs": _input_ids(inputs), "files": dict(_files(own))}
    parts["notebook"] = _parse(code, True)["digest"]
    parts["sources"] = reachable(code + source_imports(kind, params))
    if not _parsed.keys() <= _parsed_earlier().keys():
        write_json(mlruns() / "cache" / "parsed.json", {PARSER: _parsed})
        _parsed_earlier.cache_clear()
    return _digest(json.dumps(parts, sort_keys=True, ensure_ascii=False))


def source_imports(kind: str, params: dict[str, Any]) -> str:
    """Import statements of the modules that an import phase loads by name, those of its ``sources``."""
    if kind != "import":
        return ""
    from fer_lib.importers.source_table import SOURCES

    names = {spec["source"] for spec in params["sources"]}
    return "".join(f"\nimport {SOURCES[name]}" for name in sorted(names & SOURCES.keys()))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def input_id(value: str, field: str = "") -> str:
    """What an input is, as opposed to where it lies.

    A phase: the ``ids`` of its ``outputs.json``, else its own key.  In ``fits`` and ``evaluations`` always its own key:
    the ids name no kept epochs and no measured models.  A bundle and the packaged model: its ``bundle.json``.  A
    registry URI: the version that it means now.  Any other folder or file: names, sizes and times of what is in it.
    """
    if value == "packaged":
        from fer_lib.deploy.packaged import packaged_bundle

        return file_sha256(packaged_bundle().path / "bundle.json")
    if is_uri(value):
        return _registry_version(value)
    folder = external(value)
    for name, key in (("outputs.json", "ids"), ("done.json", "key")):
        if (folder / name).is_file() and not (field in ("fits", "evaluations") and name == "outputs.json"):
            if own_id := read_json(folder / name).get(key):
                return _digest(json.dumps(own_id, sort_keys=True))
    if (folder / "bundle.json").is_file():
        return file_sha256(folder / "bundle.json")
    return fingerprint(folder)


def same_inputs(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether the inputs ``old`` of a finished phase and ``new`` have equal ids; False when an old one is gone."""
    if any(not is_uri(v) and not external(v).exists() for values in old.values() for v in _listed(values)):
        return False
    return _input_ids(old) == _input_ids(new)


def _input_ids(inputs: dict[str, Any]) -> dict[str, list[str]]:
    return {name: [input_id(value, name) for value in _listed(values)] for name, values in inputs.items()}


def _listed(values: str | list[str]) -> list[str]:
    return [value for value in ([values] if isinstance(values, str) else values) if value]


def _registry_version(uri: str) -> str:
    name, at, alias = uri.removeprefix("models:/").partition("@")
    if not uri.startswith("models:/") or not at:
        return uri  # a version number: the name says all
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        return f"models:/{name}/{MlflowClient().get_model_version_by_alias(name, alias).version}"
    except MlflowException as error:
        raise FerError(f"the registry has no {uri}: {error.message}. See what there is with: fer models") from error


def _files(values: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Fingerprints of files and folders that the parameters name, so that changed data are not taken for the old."""
    if isinstance(values, dict):
        for name, value in values.items():
            yield from _files(value, name)
    elif isinstance(values, list):
        for value in values:
            yield from _files(value, key)
    elif key in PATH_FIELDS and isinstance(values, str) and values and external(values).exists():
        yield values, fingerprint(external(values))


def weights_id(value: str) -> str:
    """SHA-256 of the weights file in ``pretrained``; "" for no file, or a missing one that was never hashed here.

    What a path held is remembered in the store.  So a file that was touched, moved, or has gone since the start leaves
    the key as it was: the phase goes on from its checkpoint, which needs no weights from elsewhere.
    """
    if value in ("", "none", "hub", "package"):
        return ""
    path = external(value).absolute()
    memory = mlruns() / "weights" / f"{_digest(str(path))[:24]}.json"
    known = read_json(memory) if memory.is_file() else {"sha256": ""}
    if not path.is_file():
        return known["sha256"]
    stat = path.stat()
    state = {"path": str(path), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    if {key: known.get(key) for key in state} != state:
        known = state | {"sha256": file_sha256(path)}
        write_json(memory, known)
    return known["sha256"]


def fingerprint(path: Path) -> str:
    """Hash of names, sizes and modification times (ns) of a file or of everything below a folder."""
    if not path.exists():
        raise FerError(f"there is no file or folder {path}")
    found = [path] if path.is_file() else []
    for folder, below, files in os.walk(path):
        below.sort()
        found += [Path(folder) / name for name in sorted(files) if not name.startswith(".")]
    stats = [(file, file.stat()) for file in found]
    return _digest("\n".join(f"{f.relative_to(path)}|{s.st_size}|{s.st_mtime_ns}" for f, s in stats))


def notebook_code(path: Path) -> str:
    """The code of a notebook without magics and without its ``parameters`` cell (its values are in the key already)."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = []
        for cell in cells:
            if cell["cell_type"] == "code" and "parameters" not in cell.get("metadata", {}).get("tags", []):
                lines = "".join(cell["source"]).splitlines()
                code += [line for line in lines if not line.lstrip().startswith(("%", "!"))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FerError(f"cannot read the notebook {path}: {error}. Notebooks lie in {path.parent}; set FER_HOME to the "
                       f"folder that holds params/ and notebooks/") from error  # fmt: skip
    return "\n".join(code)


def reachable(code: str, package: Path = PACKAGE) -> dict[str, str]:
    """Module name -> hash, of every module of the package that the code imports, directly or not.

    Imports inside functions count.  The ``__init__`` of a package that was only passed through, as ``a`` is in
    ``import a.b``, counts with what it runs on import, not with the functions it offers.
    """
    hashes: dict[str, str] = {}
    queue = list(_resolve(_parse(code, True)["imports"], package.name, package))
    seen: set[tuple[str, bool]] = set()
    while queue:
        name, whole = queue.pop()
        if (name, whole) in seen or any(name == c or name.startswith(c + ".") for c in UNHASHED_MODULES):
            continue
        seen.add((name, whole))
        file = _file(name, package)
        digest, imports = _module(name, whole, package, file.stat().st_mtime_ns)
        queue += imports
        if whole or name not in hashes:
            hashes[name] = digest
    return dict(sorted(hashes.items()))


@functools.lru_cache(maxsize=1024)
def _module(name: str, whole: bool, package: Path, changed: int) -> tuple[str, list[tuple[str, bool]]]:
    """Hash and imports of one module; ``changed`` (its modification time) is there to forget what was edited since."""
    file = _file(name, package)
    is_package = file.name == "__init__.py"
    parsed = _parse(file.read_text(encoding="utf-8"), whole)
    imports = list(_resolve(parsed["imports"], name if is_package else name.rpartition(".")[0], package))
    if is_package and parsed["imports_by_name"]:
        imports += [(_name(other, package), True) for other in sorted(file.parent.rglob("*.py"))]
    return parsed["digest"], imports


def _parse(text: str, whole: bool) -> dict[str, Any]:
    """``digest``, ``imports`` and ``imports_by_name`` of a module, or without ``whole`` of what it runs on import."""
    key = _digest(f"{whole} {text}")
    if key not in _parsed and key in _parsed_earlier():
        _parsed[key] = _parsed_earlier()[key]
    elif key not in _parsed:
        tree = ast.parse(text)
        if not whole:
            tree.body = [node for node in tree.body if not isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        imports = list(_imports(tree))
        # such a module may reach any other
        by_name = any(not level and module in ("importlib", "pkgutil") for level, module, *_ in imports)
        _parsed[key] = {"digest": _digest(_skeleton(tree)), "imports": imports, "imports_by_name": by_name}
    return _parsed[key]


@functools.cache
def _parsed_earlier() -> dict[str, dict[str, Any]]:
    """What earlier commands parsed in this way; parsing all modules takes half a second."""
    return (try_read_json(mlruns() / "cache" / "parsed.json") or {}).get(PARSER, {})


def _imports(tree: ast.AST) -> Iterator[tuple[int, str, str, bool]]:
    """(level, module, name, whole) of each import in the tree; ``name`` is empty for ``import module``."""
    attributes = {node.value.id for node in ast.walk(tree)
                  if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)}  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:  # a package counts whole only when something that it offers is used
                yield 0, alias.name, "", "." in alias.name or (alias.asname or alias.name) in attributes
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.level, node.module or "", alias.name, True


def _resolve(imports: Iterable[Sequence], parent: str, package: Path) -> Iterator[tuple[str, bool]]:
    """(module, whole) for each imported module of the package, after the packages in which it lies."""
    for level, module, name, whole in imports:
        base = parent.split(".")[: len(parent.split(".")) - level + 1] if level else []
        module = ".".join([*base, module] if module else base)
        if name and _file(f"{module}.{name}", package):
            module = f"{module}.{name}"
        if _file(module, package):
            parts = module.split(".")
            yield from ((".".join(parts[:depth]), False) for depth in range(1, len(parts)))
            yield module, whole


@functools.cache
def _file(name: str, package: Path) -> Path | None:
    """The source file of a module of the package; None for any other module."""
    parts = name.split(".")
    if parts[0] != package.name:
        return None
    base = package.joinpath(*parts[1:])
    return next((file for file in (base / "__init__.py", base.with_suffix(".py")) if file.is_file()), None)


def _name(file: Path, package: Path) -> str:
    parts = file.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _skeleton(tree: ast.AST) -> str:
    """The tree as text, without docstrings, comments and positions."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list) or not body or not isinstance(body[0], ast.Expr):
            continue
        if isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str):
            node.body = body[1:] or [ast.Pass()]
    return ast.dump(tree)
