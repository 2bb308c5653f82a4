"""Strict reading: models that refuse unknown keys, YAML without duplicate keys, errors with the closest valid key."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from fer_lib.errors import ParamsError

MAX_BYTES, MAX_NODES, MAX_DEPTH = 100_000, 20_000, 40  # of a YAML file; nodes and depth with aliases written out


class Strict(BaseModel):
    """A frozen model that refuses unknown keys, NaN and infinity, and booleans as numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_bool_as_number(cls, value, info):
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation in (int, float):
            raise ValueError("Input should be a number")  # pydantic reads true as 1
        return value


def closest(word: str, names: Iterable[str]) -> str:
    """`` (closest: 'epochs')``, or all names when none is similar."""
    names = list(names)
    matches = difflib.get_close_matches(str(word), names, n=1, cutoff=0.5)
    if matches:
        return f" (closest: {matches[0]!r})"
    return f" (there are: {', '.join(names)})" if names else ""


def unknown_key(key: str, names: Iterable[str]) -> str:
    """``unknown key 'epoch' (closest: 'epochs')``; for ``advanced`` what to write in its place."""
    if key == "advanced":
        return (
            "'advanced' belongs to the parameters cell of a notebook; here every parameter has its own name: write "
            "ema_decay: 0.99, not advanced: {ema_decay: 0.99}"
        )
    return f"unknown key {key!r}{closest(key, names)}"


class _Loader(yaml.SafeLoader):
    """YAML loader that raises YAMLError for duplicate keys and for invalid values.

    Invalid values: ``2024-13-45``, ``0x_``, ``!!bool maybe``, half a surrogate pair, a NUL.
    """

    def fetch_flow_collection_start(self, TokenClass: type) -> None:  # noqa: N803 - PyYAML's name
        super().fetch_flow_collection_start(TokenClass)
        if self.flow_level > MAX_DEPTH:  # here, because the scanner's time grows with the square of the depth
            raise yaml.scanner.ScannerError(None, None, "it is nested too deeply", self.get_mark())

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, str):
                value.encode("utf-8")
                if "\0" in value:
                    raise ValueError("no path, name or tag may hold this character")
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception as error:  # whatever int(), datetime() or a look-up raises in PyYAML
            kind = node.tag.rpartition(":")[2]
            text = repr(node.value)[:80]
            raise yaml.constructor.ConstructorError(
                None, None, f"{text} can't be read as {kind}; put quotes around a text", node.start_mark
            ) from error
        return value


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict:
    keys = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a key must be a text", key.start_mark)
        if key.value in keys:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} occurs twice", key.start_mark)
        keys.add(key.value)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_mapping(path: Path) -> dict:
    """The mapping in a YAML file.  Raises ParamsError, with the line, when it is missing, broken or not a mapping."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe or a device may never end
            raise ParamsError(f"{path} is not a file: name a YAML file")
        with open(path, "rb") as stream:
            raw = parse(stream.read(MAX_BYTES + 1).decode("utf-8"))
    except ValueError as error:
        if not isinstance(error, UnicodeDecodeError):
            raise ParamsError(f"{str(path)!r} can't be the name of a file: {error}") from error
        raise ParamsError(f"{path} is not UTF-8 text: {error}") from error
    except OSError as error:
        files = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise ParamsError(f"cannot read {path}: {error.strerror}{closest(path.name, files)}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ParamsError(f"{path}{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(raw, dict):
        raise ParamsError(f"{path}: it must hold a mapping, got {type(raw).__name__}")
    return raw


def parse(text: str) -> Any:
    """The value of a YAML text.

    Raises yaml.YAMLError for every defect: syntax, values, duplicate keys, and a size above ``MAX_BYTES``,
    ``MAX_NODES`` or ``MAX_DEPTH``, which is found before anything is built: a few aliases of aliases are billions of
    values.
    """
    try:
        if len(text.encode()) > MAX_BYTES:
            raise yaml.YAMLError(f"it is larger than {MAX_BYTES:,} bytes")
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is not None:
                _check_size(node, {}, ())
            return None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error
    except (ValueError, OverflowError) as error:  # the scanner: an escape such as "\U7fffffff" that is not a character
        raise yaml.YAMLError(str(error)) from error


def _check_size(node: yaml.Node, sizes: dict[yaml.Node, tuple[int, int]], above: tuple[yaml.Node, ...]) -> None:
    """Add (nodes, depth) of ``node``, with every alias written out, to ``sizes``; ``above``: the nodes that hold it.

    Raises YAMLError above ``MAX_NODES`` or ``MAX_DEPTH``, and for an alias of a value that holds it.
    """
    if node in above:
        raise yaml.YAMLError(f"line {node.start_mark.line + 1}: an alias stands inside the value that it repeats")
    children = [] if isinstance(node, yaml.ScalarNode) else node.value
    if isinstance(node, yaml.MappingNode):
        children = [part for pair in children for part in pair]
    for child in children:
        if child not in sizes:
            _check_size(child, sizes, (*above, node))
    nodes = 1 + sum(sizes[child][0] for child in children)
    depth = 1 + max((sizes[child][1] for child in children), default=0)
    if nodes > MAX_NODES or depth > MAX_DEPTH:
        limits = f"{MAX_NODES:,} values, {MAX_DEPTH} levels"
        raise yaml.YAMLError(f"line {node.start_mark.line + 1}: it is too large or nested too deeply ({limits})")
    sizes[node] = nodes, depth


def validate(model: type[BaseModel], values: dict[str, Any], phase: str) -> Any:
    """The validated parameters.  Raises ParamsError with one line per wrong key."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ParamsError("\n".join(_problem_text(model, problem, phase) for problem in error.errors())) from error


def first_problem(error: Exception) -> str:
    """The first defect as ``model.embed_dim: Input should be ..., found 1000000000``, at most 300 characters.

    An error that is no ValidationError as its own text.
    """
    if not isinstance(error, ValidationError):
        return (f"missing {error}" if isinstance(error, KeyError) else str(error))[:300]
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    text = f"{where}: " * bool(where) + problem["msg"].removeprefix("Value error, ")
    return f"{text[:200]}, found {problem['input']!r:.80}" if problem["type"] != "missing" and where else text[:300]


def _problem_text(model: type[BaseModel], problem: dict[str, Any], phase: str) -> str:
    where = problem["loc"]
    key = ".".join(str(part) for part in where)
    if problem["type"] == "extra_forbidden":
        names = _fields_at(model, where[:-1])
        return f"phase {phase!r}: " + (
            unknown_key(key, names) if len(where) == 1 else f"unknown key {key!r}{closest(str(where[-1]), names)}"
        )
    message = problem["msg"].removeprefix("Value error, ")
    return f"phase {phase!r}: " + (f"key {key!r}: {message}, got {problem['input']!r}" if key else message)


def _fields_at(annotation: Any, where: Sequence[str | int]) -> list[str]:
    """Field names of the nested model at this location."""
    if typing.get_origin(annotation) in (list, tuple, typing.Annotated):
        rest = where[1:] if where and isinstance(where[0], int) else where
        return _fields_at(typing.get_args(annotation)[0], rest)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [name for part in typing.get_args(annotation) for name in _fields_at(part, where)]
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return []
    if not where:
        return list(annotation.model_fields)
    step = annotation.model_fields.get(str(where[0]))
    return _fields_at(step.annotation, where[1:]) if step else []
