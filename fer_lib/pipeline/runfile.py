"""A run file (``params/NAME.yaml``) becomes a plan of validated phases, before anything heavy is imported or started.

    name: quickstart
    seed: 1337                 # optional: for every phase that sets none
    experiment: fer            # optional
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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from fer_lib import params as params_module
from fer_lib.errors import ParamsError
from fer_lib.params import PhaseParams
from fer_lib.params.strict import closest, parse, validate
from fer_lib.pipeline.includes import read_run, targets
from fer_lib.storage.paths import external, is_uri


@dataclass(frozen=True)
class Input:
    """An input field: the kinds that a blank one is taken from, one or all of them, and whether it must be found.

    Where ``taken`` is False a blank one stays so.  These kinds may be named, and those in ``named``.
    """

    kinds: tuple[str, ...]
    many: bool = False
    required: bool = True
    taken: bool = True
    named: tuple[str, ...] = ()


INPUTS: dict[str, Input] = {
    "imports": Input(("import",)),
    "manifest": Input(("manifest", "audit")),
    "manifests": Input(("manifest", "audit"), many=True, required=False, taken=False),
    "fits": Input(("teacher",), many=True, named=("student",)),
    "teachers": Input(("teacher",), many=True, named=("checkpoints",)),
    "softlabels": Input(("softlabels",)),
    "models": Input(("teacher", "student"), many=True, named=("checkpoints", "adapt")),
    "ensembles": Input(("softlabels",), many=True, required=False),
    "evaluation": Input(("evaluate",), required=False),
    "candidates": Input(("student",), many=True, named=("checkpoints", "adapt")),
    "session": Input((), required=False),
    "init_from": Input((), required=False, named=("teacher", "student", "checkpoints", "adapt")),
    "base": Input(("student",), named=("teacher", "checkpoints", "adapt")),
    "buffers": Input((), many=True, required=False),
    "gate_session": Input((), required=False),
}


@dataclass(frozen=True)
class Phase:
    """One validated phase.  ``links``: input field -> earlier phases (by name, as :class:`Phase`) or folders/URIs."""

    name: str
    kind: str
    notebook: str
    params: PhaseParams
    links: dict[str, list[Phase | str]] = field(default_factory=dict)


@dataclass(frozen=True)
class RunPlan:
    """A whole run, ready to execute."""

    name: str
    experiment: str
    phases: list[Phase]
    path: Path | None = None

    def phase(self, name: str) -> Phase:
        """The phase of that name; ParamsError naming the closest one when there is none."""
        for phase in self.phases:
            if phase.name == name:
                return phase
        raise ParamsError(f"there is no phase {name!r} in this run{closest(name, [p.name for p in self.phases])}")


def input_fields(kind: str) -> dict[str, Input]:
    """The input fields that this kind has; a blank one is never taken from a phase of the same kind."""
    fields = params_module.KINDS[kind][0].model_fields
    own = {name: spec for name, spec in INPUTS.items() if name in fields}
    kinds = {name: tuple(k for k in spec.kinds if k != kind) if spec.taken else () for name, spec in own.items()}
    return {name: replace(spec, kinds=kinds[name]) for name, spec in own.items()}


def load_run(path: Path | str, overrides: Sequence[str] = (), smoke: bool = False) -> RunPlan:
    """Read and validate a run file.

    Args:
        path: the YAML file.
        overrides: ``phase.key=value`` (``key`` may be nested, ``augment.flip``; the value is read as YAML).  Where no
            phase has that name, the name of a kind changes all its phases.
        smoke: shrink every phase to a minute's work.

    Raises:
        ParamsError: the file is missing or broken (with the line), or a phase, key or value is not valid (naming key,
            phase and the closest valid key).
    """
    path = Path(path)
    text = read_run(path)
    experiment = text.top.get("experiment", "fer")
    name = text.top.get("name", path.stem)
    for key, value in (("name", name), ("experiment", experiment)):
        if not isinstance(value, str) or not value.strip():
            raise ParamsError(f"{path}: {key!r} must be a text, got {value!r}")
    kinds, values = {}, {}
    for phase, given in text.phases.items():
        kinds[phase], values[phase] = _phase(path, phase, given)
        if "name" in params_module.KINDS[kinds[phase]][0].model_fields:
            values[phase].setdefault("name", phase)  # two students that both kept the default could not be told apart
    if smoke:
        _apply_smoke(path, text.smoke, kinds, values)
    for override in overrides:
        _override(override, kinds, values)
    plan: list[Phase] = []
    for phase, kind in kinds.items():
        model, notebook = params_module.KINDS[kind]
        ready = Phase(phase, kind, notebook, validate(model, values[phase], phase))
        before = [earlier for earlier in plan if earlier.name in text.sight[phase]]
        plan.append(Phase(phase, kind, notebook, ready.params, links(ready, before, list(kinds))))
        _told_apart(plan[-1])
    return RunPlan(name, experiment, plan, path)


def _phase(path: Path, phase: Any, given: Any) -> tuple[str, dict[str, Any]]:
    if not isinstance(phase, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", phase):
        raise ParamsError(f"{path}: phase name {phase!r}: use letters, digits, '_' and '-', beginning with a letter")
    own = {} if given is None else given
    if not isinstance(own, dict):
        raise ParamsError(f"{path}: phase {phase!r} must be a mapping of parameters, got {given!r}")
    own = copy.deepcopy(own)
    kind = own.pop("kind", phase)
    if kind not in params_module.KINDS:
        hint = closest(str(kind), params_module.KINDS)
        raise ParamsError(f"{path}: phase {phase!r}: unknown kind {kind!r}{hint}; set kind: KIND in the phase")
    return kind, own


def _override(text: str, kinds: dict[str, str], values: dict[str, dict]) -> None:
    left, equals, right = text.partition("=")
    name, dot, key = left.strip().partition(".")
    if not equals or not dot or not key:
        raise ParamsError(f"-p {text}: write it as phase.key=value, for instance -p teacher.epochs=3")
    try:
        value = parse(right)
    except yaml.YAMLError as error:
        raise ParamsError(f"-p {text}: the value is not valid YAML: {getattr(error, 'problem', error)}") from error
    for phase in targets(name, kinds, f"-p {text}"):
        _set(params_module.KINDS[kinds[phase]][0], values[phase], key.split("."), value, f"-p {text}: phase {phase!r}")


def _set(model: type[BaseModel], values: dict, keys: list[str], value: Any, what: str) -> None:
    """``values[k1][k2]... = value``; a number steps into a list; absent levels start from the model's defaults."""
    if keys[0] not in model.model_fields:
        raise ParamsError(f"{what}: unknown key {keys[0]!r}{closest(keys[0], model.model_fields)}")
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


