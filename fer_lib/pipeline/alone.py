"""A phase that is run by itself, from its notebook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fer_lib import params as params_module
from fer_lib import phases, reuse
from fer_lib.runfile import external, input_fields
from fer_lib.tracking.records import read_json


def prepare_alone(params, kind: str, name: str | None = None) -> dict[str, Any]:
    """The plan of a phase that is run by itself: phase, kind, key, params, resolved inputs, output_dir."""
    inputs = phases.alone_inputs(kind, params)
    key = reuse.phase_key(kind, params.model_dump(mode="json"), inputs, phases.notebook_path(kind))
    folder = external(params.output_dir) if params.output_dir else phases.folder_for(name or kind, key)
    plan = {"phase": name or kind, "kind": kind, "key": key, "params": phases.own_params(params)}
    return plan | {"inputs": inputs, "output_dir": str(folder)}


def prepared(params) -> dict[str, Any]:
    """The plan that the pipeline wrote into the phase's folder, with the inputs that it passed as parameters."""
    plan = read_json(Path(params.output_dir) / "phase.json")
    inputs = {name: getattr(params, name) for name in input_fields(plan["kind"])}
    return plan | {"inputs": inputs, "output_dir": params.output_dir}


def upstream(kind: str, name: str) -> str | list[str]:
    """What a notebook of ``kind``, run alone, takes for its blank input ``name``."""
    return phases.alone_inputs(kind, params_module.KINDS[kind][0]())[name]
