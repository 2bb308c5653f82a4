"""Lets ``import torchvision`` (so timm) work beside a CPU build of torch.

The package registry has no CPU build of torchvision for Linux.  On import torchvision registers fake kernels for
``torchvision::nms`` and ``torchvision::qnms``, and fails when its compiled library, which declares them, does not load.
Declaring the two schemas first is enough for everything but ``torchvision.io`` and ``torchvision.ops.nms``.  The hook
runs when torchvision is imported.  It declares the schemas only when the compiled library does not load.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder, PathFinder

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library = None  # a reference, because the declarations end with the object


class _BeforeTorchvision(MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            _declare_missing_operators()
        return None


def _compiled_library() -> str | None:
    """Path of torchvision's compiled operators, without importing it; None when the file does not exist."""
    package = PathFinder.find_spec("torchvision")
    if package is None or not package.submodule_search_locations:
        return None
    folder = FileFinder(package.submodule_search_locations[0], (ExtensionFileLoader, EXTENSION_SUFFIXES))
    spec = folder.find_spec("_C")
    return spec.origin if spec else None


def _loads(library: str) -> bool:
    """Whether the compiled operators load, which declares them; a build for another torch does not load."""
    import torch

    try:
        torch.ops.load_library(library)
    except OSError:
        return False
    return True


def _declare_missing_operators() -> None:
    global _library
    import torch

    if torch.version.cuda is not None or torch.version.hip is not None:
        return  # the registry's torchvision is built for these
    library = _compiled_library()
    if library is not None and _loads(library):
        return
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        _library.define(schema)


def install() -> None:
    """Install the hook once; does nothing when torchvision is already imported."""
    if "torchvision" not in sys.modules and not any(isinstance(f, _BeforeTorchvision) for f in sys.meta_path):
        sys.meta_path.insert(0, _BeforeTorchvision())
