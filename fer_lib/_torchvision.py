"""Lets ``import torchvision`` (so timm) work beside a CPU build of torch.

No CPU build of torchvision for Linux is on the package registry.  Its Python side registers fake kernels for
``torchvision::nms`` and ``torchvision::qnms`` as it is imported, and fails when the compiled library that declares them
could not be loaded.  Declaring the two schemas first is enough for everything but ``torchvision.io`` and
``torchvision.ops.nms`` themselves.  The hook costs nothing until torchvision is asked for; it tries the compiled
library first (the macOS and Windows CPU builds have one that loads) and declares the schemas only where that fails.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder, PathFinder

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library = None  # kept alive: the declarations vanish with the object


class _BeforeTorchvision(MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            _declare_missing_operators()
        return None


def _compiled_library() -> str | None:
    """Path of torchvision's compiled operators, found without importing it; None where there is no such file."""
    package = PathFinder.find_spec("torchvision")
    if package is None or not package.submodule_search_locations:
        return None
    folder = FileFinder(package.submodule_search_locations[0], (ExtensionFileLoader, EXTENSION_SUFFIXES))
    spec = folder.find_spec("_C")
    return spec.origin if spec else None


def _loads(library: str) -> bool:
    """Whether the compiled operators load (and so declare themselves); a build for another torch lacks its symbols."""
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
        return  # the registry's torchvision is built for these; a mismatch is torchvision's to report
    library = _compiled_library()
    if library is not None and _loads(library):
        return
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        _library.define(schema)


def install() -> None:
    """Puts the hook in place, once; harmless where torchvision is already imported."""
    if "torchvision" not in sys.modules and not any(isinstance(f, _BeforeTorchvision) for f in sys.meta_path):
        sys.meta_path.insert(0, _BeforeTorchvision())
