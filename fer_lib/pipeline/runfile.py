"""Reads a run file (``params/NAME.yaml``) into a plan of validated phases, without heavy imports.

    name: quickstart
    seed: 1337                 # optional: the default seed of all phases
    experiment: fer            # optional
    seconds: 60                # optional: what the whole run takes, for the first line of `fer run`
    include: [data.yaml]       # optional: other run files, whose phases come first (see fer_lib.pipeline.includes)
    phases:                    # in the order in which they run
      import: {sources: [{source: fer2013}]}
      manifest: {}
      teacher_small: {kind: teacher, backbone: resnet18, epochs: 3}
    smoke:                     # optional: more overrides for --smoke, by phase or by kind
      teacher: {image_size: 32}

Later beats earlier: defaults < phases < --smoke's shrink < ``smoke:`` < ``-p PHASE_OR_KIND.key=value``.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from fer_lib import params as params_module
from fer_lib.errors import FerError, ParamsError
from fer_lib.params import PhaseParams
from fer_lib.params.strict import closest, parse, unknown_key, validate
from fer_lib.pipeline.includes import declared_seconds, matching_phases, read_run
from fer_lib.pipeline.smoke import shrink
from fer_lib.storage.paths import external, is_uri

MAX_NAME = 200  # characters of a run or experiment; MLflow cuts longer ones


@dataclass(frozen=True)
class Input:
    """An input field of a phase.

    ``kinds``: a blank field uses the newest earlier phase of these kinds, or all of them with ``many``; without kinds
    it stays blank.  ``more_kinds``: further kinds that the field may name.
    """

    kinds: tuple[str, ...]
    many: bool = False
    required: bool = True
    more_kinds: tuple[str, ...] = ()


INPUTS: dict[str, Input] = {
    "imports": Input(("import",)),
    "manifest": Input(("manifest", "audit")),
    "manifests": Input((), many=True, required=False, more_kinds=("manifest", "audit")),
    "fits": Input(("teacher",), many=True, more_kinds=("student",)),
    "teachers": Input(("teacher",), many=True, more_kinds=("checkpoints",)),
    "softlabels": Input(("softlabels",)),
    "models": Input(("teacher", "student"), many=True, more_kinds=("checkpoints", "adapt")),
    "ensembles": Input(("softlabels",), many=True, required=False),
    "evaluation": Input(("evaluate",), required=False),
    "evaluations": Input(("evaluate",), many=True),
    "candidates": Input(("student",), many=True, more_kinds=("checkpoints", "adapt")),
    "session": Input((), required=False),
    "init_from": Input((), required=False, more_kinds=("teacher", "student", "checkpoints", "adapt")),
    "base": Input(("student",), more_kinds=("teacher", "checkpoints", "adapt")),
    "buffers": Input((), many=True, required=False),
    "gate_session": Input((), required=False),
}


@dataclass(frozen=True)
class Phase:
    """One validated phase.  ``inputs``: input field -> earlier phases, or folders and URIs as written."""

    name: str
    kind: str
    notebook: str
    params: PhaseParams
    inputs: dict[str, list[Phase | str]] = field(default_factory=dict)


@dataclass(frozen=True)
class RunPlan:
    """A whole run, ready to execute.  ``seconds``: what the run file declares that it takes as written, else None."""

    name: str
    experiment: str
    phases: list[Phase]
    path: Path | None = None
    seconds: float | None = None

    def phase(self, name: str) -> Phase:
        """The phase with this name.  Raises ParamsError naming the closest one when there is none."""
        for phase in self.phases:
            if phase.name == name:
                return phase
        raise ParamsError(f"there is no phase {name!r} in this run{closest(name, [p.name for p in self.phases])}")


def input_phases(phase: Phase) -> set[str]:
    """Names of the phases that ``phase`` uses as inputs."""
    return {p.name for sources in phase.inputs.values() for p in sources if isinstance(p, Phase)}


def input_fields(kind: str) -> dict[str, Input]:
    """The input fields of this kind; a blank one never uses a phase of the same kind."""
    fields = params_module.KINDS[kind][0].model_fields
    specs = {name: spec for name, spec in INPUTS.items() if name in fields}
    return {name: replace(spec, kinds=tuple(k for k in spec.kinds if k != kind)) for name, spec in specs.items()}


def load_run(path: Path | str, overrides: Sequence[str] = (), smoke: bool = False) -> RunPlan:
    """Read and validate a run file.

    Args:
        path: the YAML file.
        overrides: ``phase.key=value``; ``key`` may be nested (``augment.flip``), and the value is YAML.  The name of a
            kind changes all its phases when no phase has that name.
        smoke: shrink every phase to about a minute.

    Raises:
        ParamsError: the file is missing or broken, or a phase, key or value is not valid.  The message has the line,
            or the phase, the key and the closest valid key.
    """
    path, text = Path(path), read_run(Path(path))
    experiment = text.top.get("experiment", "fer")
    name = text.top.get("name", path.stem)
    for key, value in (("name", name), ("experiment", experiment)):
        if not isinstance(value, str) or not 0 < len(value.strip()) <= MAX_NAME:
            raise ParamsError(f"{path}: {key!r} must be a text of at most {MAX_NAME} characters, got {value!r:.60}")
    kinds, values = {}, {}
    for phase, mapping in text.phases.items():
        kinds[phase], values[phase] = _parse_phase(path, phase, mapping)
        if "name" in params_module.KINDS[kinds[phase]][0].model_fields:
            values[phase].setdefault("name", phase)  # tables need distinct names
    if smoke:
        _apply_smoke(path, text.smoke, kinds, values)
    for override in overrides:
        _apply_override(override, kinds, values)
    plan: list[Phase] = []
    for phase, kind in kinds.items():
        model, notebook = params_module.KINDS[kind]
        validated = Phase(phase, kind, notebook, validate(model, values[phase], phase))
        before = [earlier for earlier in plan if earlier.name in text.visible_phases[phase]]
        plan.append(replace(validated, inputs=resolve_inputs(validated, before)))
        _check_backbone_args(plan[-1])
        _check_model_names(plan[-1])
        _check_variants(plan[-1])
    return RunPlan(name, experiment, plan, path, None if smoke or overrides else declared_seconds(path, text.top))


def _parse_phase(path: Path, phase: Any, mapping: Any) -> tuple[str, dict[str, Any]]:
    if not isinstance(phase, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", phase):
        raise ParamsError(f"{path}: phase name {phase!r}: use letters, digits, '_' and '-', beginning with a letter")
    values = {} if mapping is None else mapping
    if not isinstance(values, dict):
        raise ParamsError(f"{path}: phase {phase!r} must be a mapping of parameters, got {mapping!r}")
    values = copy.deepcopy(values)
    kind = values.pop("kind", phase)
    if not isinstance(kind, str) or kind not in params_module.KINDS:
        hint = closest(str(kind), params_module.KINDS)
        raise ParamsError(f"{path}: phase {phase!r}: unknown kind {kind!r}{hint}; set kind: KIND in the phase")
    return kind, values


def read_setting(text: str, form: str) -> tuple[str, Any]:
    """Key and value of ``KEY=VALUE``, the value read as YAML.  Raises ParamsError, with the right ``form``."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ParamsError(f"-p {text}: write it as {form}")
    try:
        return key.strip(), parse(value)
    except yaml.YAMLError as error:
        raise ParamsError(f"-p {text}: the value is not valid YAML: {getattr(error, 'problem', error)}") from error


