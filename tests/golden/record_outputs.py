"""Reads what users depend on from the running code: commands, parameters, a run's outputs, result pages.

``python tests/golden/record_outputs.py help|schemas|run_outputs|pages`` writes the golden files again.  ``help``,
``schemas`` and ``run_outputs`` fill the folder of that name here; ``run_outputs`` takes minutes, because it runs every
phase.  ``pages`` renders the committed result pages, the README's results and the packaged model card from their JSON.
"""

from __future__ import annotations

import contextlib
import csv
import importlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]
COLUMNS = "100"
EXPORTED = REPO / "docs" / "results" / "fer2013.json"
PAGES = ("ece_coverage", "fer2013", "kills", "unified_pilot")  # the pages that no other quick test renders
README = REPO / "README.md"
RESULTS = ("<!-- results:begin -->\n", "\n<!-- results:end -->")
CARD = next(REPO.glob("fer_lib/**/MODEL_CARD.md"))


# ---- commands


def fer() -> Callable[[list[str]], None]:
    """The function behind the ``fer`` command, as ``pyproject.toml`` names it."""
    scripts = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    module, _, function = scripts["fer"].partition(":")
    return getattr(importlib.import_module(module), function)


def help_text(words: list[str]) -> str:
    """What ``fer WORDS --help`` prints, without colour, on a terminal 100 columns wide."""
    out = io.StringIO()
    environment = {"COLUMNS": COLUMNS, "NO_COLOR": "1", "TERM": "dumb"}
    with mock.patch.dict(os.environ, environment), contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        fer()([*words, "--help"])
    return out.getvalue()


def commands() -> dict[str, dict[str, Any]]:
    """The interface of every command and subcommand, by its words: ``"data import"``."""
    names = re.findall(r"^  (\S+)  ", help_text([]).partition("Commands:")[2], flags=re.MULTILINE)
    return {" ".join(words): interface(command) for name in names for words, command in _tree([name], _command(name))}


def file_name(words: str) -> str:
    """``"data import"`` -> ``fer_data_import``."""
    return "_".join(["fer", *words.split()])


def _command(name: str) -> Any:
    """The click command that ``fer NAME`` calls."""
    import typer.core

    called = []

    def main(self, *_, **__):
        called.append(self)

    core = typer.core
    with mock.patch.object(core.TyperCommand, "main", main), mock.patch.object(core.TyperGroup, "main", main):
        fer()([name])
    return called[0]


def _tree(words: list[str], command: Any) -> Iterator[tuple[list[str], Any]]:
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from _tree([*words, name], inner)


def interface(command: Any) -> dict[str, Any]:
    """Arguments in order, options by name, subcommands; no word of help."""
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    return {
        "arguments": [{"name": p.display_name_raw, **_parameter(p)} for p in arguments],
        "options": {
            max(p.opts, key=len): {"names": sorted(p.opts), "off": p.secondary_opts, "flag": p.is_flag, **_parameter(p)}
            for p in options
        },
        "subcommands": sorted(getattr(command, "commands", {})),
    }


def _parameter(parameter: Any) -> dict[str, Any]:
    """What a parameter takes; properties that most parameters lack are written only where they are set."""
    described, default = parameter.type_descriptor, parameter.default
    kind, limits = described.annotation, described.parameter_info
    rare = {
        "min": limits.min,
        "max": limits.max,
        "any number": parameter.nargs == -1,
        "repeated": parameter.multiple,
        "hidden": parameter.hidden,
        "environment": parameter.envvar,
    }
    return {
        "type": kind.__name__ if type(kind) is type else str(kind),
        "default": default if isinstance(default, bool | int | float | str | None) else str(default),
        "required": parameter.required,
        **{name: value for name, value in rare.items() if value not in (None, False)},
    }


# ---- parameters of phases


def schemas() -> dict[str, Any]:
    """The JSON schema of every phase kind's parameters, without titles, descriptions and the names of its classes."""
    from fer_lib.params import KINDS

    return {kind: bare(model.model_json_schema()) for kind, (model, _) in KINDS.items()}