def _apply_smoke(path: Path, own: dict[str, dict], kinds: dict[str, str], values: dict[str, dict]) -> None:
    for phase, kind in kinds.items():
        model = params_module.KINDS[kind][0]
        written = validate(model, values[phase], phase)  # a wrong value is reported as written, not as shrunk
        values[phase] |= shrink(kind, written.model_dump(mode="json"), kinds) | {"smoke": True}
    for phase, changes in own.items():
        model = params_module.KINDS[kinds[phase]][0]
        for key, value in changes.items():
            _set(model, values[phase], str(key).split("."), value, f"{path}: smoke: phase {phase!r}")


def shrink(kind: str, values: dict[str, Any], phases: Iterable[str] = ()) -> dict[str, Any]:
    """The changes that make a phase of this kind a matter of seconds, whatever its own parameters say.

    ``phases``: the run's own, which are shrunk as well.
    """
    if kind in ("teacher", "student"):
        return _shrink_fit(values, phases)
    if kind == "import":
        fewer = [{"faces": min(s["faces"], 400)} if s["root"] == "embedded" else {} for s in values["sources"]]
        return {"sources": [source | less for source, less in zip(values["sources"], fewer, strict=True)]}
    if kind == "manifest":
        less: dict[str, Any] = {"max_per_class": min(values["max_per_class"] or 60, 60)}
        if values["manifests"] and not values["curate"]["selection"].startswith("uncleaned_"):  # which keeps every row
            caps = {"max_per_class_and_source": 60, "cap_splits": ["train", "val", "test"]}
            less["curate"] = values["curate"] | caps
        return less
    if kind == "audit":
        return {"noise_nets": values["noise_nets"] | {"folds": 2, "rounds": 1, "epochs": 1}}
    if kind in ("checkpoints", "evaluate"):
        return {"resamples": min(values["resamples"], 100)}
    return {"epochs": 1} if kind == "adapt" else {}


