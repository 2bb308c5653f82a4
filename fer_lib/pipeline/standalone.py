"""A phase that is run by itself, from its notebook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fer_lib import params as params_module
from fer_lib.errors import FerError
from fer_lib.pipeline import cache_key, folders
from fer_lib.pipeline.folders import finished
from fer_lib.pipeline.runfile import input_fields
from fer_lib.storage.json_files import read_json
from fer_lib.storage.paths import external, home, is_uri
from fer_lib.tracking.records import draw_figures
from fer_lib.tracking.runs import PhaseRun, inherited_run


def prepare_alone(params, kind: str, name: str | None = None) -> dict[str, Any]:
    """The plan of a phase that is run by itself: phase, kind, key, params, resolved inputs, output_dir."""
    inputs = alone_inputs(kind, params)
    key = cache_key.phase_key(kind, params.model_dump(mode="json"), inputs, folders.notebook_path(kind))
    folder = external(params.output_dir) if params.output_dir else folders.folder_for(name or kind, key)
    plan = {"phase": name or kind, "kind": kind, "key": key, "params": folders.own_params(params)}
    return plan | {"inputs": inputs, "output_dir": str(folder)}


def prepared(params) -> dict[str, Any]:
    """The plan that the pipeline wrote into the phase's folder, with the inputs that it passed as parameters."""
    plan = read_json(Path(params.output_dir) / "phase.json")
    inputs = {name: getattr(params, name) for name in input_fields(plan["kind"])}
    return plan | {"inputs": inputs, "output_dir": params.output_dir}


def upstream(kind: str, name: str) -> str | list[str]:
    """What a notebook of ``kind``, run alone, takes for its blank input ``name``."""
    return alone_inputs(kind, params_module.KINDS[kind][0]())[name]


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
        from fer_lib.pipeline.run import run_file

        needed = {k for name, spec in blank.items() for k in spec.kinds}
        print(f"no finished {', '.join(sorted(needed))} phase yet: running those of params/quickstart.yaml first")
        if run_file(home() / "params" / "quickstart.yaml", until=needed):
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


def phase_run(params, kind: str, name: str | None = None) -> PhaseRun:
    """Open the run of one phase: in a pipeline the one it was given ($MLFLOW_RUN_ID), else one of its own.

    Alone, blank inputs are the newest finished phases of the store; where there is none, the quickstart is run up to
    the kind that is missing, so every notebook runs with its defaults.
    """
    draw_figures()
    run_id = inherited_run()
    plan = prepare_alone(params, kind, name) if run_id is None else prepared(params)
    return PhaseRun(params, plan, run_id)