def _apply_override(text: str, kinds: dict[str, str], values: dict[str, dict]) -> None:
    form = "phase.key=value, for instance -p teacher.epochs=3"
    path, value = read_setting(text, form)
    name, _, key = path.partition(".")
    if not key:
        raise ParamsError(f"-p {text}: write it as {form}")
    for phase in matching_phases(name, kinds, f"-p {text}"):
        model = params_module.KINDS[kinds[phase]][0]
        _set_value(model, values[phase], key.split("."), value, f"-p {text}: phase {phase!r}")


def _set_value(model: type[BaseModel], values: dict, keys: list[str], value: Any, what: str) -> None:
    """``values[k1][k2]... = value``; a number indexes a list; absent levels start from the model's defaults."""
    if keys[0] not in model.model_fields:
        raise ParamsError(f"{what}: {unknown_key(keys[0], model.model_fields)}")
    if len(keys) > 1 and keys[0] not in values:
        values[keys[0]] = model.model_construct().model_dump(mode="json")[keys[0]]
    at: Any = values
    for depth, key in enumerate(keys):
        if isinstance(at, list) and key.isdigit() and int(key) < len(at):
            key = int(key)
        elif not isinstance(at, dict):
            raise ParamsError(f"{what}: key {'.'.join(keys)!r} goes deeper than {'.'.join(keys[:depth])!r} does")
        if depth == len(keys) - 1:
            at[key] = value
        else:
            at = at.setdefault(key, {}) if isinstance(at, dict) else at[key]


