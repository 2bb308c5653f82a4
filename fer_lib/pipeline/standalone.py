"""Phases that run from their notebook without a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fer_lib.datasets.manifest import Manifest
from fer_lib.datasets.provenance import only_drawn
from fer_lib.errors import FerError
from fer_lib.params import KINDS, FitParams
from fer_lib.pipeline import cache_key, folders, reuse
from fer_lib.pipeline.folders import finished_phases
from fer_lib.pipeline.runfile import INPUTS, input_fields, load_run
from fer_lib.storage.json_files import read_json
from fer_lib.storage.paths import below, external, home, is_uri
from fer_lib.tracking.phase_run import PhaseRun, inherited_run
from fer_lib.tracking.records import set_up_notebook

# Fields that leave the default settings of a fit as they are.
_FREE_FIELDS = FitParams.RUNTIME_FIELDS | {"output_dir", "seed", "smoke", "name"}


def phase_run(kind: str, namespace: Mapping[str, Any], intent: str = "", name: str | None = None) -> PhaseRun:
    """Open the run of one phase: ``run = phase_run("teacher", globals()); params = run.params``.

    The run is the one that the pipeline passes in $MLFLOW_RUN_ID, else a new one.  Without a pipeline, blank inputs are
    the newest finished phases of the store (:func:`standalone_inputs`), and a fit on drawn faces may get shorter
    settings (:func:`quick_settings`).

    Args:
        namespace: the notebook's globals, which hold the parameters (``PhaseParams.collect``).
        intent: why the phase is run; the first part of the run's description.
        name: of the phase without a pipeline; default: its kind.

    Raises:
        FerError: a parameter or an input is wrong, or another process runs the phase.
    """
    set_up_notebook()
    params = KINDS[kind][0].collect(namespace, name or kind)
    run_id = inherited_run()
    if run_id is None:
        params, plan = prepare_standalone(params, kind, name or kind)
    else:
        inputs = {field: getattr(params, field) for field in input_fields(kind)}
        plan = read_json(Path(params.output_dir) / "phase.json")
        plan |= {"inputs": inputs, "output_dir": params.output_dir}
    run = PhaseRun(params, plan, run_id)
    if intent:
        run.note(intent=intent)
    return run


def prepare_standalone(params, kind: str, name: str) -> tuple[Any, dict[str, Any]]:
    """The parameters and the plan of a phase without a pipeline: phase, kind, key, params, inputs, output_dir."""
    from_file = run_file_inputs(params, kind)
    params, inputs = from_file or (params, standalone_inputs(kind, params))
    params = quick_settings(params, kind, inputs)
    key = cache_key.phase_key(kind, params.model_dump(mode="json"), inputs, folders.notebook_path(kind))
    folder = external(params.output_dir) if params.output_dir else reuse.folder_for(name, key)
    plan = {"phase": name, "kind": kind, "key": key, "params": folders.own_params(params)}
    return params, plan | {"inputs": inputs, "output_dir": str(folder)}


def run_file_inputs(params, kind: str) -> tuple[Any, dict[str, Any]] | None:
    """Run what a phase of this kind needs in ``params.run_file``; its inputs, and its settings where ``params`` has the
    defaults.

    None for a phase without ``run_file``, with named evaluations, and where a dataset of the file does not exist.
    Raises FerError when the file has no such phase, or when one that it needs fails.
    """
    if not getattr(params, "run_file", "") or params.evaluations:
        return None
    from fer_lib.pipeline.execution import Execution, open_session
    from fer_lib.pipeline.run import run_file

    file = external(params.run_file)
    plan = load_run(file, smoke=params.smoke)
    phase = next((phase for phase in reversed(plan.phases) if phase.kind == kind), None)
    if phase is None:
        raise FerError(f"{file} has no phase of the kind {kind}: add one, or name finished evaluations (evaluations)")
    specs = [spec for other in plan.phases if other.kind == "import" for spec in other.params.sources]
    roots = {spec.root: None for spec in specs if spec.root != "embedded" and not external(spec.root).exists()}
    if roots:
        print(
            f"{params.run_file} reads {', '.join(roots)}, which do not exist: unpack the datasets there, or set its "
            "roots to their folders. What follows compares the models of the newest evaluation in this store, or else "
            "of params/quickstart.yaml on drawn faces"
        )
        return None
    if run_file(file, smoke=params.smoke, until=input_fields(kind)["evaluations"].kinds):
        raise FerError(f"{params.run_file}, whose phases are the inputs of this one, failed: see its message above")
    default = type(params)()
    unset = [n for n in type(params).model_fields if n not in INPUTS and getattr(params, n) == getattr(default, n)]
    settings = params.model_copy(update={name: getattr(phase.params, name) for name in unset})
    with open_session(fresh=False) as shared:
        return settings, Execution(shared, plan, [phase], reuse_earlier=True).inputs(phase)


def quick_settings(params, kind: str, inputs: dict[str, Any]):
    """``params``; for a fit that names no manifest and keeps the default settings, those of the quickstart if the
    manifest has only drawn faces.

    The defaults are for photos: on drawn faces they train for hours and show nothing more.
    """
    default = type(params)()  # with the length that follows from a student's mode
    changed = {name for name in type(params).model_fields if getattr(params, name) != getattr(default, name)}
    if not isinstance(params, FitParams) or changed - _FREE_FIELDS:
        return params
    manifest = Path(inputs["manifest"]) / "manifest.parquet"
    if not (manifest.is_file() and only_drawn(Manifest.read(manifest))):
        return params
    plan = load_run(home() / "params" / "quickstart.yaml", smoke=params.smoke)
    quick = next((phase for phase in plan.phases if phase.kind == kind), None)
    if quick is None:
        return params
    settings = quick.params.model_copy(update={name: getattr(params, name) for name in _FREE_FIELDS})
    print(
        f"The manifest has drawn faces only: the settings are those of {quick.name} in params/quickstart.yaml "
        f"({settings.backbone}, {settings.image_size} px, {settings.epochs} epochs), for about a minute. To train with "
        f'the settings above, name the manifest: manifest = "{below(Path(inputs["manifest"]), home())}"'
    )
    return settings


def standalone_inputs(kind: str, params) -> dict[str, str | list[str]]:
    """Inputs of a phase without a pipeline: folders and URIs as written; blank ones are finished phases of the store.

    All phases of the store belong to one manifest: the newest for which every input is finished.  Phases of a
    ``--smoke`` run are inputs of other smoke phases alone.  Without a manifest, the needed phases of
    ``params/quickstart.yaml`` run first.

    Raises:
        FerError: a folder does not exist, or the quickstart failed.
    """
    named, blank = {}, {}
    for name, spec in input_fields(kind).items():
        value = getattr(params, name)
        if value:
            values = [_input_location(kind, name, v) for v in ([value] if isinstance(value, str) else value)]
            named[name] = values if spec.many else values[0]
        elif not spec.kinds or (name == "softlabels" and getattr(params, "mode", "") == "ce"):
            named[name] = [] if spec.many else ""
        else:
            blank[name] = spec
    if not blank:
        return named
    inputs = _inputs_from_store(named, blank, params.smoke)
    if inputs is None:
        from fer_lib.pipeline.run import run_file

        needed = {k for name, spec in blank.items() for k in spec.kinds}
        print(f"no finished {', '.join(sorted(needed))} phase yet: running those of params/quickstart.yaml first")
        if run_file(home() / "params" / "quickstart.yaml", until=needed):
            raise FerError("the quickstart, whose phases are the inputs of this one, failed: see its message above")
        inputs = _inputs_from_store(named, blank, params.smoke)
    if inputs is None:
        raise FerError(f"phase of kind {kind!r}: no finished phase for {', '.join(blank)}: set them to folders")
    return named | inputs


def _input_location(kind: str, name: str, value: str) -> str:
    if is_uri(value):
        return value
    folder = external(value)
    if not folder.exists():
        raise FerError(f"{kind}: {name}: there is no folder {folder}. Name a finished phase's folder or a models:/ URI")
    return str(folder)


def _inputs_from_store(named: dict, blank: dict, smoke: bool) -> dict[str, str | list[str]] | None:
    """A value for every blank field, all from one manifest; None when the store lacks one of them."""
    finished = partial(finished_phases, smoke=smoke)
    if set(blank) == {"imports"}:
        imports = finished(("import",))
        return {"imports": imports[0]["folder"]} if imports else None
    kinds = blank["manifest"].kinds if "manifest" in blank else ()
    manifests = [named["manifest"]] if "manifest" in named else [r["folder"] for r in finished(kinds)]
    for manifest in manifests:
        inputs: dict[str, str | list[str]] = {}
        for name, spec in blank.items():
            if name == "manifest":
                inputs[name] = manifest
                continue
            newest: dict[str, str] = {}  # phase name -> its newest folder
            for record in finished(spec.kinds):
                if record["inputs"].get("manifest") == manifest:
                    newest.setdefault(record["phase"], record["folder"])
            newest_folders = list(newest.values())
            inputs[name] = newest_folders if spec.many else (newest_folders or [""])[0]
        if all(inputs[name] for name, spec in blank.items() if spec.required):
            return inputs
    return None
