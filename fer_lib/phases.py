"""The folders of phases: where a phase writes, which ones are finished, and what a notebook run alone builds on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fer_lib import params as params_module
from fer_lib.atomic import explained
from fer_lib.errors import FerError
from fer_lib.runfile import INPUTS, external, input_fields, is_uri
from fer_lib.tracking import store
from fer_lib.tracking.holding import Hold, refuse_if_held
from fer_lib.tracking.records import flatten, read_json, read_outputs


def notebook_path(kind: str) -> Path:
    """The notebook of a kind, in ``<home>/notebooks``; FerError when it is not there."""
    path = store.home() / "notebooks" / f"{params_module.KINDS[kind][1]}.ipynb"
    if not path.is_file():
        raise FerError(f"there is no notebook {path}: set FER_HOME to the folder that holds params/ and notebooks/")
    return path


def attempts(phase: str, key: str) -> list[Path]:
    """The folders of this phase and key, oldest first: ``<phase>-<key12>``, then ``-2``, ``-3``, ... of ``--fresh``."""
    first = store.phases_dir() / f"{phase}-{key[:12]}"
    found = [first] if first.is_dir() else []
    while found and (following := first.with_name(f"{first.name}-{len(found) + 1}")).is_dir():
        found.append(following)
    return found


def folder_for(phase: str, key: str, fresh: bool = False) -> Path:
    """The folder in which this phase runs next: the newest attempt, or with ``fresh`` a new one.

    Raises:
        FerError: when the newest attempt is alive; it names who runs it.
    """
    found = attempts(phase, key)
    first = store.phases_dir() / f"{phase}-{key[:12]}"
    newest = found[-1] if found else first
    for lock in (newest / ".lock", _claim(newest)):
        refuse_if_held(lock, f"phase {phase!r} in {newest}")
    if not fresh or not found:
        return newest
    return first.with_name(f"{first.name}-{len(found) + 1}")


def claimed(folder: Path, phase: str) -> Hold:
    """What a command holds while it runs ``phase`` in a kernel, whose own lock comes seconds later.

    Raises:
        FerError: another command holds it; it names which.
    """
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return Hold(_claim(folder), f"phase {phase!r} in {folder}")


def _claim(folder: Path) -> Path:
    locks = store.mlruns() / "locks"
    with explained(locks):
        locks.mkdir(exist_ok=True)
    return locks / f"{folder.name}.lock"


def own_params(params) -> dict[str, Any]:
    """A phase's parameters without its folder and its inputs."""
    return {k: v for k, v in params.model_dump(mode="json").items() if k != "output_dir" and k not in INPUTS}


def headline(folder: Path) -> dict[str, Any]:
    """What a finished phase says first, on one level: ``{"student/accuracy": 0.61}``."""
    return flatten(read_outputs(folder).get("headline") or {}, "/")


def done(folder: Path) -> dict[str, Any] | None:
    """The record of a finished phase folder (``inputs`` made absolute), None when it is not finished."""
    if not (folder / "done.json").is_file():
        return None
    record = read_json(folder / "done.json")

    def absolute(value):
        if isinstance(value, list):
            return [absolute(item) for item in value]
        return value if not value or is_uri(value) else str(external(value))

    return record | {"inputs": {name: absolute(v) for name, v in record["inputs"].items()}, "folder": str(folder)}


def finished(kinds: tuple[str, ...] = (), phase: str | None = None) -> list[dict[str, Any]]:
    """Records of finished phases of these kinds (or of that name), newest first."""
    folders = [path.parent for path in store.phases_dir().glob("*/done.json")]
    records = [record for folder in folders if (record := done(folder)) is not None]
    wanted = [r for r in records if (r["kind"] in kinds if kinds else True) and phase in (None, r["phase"])]
    return sorted(wanted, key=lambda r: (Path(r["folder"]) / "done.json").stat().st_mtime_ns, reverse=True)


def alone_inputs(kind: str, params) -> dict[str, str | list[str]]:
    """Inputs of a phase that is run by itself: folders and URIs as written; blank ones from the store.

    All that are taken from the store were made from one manifest, the newest for which everything needed is finished.
    When there is none, the phases of ``params/quickstart.yaml`` that are needed are run first.
    """
    given, blank = {}, {}
    for name, spec in input_fields(kind).items():
        value = getattr(params, name)
        if value:
            values = [_written(kind, name, v) for v in ([value] if isinstance(value, str) else value)]
            given[name] = values if spec.many else values[0]
        elif not spec.kinds or (name == "softlabels" and getattr(params, "mode", "") == "ce"):
            given[name] = [] if spec.many else ""
        else:
            blank[name] = spec
    if not blank:
        return given
    found = _from_store(given, blank)
    if found is None:
        from fer_lib.pipeline import run_file

        needed = {k for name, spec in blank.items() for k in spec.kinds}
        print(f"no finished {', '.join(sorted(needed))} phase yet: running those of params/quickstart.yaml first")
        if run_file(store.home() / "params" / "quickstart.yaml", until=needed):
            raise FerError("the quickstart, whose phases this one would build on, failed: see its message above")
        found = _from_store(given, blank)
    if found is None:
        raise FerError(f"phase of kind {kind!r}: nothing finished to take {', '.join(blank)} from: name the folders")
    return given | found


def _written(kind: str, name: str, value: str) -> str:
    if is_uri(value):
        return value
    folder = external(value)
    if not folder.exists():
        raise FerError(f"{kind}: {name}: there is no folder {folder}. Name a finished phase's folder or a models:/ URI")
    return str(folder)


def _from_store(given: dict, blank: dict) -> dict[str, str | list[str]] | None:
    """A value for every blank field, consistent with one manifest; None when the store does not hold them."""
    if set(blank) == {"imports"}:
        imports = finished(("import",))
        return {"imports": imports[0]["folder"]} if imports else None
    kinds = blank["manifest"].kinds if "manifest" in blank else ()
    manifests = [given["manifest"]] if "manifest" in given else [r["folder"] for r in finished(kinds)]
    for manifest in manifests:
        found: dict[str, str | list[str]] = {}
        for name, spec in blank.items():
            if name == "manifest":
                found[name] = manifest
                continue
            newest: dict[str, str] = {}  # the newest of each phase name
            for record in finished(spec.kinds):
                if record["inputs"].get("manifest") == manifest:
                    newest.setdefault(record["phase"], record["folder"])
            folders = list(newest.values())
            found[name] = folders if spec.many else (folders or [""])[0]
        if all(found[name] for name, spec in blank.items() if spec.required):
            return found
    return None