def _shrink_fit(values: dict[str, Any], phases: Iterable[str]) -> dict[str, Any]:
    from fer_lib.models.classifier import takes

    cap = {"epochs": 1, "accum_steps": 1}
    if not values["init_from"] or values["init_from"] in phases:  # else the weights' own width must be met
        cap["embed_dim"] = 64
    if values["image_size"] > 48 and takes(values["backbone"], 48):
        cap["image_size"] = 48
    caps = {key: min(values[key], most) for key, most in cap.items()}
    batches = {"max_train_batches": 4, "max_val_batches": 2}
    caps |= {key: min(values[key] or most, most) for key, most in batches.items()}  # 0 means all of them
    least = max(7 * values["min_per_class"], 2 * values["processes"])
    caps["batch_size"] = min(values["batch_size"], max(32, least))
    times = {key: values[key] for key in ("warmup_epochs", "plain_epochs", "ramp_end") if values.get(key, 0) >= 1}
    return caps | {key: value / values["epochs"] for key, value in times.items()}  # the same shares of one epoch


def links(phase: Phase, before: list[Phase], every: list[str]) -> dict[str, list[Phase | str]]:
    """Where each input of ``phase`` comes from: earlier phases of the run, or folders and URIs as written.

    A blank field takes the newest earlier phase (or, when it is a list, all of them) of the right kinds.
    """
    found: dict[str, list[Phase | str]] = {}
    for name, spec in input_fields(phase.kind).items():
        written = getattr(phase.params, name)
        given = [value for value in ([written] if isinstance(written, str) else written) if value]
        if given:
            found[name] = [_reference(phase, name, value, before, every) for value in given]
            continue
        if name == "softlabels" and getattr(phase.params, "mode", "") == "ce":
            found[name] = []
            continue
        matching: list[Phase | str] = [p for p in before if p.kind in spec.kinds]
        found[name] = matching if spec.many else matching[-1:]
        if spec.required and not matching:
            kinds = " or ".join(spec.kinds)
            raise ParamsError(f"phase {phase.name!r}: key {name!r} is blank and no {kinds} phase stands before it: "
                              f"add one, or set {name} to a finished phase's folder")  # fmt: skip
    return found


def _told_apart(phase: Phase) -> None:
    """ParamsError when two models that ``phase`` puts into one table have one name."""
    owner: dict[str, str] = {}
    for model in phase.links.get("models", []):
        if isinstance(model, Phase) and (first := owner.setdefault(model.params.name, model.name)) != model.name:
            raise ParamsError(f"phases {first!r} and {model.name!r} are both called {model.params.name!r}, and "
                              f"{phase.name!r} puts them into one table: give one another name")  # fmt: skip


def _reference(phase: Phase, name: str, value: str, before: list[Phase], every: list[str]) -> Phase | str:
    for earlier in before:
        if earlier.name == value:
            fitting = INPUTS[name].kinds + INPUTS[name].named
            if earlier.kind not in fitting:
                hint = closest(value, [p.name for p in before if p.kind in fitting])
                raise ParamsError(f"phase {phase.name!r}: key {name!r}: {value!r} is a phase of kind {earlier.kind!r}, "
                                  f"not {' or '.join(fitting)}{hint}")  # fmt: skip
            return earlier
    if value in every:
        raise ParamsError(f"phase {phase.name!r}: key {name!r}: the phase {value!r} does not stand before this one")
    if is_uri(value) or external(value).exists():
        return value
    raise ParamsError(f"phase {phase.name!r}: key {name!r}: {value!r} is neither an earlier phase, nor an existing "
                      f"folder, nor a models:/ URI{closest(value, [p.name for p in before])}")  # fmt: skip
