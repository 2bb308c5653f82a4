"""Starting weights of a backbone: none, from timm's hub, from a Python package, or from a local file."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from fer_lib.datasets.provenance import StartingWeights
from fer_lib.errors import FerError
from fer_lib.faces.contract import FaceContract
from fer_lib.models.published_weights import PACKAGES
from fer_lib.storage.paths import external
from fer_lib.storage.progress import step

if TYPE_CHECKING:
    from fer_lib.models.classifier import FerClassifier


def load_pretrained(model: FerClassifier, source: str, contract: FaceContract | None = None) -> dict[str, Any]:
    """Load ``source`` ("none", "hub", "package" or a file's path) into ``model.backbone``.

    Returns ``{"source", "origin", "weights_sha256", "provenance"}`` for the run's record; ``origin`` is the hub's name
    and tag of the weights, the package and its version, or the file's absolute path; ``provenance`` (absent for
    "none"): a :class:`StartingWeights` as a mapping.  Raises FerError when the weights cannot be loaded, or when a
    file's metadata name another normalisation than ``contract``; only "none" leaves the backbone untrained.
    """
    if source == "none":
        return {"source": "none", "origin": "", "weights_sha256": ""}
    name = model.config["backbone"]
    if source == "hub":
        state, provenance = _from_hub(model)
    elif source == "package":
        state, provenance = _from_package(model, contract)
    else:
        state, provenance = _from_file(external(source), contract, name)
    state = _backbone_tensors(state, model, f"{source} weights of {name}")
    model.backbone.load_state_dict(state)
    origin = provenance.origin if source in ("hub", "package") else str(external(source))
    record = {"source": source, "origin": origin, "weights_sha256": tensors_sha256(state)}
    return record | {"provenance": provenance.model_dump()}


def tensors_sha256(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 (64 hex) over names, dtypes, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        digest.update(f"{key}|{tensor.dtype}|{list(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def resample_weights(
    state: Mapping[str, torch.Tensor], model: FerClassifier, source: str = "these weights"
) -> dict[str, torch.Tensor]:
    """Weights of the same classifier at another image size, resampled to the image size of ``model``.

    A transformer has one position embedding per patch, and their number depends on the image size.  They are resampled
    as grids, as timm does (bicubic with antialiasing; prefix tokens are copied).  Weights that already fit are returned
    unchanged.  Raises FerError with ``source`` and the first tensor that does not fit, when the weights belong to
    another model or timm cannot resize this architecture.
    """
    expected, name = model.state_dict(), model.config["backbone"]
    if _mismatch(state, expected):
        inner = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
        resized = {f"backbone.{k}": v for k, v in _filter_with_timm(inner, model).items()}
        state = {k: resized.get(k, v) for k, v in state.items()}
        if mismatch := _mismatch(state, expected):
            raise FerError(
                f"{source} don't fit '{name}' at {model.config['image_size']} px: {mismatch}; start from weights of "
                "this model"
            )
    return dict(state)


def _mismatch(state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> str:
    """A description of the first tensor that is missing, unexpected or mis-shaped; blank when all fit."""
    for key in (*expected, *(k for k in state if k not in expected)):
        source, target = (list(s[key].shape) if key in s else "absent" for s in (state, expected))
        if source != target:
            return f"tensor '{key}' is {source} in the weights and {target} in the model"
    return ""


def _filter_with_timm(state: dict[str, torch.Tensor], model: FerClassifier) -> dict[str, torch.Tensor]:
    """Backbone weights after timm's filter for this architecture; unchanged when it has none."""
    for kind in type(model.backbone).__mro__:
        if "timm." in kind.__module__ and (f := getattr(sys.modules[kind.__module__], "checkpoint_filter_fn", None)):
            return f(state, model.backbone)
    return state