def bare(schema: Any, definitions: dict[str, Any] | None = None) -> Any:
    """A JSON schema with its references resolved and its words left out."""
    if isinstance(schema, list):
        return [bare(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    definitions = schema.get("$defs", definitions or {})
    schema = dict(schema)
    if reference := schema.pop("$ref", None):
        schema = definitions[reference.rpartition("/")[2]] | schema
    kept = {}
    for name, value in schema.items():
        if name == "properties":
            kept[name] = {field: bare(inner, definitions) for field, inner in value.items()}
        elif name in ("default", "const", "enum"):
            kept[name] = value
        elif name not in ("title", "description", "$defs"):
            kept[name] = bare(value, definitions)
    return kept


# ---- what a run leaves

EMOTIONS = ("Angry", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise")
MODELS = ("teacher_a", "teacher_b", "student_ce", "student_kd", "student_dkd")  # names that the tiny run file gives
OPEN = ("device", "packages", "left_out", "removed_by")  # below these, keys depend on the machine or on predictions


def steady(name: str) -> str:
    """A key, metric or path with its variable parts named: ids, long numbers, classes, and models of the run file."""
    name = re.sub(r"\b[0-9a-f]{64}\b|\b[0-9a-f]{32}\b|(?<=-)[0-9a-f]{12,16}\b", "<id>", name)
    name = re.sub(r"\d{6,}", "<n>", name)
    parts = {name: "<class>" for name in EMOTIONS} | {name: "<model>" for name in MODELS}
    return re.sub(r"[^./|\-]+", lambda part: parts.get(part[0], part[0]), name)


def outputs(road: Any, run: Any) -> dict[str, Any]:
    """Names of a run's parameters, metrics, tags, artifacts and files, and the keys and columns in those files.

    The names in an artifact are listed where they are not those in the phase folder's file of the same path.  Left
    out: ``system/*`` metrics, which MLflow samples by the clock, and hidden files, which are locks.
    """
    artifacts = road.artifact(run, "")
    folder = road.folder(run) if "fer.folder" in run.data.tags else None  # the parent run has none
    inside = names_below(folder) if folder else {}
    logged = {path: names for path, names in names_below(artifacts).items() if names != inside.get(path)}
    return {
        "params": sorted(run.data.params),
        "metrics": sorted({steady(name) for name in run.data.metrics if not name.startswith("system/")}),
        "tags": sorted(run.data.tags),
        "artifacts": sorted({steady(path) for path in files(artifacts)}),
        "files": sorted({steady(path) for path in files(folder)}) if folder else [],
        "inside": {path: sorted(names) for path, names in inside.items()},
        "inside artifacts": {path: sorted(names) for path, names in logged.items()},
    }


def names_below(folder: Path) -> dict[str, set[str]]:
    """:func:`names_in` of a folder's files by path; files whose paths differ in variable parts alone count as one."""
    found: dict[str, set[str]] = {}
    for path in files(folder):
        if names := names_in(folder / path):
            found.setdefault(steady(path), set()).update(names)
    return found


def files(folder: Path) -> list[str]:
    """Paths of the files in a folder, relative to it, but for hidden ones."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("[!.]*") if path.is_file())
    return sorted(found)


def names_in(path: Path) -> set[str]:
    """Keys of a JSON file as ``a.b[].c``, columns of a CSV or Parquet file, arrays of an NPZ file."""
    if path.suffix == ".json":
        return set(keys(json.loads(path.read_text(encoding="utf-8"))))
    if path.suffix == ".jsonl":
        return {key for line in path.read_text(encoding="utf-8").splitlines() for key in keys(json.loads(line))}
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return set(next(csv.reader(file)))
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return set(pyarrow.parquet.read_schema(path).names)
    if path.suffix == ".npz":
        import numpy

        with numpy.load(path) as arrays:
            return set(arrays.files)
    return set()


def keys(value: Any, where: str = "") -> Iterator[str]:
    """The paths to the leaves of a JSON value; the items of a list share one place, ``[]``."""
    if isinstance(value, dict) and where.rpartition(".")[2] in OPEN:
        yield f"{where}.*"
    elif isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from keys(inner, f"{where}.{steady(name)}" if where else steady(name))
    elif isinstance(value, list) and value:
        for inner in value:
            yield from keys(inner, f"{where}[]")
    else:
        yield where


# ---- pages


def results_page(name: str) -> str:
    """The page of ``docs/results/NAME.json``, from the script that measured it or from ``fer report render``."""
    source = REPO / "docs" / "results" / f"{name}.json"
    script = {"kills": REPO / "tests" / "proofs"}.get(name, REPO / "benchmarks")
    if (script / f"{name}.py").is_file():
        with mock.patch.object(sys, "path", [str(script), str(REPO / "tests"), *sys.path]):
            return importlib.import_module(name).page(json.loads(source.read_text(encoding="utf-8")))
    with tempfile.TemporaryDirectory() as home, mock.patch.dict(os.environ, {"FER_HOME": home}):
        copy = Path(shutil.copy(source, home))
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
            fer()(["report", "render", str(copy)])
        return copy.with_suffix(".md").read_text(encoding="utf-8")


def readme_results() -> str:
    """The results section of the README, made from the exported run."""
    from fer_lib.report.render import readme_section

    return readme_section(json.loads(EXPORTED.read_text(encoding="utf-8")))


def model_card() -> str:
    """The card of the packaged model, made from its bundle and the exported run."""
    from fer_lib.models.bundle import read_bundle
    from fer_lib.report.model_card import render_card

    return render_card(read_bundle(CARD.parent), json.loads(EXPORTED.read_text(encoding="utf-8")))


# ---- writing the golden files


def emptied(name: str) -> Path:
    """The folder of that name here, with no file in it."""
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def record_help() -> None:
    folder, found = emptied("help"), commands()
    for words in ("", *found):
        (folder / f"{file_name(words)}.txt").write_text(help_text(words.split()), encoding="utf-8")
    for words, interface in found.items():
        write_json(folder / f"{file_name(words)}.json", interface)


def record_schemas() -> None:
    folder = emptied("schemas")
    for kind, schema in schemas().items():
        write_json(folder / f"{kind}.json", schema)


def record_run_outputs() -> None:
    sys.path.insert(0, str(REPO / "tests"))
    from road import walk

    with tempfile.TemporaryDirectory() as home:
        road = walk(Path(home))
        if road.first.code:
            sys.exit(road.first.out + road.first.err)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{road.home / 'mlruns' / 'mlflow.db'}"
        parent, nested = road.walk
        folder = emptied("run_outputs")
        for name, run in {"run": parent, **nested}.items():
            write_json(folder / f"{name}.json", outputs(road, run))


def record_pages() -> None:
    for name in PAGES:
        (REPO / "docs" / "results" / f"{name}.md").write_text(results_page(name), encoding="utf-8")
    before, begin, rest = README.read_text(encoding="utf-8").partition(RESULTS[0])
    _, end, after = rest.partition(RESULTS[1])
    README.write_text(f"{before}{begin}{readme_results()}{end}{after}", encoding="utf-8")
    CARD.write_text(model_card(), encoding="utf-8")


if __name__ == "__main__":
    records = {"help": record_help, "schemas": record_schemas, "run_outputs": record_run_outputs, "pages": record_pages}
    if len(sys.argv) != 2 or sys.argv[1] not in records:
        sys.exit(__doc__)
    records[sys.argv[1]]()