def _apply_smoke(path: Path, smoke: dict[str, dict], kinds: dict[str, str], values: dict[str, dict]) -> None:
    for phase, kind in kinds.items():
        model = params_module.KINDS[kind][0]
        params = validate(model, values[phase], phase)  # before shrinking: messages show the value in the file
        values[phase] |= shrink(kind, params.model_dump(mode="json"), kinds) | {"smoke": True}
    for phase, changes in smoke.items():
        model = params_module.KINDS[kinds[phase]][0]
        for key, value in changes.items():
            _set_value(model, values[phase], str(key).split("."), value, f"{path}: smoke: phase {phase!r}")


def resolve_inputs(phase: Phase, before: list[Phase]) -> dict[str, list[Phase | str]]:
    """Input field of ``phase`` -> phases ``before`` it, or folders and URIs as written (:class:`Input`)."""
    inputs: dict[str, list[Phase | str]] = {}
    for name, spec in input_fields(phase.kind).items():
        value = getattr(phase.params, name)
        references = [v for v in ([value] if isinstance(value, str) else value) if v]
        if references:
            inputs[name] = [_resolve_reference(phase, name, v, before) for v in references]
            continue
        if name == "softlabels" and getattr(phase.params, "mode", "") == "ce":
            inputs[name] = []
            continue
        matching: list[Phase | str] = [p for p in before if p.kind in spec.kinds]
        inputs[name] = matching if spec.many else matching[-1:]
        if spec.required and not matching:
            kinds = " or ".join(spec.kinds)
            raise ParamsError(f"phase {phase.name!r}: key {name!r} is blank and no {kinds} phase is before it: add "
                              f"one, or set {name} to a finished phase's folder")  # fmt: skip
    return inputs


def _check_backbone_args(phase: Phase) -> None:
    """Raise ParamsError when the backbone of ``phase`` does not accept its ``backbone_args``."""
    if args := getattr(phase.params, "backbone_args", {}):  # only then: importing timm takes seconds
        import torch

        from fer_lib.models.classifier import make_backbone

        try:
            with torch.device("meta"):
                make_backbone(phase.params.backbone, phase.params.image_size, args)
        except FerError as error:
            raise ParamsError(f"phase {phase.name!r}: {error}") from error


def _check_model_names(phase: Phase) -> None:
    """Raise ParamsError when two models in one table of ``phase`` have the same name."""
    owner: dict[str, str] = {}
    for model in phase.inputs.get("models", []):
        if isinstance(model, Phase) and (first := owner.setdefault(model.params.name, model.name)) != model.name:
            raise ParamsError(f"phases {first!r} and {model.name!r} are both called {model.params.name!r}, and "
                              f"{phase.name!r} has both in one table: set another name for one of them")  # fmt: skip


def _check_variants(phase: Phase) -> None:
    """Raise ParamsError when a variant of ``phase`` names a model that one of its evaluations does not measure."""
    variants = getattr(phase.params, "variants", {})
    for evaluation in phase.inputs["evaluations"] if variants else []:
        models = evaluation.inputs["models"] if isinstance(evaluation, Phase) else [""]
        if not all(isinstance(model, Phase) for model in models):  # only the evaluation itself knows their names
            continue
        names = [model.params.name for model in models]
        for model in [model for models in variants.values() for model in models]:
            if model not in names and not model.startswith("ensemble"):
                raise ParamsError(f"phase {phase.name!r}: key 'variants': {model!r} is not among the models of "
                                  f"{evaluation.name!r}{closest(model, names)}")  # fmt: skip


def _resolve_reference(phase: Phase, name: str, value: str, before: list[Phase]) -> Phase | str:
    for earlier in before:
        if earlier.name == value:
            kinds = INPUTS[name].kinds + INPUTS[name].more_kinds
            if earlier.kind not in kinds:
                hint = closest(value, [p.name for p in before if p.kind in kinds])
                raise ParamsError(f"phase {phase.name!r}: key {name!r}: {value!r} is a phase of kind {earlier.kind!r}, "
                                  f"not {' or '.join(kinds)}{hint}")  # fmt: skip
            return earlier
    if is_uri(value) or external(value).exists():
        return value
    raise ParamsError(f"phase {phase.name!r}: key {name!r}: {value!r} is neither a phase before this one, nor an "
                      f"existing folder, nor a models:/ URI{closest(value, [p.name for p in before])}")  # fmt: skip