def _from_hub(model: FerClassifier) -> tuple[dict[str, torch.Tensor], StartingWeights]:
    from fer_lib.models.classifier import make_backbone

    name = model.config["backbone"]
    try:
        with step(f"fetching weights of {name}"):
            size, args = model.config["image_size"], model.config.get("backbone_args")
            backbone = make_backbone(name, size, args, pretrained=True)
    except Exception as error:  # any network, proxy or hub failure ends the same way for the user
        raise FerError(
            f"pretrained weights of '{name}' could not be fetched from the hub ({type(error).__name__}: {error}); set "
            f"pretrained to 'package' ({', '.join(PACKAGES)}), to a local file, or to 'none' for random weights"
        ) from error
    cfg = backbone.pretrained_cfg
    origin = f"{cfg.get('hf_hub_id') or cfg.get('url') or name} {cfg.get('tag') or ''}".strip()
    terms = "terms of its training images: see its page on the hub"
    provenance = StartingWeights(name=name, origin=origin, licence=cfg.get("license") or "", terms=terms)
    return backbone.state_dict(), provenance


def _from_package(model: FerClassifier, contract: FaceContract | None) -> tuple[dict, StartingWeights]:
    name = model.config["backbone"]
    if name not in PACKAGES:
        raise FerError(
            f"pretrained: package: no package has weights for '{name}', only for {', '.join(PACKAGES)}; set backbone "
            "to one of these, or pretrained to 'hub', 'none' or a local file"
        )
    package = PACKAGES[name]
    if (file := package.file()) is None:
        raise FerError(f"pretrained: package: the weights of '{name}' are not here; get them with: {package.get}")
    state = _from_file(file, contract, name)[0]
    if package.module:  # its tensors are in the backbone's order, and its classifier comes last: zip drops it
        keys = [key for key in model.backbone.state_dict() if not key.endswith("num_batches_tracked")]
        tensors = [tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")]
        state = dict(zip(keys, tensors, strict=False))
    return state, package.installed()


def _from_file(path: Path, contract: FaceContract | None, name: str) -> tuple[dict, StartingWeights]:
    """The tensors of a file for the backbone ``name``, and what its metadata say of them."""
    if not path.is_file():
        raise FerError(f"pretrained: '{path}' is neither none, hub, package nor an existing file: correct the path")
    metadata: dict[str, str] = {}
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        state = {k.removeprefix("module.").removeprefix("backbone."): v for k, v in state.items()}
    except Exception as error:  # an unpickler can raise almost anything for a file that is no checkpoint
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise FerError(
            f"pretrained: '{path}' holds no weights that can be read safely ({reason[:200]}); give a .safetensors "
            "file, or a torch file that holds only tensors"
        ) from error
    ours = {} if contract is None else {key: json.dumps(getattr(contract, key)) for key in ("mean", "std")}
    if differing := [f"{key} {metadata[key]}" for key in ours if metadata.get(key, ours[key]) != ours[key]]:
        raise FerError(
            f"pretrained: '{path}' takes faces normalised with {' and '.join(differing)}, and '{name}' is trained with "
            f"mean {ours['mean']} and std {ours['std']}: set backbone to the model that the weights belong to"
        )
    about = {key: metadata.get(key, "")[:500] for key in StartingWeights.model_fields}
    return state, StartingWeights(**about | {"name": about["name"] or path.name})


def _backbone_tensors(state: dict[str, torch.Tensor], model: FerClassifier, source: str) -> dict[str, torch.Tensor]:
    """Exactly the backbone's tensors out of ``state``; FerError when one is missing or mis-shaped."""
    expected = model.backbone.state_dict()
    if any(k in state and state[k].shape != t.shape for k, t in expected.items()):  # perhaps of another image size
        state = _filter_with_timm(state, model)
    counters = {k: t for k, t in expected.items() if k.endswith("num_batches_tracked")}
    own = {k: state[k] for k in expected if k in state} | counters
    if mismatch := _mismatch(own, expected):
        raise FerError(f"{source}: {mismatch}; these weights belong to another backbone")
    return own
